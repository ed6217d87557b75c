/** The checker of chaos histories on small histories: what it finds, accepts and only measures. */
import { describe, expect, it } from '@jest/globals';
import { checkHistory, type CommittedVersion, type History, type Rule } from './history-checker.js';
import type { FaultRecord, Invalidated, Subject, WriteEvent } from './history.js';

/** The user has the username `ada` at version 1 and `bob` at version 2. */
const SUBJECTS: readonly Subject[] = [
  { kind: 'order', label: 'order 0', id: 'o0' },
  { kind: 'user', label: 'user 0', id: 'u0' },
  { kind: 'session', label: 'session 0', id: 's0' },
  { kind: 'list', label: 'list 0', id: 'c0' },
  { kind: 'username', label: 'username 0', id: 'ada' },
  { kind: 'username', label: 'username 1', id: 'bob' },
];
const [ORDER, USER, SESSION, LIST, ADA, BOB] = [0, 1, 2, 3, 4, 5] as const;

const stampOf = (subject: number, version: number): number => 10 * subject + version;

const committed = (
  subject: number,
  version: number,
  more: Partial<CommittedVersion> = {},
): CommittedVersion => ({
  subject,
  version,
  isDeleted: false,
  stamp: stampOf(subject, version),
  username: null,
  ...more,
});

const COMMITTED: readonly CommittedVersion[] = [
  committed(ORDER, 1),
  committed(ORDER, 2),
  committed(USER, 1, { username: 'ada' }),
  committed(USER, 2, { username: 'bob' }),
  committed(SESSION, 1),
  committed(SESSION, 2, { isDeleted: true, stamp: stampOf(SESSION, 1) }),
  committed(LIST, 1),
  committed(LIST, 2),
];

const eventsOf = (
  subject: number,
  version: number,
  [begin, end]: readonly [number, number],
  invalidated: Invalidated,
): [WriteEvent, WriteEvent] => {
  const stamp = stampOf(subject, version);
  const written = [[subject, version]] as const;
  return [
    { event: 'begun', stamp, at: begin },
    { event: 'acknowledged', stamp, at: end, invalidated, written },
  ];
};

/** The write of a version 2, from 100 to 200. */
const write = (subject: number, invalidated: Invalidated = 'fenced', version = 2): WriteEvent[] =>
  eventsOf(subject, version, [100, 200], invalidated);
/** The same by a writer that died. */
const begun = (subject: number): WriteEvent[] => write(subject).slice(0, 1);
/** The same by a writer that got no answer to COMMIT. */
const failed = (subject: number, invalidated: Invalidated): WriteEvent[] => [
  ...begun(subject),
  { event: 'failed', stamp: stampOf(subject, 2), at: 300, invalidated, reason: '' },
];

const fault = (kind: string, from: number, to: number): FaultRecord => ({
  kind,
  details: '',
  from,
  to,
});

type PackedRead = readonly [
  subject: number,
  version: number,
  stamp: number,
  begin: number,
  end: number,
];

const oldOrder = (begin: number, end = begin + 10): PackedRead => [ORDER, 1, 1, begin, end];
const newOrder = (begin: number, end = begin + 10): PackedRead => [ORDER, 2, 2, begin, end];
const notFound = (subject: number, begin: number, end: number): PackedRead => [
  subject,
  0,
  0,
  begin,
  end,
];

/** Every row has version 1 from time 0 on; the list has none. */
function historyOf(
  writes: readonly WriteEvent[],
  reads: readonly PackedRead[],
  more: Partial<History> = {},
): History {
  const insertions = [ORDER, USER, SESSION].flatMap((subject) =>
    eventsOf(subject, 1, [0, 0], 'fenced'),
  );
  return {
    subjects: SUBJECTS,
    reads: reads.map((read) => Float64Array.from(read)),
    writes: [...insertions, ...writes],
    committed: COMMITTED,
    faults: [],
    degradedWrites: 'reject',
    fenceMs: 15_000,
    boundMs: 1_000,
    ...more,
  };
}

