/**
 * The times that the protocol's safety depends on. Production uses the defaults; a test injects
 * others (CACHE_TIMING_OVERRIDES). docs/design/cache-protocol.md explains each.
 */

/** Milliseconds until a fence expires whose writer never came back. */
export const FENCE_MS = 15_000;

/** Milliseconds until a reader's lease, and with it the right to fill, expires. */
export const LEASE_MS = 6_000;

export const GATE_LEASE_MS = 2_500;
export const GATE_TIMEOUT_MS = 3_000;

export const NEAR_LEASE_MS = 300;
export const NEAR_WAIT_MS = 321;

/** Milliseconds. */
export interface CacheTimings {
  /**
   * A transaction is rolled back once it is older than half of this, and PostgreSQL ends statements
   * and idle transactions earlier (database/data-source.ts). So no fence expires before its COMMIT.
   */
  readonly fenceMs: number;
  /** Longer than any statement may take, so that a slow reader keeps its right to fill. */
  readonly leaseMs: number;
  /**
   * A node answers from the cache for at most this long after the start of the last pass in which
   * it was registered and had nothing left to invalidate.
   */
  readonly gateLeaseMs: number;
  /**
   * After this long, every node has invalidated what was enqueued, or its gate has closed by
   * itself. Longer than `gateLeaseMs`, for stopwatches that differ and beats that are spared.
   */
  readonly gateTimeoutMs: number;
  /** A node answers from its own memory for at most this long after it began to renew its lease. */
  readonly nearLeaseMs: number;
  /**
   * After this long, every such lease has ended that was there before. Longer than `nearLeaseMs`,
   * for stopwatches that differ by 7 %.
   */
  readonly nearWaitMs: number;
}

export const DEFAULT_CACHE_TIMINGS: CacheTimings = {
  fenceMs: FENCE_MS,
  leaseMs: LEASE_MS,
  gateLeaseMs: GATE_LEASE_MS,
  gateTimeoutMs: GATE_TIMEOUT_MS,
  nearLeaseMs: NEAR_LEASE_MS,
  nearWaitMs: NEAR_WAIT_MS,
};

/**
 * Injection token for `Partial<CacheTimings>`, which replace the defaults. The service does not
 * provide it; a global module of a test may.
 */
export const CACHE_TIMING_OVERRIDES = Symbol('CacheTimingOverrides');

/** The injection token of this process's {@link CacheTimings}. */
export const CACHE_TIMINGS = Symbol('CacheTimings');
