/**
 * The times that the protocol's safety depends on. Production uses the defaults; a test injects
 * shorter ones through `CacheModule.forRoot`. docs/design/cache-protocol.md explains each.
 */

/** Milliseconds until a fence expires whose writer never came back. */
export const FENCE_MS = 15_000;

/** Milliseconds until a reader's lease, and with it the right to fill, expires. */
export const LEASE_MS = 6_000;

/** Milliseconds. */
export interface CacheTimings {
  /**
   * A transaction is rolled back once it is older than half of this, and PostgreSQL ends statements
   * and idle transactions earlier (database/data-source.ts). So no fence expires before its COMMIT.
   */
  readonly fenceMs: number;
  /** Longer than any statement may take, so that a slow reader keeps its right to fill. */
  readonly leaseMs: number;
}

export const DEFAULT_CACHE_TIMINGS: CacheTimings = { fenceMs: FENCE_MS, leaseMs: LEASE_MS };

/** The injection token of this process's {@link CacheTimings}. */
export const CACHE_TIMINGS = Symbol('CacheTimings');
