/**
 * The model's scripts do what the store does: each is walked beside the MemoryStore, from every
 * state that a key can have. test/platform/cache/store/store-model.spec.ts holds the MemoryStore
 * against Redis.
 */
import { describe, expect, it } from '@jest/globals';
import {
  type CacheEntry,
  type CacheReplacement,
  type CacheStore,
  type CacheValue,
  deleteKeys,
} from '../../../src/platform/cache/store/cache-store.js';
import { MemoryStore } from '../../../src/platform/cache/store/memory-store.js';
import { AS_SHIPPED } from './one-key/variants.js';
import {
  ABSENT,
  type Cell,
  claim,
  type Entry,
  expire,
  type Fence,
  fence,
  fill,
  lease,
  publish,
  replace,
  unfence,
} from './scripts.js';

const KEY = 'key';
const PAYLOAD = 'row';
const FENCE_MS = 1_000;
const ENDLESS_MS = 1_000_000;
const WRITERS = [1, 2, 3];
const READERS = [1, 2];
const VERSIONS = [1, 2, 3];
const DELETION_TOKEN = WRITERS.length + 1;
/** Enough to notice when most states are not reached any more. */
const MIN_STATES = 60;
const MIN_WALKS = 10_000;

/** One step on a cell of the model, and on the store that holds the same. */
interface Move {
  readonly words: string;
  readonly model: (cell: Cell) => Cell;
  readonly store: (store: CacheStore, clock: Clock) => Promise<unknown>;
}

/** Each fence is made a moment after the last, so that tokens expire in their order. */
class Clock {
  now = 0;
  readonly deadlines = new Map<number, number>();
}

const entryOf = (version: number, none: boolean): Entry => ({
  is: 'entry',
  author: version,
  version,
  none,
  claim: 0,
});

const valueOf = (version: number, none: boolean): CacheValue => ({
  key: KEY,
  version,
  payload: none ? null : PAYLOAD,
  ttlMs: ENDLESS_MS,
});

const claimedPayload = (reader: number): string => `${PAYLOAD}, claimed by ${reader}`;

/** The replacement of what the key holds, provided that its payload is `seenPayload`. */
async function replacing(
  store: CacheStore,
  seenPayload: string,
  change: { readonly version?: number; readonly payload: string },
): Promise<CacheReplacement> {
  const [held] = await store.get([KEY]);
  const version = held && 'version' in held ? held.version : 0;
  return { key: KEY, seen: { version, payload: seenPayload }, version, ...change };
}

const movesOfReader = (reader: number): Move[] => [
  {
    words: `reader ${reader} leases`,
    model: (cell) => lease(cell, reader),
    store: (store) => store.lease([KEY], `r${reader}`, ENDLESS_MS),
  },
  ...[0, ...VERSIONS].map((version): Move => ({
    words: `reader ${reader} fills ${version}`,
    model: (cell) => fill(cell, reader, entryOf(version, version === 0)),
    store: (store) => store.fill(`r${reader}`, [valueOf(version, version === 0)]),
  })),
  {
    words: `reader ${reader} claims`,
    model: (cell) => claim(cell, reader),
    store: async (store) => {
      const payload = claimedPayload(reader);
      return store.replace([await replacing(store, PAYLOAD, { payload })]);
    },
  },
  ...VERSIONS.map((version): Move => ({
    words: `reader ${reader} refreshes to ${version}`,
    model: (cell) => replace(cell, reader, entryOf(version, false)),
    store: async (store) => {
      const change = { version, payload: PAYLOAD };
      return store.replace([await replacing(store, claimedPayload(reader), change)]);
    },
  })),
];

