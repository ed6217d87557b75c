/**
 * The table of docs/cache-protocol.md as data: each protocol that is explored and what must come out. Those that are quick run
 * with every `npm test`, all of them with HOLDFAST_MODEL=long.
 */
import type { Budgets, Kind, Protocol } from './protocol.state.js';
import type { Rules } from './scripts.model.js';

export interface Variant {
  readonly name: string;
  /** `G1`, `G3`: must break that promise. */
  readonly expect: 'holds' | 'G1' | 'G3';
  /** Only in the long form, for its size. */
  readonly long?: true;
  readonly protocol: Protocol;
}

/** The scripts with everything that the explorations have shown to be needed. */
const COMPLETE: Rules & Pick<Protocol, 'drop'> = {
  floor: true,
  tokenSet: true,
  versionCompare: true,
  noneYields: true,
  expiryRaisesFloor: true,
  absenceRaisesFloor: true,
  drop: 'publish',
};

/** The first design: for rows that are only updated, by writers that fence once they hold the row's lock. */
const FIRST_DESIGN: typeof COMPLETE = {
  ...COMPLETE,
  noneYields: false,
  expiryRaisesFloor: false,
  absenceRaisesFloor: false,
  drop: 'fence',
};

/** What src/cache does today; protocol-model.spec.ts holds it against the store. A change there changes this one line. */
export const AS_SHIPPED: typeof COMPLETE = COMPLETE;

const NOTHING_FAILS: Budgets = {
  crashes: 0,
  stalls: 0,
  flushes: 0,
  lostPublishes: 0,
  lostFences: 0,
  unansweredCommits: 0,
  failovers: 0,
  failbacks: 0,
};

const PROTOCOL: Protocol = {
  ...COMPLETE,
  writers: [],
  readers: 2,
  budgets: NOTHING_FAILS,
  scheme: 'fenced',
  key: 'row',
  rowExists: true,
  fenceWhen: 'beside',
  afterCommit: 'publish',
  publishWhen: 'acknowledging',
  unanswered: 'watch',
  incarnation: 'replication-id',
  replay: 'none',
  databasePath: false,
  refresh: 'none',
  join: 'begun-after',
};

type Change = Partial<Omit<Protocol, 'writers' | 'budgets'>>;
const of =
  (...writers: Kind[]) =>
  (budgets: Partial<Budgets>, change: Change = {}): Protocol => ({
    ...PROTOCOL,
    ...change,
    writers,
    budgets: { ...NOTHING_FAILS, ...budgets },
  });
const two = of('update', 'update');
const three = of('update', 'update', 'update');

const FIRST: Change = { ...FIRST_DESIGN, fenceWhen: 'locked' };
/** A writer may always be slow: what holds, holds at any speed. */
const SLOW = { stalls: 3 };
const DATABASE: Change = { databasePath: true };
const LIST: Change = { key: 'list' };
const REFRESH: Change = { refresh: 'claim' };

const variant = (name: string, expect: Variant['expect'], protocol: Protocol): Variant => ({
  name,
  expect,
  protocol,
});
const long = (name: string, protocol: Protocol): Variant => ({
  name,
  expect: 'holds',
  long: true,
  protocol,
});

