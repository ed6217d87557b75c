/**
 * The campaign's short form: two real nodes against a real PostgreSQL and Redis, with faults by a seed; and the proof that
 * the checker can fail, once on histories written by hand and once for each way to break the protocol on running nodes.
 * Fence, lease and PostgreSQL's bounds are a fifth of the real ones here; the long form (run.mjs) keeps them.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { type Result, type Round, runRound } from './campaign.js';
import { type History, judge } from './checker.js';
import { Cluster } from './cluster.js';
import { compile } from './compile.mjs';
import type { Fault } from './faults.js';
import { type Breakage, BREAKAGES, type Line } from './history.js';
import { storm } from './long.js';

const TIMES_DIVIDED_BY = 5;
const NODES = 2;
const SEED = Number(process.env.CAMPAIGN_SEED ?? Date.now() % 1_000_000);

describe('the checker', () => {
  /** One row `o0` at version 1 from the start, version 2 written between 10 and 20, and an order placed so by c0. */
  const history = (lines: Line[], more: Partial<History> = {}): History => ({
    lines: [['b', 1, 0], ['w', 1, 0, '', 'o0', 1], ['b', 2, 10], ['b', 3, 10, 'c0', 'key'], ...lines],
    committed: [1, 2].map((stamp) => ({ row: 'o0', version: stamp, gone: false, stamp, aliases: [`name${stamp}`] })),
    placed: new Map([[3, 'c0']]),
    evictions: [],
    outages: [],
    ...more,
  });
  const found = (lines: Line[], more?: Partial<History>): string[] =>
    judge(history(lines, more)).violations.map(({ rule }) => rule);
  const written = (flags = ''): Line => ['w', 2, 20, flags, 'o0', 2];
  const placed: Line = ['p', 3, 20, '', 'c0'];
  const old = (begin: number): Line => ['r', begin, 40, 'o0', 1, 1];

  it.each<[what: string, lines: Line[], rules: string[], more?: Partial<History>]>([
    ['takes an old version while the write is under way', [written(), old(20)], []],
    ['refuses it after the acknowledgement', [written(), old(21)], ['G1 stale read']],
    ['refuses it in a read of many', [written(), ['m', 21, 40, 'o0', 2, 2, 'o0', 1, 1]], ['G1 stale read']],
    ['takes it for ever when nobody acknowledged the new one', [old(21)], []],
    ['refuses a missing row', [written(), ['r', 21, 40, 'o0', 0, 0]], ['G1 stale read']],
    ['refuses a version that was never committed', [['r', 21, 40, 'o0', 3, 4]], ['G3 never committed']],
    ['refuses the content of a write that was rolled back', [['r', 21, 40, 'o0', 2, 4]], ['G3 never committed']],
    ['refuses an acknowledged write that is not there', [['w', 4, 20, '', 'o0', 3]], ['acknowledged and lost']],
    ['refuses a row that had another name', [['a', 5, 6, 'name2', 'o0', 1, 1]], ['wrong row for an alias']],
    ['refuses no row for a name that one has', [written(), ['a', 21, 40, 'name2', '', 0, 0]], ['G1 stale read']],
    ['takes no row for a name that is being taken', [written(), ['a', 5, 40, 'name1', '', 0, 0]], []],
    ['takes a list without an order on its way', [placed, ['c', 20, 40, 'c0', []]], []],
    ['refuses a list without an order that is there', [placed, ['c', 21, 40, 'c0', []]], ['order missing']],
    ['refuses an order that nobody placed', [['c', 21, 40, 'c0', [9]]], ['G3 never committed']],
    ['refuses what a failed publication leaves', [written('p'), old(21)], ['G1 stale read']],
    ['excuses it when the fence was evicted', [written('p'), old(21)], [], { evictions: [{ from: 15, to: 16 }] }],
    ['but not when that was before', [written('p'), old(21)], ['G1 stale read'], { evictions: [{ from: 1, to: 9 }] }],
    ['excuses a writer that was cut off alone', [written('f'), old(21)], []],
    [
      'but not when nobody could reach Redis',
      [written('f'), old(21)],
      ['G1 stale read'],
      { outages: [{ from: 5, to: 30 }] },
    ],
    ['excuses a write by hand', [written('h'), old(21)], []],
  ])('%s', (_, lines, rules, ...[more]) => expect(found(lines, more)).toEqual(rules));

  it('counts a read behind another read, and measures what it excuses', () => {
    const verdict = judge(history([written('f'), ['r', 11, 12, 'o0', 2, 2], old(13), old(25)]));
    expect(verdict.behind.map(({ from }) => from)).toEqual([13, 25]);
    expect(verdict.excused.get('writer cut off')).toEqual([5]);
  });
});

