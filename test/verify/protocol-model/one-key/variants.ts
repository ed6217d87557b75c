/**
 * What is explored around one key: the complete protocol under different faults, the protocol with
 * a piece changed, and other protocols; each with the expected result.
 */
import type { ScriptRules } from '../scripts.js';
import type { Budgets, Protocol, WriterKind } from './protocol.js';

export type Outcome = 'holds' | 'G1' | 'G3' | 'agreement' | 'progress';

export interface Variant {
  readonly name: string;
  /** `holds`, or the promise that must break. */
  readonly expected: Outcome;
  /** Only in the long form, for its size. */
  readonly isLong: boolean;
  readonly protocol: Protocol;
}

type Pieces = ScriptRules & Pick<Protocol, 'deletion'>;

/** The scripts with everything that the explorations have shown to be needed. */
const COMPLETE: Pieces = {
  floor: true,
  tokenSet: true,
  versionCompare: true,
  noneYields: true,
  expiryRaisesFloor: true,
  absenceRaisesFloor: true,
  deletion: 'publish',
};

/** What src/platform/cache/store does today; scripts.spec.ts holds it against the store. */
export const AS_SHIPPED: Pieces = COMPLETE;

/**
 * The first design: for rows that are only updated, by writers that fence once they hold the row's
 * lock.
 */
const FIRST_DESIGN: Pieces = {
  ...COMPLETE,
  noneYields: false,
  expiryRaisesFloor: false,
  absenceRaisesFloor: false,
  deletion: 'fence',
};

const NOTHING_FAILS: Budgets = {
  crashes: 0,
  stalls: 0,
  flushes: 0,
  failedPublications: 0,
  failedFences: 0,
  unansweredCommits: 0,
  failovers: 0,
  failbacks: 0,
};

const PROTOCOL: Protocol = {
  ...COMPLETE,
  writers: [],
  readers: 2,
  budgets: NOTHING_FAILS,
  promise: 'G1',
  scheme: 'fenced',
  key: 'row',
  hasRow: true,
  fences: 'beside',
  afterCommit: 'publish',
  publishes: 'before acknowledging',
  enqueued: 'waits',
  unanswered: 'watch',
  incarnation: 'replication-id',
  repetition: 'none',
  refresh: 'none',
  join: 'begun-after',
};

type Change = Partial<Omit<Protocol, 'writers' | 'budgets'>>;

const writing =
  (...writers: WriterKind[]) =>
  (budgets: Partial<Budgets>, change: Change = {}): Protocol => ({
    ...PROTOCOL,
    ...change,
    writers,
    budgets: { ...NOTHING_FAILS, ...budgets },
  });
const two = writing('update', 'update');
const three = writing('update', 'update', 'update');
const updateAndDelete = writing('update', 'delete');
const updateAndPsql = writing('update', 'psql');

/** A writer may always be slow: what holds, holds at any speed. */
const SLOW = { stalls: 3 };
const FIRST: Change = { ...FIRST_DESIGN, fences: 'locked' };
const LIST: Change = { key: 'list' };
const REFRESH: Change = { refresh: 'claim' };
const AGREEMENT: Change = { promise: 'agreement' };

const variant = (name: string, expected: Outcome, protocol: Protocol): Variant => ({
  name,
  expected,
  isLong: false,
  protocol,
});
const long = (name: string, protocol: Protocol): Variant => ({
  ...variant(name, 'holds', protocol),
  isLong: true,
});

const OTHER_PROTOCOLS: readonly Variant[] = [
  variant('cache-aside with DEL, nothing fails', 'G1', two({}, { scheme: 'aside' })),
  variant('generation CAS, nothing fails', 'holds', two({}, { scheme: 'generation' })),
  variant('generation CAS, a flush', 'G1', two({ flushes: 1 }, { scheme: 'generation' })),
  variant('ordinary single-flight, nothing fails', 'G1', two({}, { join: 'running' })),
  variant('leases without a fence, nothing fails', 'holds', two({}, { fences: 'never' })),
  variant(
    'leases without a fence, a failed publication that is acknowledged',
    'G1',
    two({ failedPublications: 1 }, { fences: 'never', enqueued: 'acknowledges' }),
  ),
  variant(
    'leases without a fence, a failed publication that waits, a crash, a flush',
    'holds',
    two({ failedPublications: 1, crashes: 1, flushes: 1, ...SLOW }, { fences: 'never' }),
  ),
];