export const VARIANTS: readonly Variant[] = [
  // Other protocols.
  variant('cache-aside with DEL, nothing fails', 'G1', two({}, { scheme: 'aside' })),
  variant('generation CAS, nothing fails', 'holds', two({}, { scheme: 'generation' })),
  variant('generation CAS, a flush', 'G1', two({ flushes: 1 }, { scheme: 'generation' })),
  variant('leases without a fence, nothing fails', 'holds', two({}, { fenceWhen: 'never' })),
  variant(
    'leases without a fence, a failed publish',
    'G1',
    two({ lostPublishes: 1 }, { fenceWhen: 'never' }),
  ),
  variant('ordinary single-flight, nothing fails', 'G1', two({}, { join: 'running' })),

  // The first design: rows that are updated, by writers that fence under the row's lock.
  variant(
    'first design: 2 crashes, a failed publish',
    'holds',
    two({ crashes: 2, lostPublishes: 1, ...SLOW }, FIRST),
  ),
  variant(
    'first design: a crash, a flush',
    'holds',
    two({ crashes: 1, flushes: 1, ...SLOW }, FIRST),
  ),
  long(
    'first design, 3 writers: 2 crashes, a failed publish',
    three({ crashes: 2, lostPublishes: 1, ...SLOW }, FIRST),
  ),
  long(
    'first design, 3 writers: a crash, a flush',
    three({ crashes: 1, flushes: 1, ...SLOW }, FIRST),
  ),

  // The complete protocol: rows that come and go, fences beside the SQL.
  variant(
    'complete: 2 crashes, a failed publish',
    'holds',
    two({ crashes: 2, lostPublishes: 1, ...SLOW }),
  ),
  variant('complete: a crash, a flush', 'holds', two({ crashes: 1, flushes: 1, ...SLOW })),
  variant(
    'complete, update and delete: a crash, a flush',
    'holds',
    of('update', 'delete')({ crashes: 1, flushes: 1, ...SLOW }),
  ),
  long(
    'complete, 3 writers: 2 crashes, a failed publish',
    three({ crashes: 2, lostPublishes: 1, ...SLOW }),
  ),
  long('complete, 3 writers: a crash, a flush', three({ crashes: 1, flushes: 1, ...SLOW })),
  long(
    'complete, insert, update, delete: a crash, a flush',
    of('insert', 'update', 'delete')({ crashes: 1, flushes: 1, ...SLOW }, { rowExists: false }),
  ),
  long(
    'complete, update, delete, insert: 2 crashes, a failed publish',
    of('update', 'delete', 'insert')({ crashes: 2, lostPublishes: 1, ...SLOW }),
  ),
  long(
    'complete: a write that could not fence, a crash, a flush',
    two({ lostFences: 1, crashes: 1, flushes: 1, ...SLOW }, { fenceWhen: 'locked' }),
  ),

  // With a piece taken away.
  variant('without the floor, nothing fails', 'G1', two({}, { floor: false })),
  variant(
    'without the token set: a failed publish',
    'G1',
    two({ lostPublishes: 1 }, { ...FIRST, tokenSet: false }),
  ),
  variant(
    'without the version compare: a flush',
    'G1',
    two({ flushes: 1 }, { versionCompare: false }),
  ),
  variant(
    'acknowledging before publish, a flush',
    'G1',
    two({ flushes: 1 }, { publishWhen: 'acknowledged' }),
  ),
  variant('publishing before COMMIT, nothing fails', 'G3', two({}, { publishWhen: 'uncommitted' })),
  variant(
    'an older "no such row" is replaced: a flush',
    'G1',
    of('update', 'delete')({ flushes: 1 }, { noneYields: false }),
  ),
  variant(
    'an older "no such row" is replaced: a stall',
    'G1',
    of('update', 'delete')({ stalls: 1 }, { noneYields: false }),
  ),
  variant(
    'the end of a fence leaves the floor: a failed publish',
    'G1',
    two({ lostPublishes: 1 }, { expiryRaisesFloor: false }),
  ),

  // A COMMIT whose answer never comes.
  variant(
    'a COMMIT without an answer: a crash, a flush',
    'holds',
    two({ unansweredCommits: 1, crashes: 1, flushes: 1, ...SLOW }),
  ),
  variant(
    'a COMMIT without an answer, the fence left to its deadline',
    'G1',
    two({ unansweredCommits: 1 }, { unanswered: 'deadline' }),
  ),

  // Entries that are refreshed before they expire.
  variant('refresh ahead: a flush', 'holds', two({ flushes: 1, ...SLOW }, REFRESH)),
  variant('refresh ahead without a compare, nothing fails', 'G1', two({}, { refresh: 'blind' })),
  long('refresh ahead: a crash, a flush', two({ crashes: 1, flushes: 1, ...SLOW }, REFRESH)),
  long(
    'refresh ahead: 2 crashes, a failed publish',
    two({ crashes: 2, lostPublishes: 1, ...SLOW }, REFRESH),
  ),
  long(
    'refresh ahead, update and delete: a crash, a flush',
    of('update', 'delete')({ crashes: 1, flushes: 1, ...SLOW }, REFRESH),
  ),
  long(
    'refresh ahead, list: a crash, a flush',
    two({ crashes: 1, flushes: 1, ...SLOW }, { ...REFRESH, ...LIST }),
  ),
  long('refresh ahead, 3 writers: a flush', three({ flushes: 1, ...SLOW }, REFRESH)),
  long(
    "refresh ahead, psql, a flush, a failed publish, the database's path",
    of('update', 'psql')({ flushes: 1, lostPublishes: 1, ...SLOW }, { ...REFRESH, ...DATABASE }),
  ),

  // Failover.
  variant(
    'failover, no incarnation in the key',
    'G1',
    two({ failovers: 1 }, { incarnation: 'none' }),
  ),
  variant(
    'failover, run_id in the key',
    'holds',
    of('update')({ failovers: 1, crashes: 1, ...SLOW }, { incarnation: 'run-id' }),
  ),
  long(
    'failover, run_id in the key, 2 writers',
    two({ failovers: 1, crashes: 1, ...SLOW }, { incarnation: 'run-id' }),
  ),
  variant(
    'failover there and back, run_id alone',
    'G1',
    two({ failovers: 1, failbacks: 1 }, { incarnation: 'run-id' }),
  ),
  long(
    'failover there and back, run_id and replication id',
    two({ failovers: 1, failbacks: 1, ...SLOW }),
  ),

  // Pointers and collections.
  variant('list: a crash, a flush', 'holds', two({ crashes: 1, flushes: 1, ...SLOW }, LIST)),
  long('list: 2 crashes, a failed publish', two({ crashes: 2, lostPublishes: 1, ...SLOW }, LIST)),
  long('list, 3 writers: a crash, a flush', three({ crashes: 1, flushes: 1, ...SLOW }, LIST)),
  variant(
    'list, unfenced after COMMIT: a flush',
    'G1',
    two({ flushes: 1 }, { ...LIST, afterCommit: 'unfence' }),
  ),

  // A repeated request that acknowledges what another made.
  variant(
    'repetition acknowledges: a flush, a crash',
    'G1',
    two({ flushes: 1, crashes: 1 }, { replay: 'acknowledge' }),
  ),
  variant(
    'repetition acknowledges, the first still publishing: a flush',
    'G1',
    two({ flushes: 1 }, { replay: 'acknowledge' }),
  ),
  variant(
    'repetition drops the keys: a crash, a flush',
    'holds',
    of('update')({ flushes: 1, crashes: 1, ...SLOW }, { replay: 'drop' }),
  ),
  long(
    'repetition drops the keys, 2 writers: a crash, a flush',
    two({ flushes: 1, crashes: 1, ...SLOW }, { replay: 'drop' }),
  ),
  variant(
    'repetition fences and unfences the keys: a crash, a flush',
    'G1',
    two({ flushes: 1, crashes: 1 }, { replay: 'drop', drop: 'fence' }),
  ),

  // G2: not fenced, or not published.
  variant('a flush and a failed publish', 'G1', two({ flushes: 1, lostPublishes: 1 })),
  variant(
    "a flush and a failed publish, the database's path",
    'holds',
    of('update')({ flushes: 1, lostPublishes: 1, crashes: 1, ...SLOW }, DATABASE),
  ),
  long(
    "a flush and a failed publish, the database's path, 2 writers",
    two({ flushes: 1, lostPublishes: 1, crashes: 1, ...SLOW }, DATABASE),
  ),
  variant(
    'a writer cut off from the cache',
    'G1',
    two({ lostFences: 1, lostPublishes: 1 }, { fenceWhen: 'locked' }),
  ),
  long(
    "a writer cut off from the cache, a crash, a flush, the database's path",
    two(
      { lostFences: 1, lostPublishes: 1, crashes: 1, flushes: 1, ...SLOW },
      { ...DATABASE, fenceWhen: 'locked' },
    ),
  ),
  variant(
    "a writer cut off from the cache, the database's path fences and unfences",
    'G1',
    two({ lostFences: 1, lostPublishes: 1 }, { ...DATABASE, fenceWhen: 'locked', drop: 'fence' }),
  ),
  variant(
    "psql, a crash, a flush, a failed publish, the database's path",
    'holds',
    of('update', 'psql')({ crashes: 1, flushes: 1, lostPublishes: 1, ...SLOW }, DATABASE),
  ),
  long(
    "psql and 2 writers, a flush, a failed publish, the database's path",
    of('update', 'update', 'psql')({ flushes: 1, lostPublishes: 1, stalls: 1 }, DATABASE),
  ),
  variant(
    "psql, the database's path fences and unfences, nothing fails",
    'G1',
    of('update', 'psql')({}, { ...DATABASE, drop: 'fence' }),
  ),
  variant(
    "psql, the database's path publishes absence, the floor stays",
    'G1',
    of('update', 'psql')({}, { ...DATABASE, absenceRaisesFloor: false }),
  ),
  long(
    "list, psql, a crash, a flush, a failed publish, the database's path",
    of('update', 'psql')(
      { crashes: 1, flushes: 1, lostPublishes: 1, ...SLOW },
      { ...DATABASE, ...LIST },
    ),
  ),
];