const movesOfWriter = (writer: number): Move[] => [
  {
    words: `writer ${writer} fences`,
    model: (cell) => fence(AS_SHIPPED, cell, writer),
    store: (store, clock) => {
      clock.now++;
      clock.deadlines.set(writer, clock.now + FENCE_MS);
      return store.fence([KEY], `w${writer}`, FENCE_MS);
    },
  },
  {
    words: `writer ${writer} unfences`,
    model: (cell) => unfence(AS_SHIPPED, cell, writer),
    store: (store) => store.unfence([KEY], `w${writer}`),
  },
  {
    words: `writer ${writer} publishes absence`,
    model: (cell) => publish(AS_SHIPPED, cell, writer, undefined),
    store: (store) => store.publish(`w${writer}`, [{ key: KEY, absent: true }]),
  },
  ...VERSIONS.flatMap((version) =>
    [false, true].map((none): Move => ({
      words: `writer ${writer} publishes ${none ? 'no row' : 'a row'} of version ${version}`,
      model: (cell) => publish(AS_SHIPPED, cell, writer, entryOf(version, none)),
      store: (store) => store.publish(`w${writer}`, [valueOf(version, none)]),
    })),
  ),
];

const DELETION: Move = {
  words: 'the key is deleted',
  model: (cell) => publish(AS_SHIPPED, cell, DELETION_TOKEN, undefined),
  store: (store) => deleteKeys(store, [KEY]),
};

const MOVES: readonly Move[] = [
  ...READERS.flatMap(movesOfReader),
  ...WRITERS.flatMap(movesOfWriter),
  DELETION,
];

/** The deadline of the fence's first token passes. */
function expiryOf(cell: Fence): Move {
  const [first] = cell.tokens as [number];
  return {
    words: `writer ${first}'s fence ends`,
    model: () => expire(AS_SHIPPED, cell),
    store: async (_, clock) => {
      clock.now = Math.max(clock.now, clock.deadlines.get(first) as number);
    },
  };
}

const movesFrom = (cell: Cell): readonly Move[] =>
  cell.is === 'fence' ? [...MOVES, expiryOf(cell)] : MOVES;

function seenInModel(cell: Cell): string {
  if (cell.is !== 'entry') return cell.is;
  return `${cell.none ? 'none' : 'value'} ${cell.version}`;
}

const seenInStore = (held: CacheEntry | undefined): string =>
  held && 'version' in held ? `${held.state} ${held.version}` : String(held?.state);

/** A way to each state that a key can have. */
function findWays(): { readonly cell: Cell; readonly way: readonly Move[] }[] {
  const found = new Map([[JSON.stringify(ABSENT), { cell: ABSENT, way: [] as readonly Move[] }]]);
  // A Map is iterated over what is added meanwhile.
  for (const { cell, way } of found.values()) {
    for (const move of movesFrom(cell)) {
      const after = move.model(cell);
      const known = JSON.stringify(after);
      if (!found.has(known)) found.set(known, { cell: after, way: [...way, move] });
    }
  }
  return [...found.values()];
}

/**
 * Each way, one more move, and one that shows what the key holds: publications show which tokens
 * and which floor a fence has.
 */
function* walksFrom(cell: Cell, way: readonly Move[]): Generator<readonly Move[]> {
  for (const move of movesFrom(cell)) {
    for (const last of movesFrom(move.model(cell))) {
      if (/publishes a row|ends/.test(last.words)) yield [...way, move, last];
    }
  }
}

/** @throws Error at the first move after which model and store differ */
async function walk(way: readonly Move[]): Promise<void> {
  const clock = new Clock();
  const store = new MemoryStore({ maxEntries: 1, now: () => clock.now });
  let cell: Cell = ABSENT;
  for (const [index, move] of way.entries()) {
    cell = move.model(cell);
    await move.store(store, clock);
    const [held] = await store.get([KEY]);
    if (seenInStore(held) === seenInModel(cell)) continue;
    const words = way.slice(0, index + 1).map((step) => step.words);
    throw new Error(
      `${words.join(', ')}: the store has ${seenInStore(held)}, the model ${seenInModel(cell)}`,
    );
  }
}

describe("the model's scripts", () => {
  it('do what the store does, from each state that a key can have', async () => {
    const ways = findWays();
    let walks = 0;
    for (const { cell, way } of ways) {
      for (const moves of walksFrom(cell, way)) {
        await walk(moves);
        walks++;
      }
    }
    expect(ways.length).toBeGreaterThan(MIN_STATES);
    expect(walks).toBeGreaterThan(MIN_WALKS);
  });
});