/** Rows that are only updated, by writers that fence under the row's lock. */
const THE_FIRST_DESIGN: readonly Variant[] = [
  variant(
    'first design: 2 crashes, a failed publication',
    'holds',
    two({ crashes: 2, failedPublications: 1, ...SLOW }, FIRST),
  ),
  variant(
    'first design: a crash, a flush',
    'holds',
    two({ crashes: 1, flushes: 1, ...SLOW }, FIRST),
  ),
  long(
    'first design, 3 writers: 2 crashes, a failed publication',
    three({ crashes: 2, failedPublications: 1, ...SLOW }, FIRST),
  ),
  long(
    'first design, 3 writers: a crash, a flush',
    three({ crashes: 1, flushes: 1, ...SLOW }, FIRST),
  ),
];

/** Rows that come and go, fences beside the SQL. */
const THE_COMPLETE_PROTOCOL: readonly Variant[] = [
  variant(
    '2 crashes, a failed publication',
    'holds',
    two({ crashes: 2, failedPublications: 1, ...SLOW }),
  ),
  variant('a crash, a flush', 'holds', two({ crashes: 1, flushes: 1, ...SLOW })),
  variant(
    'update and delete: a crash, a flush',
    'holds',
    updateAndDelete({ crashes: 1, flushes: 1, ...SLOW }),
  ),
  variant(
    'a flush and a failed publication, a crash',
    'holds',
    writing('update')({ flushes: 1, failedPublications: 1, crashes: 1, ...SLOW }),
  ),
  variant(
    'a COMMIT without an answer: a crash, a flush',
    'holds',
    two({ unansweredCommits: 1, crashes: 1, flushes: 1, ...SLOW }),
  ),
  variant(
    'psql: a crash, a flush, a failed publication',
    'holds',
    updateAndPsql({ crashes: 1, flushes: 1, failedPublications: 1, ...SLOW }),
  ),
  variant('list: a crash, a flush', 'holds', two({ crashes: 1, flushes: 1, ...SLOW }, LIST)),
  variant('refresh ahead: a flush', 'holds', two({ flushes: 1, ...SLOW }, REFRESH)),
  variant(
    'failover, run_id in the key',
    'holds',
    writing('update')({ failovers: 1, crashes: 1, ...SLOW }, { incarnation: 'run-id' }),
  ),
  variant(
    'a repetition deletes the keys: a crash, a flush',
    'holds',
    writing('update')({ flushes: 1, crashes: 1, ...SLOW }, { repetition: 'deletes' }),
  ),
  long(
    '3 writers: 2 crashes, a failed publication',
    three({ crashes: 2, failedPublications: 1, ...SLOW }),
  ),
  long('3 writers: a crash, a flush', three({ crashes: 1, flushes: 1, ...SLOW })),
  long(
    'insert, update, delete: a crash, a flush',
    writing('insert', 'update', 'delete')({ crashes: 1, flushes: 1, ...SLOW }, { hasRow: false }),
  ),
  long(
    'update, delete, insert: 2 crashes, a failed publication',
    writing('update', 'delete', 'insert')({ crashes: 2, failedPublications: 1, ...SLOW }),
  ),
  long(
    'a flush and a failed publication, a crash, 2 writers',
    two({ flushes: 1, failedPublications: 1, crashes: 1, ...SLOW }),
  ),
  long(
    'a write that could not fence, a crash, a flush',
    two({ failedFences: 1, crashes: 1, flushes: 1, ...SLOW }, { fences: 'locked' }),
  ),
  long(
    'a writer cut off from the cache, a crash, a flush',
    two(
      { failedFences: 1, failedPublications: 1, crashes: 1, flushes: 1, ...SLOW },
      { fences: 'locked' },
    ),
  ),
  long(
    'psql and 2 writers: a flush, a failed publication',
    writing('update', 'update', 'psql')({ flushes: 1, failedPublications: 1, stalls: 1 }),
  ),
  long(
    'list: 2 crashes, a failed publication',
    two({ crashes: 2, failedPublications: 1, ...SLOW }, LIST),
  ),
  long('list, 3 writers: a crash, a flush', three({ crashes: 1, flushes: 1, ...SLOW }, LIST)),
  long(
    'list, psql: a crash, a flush, a failed publication',
    updateAndPsql({ crashes: 1, flushes: 1, failedPublications: 1, ...SLOW }, LIST),
  ),
  long('refresh ahead: a crash, a flush', two({ crashes: 1, flushes: 1, ...SLOW }, REFRESH)),
  long(
    'refresh ahead: 2 crashes, a failed publication',
    two({ crashes: 2, failedPublications: 1, ...SLOW }, REFRESH),
  ),
  long(
    'refresh ahead, update and delete: a crash, a flush',
    updateAndDelete({ crashes: 1, flushes: 1, ...SLOW }, REFRESH),
  ),
  long(
    'refresh ahead, list: a crash, a flush',
    two({ crashes: 1, flushes: 1, ...SLOW }, { ...REFRESH, ...LIST }),
  ),
  long('refresh ahead, 3 writers: a flush', three({ flushes: 1, ...SLOW }, REFRESH)),
  long(
    'refresh ahead, psql: a flush, a failed publication',
    updateAndPsql({ flushes: 1, failedPublications: 1, ...SLOW }, REFRESH),
  ),
  long(
    'failover, run_id in the key, 2 writers',
    two({ failovers: 1, crashes: 1, ...SLOW }, { incarnation: 'run-id' }),
  ),
  long(
    'failover there and back, run_id and replication id',
    two({ failovers: 1, failbacks: 1, ...SLOW }),
  ),
  long(
    'a repetition deletes the keys, 2 writers: a crash, a flush',
    two({ flushes: 1, crashes: 1, ...SLOW }, { repetition: 'deletes' }),
  ),
];