const STALE: Rule = 'G1: stale';
const UNCOMMITTED: Rule = 'G3: never committed';
const OLDER: Rule = 'older than an earlier read';
const LOST: Rule = 'acknowledged and lost';

interface Case {
  readonly name: string;
  readonly writes?: readonly WriteEvent[];
  readonly reads?: readonly PackedRead[];
  readonly more?: Partial<History>;
  readonly found: Partial<Record<Rule, number>>;
}

const CASES: readonly Case[] = [
  {
    name: 'accepts an old version while the write is in progress',
    writes: write(ORDER),
    reads: [oldOrder(199)],
    found: {},
  },
  {
    name: 'reports an old version after the acknowledgement',
    writes: write(ORDER),
    reads: [oldOrder(201), oldOrder(300)],
    found: { [STALE]: 2 },
  },
  {
    name: 'accepts an old version at any time when the new one was not acknowledged',
    writes: begun(ORDER),
    reads: [oldOrder(9_000)],
    found: {},
  },
  {
    name: 'reports a row that was not found',
    writes: write(ORDER),
    reads: [notFound(ORDER, 201, 210)],
    found: { [STALE]: 1 },
  },
  {
    name: 'reports a version that was never committed',
    reads: [[ORDER, 3, 3, 10, 20]],
    found: { [UNCOMMITTED]: 1 },
  },
  {
    name: 'reports the content of a write that was rolled back',
    writes: begun(ORDER),
    reads: [[ORDER, 2, 7, 150, 160]],
    found: { [UNCOMMITTED]: 1 },
  },
  {
    name: 'reports an acknowledged write that the database does not have',
    writes: write(ORDER, 'fenced', 3),
    found: { [LOST]: 1 },
  },
  {
    name: 'accepts an old version in a read that overlaps a read of the new one',
    writes: begun(ORDER),
    reads: [newOrder(150, 170), oldOrder(160)],
    found: {},
  },
  {
    name: 'reports an old version after another read has returned the new one',
    writes: begun(ORDER),
    reads: [newOrder(150, 170), oldOrder(171)],
    found: { [OLDER]: 1 },
  },
  {
    name: 'accepts that a session is not found while it is being deleted',
    writes: write(SESSION),
    reads: [notFound(SESSION, 50, 150)],
    found: {},
  },
  {
    name: 'reports that a session is not found before its deletion',
    writes: write(SESSION),
    reads: [notFound(SESSION, 50, 90)],
    found: { [STALE]: 1 },
  },
  {
    name: 'reports a session that was deleted',
    writes: write(SESSION),
    reads: [[SESSION, 1, 21, 201, 210]],
    found: { [STALE]: 1 },
  },
  {
    name: 'accepts that nobody is found under a username that is being given up',
    writes: begun(USER),
    reads: [notFound(ADA, 50, 150)],
    found: {},
  },
  {
    name: 'reports that nobody is found under a username before it is given up',
    writes: begun(USER),
    reads: [notFound(ADA, 50, 90)],
    found: { [STALE]: 1 },
  },
  {
    name: 'reports that nobody is found under a username that was taken',
    writes: write(USER),
    reads: [notFound(BOB, 201, 210)],
    found: { [STALE]: 1 },
  },
  {
    name: 'accepts a list without an order that is being placed',
    writes: write(LIST),
    reads: [notFound(LIST, 150, 160)],
    found: {},
  },
  {
    name: 'reports a list without an order that was placed',
    writes: write(LIST),
    reads: [[LIST, 1, 31, 201, 210]],
    found: { [STALE]: 1 },
  },
  {
    name: 'reports an old version after a publication was lost',
    writes: write(ORDER, 'unpublished'),
    reads: [oldOrder(201)],
    found: { [STALE]: 1 },
  },
  {
    name: 'reports an old version after a write without fences when no node could reach Redis',
    writes: write(ORDER, 'unfenced'),
    reads: [oldOrder(201)],
    more: { faults: [fault('outage', 50, 300)] },
    found: { [STALE]: 1 },
  },
  {
    name: 'reports an old version after a lost publication whose fence was evicted',
    writes: write(ORDER, 'unpublished'),
    reads: [oldOrder(201)],
    more: { faults: [fault('evictions', 150, 160)] },
    found: { [STALE]: 1 },
  },
  {
    name: 'reports an old version after a write of the only node that could not reach Redis',
    writes: write(ORDER, 'unfenced'),
    reads: [oldOrder(201)],
    more: { degradedWrites: 'wait' },
    found: { [STALE]: 1 },
  },
  {
    name: 'compares reads of a fenced write with each other also where writes wait',
    writes: write(ORDER),
    reads: [newOrder(150, 160), oldOrder(171)],
    more: { degradedWrites: 'wait' },
    found: { [OLDER]: 1 },
  },
  {
    name: 'compares reads of a fenced write whose COMMIT was not answered',
    writes: failed(ORDER, 'fenced'),
    reads: [newOrder(150, 160), oldOrder(171)],
    more: { degradedWrites: 'wait' },
    found: { [OLDER]: 1 },
  },
  {
    name: 'compares reads of an acknowledged write whatever cache nodes changed to',
    writes: write(ORDER),
    reads: [newOrder(150, 160), oldOrder(171)],
    more: { faults: [fault('Redis back empty', 120, 130)] },
    found: { [OLDER]: 1 },
  },
];

