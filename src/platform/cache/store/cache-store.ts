/**
 * The protocol's alphabet: what one cache key can be, and the six atomic steps that move it. Every store (Redis, this
 * process's memory) implements exactly this interface and passes the same contract suite (test/cache/store.contract.ts).
 * Keys are given without their incarnation prefix: the store adds the one that is in force when the command is sent.
 *
 * The states and steps are those of docs/cache-protocol.md; nothing here knows what the payloads mean.
 */
import { randomBytes } from 'node:crypto';

/** What a key holds, as a reader sees it. `payload` is opaque text; `version` is the row's. */
export type CacheEntry =
  | { readonly state: 'absent' }
  | { readonly state: 'lease' }
  | { readonly state: 'fence' }
  | { readonly state: 'value'; readonly version: number; readonly payload: string }
  | { readonly state: 'none'; readonly version: number };

/** A committed or freshly read row for one key; `payload: null` says that there is no such row (a negative entry). */
export interface CacheValue {
  readonly key: string;
  /** The row's version: a safe integer ≥ 0, moved by the database under the row's lock. */
  readonly version: number;
  readonly payload: string | null;
  /** Milliseconds this entry may live. */
  readonly ttlMs: number;
}

/** What a value is, to compare: its version and its text. */
export interface CacheText {
  readonly version: number;
  readonly payload: string;
}

/** A value to stand where another was seen. */
export interface CacheReplacement extends CacheText {
  readonly key: string;
  readonly seen: CacheText;
  /** Milliseconds this entry may live; absent: what is left of the other's life. */
  readonly ttlMs?: number;
}

/** What `publish` writes: a value, or a key to leave absent (pointers and collections are re-read, never published). */
export type CachePublication = CacheValue | { readonly key: string; readonly absent: true };

/**
 * One fenced cache. Every method takes many keys and costs one round trip; each key is atomic by itself, the set is not.
 * A method rejects with {@link CacheUnavailableError} when the store cannot be reached in its time; the outcome is then
 * unknown, which the protocol allows for.
 */
export interface CacheStore {
  /** Plain reads (GET/MGET), in the order of `keys`. An undecodable entry reads as `absent`. */
  get(keys: readonly string[]): Promise<CacheEntry[]>;

  /** Reads each key and, where it is absent (or undecodable), takes a lease under `token` for `ms`. `absent` means: the lease is yours. */
  lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]>;

  /** Writes each value only over this token's own lease. False: the lease was gone (fenced, flushed, expired) and nothing was written. */
  fill(token: string, values: readonly CacheValue[]): Promise<boolean[]>;

  /** Writes each only where the very value that was seen still is. False: something else was, and was left alone. */
  replace(replacements: readonly CacheReplacement[]): Promise<boolean[]>;

  /** Adds `token` to each key's fence for `ms`, destroying values and leases; the floor keeps the greatest version seen. */
  fence(keys: readonly string[], token: string, ms: number): Promise<void>;

  /**
   * After COMMIT: takes `token` out of each fence. While other tokens stay, the key stays a fence whose floor covers this
   * version. Else the value is stored if this token was still held and the version reaches the floor, or if the key holds an
   * older value; a newer value is left alone; anything else is deleted, which kills any lease.
   * @throws PartlyUnavailableError when only some of the keys were reached
   */
  publish(token: string, publications: readonly CachePublication[]): Promise<void>;

  /** After a rollback: takes `token` out of each fence and writes nothing. */
  unfence(keys: readonly string[], token: string): Promise<void>;

  /** True where keys live on several servers, so that a read of many waits for the slowest. */
  readonly sharded?: boolean;

  /** Whether a command sent now could succeed (connected, incarnation known). Never blocks. */
  readonly available: boolean;

  /** Resolves in a bounded time; rejects with {@link CacheUnavailableError} when the store does not answer. */
  ping(): Promise<void>;

  /** Releases connections and timers. Idempotent. */
  close(): Promise<void>;
}

/** The cache could not be reached or did not answer in time. Reads fall back to PostgreSQL; see CACHE_DEGRADED_WRITES for writes. */
export class CacheUnavailableError extends Error {
  override readonly name: string = 'CacheUnavailableError';
}

/** Some keys of the call could not be reached; the others were, and the step has been taken there. */
export class PartlyUnavailableError extends CacheUnavailableError {
  override readonly name: string = 'PartlyUnavailableError';

  constructor(
    message: string,
    /** What may or may not have been reached. */
    readonly keys: readonly string[],
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The injection token of this process's {@link CacheStore}. */
export const CACHE_STORE = Symbol('CacheStore');

/** A name for one reader's leases or one writer's fences: unguessable, and of the characters that every store takes. */
export const newToken = (): string => randomBytes(12).toString('base64url');

/**
 * Takes out whatever these keys hold, leases too, so that nothing read before can be filled after. Other writers' fences stay, and what they publish is not believed.
 * @throws CacheUnavailableError; PartlyUnavailableError when only some were reached
 */
export async function dropKeys(store: CacheStore, keys: readonly string[]): Promise<void> {
  if (keys.length === 0) return;
  await store.publish(
    newToken(),
    keys.map((key) => ({ key, absent: true })),
  );
}