/** Reads agree with each other as long as no fence is lost. */
const THE_AGREEMENT_OF_READS: readonly Variant[] = [
  variant('agreement: a stall', 'holds', two({ stalls: 1 }, AGREEMENT)),
  variant(
    'agreement: a COMMIT without an answer',
    'holds',
    two({ unansweredCommits: 1 }, AGREEMENT),
  ),
  variant('agreement: refresh ahead', 'holds', two({}, { ...AGREEMENT, ...REFRESH })),
  long(
    'agreement: 2 crashes, a failed publication',
    two({ crashes: 2, failedPublications: 1, ...SLOW }, AGREEMENT),
  ),
  long(
    'agreement, update and delete: 2 crashes, a failed publication',
    updateAndDelete({ crashes: 2, failedPublications: 1, ...SLOW }, AGREEMENT),
  ),
  long('agreement, 3 writers: a stall', three({ stalls: 1 }, AGREEMENT)),
  variant(
    'agreement, leases without a fence, nothing fails',
    'agreement',
    two({}, { ...AGREEMENT, fences: 'never' }),
  ),
  variant(
    'agreement without the token set, nothing fails',
    'agreement',
    two({}, { ...AGREEMENT, tokenSet: false }),
  ),
  variant(
    'agreement, the end of a fence leaves the floor: a stall',
    'agreement',
    two({ stalls: 1 }, { ...AGREEMENT, expiryRaisesFloor: false }),
  ),
  variant(
    'agreement, the end of a fence leaves the floor: a crash',
    'agreement',
    two({ crashes: 1 }, { ...AGREEMENT, expiryRaisesFloor: false }),
  ),
  variant('agreement, a flush', 'agreement', two({ flushes: 1 }, AGREEMENT)),
  variant('agreement, psql', 'agreement', updateAndPsql({}, AGREEMENT)),
];

