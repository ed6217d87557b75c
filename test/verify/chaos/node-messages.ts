/** What the cluster (node-process.ts) and its nodes (node.ts) send each other. */
import type { DegradedWrites } from '../../../src/platform/cache/write/invalidation.js';
import type { Subject, WriteEvent } from './history.js';

/** What the clients of a node do in one round. */
export interface Plan {
  readonly seed: number;
  readonly degradedWrites: DegradedWrites;
  readonly subjects: readonly Subject[];
  /** The user who owns the orders and sessions. */
  readonly ownerId: string;
  readonly readers: number;
  readonly writers: number;
  /** Milliseconds that a client rests between two steps, at most. */
  readonly maxReadRestMs: number;
  readonly maxWriteRestMs: number;
  /** The share of the writes that rest between their fences and COMMIT, and how long, at most. */
  readonly restingShare: number;
  readonly maxFenceRestMs: number;
}

/** The steps of a write at which a node can kill itself. */
export const STEPS = ['sql', 'fenced', 'commit sent', 'committed', 'published'] as const;
export type Step = (typeof STEPS)[number];

export type Command =
  | { readonly do: 'begin'; readonly plan: Plan }
  | { readonly do: 'die'; readonly step: Step }
  /** From now on the wall clock is wrong by `ms`. */
  | { readonly do: 'jump'; readonly ms: number }
  /** End in order, as after SIGTERM. */
  | { readonly do: 'leave' }
  /** Stop the clients and wait for what is in progress. Answered with `ended`. */
  | { readonly do: 'end' }
  /** Read every row and list once. Answered with `versions`. */
  | { readonly do: 'readAll' };

/** The version of a subject that could not be read. */
export const UNREADABLE = -1;

export type Message =
  | { readonly type: 'ready' }
  | { readonly type: 'reads'; readonly reads: Float64Array }
  | { readonly type: 'writes'; readonly writes: readonly WriteEvent[] }
  /** A lookup returned a row that does not have the value that was looked up. */
  | { readonly type: 'wrongRow'; readonly description: string }
  | EndedMessage
  /** One for each subject. */
  | { readonly type: 'versions'; readonly versions: readonly number[] };

export interface EndedMessage {
  readonly type: 'ended';
  /** Calls that did not return in time. */
  readonly hangingCalls: number;
  /** Reads may fail while PostgreSQL cannot be reached. */
  readonly failedReads: number;
  /** How the cache answered (hit, miss, fenced, …), with refreshes and rests of writes. */
  readonly outcomes: Readonly<Record<string, number>>;
}

export type MessageOf<T extends Message['type']> = Extract<Message, { readonly type: T }>;
