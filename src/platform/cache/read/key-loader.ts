/**
 * What the read path (read-through.ts, refresh-ahead.ts) knows about one kind of key: how to load
 * its values from PostgreSQL, how to encode them and how long they live.
 */

import { sealEnvelope } from '../envelope.js';
import type { CacheValue } from '../store/cache-store.js';

/** A value and the version of the row that it comes from. */
export interface Versioned<T> {
  readonly version: number;
  readonly value: T;
}

/** Which entries each node refreshes before they expire. */
export interface RefreshPolicy {
  /**
   * The hot window: the last part of an entry's lifetime, as a share of it, in which reads count.
   */
  readonly window: number;
  /** This many reads by one node in the hot window start a refresh. */
  readonly reads: number;
  /** Refreshes of one kind of key that may run at once. Further ones are skipped, never queued. */
  readonly maxConcurrent: number;
}

export const REFRESH_POLICY: RefreshPolicy = { window: 0.1, reads: 10, maxConcurrent: 4 };

export interface KeyLoader<T> {
  /** The entity's name, for metrics. */
  readonly entity: string;
  /** What the cache key has before the value, e.g. `user:id:`. */
  readonly prefix: string;
  /** The schema number of the payloads; see envelope.ts. */
  readonly schema: number;
  readonly ttlMs: number;
  readonly refresh: RefreshPolicy;
  /** Reads the primary database. A value that is missing in the map does not exist. */
  load(values: string[]): Promise<Map<string, Versioned<T>>>;
  encode(value: T): string;
  /** @returns undefined for a payload that this release cannot read: a cache miss */
  decode(payload: string): T | undefined;
}

/**
 * Milliseconds until a negative entry ("no such row") expires. It is short because only the insert
 * of that very row replaces it.
 */
export const NEGATIVE_TTL_MS = 30_000;

/** Spreads lifetimes by ±10 %, so that entries filled together do not expire together. */
export const jitter = (ttlMs: number, random: () => number = Math.random): number =>
  Math.round(ttlMs * (0.9 + 0.2 * random()));

/**
 * What a reader fills.
 * @param row undefined: there is no such row
 */
export function fillOf<T>(
  { prefix, schema, ttlMs: fullTtlMs, encode }: KeyLoader<T>,
  value: string,
  row: Versioned<T> | undefined,
): CacheValue {
  const key = prefix + value;
  if (!row) {
    const ttlMs = jitter(Math.min(fullTtlMs, NEGATIVE_TTL_MS));
    return { key, version: 0, payload: null, ttlMs };
  }
  const ttlMs = jitter(fullTtlMs);
  return {
    key,
    version: row.version,
    payload: sealEnvelope(schema, value, encode(row.value), ttlMs),
    ttlMs,
  };
}