describe('on running nodes', () => {
  let compiled: Awaited<ReturnType<typeof compile>>;
  let database: TestDatabase;
  let cluster: Cluster;
  /** How many times slower than a machine at rest this one is just now: rounds last longer by it. */
  let slowness = 1;

  beforeAll(async () => {
    const began = performance.now();
    [compiled, database] = await Promise.all([compile({ timesDividedBy: TIMES_DIVIDED_BY }), createTestDatabase()]);
    cluster = await Cluster.start(compiled.folder, database.url, NODES, SEED);
    slowness = Math.min(4, Math.max(1, (performance.now() - began) / 3_000));
  }, 60_000);

  afterAll(async () => {
    await cluster?.stop();
    await database?.drop();
    await compiled?.remove();
  });

  const round = (options: Partial<Round> & Pick<Round, 'weather'>): Promise<Result> =>
    runRound(cluster, {
      seed: SEED,
      degradedWrites: 'reject',
      settleMs: 10_000,
      readers: 40,
      readRestMs: 4,
      ...options,
    });

  it.each(['reject', 'allow'] as const)(
    `a storm of faults shows no stale read but the excepted ones, degraded writes on "%s" (seed ${SEED})`,
    async (degradedWrites) => {
      const quietMs = { link: 600, node: 3_000, redis: 2_000, evictions: 700, postgres: 1_500 };
      const weather = { ...storm(NODES, 3_500 * slowness, TIMES_DIVIDED_BY), quietMs };
      const result = await round({ degradedWrites, weather });
      expect(result.slices).toEqual([]);
      expect(result.unsettled).toEqual([]);
      expect(result.reads).toBeGreaterThan(100);
      expect(result.writes).toBeGreaterThan(10);
      expect(result.happened.length).toBeGreaterThan(5);
    },
    90_000,
  );

  /** Each way to break the protocol, and the faults under which it shows. */
  const GUARDS: Record<Breakage, { degradedWrites: 'allow' | 'reject'; ms: number; faults: () => Fault[] }> = {
    'fences are dropped': {
      degradedWrites: 'reject',
      ms: 1_500,
      faults: () => every(60, (at) => ({ at, kind: 'cut', node: 0, link: 'redis', ms: 0 })),
    },
    'publications are dropped and reported as done': {
      degradedWrites: 'reject',
      ms: 1_500,
      faults: () => every(300, (at) => ({ at, kind: 'evict', ms: 250 })),
    },
    'every server has the same incarnation': {
      degradedWrites: 'reject',
      ms: 2_500,
      faults: () => [
        ...Array.from({ length: NODES }, (_, node): Fault => ({ at: 50, kind: 'cut', node, link: 'redis', ms: 0 })),
        { at: 1_200 * slowness, kind: 'redis restarts old', ms: 200 * slowness },
      ],
    },
    'the gate is always open': {
      degradedWrites: 'allow',
      ms: 2_500,
      faults: () => [{ at: 400 * slowness, kind: 'outage', ms: 1_200 * slowness }],
    },
  };
  const every = (ms: number, fault: (at: number) => Fault): Fault[] =>
    Array.from({ length: Math.floor((1_300 * slowness) / ms) }, (_, index) => fault(50 + index * ms));

  it.each(BREAKAGES)(
    'the checker finds that %s',
    async (breakage) => {
      const { degradedWrites, ms, faults } = GUARDS[breakage];
      const weather = { ...storm(NODES, ms * slowness, TIMES_DIVIDED_BY), weights: {} };
      // Whether one round shows it is a matter of timing: what this one does not, another will.
      const rules = new Set<string>();
      for (let attempt = 0; attempt < 6 && rules.size === 0; attempt++) {
        const { violations } = await round({
          seed: SEED + attempt,
          degradedWrites,
          weather,
          faults: faults(),
          breakage,
        });
        for (const { rule } of violations) rules.add(rule);
      }
      expect(['G1 stale read', 'order missing']).toEqual(expect.arrayContaining([...rules].slice(0, 1)));
      expect(rules.size).toBeGreaterThan(0);
    },
    120_000,
  );
});
