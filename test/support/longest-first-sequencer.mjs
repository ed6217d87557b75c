/**
 * The order in which jest starts the test files: the longest first, so that no worker is left with
 * a long file at the end while the others are idle.
 */
import { statSync } from 'node:fs';
import { relative } from 'node:path';

/** Measured on two idle cores, the longest first. An entry that is missing costs only time. */
const LONGEST_FILES = [];

export default class LongestFirstSequencer {
  sort(tests) {
    return tests.toSorted((a, b) => rankOf(a) - rankOf(b) || sizeOf(b) - sizeOf(a));
  }

  allFailedTests() {
    return [];
  }

  cacheResults() {
    // The order depends on nothing that a run leaves behind.
  }

  shard(tests, { shardIndex, shardCount }) {
    return tests.filter((_, index) => index % shardCount === shardIndex - 1);
  }
}

/** Files that are not listed come after those that are. */
function rankOf({ path }) {
  const rank = LONGEST_FILES.indexOf(relative(process.cwd(), path));
  return rank === -1 ? LONGEST_FILES.length : rank;
}

const sizeOf = ({ path }) => statSync(path).size;
