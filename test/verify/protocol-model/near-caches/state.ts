/**
 * The state of one row, its key in Redis, the list of nodes with near caches, and the nodes. Time
 * is an order only: a wait of one lease's time can end when every lease has ended that was asked
 * for before the wait began.
 */
import { ABSENT, type Cell } from '../scripts.js';
import type { Parts } from './parts.js';

/** How a writer changes the row. */
export type WriterKind =
  /** Fences, commits, publishes. */
  | 'fences'
  /** The same, once the first writer has ended. */
  | 'follows'
  /** Cannot reach the cache: leaves its key to the database, and waits until it is applied. */
  | 'degraded'
  /** Acknowledges what the first writer committed and did not acknowledge. */
  | 'repeats';

export interface Budgets {
  readonly crashes: number;
  /** Losses of the key: evictions and flushes. */
  readonly keyLosses: number;
  /** Losses of the list. */
  readonly listLosses: number;
  /** Moves to another cache, which are made while every gate is closed. */
  readonly moves: number;
}

export interface Setup {
  readonly parts: Parts;
  readonly nodes: number;
  readonly writers: readonly WriterKind[];
  /** The key is an alias or a list: its publication deletes it. */
  readonly isPublishedAbsent: boolean;
  /** Gates may close and open; else they stay open. */
  readonly hasGates: boolean;
  /** No read may be older than an earlier read, whether or not its write is acknowledged. */
  readonly hasAgreement: boolean;
  readonly budgets: Budgets;
}

export enum WriterAt {
  Idle,
  Fenced,
  /** Its revocation is sent; it waits. */
  Revoked,
  Confirmed,
  Committed,
  /** Its key is deleted, or its fence was lost: it has to revoke. */
  Deleted,
  RevokedAgain,
  /** Only the acknowledgement is missing. */
  Published,
  Over,
}

export interface Writer {
  readonly at: WriterAt;
  readonly version: number;
  /** The nodes, one bit each, that were listed when it revoked and have not confirmed. */
  readonly awaited: number;
  /** The list was not whole when it revoked. */
  readonly awaitsAll: boolean;
}

/** A renewal: none under way, sent, run by Redis. */
export enum RenewalAt {
  None,
  Sent,
  Run,
}

export interface Node {
  readonly isOpen: boolean;
  readonly hasLease: boolean;
  /** The near entry's version + 1; 0: none. */
  readonly entry: number;
  /** The version + 1 that a fill under way got from Redis; 0: none. */
  readonly fetched: number;
  readonly renewal: RenewalAt;
  /** The list of its last renewal. */
  readonly list: number;
  /**
   * What the run renewal found: which list, whether the node was listed, and which revocations were
   * numbered before.
   */
  readonly foundList: number;
  readonly wasListed: boolean;
  readonly numbered: number;
  /** The revocations that it has carried out. */
  readonly processed: number;
  /** The waits for which its lease, or the one of its renewal, counts as one from before. */
  readonly leaseBefore: number;
  readonly renewalBefore: number;
  /** The waits since whose beginning its record has not changed. */
  readonly unrenewed: number;
  /** Only without `checksWithLookup`: what a reader found, version + 1, and what it was owed. */
  readonly found: number;
  readonly owed: number;
}

export enum Marker {
  /** The list is new, and nobody has seen it. */
  Lost,
  /** Somebody has found it new, and counts the time. */
  Seen,
  Whole,
}

export interface State {
  /** The committed version. */
  readonly row: number;
  readonly acknowledged: number;
  /** The newest version that a reader saw in PostgreSQL; only with `hasAgreement`. */
  readonly seen: number;
  /** Whether the database names the key as changed and not invalidated. */
  readonly isEnqueued: boolean;
  readonly cell: Cell;
  /** The version + 1 that the one filler of the key has read; 0: none. */
  readonly loaded: number;
  /** The name of the list: how many were lost before it. */
  readonly list: number;
  readonly marker: Marker;
  /** The listed nodes. */
  readonly listed: number;
  /** The revocations that this list has numbered, and all that may still arrive. */
  readonly numbered: number;
  readonly sent: number;
  readonly nodes: readonly Node[];
  readonly writers: readonly Writer[];
  readonly left: Budgets;
}

/** The wait of whoever has found the list new. */
export const MARKER_WAIT = 2;

const NODE: Node = {
  isOpen: true,
  hasLease: false,
  entry: 0,
  fetched: 0,
  renewal: RenewalAt.None,
  list: 0,
  foundList: 0,
  wasListed: false,
  numbered: 0,
  processed: 0,
  leaseBefore: 0,
  renewalBefore: 0,
  unrenewed: 0,
  found: 0,
  owed: 0,
};

const WRITER: Writer = { at: WriterAt.Idle, version: 0, awaited: 0, awaitsAll: false };

export const initialState = ({ nodes, writers, budgets }: Setup): State => ({
  row: 0,
  acknowledged: 0,
  seen: 0,
  isEnqueued: false,
  cell: ABSENT,
  loaded: 0,
  list: 0,
  marker: Marker.Whole,
  listed: 0,
  numbered: 0,
  sent: 0,
  nodes: Array.from({ length: nodes }, () => NODE),
  writers: writers.map(() => WRITER),
  left: budgets,
});

export const has = (mask: number, bit: number): boolean => (mask & (1 << bit)) !== 0;
export const withBit = (mask: number, bit: number): number => mask | (1 << bit);
export const withoutBit = (mask: number, bit: number): number => mask & ~(1 << bit);

export const nodeAt = (state: State, index: number): Node => state.nodes[index] as Node;
export const writerAt = (state: State, index: number): Writer => state.writers[index] as Writer;

/** What a node keeps in its memory is gone, and no fill is under way. */
export const CLEARED: Pick<Node, 'entry' | 'fetched'> = { entry: 0, fetched: 0 };
