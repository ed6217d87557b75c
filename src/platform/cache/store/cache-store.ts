/**
 * The states of one cache key and the six atomic steps that change it. Every store (Redis, this
 * process's memory) implements this interface and passes one contract suite
 * (test/platform/cache/store/store-contract.ts). docs/design/cache-protocol.md explains the states.
 *
 * A store does not know what the payloads mean.
 */
import { randomBytes } from 'node:crypto';
import type { NearList } from '../near/near-list.js';

/**
 * What a key holds, as a reader sees it. `none` is a negative entry: the row does not exist.
 * `payload` is opaque text; `version` is the row's.
 */
export type CacheEntry =
  | { readonly state: 'absent' }
  | { readonly state: 'lease' }
  | { readonly state: 'fence' }
  | { readonly state: 'value'; readonly version: number; readonly payload: string }
  | { readonly state: 'none'; readonly version: number };

/** A row to store under one key. */
export interface CacheValue {
  readonly key: string;
  /** The row's version: a safe integer ≥ 0, increased by the database under the row's lock. */
  readonly version: number;
  /** Null: a negative entry, the row does not exist. */
  readonly payload: string | null;
  /** Milliseconds until the entry expires. */
  readonly ttlMs: number;
}

/** A value as it is compared by {@link CacheStore.replace}: its version and its text. */
export interface CacheText {
  readonly version: number;
  readonly payload: string;
}

/** A value to store in the place of one that was read. */
export interface CacheReplacement extends CacheText {
  readonly key: string;
  /** The value that was read. */
  readonly seen: CacheText;
  /** Milliseconds until the entry expires. Absent: it expires when the replaced one would have. */
  readonly ttlMs?: number;
}

/**
 * What `publish` writes: a row, or an absence. Aliases and collections are published as absent: a
 * reader loads them again.
 */
export type CachePublication = CacheValue | { readonly key: string; readonly absent: true };

/**
 * One fenced cache. Every method takes many keys and costs one round trip. Each key changes
 * atomically, the set of keys does not. Keys are given without an incarnation: the store adds the
 * one that is current when it sends the command.
 *
 * Every method rejects with {@link CacheUnavailableError} when the store does not answer in time.
 * The outcome is then unknown; the protocol allows for that.
 */
export interface CacheStore {
  /** Reads (GET or MGET), in the order of `keys`. An undecodable entry reads as `absent`. */
  get(keys: readonly string[]): Promise<CacheEntry[]>;

  /**
   * Reads each key, and leases it to `token` for `ms` milliseconds where it is absent or
   * undecodable.
   * @returns the entries before this step: `absent` means that the caller now holds the lease
   */
  lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]>;

  /**
   * Stores each value only over a lease of this token.
   * @returns for each value, whether it was stored; false if the lease was fenced, flushed or
   *   expired
   */
  fill(token: string, values: readonly CacheValue[]): Promise<boolean[]>;

  /**
   * Stores each value only where the key still holds the value that was seen.
   * @returns for each value, whether it was stored; otherwise the key is unchanged
   */
  replace(replacements: readonly CacheReplacement[]): Promise<boolean[]>;

  /**
   * Adds `token` to each key's fence for `ms` milliseconds. Values and leases are destroyed. The
   * fence's floor becomes the version of the destroyed value.
   */
  fence(keys: readonly string[], token: string, ms: number): Promise<void>;

  /**
   * After COMMIT: removes `token` from each fence. What becomes of a key depends on its state:
   * - A fence that has other tokens stays, and its floor rises to the published version.
   * - A fence without other tokens becomes the published entry if `token` was still in it and the
   *   version reaches the floor; else the key is deleted.
   * - An older value is replaced, an older negative entry deleted, a newer entry left unchanged.
   * - A lease is deleted, so that its holder cannot fill.
   *
   * An absence deletes the key in each of these states. In a fence that has other tokens it raises
   * the floor above every version: nobody knows which version of the row is absent.
   * @returns for each publication, whether the key was fenced by `token` until now. If not, a
   *   reader may have filled an older row since
   * @throws PartiallyUnavailableError when only some of the keys were reached
   */
  publish(token: string, publications: readonly CachePublication[]): Promise<boolean[]>;

  /** After a rollback: removes `token` from each fence and stores nothing. */
  unfence(keys: readonly string[], token: string): Promise<void>;

  /**
   * Which cache this is: two stores have the same identity only if they reach the same servers in
   * the same incarnation, and no identity comes twice. Undefined while it is unknown or the cache
   * cannot be reached.
   */
  readonly identity: string | undefined;

  /** Whether keys are spread over several servers, so that a read of many waits for the slowest. */
  readonly isSharded?: boolean;

  /** The lists of nodes with near caches. Absent: only this process uses the store. */
  readonly nearList?: NearList | undefined;

  /** Whether a command sent now could succeed (connected, incarnation known). Never blocks. */
  readonly isAvailable: boolean;

  /** Resolves when the store answers. */
  ping(): Promise<void>;

  /** Releases connections and timers. Idempotent. */
  close(): Promise<void>;
}

/** The steps of the protocol alone. */
export type CacheSteps = Pick<
  CacheStore,
  'get' | 'lease' | 'fill' | 'replace' | 'fence' | 'publish' | 'unfence'
>;

/**
 * The cache could not be reached, or did not answer in time. Reads fall back to PostgreSQL;
 * CACHE_DEGRADED_WRITES decides about writes.
 */
export class CacheUnavailableError extends Error {
  override readonly name: string = 'CacheUnavailableError';
}

/** Some keys of the call could not be reached; the step has been taken for the others. */
export class PartiallyUnavailableError extends CacheUnavailableError {
  override readonly name: string = 'PartiallyUnavailableError';

  constructor(
    message: string,
    /** The keys whose outcome is unknown. */
    readonly keys: readonly string[],
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The injection token of this process's {@link CacheStore}. */
export const CACHE_STORE = Symbol('CacheStore');

/**
 * A unique, unguessable name for one reader's leases or one writer's fences. It has only characters
 * that every store accepts.
 */
export const newToken = (): string => randomBytes(12).toString('base64url');

/**
 * Deletes these keys and the leases on them, so that nobody can fill what was read before. Fences
 * of writers stay, and nothing that their writers publish is stored.
 * @throws CacheUnavailableError; PartiallyUnavailableError when only some keys were reached
 */
export async function deleteKeys(store: CacheSteps, keys: readonly string[]): Promise<void> {
  if (keys.length === 0) return;
  await store.publish(
    newToken(),
    keys.map((key) => ({ key, absent: true })),
  );
}

/** @throws RangeError for a version that is not a safe integer ≥ 0 */
export function checkVersion(version: number): void {
  if (!Number.isSafeInteger(version) || version < 0) {
    throw new RangeError(`${version} is not a row version: it must be a safe integer ≥ 0`);
  }
}
