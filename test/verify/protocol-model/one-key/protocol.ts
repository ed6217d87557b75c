/**
 * What is explored: a protocol, its budgets of misfortune, and the state of one row, one cache key and everybody around them.
 * Versions follow the row's lock, so a rolled back writer's version comes again; rows are told apart by their author.
 */
import { ABSENT, type Cell, type Rules } from './scripts.model.js';

/** How often the environment may do its worst, in one run. */
export interface Budgets {
  /** A writer's process dies; what it has sent last may still arrive. */
  readonly crashes: number;
  /** A living writer is so slow after its COMMIT or ROLLBACK that its own fence ends. */
  readonly stalls: number;
  /** The key is lost, whatever it holds, fences included: FLUSHALL, an eviction, a restart without data. */
  readonly flushes: number;
  /** A publication times out and the write is acknowledged all the same; it may still arrive. */
  readonly lostPublishes: number;
  /** A fence cannot be set and the write goes on (CACHE_DEGRADED_WRITES=allow). */
  readonly lostFences: number;
  /** A COMMIT's answer never comes to a living writer: it takes effect at any later time, or never. */
  readonly unansweredCommits: number;
  /** Another server takes over, with what it had copied up to some moment. */
  readonly failovers: number;
  /** The first server takes over again, without having been restarted, with what its successor had copied from it. */
  readonly failbacks: number;
}

/** `psql`: an update by hand, which knows nothing of the cache. */
export type Kind = 'update' | 'delete' | 'insert' | 'psql';

/** One protocol to explore: the shipped one, or one with a piece taken away. */
export interface Protocol extends Rules {
  readonly writers: readonly Kind[];
  readonly readers: number;
  readonly budgets: Budgets;
  /** `aside`: GET, read, SET, and a DEL after COMMIT. `generation`: the SET only if the key's generation did not move. */
  readonly scheme: 'fenced' | 'aside' | 'generation';
  /** `list`: a pointer or a collection, which is dropped after COMMIT and never published. */
  readonly key: 'row' | 'list';
  /** Whether there is a row before the first writer. */
  readonly rowExists: boolean;
  /** `locked`: the fence goes out when the row is locked. `beside`: in any order with the SQL. `never`: leases only. */
  readonly fenceWhen: 'locked' | 'beside' | 'never';
  /** What follows COMMIT. */
  readonly afterCommit: 'publish' | 'unfence';
  readonly publishWhen: 'acknowledging' | 'acknowledged' | 'uncommitted';
  /**
   * What a writer without an answer to its COMMIT does: it keeps its fence until PostgreSQL shows that the transaction is over and
   * drops the key (`watch`), or leaves the fence to its deadline.
   */
  readonly unanswered: 'watch' | 'deadline';
  /** What a key begins with: nothing of the server; its run_id; that and its replication id. */
  readonly incarnation: 'none' | 'run-id' | 'replication-id';
  /** Whether a repeated request drops the keys of the write that it acknowledges; `none`: no request is repeated. */
  readonly replay: 'none' | 'acknowledge' | 'drop';
  /** How keys are dropped: a fence and its release, or a publication that leaves them absent. */
  readonly drop: 'fence' | 'publish';
  /** What was not fenced or not published is left in a table, from which the key is dropped. Until then G1 is not owed: G2. */
  readonly databasePath: boolean;
  /** Whether readers refresh entries ahead: by compare-and-set on their claim, or (`blind`) writing what they have read whatever is there. */
  readonly refresh: 'none' | 'claim' | 'blind';
  /** `running`: ordinary single-flight, a caller may join a load that has begun. */
  readonly join: 'begun-after' | 'running';
}

/** Where a writer is. */
export const Pc = {
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
} as const;
export type WriterPc = (typeof Pc)[keyof typeof Pc];

export interface Writer {
  readonly pc: WriterPc;
  /** The version that its SQL took; 0 before. */
  readonly version: number;
  /** It could not fence: its COMMIT itself leaves the keys to the database's path. */
  readonly unfenced: boolean;
}

/** `since`: the newest version acknowledged when the read began. `author`: whose row it has read. */
export type Reader =
  | { readonly at: 'idle' }
  | { readonly at: 'missed' | 'waiting'; readonly since: number }
  | { readonly at: 'leased'; readonly since: number; readonly generation: number }
  /** Refreshes an entry, beside its readers. */
  | { readonly at: 'claimed' }
  | { readonly at: 'reloaded'; readonly author: number }
  | {
      readonly at: 'loaded';
      readonly since: number;
      readonly generation: number;
      readonly author: number;
    };

export interface Replay {
  readonly at: 'idle' | 'fenced' | 'dropped' | 'done';
  readonly writer: number;
}

/** The table of invalidations: whether a row waits in it, and whether one has been taken and its key been fenced. */
export interface Waiting {
  readonly rows: boolean;
  readonly fenced: boolean;
}

