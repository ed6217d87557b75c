/**
 * Refreshes an entry that is read often and about to expire, so that no reader waits for its load.
 * Readers get the old entry meanwhile; one node refreshes for all (docs/adr/0010-refresh-ahead.md).
 * Invariant: a refresh stores only a row that it read while its claim was in the cache. Any fence,
 * publication or deletion destroys the claim, so a refresh that a writer overtakes stores nothing.
 */
import type { CacheMetrics, RefreshOutcome } from '../cache-metrics.js';
import { claimForRefresh, sealEnvelope } from '../envelope.js';
import { type CacheText, newToken } from '../store/cache-store.js';
import { jitter, type KeyLoader } from './key-loader.js';
import type { ReadGate } from './read-gate.js';

export class RefreshAhead<T> {
  private runningRefreshes = 0;

  constructor(
    private readonly gate: ReadGate,
    private readonly loader: KeyLoader<T>,
    private readonly metrics: CacheMetrics,
  ) {}

  /**
   * When the hot window of an entry begins: reads before it do not count.
   * @param expiresAt milliseconds since 1970, as is the result
   */
  hotWindowStart(expiresAt: number): number {
    return expiresAt - this.loader.refresh.window * this.loader.ttlMs;
  }

  /**
   * Starts a refresh if this read makes the entry hot. Never throws and never waits.
   * @param seen the entry that was read
   * @param hotReads this node's reads of that entry in the hot window, this one included
   */
  recordHotRead(value: string, seen: CacheText, hotReads: number): void {
    const { reads, maxConcurrent } = this.loader.refresh;
    if (hotReads % reads !== 0) return;
    if (this.runningRefreshes >= maxConcurrent) {
      this.metrics.countRefresh(this.loader.entity, 'skipped');
      return;
    }
    void this.startRefresh(value, seen);
  }

  private async startRefresh(value: string, seen: CacheText): Promise<void> {
    this.runningRefreshes++;
    const outcome = await this.refresh(value, seen).catch((): RefreshOutcome => 'failed');
    this.runningRefreshes--;
    this.metrics.countRefresh(this.loader.entity, outcome);
  }

  private async refresh(value: string, seen: CacheText): Promise<RefreshOutcome> {
    const { store } = this.gate;
    if (!store) return 'lost';
    const { entity, prefix, schema, ttlMs } = this.loader;
    const key = prefix + value;
    const claim = { version: seen.version, payload: claimForRefresh(seen.payload, newToken()) };
    const [isClaimed] = await store.replace([{ key, seen, ...claim }]);
    if (!isClaimed) return 'lost';

    this.metrics.countLoads(entity, 1);
    const rows = await this.loader.load([value]);
    const row = rows.get(value);
    if (!row || row.version < seen.version) return 'lost';

    const newTtlMs = jitter(ttlMs);
    const payload = sealEnvelope(schema, value, this.loader.encode(row.value), newTtlMs);
    const [isReplaced] = await store.replace([
      { key, seen: claim, version: row.version, payload, ttlMs: newTtlMs },
    ]);
    return isReplaced ? 'refreshed' : 'lost';
  }
}
