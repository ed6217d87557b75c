/**
 * Where the values of one kind of key come from, how they are written down and how long they live: what the reader's half of the
 * protocol (read-through.ts) and the refresher (refresh-ahead.ts) know of an entity.
 */

/** A value with the version of the row that it was made from. */
export interface Versioned<T> {
  readonly version: number;
  readonly value: T;
}

/** Which entries are renewed before they expire, by each node. */
export interface RefreshPolicy {
  /** The last part of an entry's life, as a share of it, in which reads count. */
  readonly share: number;
  /** So many of this node's reads in that part make it hot. */
  readonly reads: number;
  /** At most so many refreshes of one kind of key run at once; further ones are left out, never queued. */
  readonly atOnce: number;
}

export const REFRESH: RefreshPolicy = { share: 0.1, reads: 10, atOnce: 4 };

export interface Source<T> {
  /** The entity's name, for metrics. */
  readonly entity: string;
  /** What stands before the value in the cache key, e.g. `user:id:`. */
  readonly prefix: string;
  /** The number of the payloads' form; see envelope.ts. */
  readonly schema: number;
  readonly ttlMs: number;
  readonly refresh: RefreshPolicy;
  /** Reads the primary database; what is not in the map does not exist. */
  load(values: string[]): Promise<Map<string, Versioned<T>>>;
  encode(value: T): string;
  /** Undefined for a payload that is not one: a miss. */
  decode(payload: string): T | undefined;
}

/** Milliseconds a negative entry lives: short, since nobody publishes over it but the row's own insert. */
export const NOTHING_TTL_MS = 30_000;

/** ±10 %, so that entries filled together do not expire together. */
export const jitter = (ttlMs: number, random: () => number = Math.random): number =>
  Math.round(ttlMs * (0.9 + 0.2 * random()));
