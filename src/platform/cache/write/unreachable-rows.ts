/**
 * Rows of `cache_invalidations` whose keys could not be deleted because their part of the cache was
 * out of reach. They are skipped for a growing pause, so that the rows behind them need not wait.
 */

const RETRY_PAUSE = { minMs: 50, maxMs: 5_000 } as const;
const MAX_DOUBLINGS = 10;
/** Positions that are remembered. Rows beyond are tried in every pass. */
const MAX_POSITIONS = 10_000;

export class UnreachableRows {
  private readonly skippedPositions = new Set<string>();
  /** By performance.now(). */
  private retryAt = 0;
  private retries = 0;

  /** The positions to skip. */
  get positions(): string[] {
    return [...this.skippedPositions];
  }

  add(positions: readonly string[]): void {
    if (positions.length === 0) return;
    if (this.skippedPositions.size === 0) this.beginPause();
    for (const position of positions) {
      if (this.skippedPositions.size < MAX_POSITIONS) this.skippedPositions.add(position);
    }
  }

  /** Ends the pause early: a part of the cache may have come back. */
  retryNow(): void {
    this.retryAt = 0;
  }

  /** Call it before a pass: the rows whose pause is over are no longer skipped. */
  beginPass(): void {
    if (performance.now() >= this.retryAt) this.skippedPositions.clear();
  }

  /** Call it after a pass: one without unreachable rows ends the growth of the pauses. */
  endPass(): void {
    if (this.skippedPositions.size === 0) this.retries = 0;
  }

  private beginPause(): void {
    const pauseMs = Math.min(RETRY_PAUSE.minMs * 2 ** this.retries, RETRY_PAUSE.maxMs);
    this.retryAt = performance.now() + pauseMs;
    this.retries = Math.min(this.retries + 1, MAX_DOUBLINGS);
  }
}