export interface State {
  /** The author of the committed row. */
  readonly row: number;
  /** Who holds the row's lock; 0: nobody. */
  readonly lock: number;
  /** The newest version whose write was acknowledged. */
  readonly acknowledged: number;
  readonly cell: Cell;
  /** What the replica has copied. */
  readonly copy: Cell;
  /** Only in the scheme `generation`: lives in the cache and is lost with it. */
  readonly generation: number;
  readonly writers: readonly Writer[];
  readonly readers: readonly Reader[];
  readonly replay: Replay;
  readonly waiting: Waiting;
  readonly left: Budgets;
}

/** The reader between two reads. */
export const IDLE: Reader = { at: 'idle' };
/** The token under which a key is dropped; writers have 1 to 3. */
export const DROP_TOKEN = 4;

/** Nothing has happened yet. */
export function initial(protocol: Protocol): State {
  return {
    row: 0,
    lock: 0,
    acknowledged: 0,
    cell: ABSENT,
    copy: ABSENT,
    generation: 0,
    writers: protocol.writers.map(() => ({ pc: Pc.Idle, version: 0, unfenced: false })),
    readers: Array.from({ length: protocol.readers }, () => IDLE),
    replay: { at: 'idle', writer: 0 },
    waiting: { rows: false, fenced: false },
    left: protocol.budgets,
  };
}

/** The key in a few letters, for traces: `-`, `L1`, `V2`, `V2~1` (reader 1 refreshes it), `F1{1,2}`; `N0`: no such row, of version 0. */
export function showCell(cell: Cell): string {
  switch (cell.is) {
    case 'absent':
      return '-';
    case 'lease':
      return `L${cell.reader}`;
    case 'entry':
      return `${cell.none ? 'N' : 'V'}${cell.version}${cell.claim === 0 ? '' : `~${cell.claim}`}`;
    case 'fence':
      return `F${cell.floor}{${cell.tokens.map((token) => (token === DROP_TOKEN ? 'd' : token)).join(',')}}`;
  }
}

const READER_AT = ['idle', 'missed', 'waiting', 'leased', 'loaded', 'claimed', 'reloaded'] as const;
const REPLAY_AT = ['idle', 'fenced', 'dropped', 'done'] as const;

/**
 * The state as a short text: what the visited set holds. Two states have the same text when they differ only in which reader
 * is which, or in the name on a lease or a claim whose reader has died: neither can change what may happen next.
 */
export function encode(state: State): string {
  const {
    row,
    lock,
    acknowledged,
    cell,
    copy,
    generation,
    writers,
    readers,
    replay,
    waiting,
    left,
  } = state;
  const codes = [
    ((row * 4 + lock) * 4 + acknowledged) * 4 + generation,
    encodeCell(cell),
    encodeCell(copy),
    ((REPLAY_AT.indexOf(replay.at) * 4 + replay.writer) * 2 + (waiting.rows ? 1 : 0)) * 2 +
      (waiting.fenced ? 1 : 0),
    [
      left.crashes,
      left.stalls,
      left.flushes,
      left.lostPublishes,
      left.lostFences,
      left.unansweredCommits,
      left.failovers,
      left.failbacks,
    ].reduce((code, budget) => code * 4 + budget, 0),
  ];
  for (const { pc, version, unfenced } of writers)
    codes.push(pc * 8 + version * 2 + (unfenced ? 1 : 0));
  const seen = readers.map((reader, index) =>
    encodeReader(reader, holds(cell, index + 1), holds(copy, index + 1)),
  );
  return String.fromCharCode(...codes, ...seen.sort((one, other) => one - other));
}

const holds = (cell: Cell, reader: number): boolean =>
  (cell.is === 'lease' && cell.reader === reader) || (cell.is === 'entry' && cell.claim === reader);

function encodeReader(reader: Reader, leaseHeld: boolean, leaseCopied: boolean): number {
  const since = 'since' in reader ? reader.since : 0;
  const generation = 'generation' in reader ? reader.generation : 0;
  const author = 'author' in reader ? reader.author : 0;
  const mayFill = ['leased', 'loaded', 'claimed', 'reloaded'].includes(reader.at);
  const flags = mayFill ? (leaseHeld ? 2 : 0) + (leaseCopied ? 1 : 0) : 0;
  return (((READER_AT.indexOf(reader.at) * 4 + since) * 4 + generation) * 4 + author) * 4 + flags;
}

function encodeCell(cell: Cell): number {
  switch (cell.is) {
    case 'absent':
      return 0;
    case 'lease':
      return 1;
    case 'entry':
      return (
        8 +
        ((cell.author * 4 + cell.version) * 2 + (cell.none ? 1 : 0)) * 2 +
        (cell.claim === 0 ? 0 : 1)
      );
    case 'fence':
      return 128 + cell.tokens.reduce((code, token) => code * 5 + token, 0) * 8 + cell.floor;
  }
}
