/** The campaign's checker on histories made by hand: what it must find, what it must let pass, and where it only measures. */
import { describe, expect, it } from '@jest/globals';
import { type Committed, type History, judge } from './checker.js';
import type { Happened, How, WriteEvent } from './history.js';

/** Subject 0 is an order, 1 a user, 2 a session, 3 a list, 4 and 5 the names that the user has at versions 1 and 2. */
const SUBJECTS = [
  ...['o0', 'u0', 's0', 'c0'].map((name) => ({ name, id: name })),
  ...['ada', 'bob'].map((id, index) => ({ name: `n${index}`, id })),
];
type Read = readonly [subject: number, version: number, stamp: number, begin: number, end: number];

const version = (subject: number, number: number, more: Partial<Committed> = {}): Committed => ({
  ...{ subject, version: number, gone: false, stamp: 10 * subject + number, name: null },
  ...more,
});
/** Each subject but the list has version 1 from the start; version 2 is written from 100 to 200. */
const write = (subject: number, how: How = 'fenced', number = 2): WriteEvent[] => [
  { event: 'begun', stamp: 10 * subject + number, at: 100 },
  {
    event: 'acknowledged',
    stamp: 10 * subject + number,
    at: 200,
    how,
    written: [[subject, number]],
  },
];
const begun = (subject: number): WriteEvent[] => write(subject).slice(0, 1);
const happened = (kind: string, from: number, to: number): Happened => ({
  kind,
  what: '',
  from,
  to,
});

function history(
  writes: WriteEvent[],
  reads: readonly Read[],
  more: Partial<History> = {},
): History {
  const first = [0, 1, 2].flatMap((subject): WriteEvent[] => [
    { event: 'begun', stamp: 10 * subject + 1, at: 0 },
    {
      event: 'acknowledged',
      stamp: 10 * subject + 1,
      at: 0,
      how: 'fenced',
      written: [[subject, 1]],
    },
  ]);
  return {
    subjects: SUBJECTS,
    reads: reads.map((read) => Float64Array.from(read)),
    writes: [...first, ...writes],
    committed: [
      ...[
        version(0, 1),
        version(0, 2),
        version(1, 1, { name: 'ada' }),
        version(1, 2, { name: 'bob' }),
      ],
      ...[version(2, 1), version(2, 2, { gone: true, stamp: 21 }), version(3, 1), version(3, 2)],
    ],
    ...{ happened: [], degradedWrites: 'reject', fenceMs: 15_000, boundMs: 1_000 },
    ...more,
  };
}

const old = (begin: number, end = begin + 10): Read => [0, 1, 1, begin, end];
const fresh = (begin: number, end = begin + 10): Read => [0, 2, 2, begin, end];
const [STALE, UNCOMMITTED, LOST, BEHIND] = [
  'G1: stale',
  'G3: never committed',
  'acknowledged and lost',
  'behind another read',
] as const;

describe('the checker', () => {
  it.each<
    [
      what: string,
      writes: WriteEvent[],
      reads: Read[],
      found: Record<string, number>,
      more?: Partial<History>,
    ]
  >([
    ['takes an old version while the write is under way', write(0), [old(199)], {}],
    ['refuses it after the acknowledgement', write(0), [old(201), old(300)], { [STALE]: 2 }],
    ['takes it for ever when nobody acknowledged the new one', begun(0), [old(9_000)], {}],
    ['refuses a missing row', write(0), [[0, 0, 0, 201, 210]], { [STALE]: 1 }],
    ['refuses a version that was never committed', [], [[0, 3, 3, 10, 20]], { [UNCOMMITTED]: 1 }],
    [
      'refuses the content of a write that was rolled back',
      begun(0),
      [[0, 2, 7, 150, 160]],
      { [UNCOMMITTED]: 1 },
    ],
    ['refuses an acknowledged write that is not there', write(0, 'fenced', 3), [], { [LOST]: 1 }],
    ['takes an old version beside a new one', begun(0), [fresh(150, 170), old(160)], {}],
    [
      'refuses an old version behind a new one',
      begun(0),
      [fresh(150, 170), old(171)],
      { [BEHIND]: 1 },
    ],
    ['takes no session while it is being deleted', write(2), [[2, 0, 0, 50, 150]], {}],
    ['refuses no session before that', write(2), [[2, 0, 0, 50, 90]], { [STALE]: 1 }],
    ['refuses a session that is gone', write(2), [[2, 1, 21, 201, 210]], { [STALE]: 1 }],
    ['takes no row for a name that is being given up', begun(1), [[4, 0, 0, 50, 150]], {}],
    ['refuses it before that', begun(1), [[4, 0, 0, 50, 90]], { [STALE]: 1 }],
    ['refuses no row for a name that was taken', write(1), [[5, 0, 0, 201, 210]], { [STALE]: 1 }],
    ['takes a list without an order on its way', write(3), [[3, 0, 0, 150, 160]], {}],
    [
      'refuses a list without an order that is there',
      write(3),
      [[3, 1, 31, 201, 210]],
      { [STALE]: 1 },
    ],
    ['refuses what a lost publication leaves', write(0, 'unpublished'), [old(201)], { [STALE]: 1 }],
    [
      'and a writer that was cut off with all others',
      write(0, 'unfenced'),
      [old(201)],
      { [STALE]: 1 },
      {
        happened: [happened('outage', 50, 300)],
      },
    ],
    [
      'does not ask what reads see of each other where writes go on without Redis',
      begun(0),
      [fresh(150), old(171)],
      {},
      {
        degradedWrites: 'allow',
      },
    ],
  ])('%s', (_, writes, reads, found, ...[more]) =>
    expect(judge(history(writes, reads, more)).violated).toEqual(found),
  );

  it.each<[what: string, how: How, faults: Happened[]]>([
    ['a write by hand', 'by hand', []],
    ['a writer that was cut off alone', 'unfenced', []],
    [
      'a lost publication whose fence was evicted',
      'unpublished',
      [happened('evictions', 150, 160)],
    ],
  ])('measures %s, up to its bound', (_, how, faults) => {
    const more = { happened: faults };
    const { violated, excused } = judge(history(write(0, how), [old(5_200)], more));
    expect([violated, Object.values(excused)]).toEqual([{}, [{ reads: 1, worstMs: 5 }]]);
    expect(judge(history(write(0, how), [old(1_001_201)], more)).violated).toEqual({ [STALE]: 1 });
  });

  it('does not excuse a lost publication by an eviction that was over before', () =>
    expect(
      judge(
        history(write(0, 'unpublished'), [old(300)], { happened: [happened('evictions', 10, 90)] }),
      ).violated,
    ).toEqual({ [STALE]: 1 }));

  it('measures reads that differ about a write nobody has acknowledged, once fences were lost', () => {
    const more = { happened: [happened('FLUSHALL', 140, 145)] };
    const { violated, excused } = judge(history(begun(0), [fresh(150, 170), old(1_170)], more));
    expect([violated, excused]).toEqual([{}, { [BEHIND]: { reads: 1, worstMs: 1 } }]);
  });
});
