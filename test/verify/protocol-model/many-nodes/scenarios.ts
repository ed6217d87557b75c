/**
 * What is explored of the protocol between several nodes. In each scenario the complete protocol
 * must hold. Each ablation takes one part away, and must break a promise. Every part is taken away
 * at least once.
 */
import { COMPLETE, type Parts } from './parts.js';
import type { Budgets, Setup, WriterSetup } from './state.js';

export interface Ablation {
  /** What happens without the part. */
  readonly name: string;
  readonly part: keyof Parts;
  readonly breaks: 'G1' | 'G3';
  /** It is explored in the long form only, for its size. */
  readonly isLong: boolean;
}

export interface Scenario {
  readonly name: string;
  readonly setup: Setup;
  /** The complete protocol is explored in the long form only, for its size. */
  readonly isLong: boolean;
  readonly ablations: readonly Ablation[];
}

const NOTHING_FAILS: Budgets = {
  changes: 0,
  moves: 0,
  flushes: 0,
  failedPublications: 0,
  failedFences: 0,
  failedEnqueues: 0,
  unansweredCommits: 0,
  lostSessions: 0,
  promotions: 0,
};

/** Two nodes that use one cache, a writer on the first, a reader on each. */
const TWO_NODES: Omit<Setup, 'budgets'> = {
  parts: COMPLETE,
  nodes: [0, 0],
  incarnations: 1,
  writers: [{ node: 0, release: 'current' }],
  readers: [0, 1],
  repetitionAt: undefined,
};
const TWO_WRITERS: readonly WriterSetup[] = [
  { node: 0, release: 'current' },
  { node: 1, release: 'current' },
];

const scenario = (
  name: string,
  budgets: Partial<Budgets>,
  nodes: Partial<Setup>,
  ablations: readonly Ablation[] = [],
): Scenario => ({
  name,
  setup: { ...TWO_NODES, ...nodes, budgets: { ...NOTHING_FAILS, ...budgets } },
  isLong: false,
  ablations,
});
const longScenario = (...all: Parameters<typeof scenario>): Scenario => ({
  ...scenario(...all),
  isLong: true,
});
const without = (part: keyof Parts, name: string, breaks: Ablation['breaks'] = 'G1'): Ablation => ({
  name,
  part,
  breaks,
  isLong: false,
});

export const SCENARIOS: readonly Scenario[] = [
  scenario('a write without a fence', { failedFences: 1, lostSessions: 1 }, {}, [
    without('unfencedWaits', 'it is acknowledged at once'),
    without('waitCountsAllReaders', 'it waits only for readers of another epoch'),
    without('looksAfterCommit', 'its writer looks at the registry before its COMMIT'),
    without('registersBeforeLooking', 'a node looks at the table, then registers'),
    without('passChecksRegistration', 'a pass does not notice that its registration has ended'),
    without('opensWhenRowsAreGone', 'a node opens though rows that it saw are still there'),
    without('gateIsLease', 'the gate of a silent node stays open'),
    without('renewalLooksAtTable', 'a heartbeat prolongs the gate without a look at the table'),
    without('closesBeforeUnregistering', 'a node unregisters, then closes its gate'),
    without('registrationOutlivesGate', 'a registration ends with its session, the gate later'),
    without('gateBeforeCommand', 'a reader looks at the gate when its answer has come'),
    without('keysBeforeRows', 'rows are removed before their keys are deleted'),
  ]),
  scenario(
    'a publication fails after a flush',
    { failedPublications: 1, flushes: 1, failedEnqueues: 1 },
    {},
    [
      without('failedPublicationWaits', 'the write is acknowledged once its keys are enqueued'),
      without('failedPublicationEnqueues', 'it waits, but its keys are not in the table'),
      without('failedEnqueueIsNoAcknowledgement', 'it is acknowledged without keys in the table'),
    ],
  ),
  scenario(
    'two caches: two memories, two databases, two servers',
    { failedFences: 1 },
    { nodes: [0, 1], incarnations: 2, writers: TWO_WRITERS },
    [
      without('registersForOwnIncarnation', 'a node opens for the epoch of another cache'),
      without('commitChecksName', "a fence in another cache counts as the epoch's"),
      without('appliesInEpochOnly', 'a node applies rows in another cache'),
    ],
  ),
  scenario(
    'a node is connected to another incarnation',
    { changes: 1, flushes: 1, failedFences: 1 },
    { incarnations: 2 },
    [
      without('closesWithIncarnation', 'its gate stays open'),
      without('changeEndsPass', 'its pass goes on and opens the gate'),
      without('publishesUnderFencedName', 'its write is published under the new name'),
    ],
  ),
  scenario('the epoch moves', { moves: 1, failedFences: 1 }, { readers: [1] }, [
    without('moveNeedsEmptyRegistry', 'it moves while a node is registered'),
    without('moveExcludesRegistration', 'a node registers between the check and the move'),
    without('commitExcludesMove', 'it moves between the check of a COMMIT and the COMMIT'),
    without('epochReadWithRows', 'a node that has read the last epoch applies rows'),
  ]),
  scenario(
    'the epoch moves away from a cache and back',
    { changes: 1, moves: 2 },
    { incarnations: 2, readers: [1] },
    [without('namesCarryEpoch', 'what it held in the first epoch is read in the third')],
  ),
  scenario(
    'an older release that does not know the key',
    {},
    { writers: [{ node: 0, release: 'older' }] },
    [
      without('databaseKnowsKeys', 'PostgreSQL believes that all keys were fenced'),
      without('writerHearsDatabase', 'the writer does not hear that they were not'),
    ],
  ),
  scenario(
    'a repetition after a COMMIT without an answer',
    { unansweredCommits: 1 },
    { readers: [1], repetitionAt: 0 },
    [
      without('repetitionDeletes', 'it only acknowledges'),
      without('repetitionWaits', 'it enqueues the keys and acknowledges'),
    ],
  ),
  scenario(
    'a repetition on a node with another cache',
    { unansweredCommits: 1 },
    { nodes: [0, 1], incarnations: 2, repetitionAt: 1 },
    [without('repetitionChecksEpoch', 'it deletes the keys there')],
  ),
  scenario(
    'a replica of PostgreSQL is promoted',
    { promotions: 1, moves: 2 },
    { nodes: [0], readers: [0] },
    [
      without('epochNamesDatabase', 'lost rows stay in the cache', 'G3'),
      without('epochIsFresh', 'an id comes again, with the rows of a lost epoch', 'G3'),
    ],
  ),
  longScenario(
    'a replica of PostgreSQL is promoted, two nodes',
    { promotions: 1, moves: 1 },
    { readers: [1] },
    [
      without('moveWaitsAfterPromotion', 'the epoch moves, though registrations may be lost'),
      without('waitChecksDatabase', 'a wait trusts a registry that may have lost a node'),
    ],
  ),
];