/** A piece taken away. */
const ABLATIONS: readonly Variant[] = [
  variant('without the floor, nothing fails', 'G1', two({}, { floor: false })),
  variant(
    'without the version compare: a flush',
    'G1',
    two({ flushes: 1 }, { versionCompare: false }),
  ),
  variant(
    'without the version compare: a late publication',
    'G1',
    two({ failedPublications: 1 }, { versionCompare: false }),
  ),
  variant(
    'an older "no such row" is replaced: a flush',
    'G1',
    updateAndDelete({ flushes: 1 }, { noneYields: false }),
  ),
  variant(
    'an older "no such row" is replaced: a stall',
    'G1',
    updateAndDelete({ stalls: 1 }, { noneYields: false }),
  ),
  variant(
    'a deletion leaves the floor: a COMMIT without an answer',
    'G1',
    two({ unansweredCommits: 1 }, { absenceRaisesFloor: false }),
  ),
  variant(
    'a deletion leaves the floor: a flush and a failed publication',
    'G1',
    two({ flushes: 1, failedPublications: 1 }, { absenceRaisesFloor: false }),
  ),
  variant(
    'acknowledging before publishing, a flush',
    'G1',
    two({ flushes: 1 }, { publishes: 'after acknowledging' }),
  ),
  variant('publishing before COMMIT, nothing fails', 'G3', two({}, { publishes: 'before COMMIT' })),
  variant(
    'a failed publication is acknowledged: a flush',
    'G1',
    two({ flushes: 1, failedPublications: 1 }, { enqueued: 'acknowledges' }),
  ),
  variant(
    'a failed publication is acknowledged, without the token set',
    'G1',
    two({ failedPublications: 1 }, { ...FIRST, tokenSet: false, enqueued: 'acknowledges' }),
  ),
  variant(
    'a failed publication is acknowledged, the end of a fence leaves the floor',
    'G1',
    two({ failedPublications: 1 }, { expiryRaisesFloor: false, enqueued: 'acknowledges' }),
  ),
  variant(
    'a write without a fence is acknowledged',
    'G1',
    two({ failedFences: 1 }, { fences: 'locked', enqueued: 'acknowledges' }),
  ),
  variant(
    'a COMMIT without an answer, the fence left to its deadline',
    'G1',
    two({ unansweredCommits: 1 }, { unanswered: 'deadline' }),
  ),
  variant('refresh ahead without a compare, nothing fails', 'G1', two({}, { refresh: 'blind' })),
  variant(
    'failover, no incarnation in the key',
    'G1',
    two({ failovers: 1 }, { incarnation: 'none' }),
  ),
  variant(
    'failover there and back, run_id alone',
    'G1',
    two({ failovers: 1, failbacks: 1 }, { incarnation: 'run-id' }),
  ),
  variant(
    'list, unfenced after COMMIT: a flush',
    'G1',
    two({ flushes: 1 }, { ...LIST, afterCommit: 'unfence' }),
  ),
  variant(
    'a repetition only acknowledges: a flush, a crash',
    'G1',
    two({ flushes: 1, crashes: 1 }, { repetition: 'acknowledges' }),
  ),
  variant(
    'a repetition only acknowledges, the first still publishing: a flush',
    'G1',
    two({ flushes: 1 }, { repetition: 'acknowledges' }),
  ),
  variant(
    'a repetition fences and unfences the keys: a crash, a flush',
    'G1',
    two({ flushes: 1, crashes: 1 }, { repetition: 'deletes', deletion: 'fence' }),
  ),
  variant(
    'rows are applied by a fence and its release: a writer cut off from the cache',
    'G1',
    two({ failedFences: 1, failedPublications: 1 }, { fences: 'locked', deletion: 'fence' }),
  ),
  variant(
    'rows are applied by a fence and its release: psql',
    'G1',
    updateAndPsql({}, { deletion: 'fence' }),
  ),
  variant(
    'psql, a deletion leaves the floor, nothing fails',
    'G1',
    updateAndPsql({}, { absenceRaisesFloor: false }),
  ),
];

export const VARIANTS: readonly Variant[] = [
  ...OTHER_PROTOCOLS,
  ...THE_FIRST_DESIGN,
  ...THE_COMPLETE_PROTOCOL,
  ...THE_AGREEMENT_OF_READS,
  ...ABLATIONS,
];
