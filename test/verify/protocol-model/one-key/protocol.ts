/**
 * A protocol around one key of one cache, and the state of the row, of the key and of all readers
 * and writers. Versions follow the row's lock, so the version of a writer that rolled back is used
 * again; rows are told apart by their author.
 */
import { ABSENT, type Cell, type Entry, type ScriptRules } from '../scripts.js';

/** How often the environment may act, in one run. */
export interface Budgets {
  /** A writer's process dies; what it has sent last may still arrive. */
  readonly crashes: number;
  /** A living writer is so slow after its COMMIT or ROLLBACK that its fence ends. */
  readonly stalls: number;
  /** The key is lost, fences included: FLUSHALL, an eviction, a restart without data. */
  readonly flushes: number;
  /** A publication is not answered in time; it may still arrive. */
  readonly failedPublications: number;
  /** A fence cannot be set. */
  readonly failedFences: number;
  /** A COMMIT's answer never comes: it takes effect at any later time, or never. */
  readonly unansweredCommits: number;
  /** Another server takes over, with what it had copied up to some moment. */
  readonly failovers: number;
  /** The first server takes over again without a restart, with what its successor had copied. */
  readonly failbacks: number;
}

/** `psql`: an update by hand that knows nothing of the cache. */
export type WriterKind = 'update' | 'delete' | 'insert' | 'psql';

export interface Protocol extends ScriptRules {
  readonly writers: readonly WriterKind[];
  readonly readers: number;
  readonly budgets: Budgets;
  /**
   * `G1` as documented. `agreement`: also, no read answers older than a read that had ended before
   * it began; owed as long as no fence is lost.
   */
  readonly promise: 'G1' | 'agreement';
  /**
   * `aside`: GET, read, SET, and a DEL after COMMIT. `generation`: the SET only if the key's
   * generation did not move.
   */
  readonly scheme: 'fenced' | 'aside' | 'generation';
  /** `list`: a pointer or a collection, which is deleted after COMMIT and never published. */
  readonly key: 'row' | 'list';
  /** Whether there is a row before the first writer. */
  readonly hasRow: boolean;
  /** `locked`: once the row is locked. `beside`: in any order with the SQL. `never`: no fence. */
  readonly fences: 'locked' | 'beside' | 'never';
  /** What follows COMMIT. */
  readonly afterCommit: 'publish' | 'unfence';
  readonly publishes: 'before acknowledging' | 'after acknowledging' | 'before COMMIT';
  /** What a write does that was not fenced, or whose publication failed: its keys are enqueued. */
  readonly enqueued: 'waits' | 'acknowledges';
  /**
   * What a writer without an answer to its COMMIT does: it keeps its fence until PostgreSQL shows
   * that the transaction is over and deletes the key, or leaves the fence to its deadline.
   */
  readonly unanswered: 'watch' | 'deadline';
  /** What a key begins with: nothing of the server; its run_id; that and its replication id. */
  readonly incarnation: 'none' | 'run-id' | 'replication-id';
  /** Whether a repeated request deletes the keys of the write that it acknowledges. */
  readonly repetition: 'none' | 'acknowledges' | 'deletes';
  /** How keys are deleted: a publication that leaves them absent, or a fence and its release. */
  readonly deletion: 'publish' | 'fence';
  /**
   * Whether readers refresh entries ahead: by compare-and-set on their claim, or (`blind`) writing
   * what they have read whatever is there.
   */
  readonly refresh: 'none' | 'claim' | 'blind';
  /** `running`: ordinary single-flight, a caller may join a load that has begun. */
  readonly join: 'begun-after' | 'running';
}

export const WriterAt = {
  Idle: 0,
  /** SQL done, the row's lock held, not fenced. */
  Locked: 1,
  /** Fenced, its SQL not done. */
  Fenced: 2,
  /** May COMMIT. */
  Ready: 3,
  /** Not published, not acknowledged. */
  Committed: 4,
  Published: 5,
  Acknowledged: 6,
  /** Acknowledged, and its publication may still arrive. */
  AcknowledgedEarly: 7,
  /** Its fence still stands. */
  RolledBack: 8,
  /** Ended or died without a commit. */
  Over: 9,
  /** Died after COMMIT; its publication may still arrive. */
  Died: 10,
  DiedPublished: 11,
  /** Its COMMIT is under way, and will not be answered. */
  Unanswered: 12,
  /** That COMMIT took effect, and nobody knows. */
  TookEffect: 13,
  /** Its keys are in the table; its publication may still arrive. */
  WaitingEarly: 14,
  /** Its keys are in the table. */
  Waiting: 15,
} as const;
export type WriterAt = (typeof WriterAt)[keyof typeof WriterAt];

