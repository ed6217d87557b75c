/**
 * The state of several nodes around one cached row: what PostgreSQL keeps, the caches in which the
 * row's key may be, the nodes, and everybody who reads or writes through them. An *incarnation* is
 * one server from its start to its end, or the memory of one process. Time is an order only.
 */
import { ABSENT, type Cell } from '../scripts.js';
import type { Parts } from './parts.js';

/** How often the environment may act, in one run. */
export interface Budgets {
  /** A node is connected to another incarnation: restart, failover, slot move, new address. */
  readonly changes: number;
  /** The epoch moves. */
  readonly moves: number;
  /** A fence is lost: flush, eviction, a restart without data. */
  readonly flushes: number;
  /** A publication fails after COMMIT. */
  readonly failedPublications: number;
  /** A fence cannot be set. */
  readonly failedFences: number;
  /** PostgreSQL does not take the keys of a failed publication. */
  readonly failedEnqueues: number;
  /** A writer dies after it has sent COMMIT, which takes effect at any later time or never. */
  readonly unansweredCommits: number;
  /** PostgreSQL ends the session of a node that does not notice. */
  readonly lostSessions: number;
  /** A replica of PostgreSQL takes over, with what it had copied up to some moment. */
  readonly promotions: number;
}

/** `older`: a release that does not know this key, so it neither fences nor publishes it. */
export interface WriterSetup {
  readonly node: number;
  readonly release: 'current' | 'older';
}

/** What is explored. Nodes and incarnations are numbered from 0, writers and readers from 1. */
export interface Setup {
  readonly parts: Parts;
  /** The incarnation that each node is connected to at first. */
  readonly nodes: readonly number[];
  readonly incarnations: number;
  /** At most two. */
  readonly writers: readonly WriterSetup[];
  /** The node of each reader; at most four readers. */
  readonly readers: readonly number[];
  /** The node that receives a repeated request. */
  readonly repetitionAt: number | undefined;
  readonly budgets: Budgets;
}

export interface Node {
  readonly incarnation: number;
  /** The PostgreSQL server of its LISTEN connection. */
  readonly session: number;
  /** The epoch that it has read; 0: none. */
  readonly epoch: number;
  readonly isOpen: boolean;
  /** The rows that its pass has seen, one bit for each; undefined: no pass is under way. */
  readonly seenRows: number | undefined;
  /** Rows whose writers may not count on this gate's end: a heartbeat has prolonged it since. */
  readonly ignoredRows: number;
  /** Rows that it has taken from the table, to apply them. */
  readonly takenRows: number;
  readonly takenPlace: number;
  readonly areKeysDeleted: boolean;
  /** It has seen that nobody is registered, and is about to move the epoch. */
  readonly isMoving: boolean;
}

export const WriterAt = {
  Idle: 0,
  Fenced: 1,
  Unfenced: 2,
  /** COMMIT was sent and PostgreSQL has found its name to be the epoch's. */
  Checked: 3,
  /** Committed and fenced: it may publish. */
  Committed: 4,
  /** Committed, its keys are in the table. */
  Waiting: 5,
  Acknowledged: 6,
  /** It died after it had sent COMMIT. */
  Unanswered: 7,
  /** It ended without an acknowledgement. */
  Over: 8,
  /** Not fenced, and it has seen before its COMMIT that nobody is registered. */
  UnfencedAlone: 9,
} as const;
export type WriterAt = (typeof WriterAt)[keyof typeof WriterAt];

export interface Writer {
  readonly at: WriterAt;
  /** Where it fences and publishes. */
  readonly place: number;
  /** The version that its COMMIT took; 0 before. */
  readonly version: number;
  /** The PostgreSQL server that took its COMMIT. */
  readonly server: number;
}

export const ReaderAt = { Idle: 0, Asked: 1, Leased: 2, Loaded: 3, Answering: 4 } as const;
export type ReaderAt = (typeof ReaderAt)[keyof typeof ReaderAt];

export interface Reader {
  readonly at: ReaderAt;
  /** Where it reads and fills. */
  readonly place: number;
  /** The newest version that was acknowledged when the read began. */
  readonly since: number;
  /** The PostgreSQL server of its node's session when the read began. */
  readonly session: number;
  /** The author of the row that it has read. */
  readonly author: number;
}

export interface Repetition {
  readonly at: 'idle' | 'checked' | 'waiting' | 'done';
  /** The writer whose request is repeated. */
  readonly writer: number;
  readonly place: number;
}

