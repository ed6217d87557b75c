/** The cache's metrics, one instance for each process. Dashboards rely on their names. */
import { Injectable } from '@nestjs/common';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { ReadOutcome } from './read/read-context.js';

/**
 * How a refresh ahead ended. `lost`: another node or a writer changed the entry, or the row does
 * not exist any more. `skipped`: too many refreshes were running.
 */
export type RefreshOutcome = 'refreshed' | 'lost' | 'failed' | 'skipped';

@Injectable()
export class CacheMetrics {
  /**
   * Reads since the last scrape, by entity and outcome. The counter is increased when it is
   * scraped: increasing it at every read costs more than a cached read should.
   */
  private readonly reads = new Map<string, Map<ReadOutcome, number>>();
  private readonly rowsLoaded: Counter<'entity'>;
  private readonly fillsRejected: Counter<'entity'>;
  private readonly refreshes: Counter<'entity' | 'outcome'>;
  private readonly lag: Histogram;
  private readonly breaker: Gauge;
  private readonly membership: Gauge<'state'>;
  private readonly degradedWrites: Histogram;

  constructor(registry: Registry) {
    const registers = [registry];
    const { reads } = this;
    new Counter({
      name: 'holdfast_cache_requests_total',
      help: 'Reads by entity and by how they were answered',
      labelNames: ['entity', 'outcome'],
      registers,
      collect() {
        for (const [entity, outcomes] of reads) {
          for (const [outcome, count] of outcomes) {
            this.inc({ entity, outcome: outcome === 'request' ? 'bypass' : outcome }, count);
          }
        }
        reads.clear();
      },
    });
    this.rowsLoaded = new Counter({
      name: 'holdfast_cache_loads_total',
      help: 'Rows read from PostgreSQL to answer a request or to fill the cache',
      labelNames: ['entity'],
      registers,
    });
    this.fillsRejected = new Counter({
      name: 'holdfast_cache_fills_rejected_total',
      help: 'Rows read but not cached because a writer fenced the key meanwhile',
      labelNames: ['entity'],
      registers,
    });
    this.refreshes = new Counter({
      name: 'holdfast_cache_refreshes_total',
      help:
        'Refreshes of often read entries before they expire: refreshed, lost to another node or ' +
        'a writer, failed, or skipped because too many were running',
      labelNames: ['entity', 'outcome'],
      registers,
    });
    this.lag = new Histogram({
      name: 'holdfast_cache_invalidation_lag_seconds',
      help:
        'Time from a change that fenced nothing (psql, a node without Redis) to the deletion of ' +
        'its keys: how long a reader could see the old row',
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30],
      registers,
    });
    this.breaker = new Gauge({
      name: 'holdfast_cache_breaker_open',
      help: '1 while the circuit breaker skips the cache because it failed, else 0',
      registers,
    });
    this.breaker.set(0);
    this.membership = new Gauge({
      name: 'holdfast_cache_membership',
      help: '1 for the state in which this node uses the cache (member) or why it does not, else 0',
      labelNames: ['state'],
      registers,
    });
    this.degradedWrites = new Histogram({
      name: 'holdfast_cache_degraded_write_wait_seconds',
      help:
        'Time that a write which could not be fenced or published waited before its ' +
        'acknowledgement, until no node could answer from before',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3],
      registers,
    });
  }

  countRead(entity: string, outcome: ReadOutcome): void {
    let outcomes = this.reads.get(entity);
    if (!outcomes) {
      outcomes = new Map();
      this.reads.set(entity, outcomes);
    }
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }

  countLoads(entity: string, rows: number): void {
    this.rowsLoaded.inc({ entity }, rows);
  }

  countRejectedFill(entity: string): void {
    this.fillsRejected.inc({ entity });
  }

  countRefresh(entity: string, outcome: RefreshOutcome): void {
    this.refreshes.inc({ entity, outcome });
  }

  /** @param seconds from the change to the deletion of its keys */
  observeInvalidationLag(seconds: number): void {
    this.lag.observe(Math.max(0, seconds));
  }

  setBreakerOpen(isOpen: boolean): void {
    this.breaker.set(isOpen ? 1 : 0);
  }

  /** @param states all states: the others are 0 */
  setMembership(state: string, states: readonly string[]): void {
    for (const other of states) this.membership.set({ state: other }, other === state ? 1 : 0);
  }

  observeDegradedWrite(seconds: number): void {
    this.degradedWrites.observe(seconds);
  }
}