describe('the checker of chaos histories', () => {
  it.each(CASES)('$name', ({ writes = [], reads = [], more, found }) =>
    expect(checkHistory(historyOf(writes, reads, more)).violationCounts).toEqual(found),
  );

  it('only measures reads after a write past the service', () => {
    const history = historyOf(write(ORDER, 'outside'), [oldOrder(5_200)]);

    const { violationCounts, exemptions } = checkHistory(history);

    expect(violationCounts).toEqual({});
    expect(exemptions).toEqual({ 'written past the service': { reads: 1, worstMs: 5 } });
  });

  it('reports reads after a write past the service that exceed the bound', () => {
    const history = historyOf(write(ORDER, 'outside'), [oldOrder(1_001_201)]);

    expect(checkHistory(history).violationCounts).toEqual({ [STALE]: 1 });
  });

  interface DisagreementCase {
    readonly name: string;
    readonly writes: readonly WriteEvent[];
    readonly more: Partial<History>;
  }
  const DISAGREEMENTS: readonly DisagreementCase[] = [
    {
      name: 'without fences',
      writes: write(ORDER, 'unfenced'),
      more: { degradedWrites: 'wait' },
    },
    {
      name: 'of a dead writer that may not have fenced it',
      writes: begun(ORDER),
      more: { degradedWrites: 'wait' },
    },
    {
      name: 'of a dead writer whose fences may be of an earlier cache',
      writes: begun(ORDER),
      more: { faults: [fault('Redis back empty', 120, 130)] },
    },
    {
      name: 'whose fences were lost',
      writes: write(ORDER),
      more: { faults: [fault('FLUSHALL', 120, 130)] },
    },
    {
      name: 'whose fences have expired',
      writes: begun(ORDER),
      more: { fenceMs: 0.01 },
    },
  ];

  it.each(DISAGREEMENTS)('only measures disagreement about a write $name', ({ writes, more }) => {
    const history = historyOf(writes, [newOrder(150, 160), oldOrder(171)], more);

    const { violationCounts, exemptions } = checkHistory(history);

    expect(violationCounts).toEqual({});
    expect(exemptions).toEqual({ [OLDER]: { reads: 1, worstMs: 0.011 } });
  });
});