/** What PostgreSQL keeps. */
export interface Database {
  /** The author of the committed row; 0: the row before all writers. */
  readonly author: number;
  readonly epoch: number;
  /** The incarnation that the epoch names. */
  readonly incarnation: number;
  /** The PostgreSQL server that the epoch names. */
  readonly server: number;
  /** Rows in the table of invalidations: a bit for each writer, the last for the repetition. */
  readonly table: number;
  /** The epoch that each node is registered for; 0: none. */
  readonly registry: readonly number[];
}

export interface State {
  readonly database: Database;
  /** The PostgreSQL server in use: 0, and 1 after a promotion. */
  readonly primary: number;
  /** What the replica has copied; undefined before it copies and after its promotion. */
  readonly replica: Database | undefined;
  /** After a promotion: the newest version that was not lost. */
  readonly survivingVersion: number;
  /** How many epochs there were, also lost ones. */
  readonly epochs: number;
  readonly nodes: readonly Node[];
  readonly cells: readonly Cell[];
  readonly writers: readonly Writer[];
  readonly readers: readonly Reader[];
  readonly repetition: Repetition;
  /** The newest version that was acknowledged. */
  readonly acknowledged: number;
  readonly left: Budgets;
}

/** The number of no place; places are numbered from 1, like {@link State.cells} from 0. */
export const NO_PLACE = 0;
export const IDLE_READER: Reader = {
  at: ReaderAt.Idle,
  place: NO_PLACE,
  since: 0,
  session: 0,
  author: 0,
};
export const NO_REPETITION: Repetition = { at: 'idle', writer: 0, place: NO_PLACE };
export const NO_ROWS_TAKEN = {
  takenRows: 0,
  takenPlace: NO_PLACE,
  areKeysDeleted: false,
} as const;

export const maxEpochs = ({ budgets }: Setup): number => budgets.moves + 1;

export const countPlaces = (setup: Setup): number =>
  setup.incarnations * (setup.parts.namesCarryEpoch ? maxEpochs(setup) : 1);

/** The place that a name leads to. */
export function placeOf(setup: Setup, incarnation: number, epoch: number): number {
  if (!setup.parts.namesCarryEpoch) return 1 + incarnation;
  return 1 + incarnation * maxEpochs(setup) + (epoch - 1);
}

/** All nodes have just started, and every cache is empty. */
export function initialState(setup: Setup): State {
  return {
    database: {
      author: 0,
      epoch: 1,
      incarnation: 0,
      server: 0,
      table: 0,
      registry: setup.nodes.map(() => 0),
    },
    primary: 0,
    replica: undefined,
    survivingVersion: 0,
    epochs: 1,
    nodes: setup.nodes.map((incarnation) => ({
      incarnation,
      session: 0,
      epoch: 0,
      isOpen: false,
      seenRows: undefined,
      ignoredRows: 0,
      ...NO_ROWS_TAKEN,
      isMoving: false,
    })),
    cells: Array.from({ length: countPlaces(setup) }, () => ABSENT),
    writers: setup.writers.map(() => ({
      at: WriterAt.Idle,
      place: NO_PLACE,
      version: 0,
      server: 0,
    })),
    readers: setup.readers.map(() => IDLE_READER),
    repetition: NO_REPETITION,
    acknowledged: 0,
    left: setup.budgets,
  };
}

export const nodeAt = (state: State, index: number): Node => state.nodes[index] as Node;
export const writerAt = (state: State, number: number): Writer =>
  state.writers[number - 1] as Writer;
export const readerAt = (state: State, number: number): Reader =>
  state.readers[number - 1] as Reader;
export const cellAt = (state: State, place: number): Cell => state.cells[place - 1] as Cell;
export const versionOf = (state: State, author: number): number =>
  author === 0 ? 0 : writerAt(state, author).version;

/** Whether PostgreSQL has lost this author's row in a promotion. */
export function isLost(state: State, author: number): boolean {
  if (author === 0 || state.primary === 0) return false;
  const { server, version } = writerAt(state, author);
  return server === 0 && version > state.survivingVersion;
}

/** Whether `node` has read the epoch that is in force, and it names what the node uses. */
export function isInEpoch({ database, primary }: State, node: Node): boolean {
  return (
    node.epoch === database.epoch &&
    node.incarnation === database.incarnation &&
    database.server === primary
  );
}
