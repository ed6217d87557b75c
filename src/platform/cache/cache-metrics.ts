/** What the cache counts, under the names that operators' dashboards use. One instance for each process (registry). */
import { Injectable } from '@nestjs/common';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Outcome } from './reading.js';

/** `lost`: to another node, to a writer, or to the row's own end. `skipped`: too many at once. */
export type RefreshOutcome = 'refreshed' | 'lost' | 'failed' | 'skipped';

@Injectable()
export class CacheMetrics {
  /** Reads since the counter was last looked at, by entity and outcome: to count one here costs next to nothing. */
  private readonly reads = new Map<string, Map<Outcome, number>>();
  private readonly rowsLoaded: Counter<'entity'>;
  private readonly fillsRejected: Counter<'entity'>;
  private readonly refreshes: Counter<'entity' | 'outcome'>;
  private readonly lag: Histogram;
  private readonly breaker: Gauge;

  constructor(registry: Registry) {
    const registers = [registry];
    const { reads } = this;
    new Counter({
      name: 'holdfast_cache_requests_total',
      help: 'Reads by entity and by how they were answered',
      labelNames: ['entity', 'outcome'],
      registers,
      collect() {
        for (const [entity, outcomes] of reads)
          for (const [outcome, count] of outcomes)
            this.inc({ entity, outcome: outcome === 'request' ? 'bypass' : outcome }, count);
        reads.clear();
      },
    });
    this.rowsLoaded = new Counter({
      name: 'holdfast_cache_loads_total',
      help: 'Rows asked of PostgreSQL to fill the cache or to answer',
      labelNames: ['entity'],
      registers,
    });
    this.fillsRejected = new Counter({
      name: 'holdfast_cache_fills_rejected_total',
      help: 'Rows read but not cached, because a writer came between',
      labelNames: ['entity'],
      registers,
    });
    this.refreshes = new Counter({
      name: 'holdfast_cache_refreshes_total',
      help: 'Entries much read shortly before their end: refreshed; lost to another node or a writer; failed; skipped, too many at once',
      labelNames: ['entity', 'outcome'],
      registers,
    });
    this.lag = new Histogram({
      name: 'holdfast_cache_invalidation_lag_seconds',
      help: "Time from a change that fenced nothing (psql, a node cut off) to its keys' removal: how long it could be read stale",
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30],
      registers,
    });
    this.breaker = new Gauge({
      name: 'holdfast_cache_breaker_open',
      help: '1 while the cache is skipped because it failed, else 0',
      registers,
    });
    this.breaker.set(0);
  }

  request(entity: string, outcome: Outcome): void {
    let outcomes = this.reads.get(entity);
    if (!outcomes) this.reads.set(entity, (outcomes = new Map()));
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }

  loads(entity: string, rows: number): void {
    this.rowsLoaded.inc({ entity }, rows);
  }

  fillRejected(entity: string): void {
    this.fillsRejected.inc({ entity });
  }

  refresh(entity: string, outcome: RefreshOutcome): void {
    this.refreshes.inc({ entity, outcome });
  }

  /** @param seconds from the change to the removal of its keys */
  invalidationLag(seconds: number): void {
    this.lag.observe(Math.max(0, seconds));
  }

  breakerOpen(open: boolean): void {
    this.breaker.set(open ? 1 : 0);
  }
}
