/** Why a write is not acknowledged. */

/**
 * The write was rejected before COMMIT: its keys could not be fenced, and CACHE_DEGRADED_WRITES is
 * `reject`.
 */
export class WriteRejectedError extends Error {
  override readonly name = 'WriteRejectedError';
}

/**
 * The write is committed, but neither the cache nor PostgreSQL took its invalidation. Its fences
 * are renewed until one of both does; if they are lost, other nodes may show older data until then.
 * It must not be acknowledged.
 */
export class UnconfirmedWriteError extends Error {
  override readonly name = 'UnconfirmedWriteError';
}
