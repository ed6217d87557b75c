/**
 * Renews an entry that is about to expire and still much read, so that no reader waits for its load. One refresher over all
 * nodes: it writes its token into the very entry that was read, by compare-and-set, then reads the primary outside any
 * transaction, then replaces what it wrote. Readers have the entry all the while.
 *
 * Invariant: what is put in place was read while the claimed entry stood. Any fence, publication or drop takes the claim away for
 * good, so a refresh that loses to one changes nothing (docs/adr/0010-refresh-ahead.md).
 */
import type { CacheMetrics, RefreshOutcome } from './cache.metrics.js';
import { type CacheStore, type CacheText, newToken } from './cache.store.js';
import { claim, seal } from './envelope.js';
import { jitter, type Source } from './source.js';

export class RefreshAhead<T> {
  private running = 0;

  constructor(
    private readonly store: CacheStore,
    private readonly source: Source<T>,
    private readonly metrics: CacheMetrics,
  ) {}

  /** The moment from which on reads of an entry that expires then (milliseconds since 1970) count. */
  countsFrom(expires: number): number {
    return expires - this.source.refresh.share * this.source.ttlMs;
  }

  /** To be told of each read that counts, with the number of those before it. Never throws and never waits. */
  noteRead(value: string, seen: CacheText, before: number): void {
    const { reads, atOnce } = this.source.refresh;
    if ((before + 1) % reads !== 0) return;
    if (this.running >= atOnce) return this.metrics.refresh(this.source.entity, 'skipped');
    this.running++;
    void this.refresh(value, seen)
      .catch((): RefreshOutcome => 'failed')
      .then((outcome) => {
        this.running--;
        this.metrics.refresh(this.source.entity, outcome);
      });
  }

  private async refresh(value: string, seen: CacheText): Promise<RefreshOutcome> {
    const { source } = this;
    const { entity, prefix, schema } = source;
    const key = prefix + value;
    const claimed = { version: seen.version, payload: claim(seen.payload, newToken()) };
    const [mine] = await this.store.replace([{ key, seen, ...claimed }]);
    if (!mine) return 'lost';
    this.metrics.loads(entity, 1);
    const row = (await source.load([value])).get(value);
    if (!row || row.version < seen.version) return 'lost';
    const life = jitter(source.ttlMs);
    const payload = seal(schema, value, source.encode(row.value), life);
    const [done] = await this.store.replace([
      { key, seen: claimed, version: row.version, payload, ttlMs: life },
    ]);
    return done ? 'refreshed' : 'lost';
  }
}