export interface Writer {
  readonly at: WriterAt;
  /** The version that its SQL took; 0 before. */
  readonly version: number;
  /** It could not fence: its COMMIT itself enqueues the keys. */
  readonly isUnfenced: boolean;
}

export const ReaderAt = {
  Idle: 0,
  Missed: 1,
  /** Another reader has the lease. */
  Waiting: 2,
  Leased: 3,
  Loaded: 4,
  /** Refreshes an entry, beside its readers. */
  Claimed: 5,
  Reloaded: 6,
} as const;
export type ReaderAt = (typeof ReaderAt)[keyof typeof ReaderAt];

export interface Reader {
  readonly at: ReaderAt;
  /** The version that the promise owes this read. */
  readonly since: number;
  /** The key's generation, in the scheme of that name. */
  readonly generation: number;
  /** Whose row it has read from PostgreSQL. */
  readonly author: number;
}

export interface Repetition {
  readonly at: 'idle' | 'fenced' | 'deleted' | 'done';
  readonly writer: number;
}

export interface State {
  /** The author of the committed row. */
  readonly row: number;
  /** The writer that holds the row's lock; 0: nobody. */
  readonly lock: number;
  /** The newest version whose write was acknowledged. */
  readonly acknowledged: number;
  /** The newest version that a read has answered with; only for the promise `agreement`. */
  readonly seen: number;
  readonly cell: Cell;
  /** What the replica of the cache has copied. */
  readonly copy: Cell;
  /** Only in the scheme `generation`: it is in the cache and is lost with it. */
  readonly generation: number;
  readonly writers: readonly Writer[];
  readonly readers: readonly Reader[];
  readonly repetition: Repetition;
  /** Whether rows wait in the table of invalidations, and whether a taken one's key is fenced. */
  readonly hasRows: boolean;
  readonly isRowFenced: boolean;
  readonly left: Budgets;
}

export const IDLE_READER: Reader = { at: ReaderAt.Idle, since: 0, generation: 0, author: 0 };
/** The token under which a key is deleted; writers have 1 to 3. */
export const DELETION_TOKEN = 4;

/** Nothing has happened yet. */
export function initialState(protocol: Protocol): State {
  return {
    row: 0,
    lock: 0,
    acknowledged: 0,
    seen: 0,
    cell: ABSENT,
    copy: ABSENT,
    generation: 0,
    writers: protocol.writers.map(() => ({ at: WriterAt.Idle, version: 0, isUnfenced: false })),
    readers: Array.from({ length: protocol.readers }, () => IDLE_READER),
    repetition: { at: 'idle', writer: 0 },
    hasRows: false,
    isRowFenced: false,
    left: protocol.budgets,
  };
}

const COMMITTED = new Set<WriterAt>([
  WriterAt.TookEffect,
  WriterAt.Committed,
  WriterAt.Published,
  WriterAt.Acknowledged,
  WriterAt.AcknowledgedEarly,
  WriterAt.WaitingEarly,
  WriterAt.Waiting,
  WriterAt.Died,
  WriterAt.DiedPublished,
]);

export const isCommitted = (at: WriterAt): boolean => COMMITTED.has(at);

/** Its transaction is over, so it can commit nothing any more. */
export const cannotCommit = (at: WriterAt): boolean =>
  COMMITTED.has(at) || at === WriterAt.RolledBack || at === WriterAt.Over;

export const writerAt = (state: State, number: number): Writer =>
  state.writers[number - 1] as Writer;
export const readerAt = (state: State, number: number): Reader =>
  state.readers[number - 1] as Reader;

export const versionOf = (state: State, author: number): number =>
  author === 0 ? 0 : writerAt(state, author).version;

export const hasCommitted = (state: State, author: number): boolean =>
  author === 0 || isCommitted(writerAt(state, author).at);

/** Whether this author has left no row behind. */
export const isMissing = (protocol: Protocol, author: number): boolean =>
  author === 0 ? !protocol.hasRow : protocol.writers[author - 1] === 'delete';

/** What is cached of this author's row. */
export const entryOf = (protocol: Protocol, author: number, version: number): Entry => ({
  is: 'entry',
  author,
  version,
  none: isMissing(protocol, author),
  claim: 0,
});
