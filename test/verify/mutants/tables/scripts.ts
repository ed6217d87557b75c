/** The steps of a cache key: in Redis as Lua scripts, and the same in memory. */
import { lines, type Mutant } from '../mutant.js';

const SCRIPTS = 'src/platform/cache/store/redis/redis-scripts.ts';
const MEMORY = 'src/platform/cache/store/memory-store.ts';

const redis = {
  file: SCRIPTS,
  specs: ['test/platform/cache/store/redis/redis-store.spec.ts'],
  tests: 'contract of|reads as absent',
};
const guards = { file: SCRIPTS, specs: ['test/platform/cache/guards.spec.ts'] };
const memory = { file: MEMORY, specs: ['test/platform/cache/store/memory-store.spec.ts'] };

export const SCRIPT_MUTANTS: readonly Mutant[] = [
  {
    ...guards,
    name: 'redis-fence-does-nothing',
    without: 'a fence leaves the key as it is',
    text: lines('latest = math.max(latest, deadline)', 'keepFence(version)'),
    replacement: '',
    tests: '^the fence with the fence',
  },
  {
    ...guards,
    name: 'redis-one-flag-for-all-writers',
    without: 'a publication ends the fences of all writers',
    text: 'if name == token then',
    replacement: 'if true then',
    tests: 'with tokens',
  },
  {
    ...guards,
    name: 'redis-no-version-compare',
    without: 'a publication replaces a newer row',
    text: lines(
      '  elseif published > version then',
      '    put(ARGV[2], ARGV[3])',
      '  end',
      "elseif kind == 'N'",
    ),
    replacement: lines('  else', '    put(ARGV[2], ARGV[3])', '  end', "elseif kind == 'N'"),
    tests: 'with the comparison',
  },
  {
    ...guards,
    name: 'redis-no-floor',
    without: 'the last publication under a fence is stored although it is older',
    text: 'elseif not isAbsence and mine and published >= version then',
    replacement: 'elseif not isAbsence and mine then',
    tests: 'with the floor',
  },
  {
    ...redis,
    name: 'redis-no-floor-at-expiry',
    without: 'an expired token does not raise the floor of its fence',
    text: lines('committed.', '      version = beyond'),
    replacement: 'committed.',
  },
  {
    ...redis,
    name: 'redis-no-floor-at-absence',
    without: 'an absence does not raise the floor of a fence',
    text: lines('    if isAbsence then', '      version = beyond', '    elseif published'),
    replacement: '    if not isAbsence and published',
  },
  {
    ...redis,
    name: 'redis-expired-token-counts',
    without: 'a writer whose fence has expired may store',
    text: lines('      if name == token then', '        mine = at'),
    replacement: lines('      if name == token then', '        mine = false'),
  },
  {
    ...redis,
    name: 'redis-fill-without-lease',
    without: 'a reader fills an absent key although its lease was destroyed',
    text: "if raw ~= 'L' .. token then return 0 end",
    replacement: "if raw and raw ~= 'L' .. token then return 0 end",
  },
  {
    ...redis,
    name: 'redis-fill-over-any-lease',
    without: 'a reader fills over the lease of another',
    text: "if raw ~= 'L' .. token then return 0 end",
    replacement: "if kind ~= 'L' then return 0 end",
  },
  {
    ...redis,
    name: 'redis-publication-leaves-leases',
    without: 'a publication leaves the lease of a reader that has read before it',
    text: 'elseif raw then',
    replacement: "elseif kind == '?' then",
  },
  {
    ...redis,
    name: 'redis-negative-entry-replaced',
    without: 'a row of an unknown time replaces a negative entry',
    text: "if isAbsence or published > version then redis.call('DEL', key) end",
    replacement: lines(
      "if isAbsence then redis.call('DEL', key)",
      '  elseif published > version then put(ARGV[2], ARGV[3]) end',
    ),
  },
  {
    ...redis,
    name: 'redis-absence-leaves-value',
    without: 'an absence leaves a cached value',
    text: lines('  if isAbsence then', "    redis.call('DEL', key)", '  elseif published'),
    replacement: lines('  if isAbsence then', '    version = version', '  elseif published'),
  },
  {
    ...redis,
    name: 'redis-replace-without-compare',
    without: 'a refresh replaces whatever it finds',
    text: 'if raw ~= ARGV[1] then return 0 end',
    replacement: '',
  },
  {
    ...redis,
    name: 'redis-fence-ends-with-first-deadline',
    without: 'a fence expires with the deadline of its last writer, not with the latest',
    text: 'latest = math.max(latest, deadline)',
    replacement: 'latest = deadline',
  },
  {
    ...redis,
    name: 'undecodable-entry-served',
    without: 'an entry with a malformed version counts as a value',
    text: 'const version = /^\\d{20}$/.test(digits) ? Number(digits) : NaN;',
    replacement: 'const version = parseInt(digits, 10) || 0;',
  },
  {
    ...memory,
    name: 'memory-fence-does-nothing',
    without: 'a fence in memory leaves the key as it is',
    text: 'this.storeFence(key, floorOf(cell), deadlines);',
    replacement: 'void deadlines;',
  },
  {
    ...memory,
    name: 'memory-one-flag-for-all-writers',
    without: 'a publication in memory ends the fences of all writers',
    text: 'const isTokenFound = otherDeadlines.delete(token);',
    replacement: lines(
      'const isTokenFound = otherDeadlines.delete(token);',
      '  otherDeadlines.clear();',
    ),
  },
  {
    ...memory,
    name: 'memory-no-version-compare',
    without: 'a publication in memory replaces a newer row',
    text: 'else if (entry.version > cell.version) this.storeEntry(entry);',
    replacement: 'else this.storeEntry(entry);',
  },
  {
    ...memory,
    name: 'memory-no-floor',
    without: 'the last publication under a fence in memory is stored although it is older',
    text: 'entry && isTokenFound && entry.version >= fence.floor',
    replacement: 'entry && isTokenFound',
  },
  {
    ...memory,
    name: 'memory-no-floor-at-expiry',
    without: 'an expired token does not raise the floor of its fence in memory',
    text: 'return { ...cell, floor: UNREACHABLE_FLOOR, deadlines };',
    replacement: 'return { ...cell, deadlines };',
  },
  {
    ...memory,
    name: 'memory-no-floor-at-absence',
    without: 'an absence does not raise the floor of a fence in memory',
    text: 'entry?.version ?? UNREACHABLE_FLOOR',
    replacement: 'entry?.version ?? 0',
  },
];
