/** The cache's metrics, one instance for each process. Dashboards rely on their names. */
import { Injectable } from '@nestjs/common';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { ReadOutcome } from './read/read-context.js';

/**
 * How a refresh ahead ended. `lost`: another node or a writer changed the entry, or the row does
 * not exist any more. `skipped`: too many refreshes were running.
 */
export type RefreshOutcome = 'refreshed' | 'lost' | 'failed' | 'skipped';

/** Outcomes that have another label: dashboards rely on the labels. */
const OUTCOME_LABELS: Partial<Record<ReadOutcome, ReadOutcome>> = {
  request: 'bypass',
  near: 'hit',
};

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
  private readonly nearHits = new Map<string, number>();
  private readonly nearEntries = new Map<string, () => number>();
  private readonly nearLease: Gauge;
  private readonly nearWaits: Histogram;

  constructor(registry: Registry) {
    const registers = [registry];
    const { reads, nearHits, nearEntries } = this;
    new Counter({
      name: 'holdfast_cache_requests_total',
      help: 'Reads by entity and by how they were answered',
      labelNames: ['entity', 'outcome'],
      registers,
      collect() {
        for (const [entity, outcomes] of reads) {
          for (const [outcome, count] of outcomes) {
            this.inc({ entity, outcome: OUTCOME_LABELS[outcome] ?? outcome }, count);
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
    new Counter({
      name: 'holdfast_cache_near_hits_total',
      help: "Reads that were answered from this process's near cache, without Redis, by entity",
      labelNames: ['entity'],
      registers,
      collect() {
        for (const [entity, count] of nearHits) this.inc({ entity }, count);
        nearHits.clear();
      },
    });
    new Gauge({
      name: 'holdfast_cache_near_entries',
      help: "Entries in this process's near cache, by entity",
      labelNames: ['entity'],
      registers,
      collect() {
        for (const [entity, count] of nearEntries) this.set({ entity }, count());
      },
    });
    this.nearLease = new Gauge({
      name: 'holdfast_cache_near_lease',
      help: '1 once this node holds a lease for its near cache; 0 after it has lost its listener',
      registers,
    });
    this.nearWaits = new Histogram({
      name: 'holdfast_cache_near_wait_seconds',
      help: 'Time that a write waited until no node could answer from its near cache',
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.35, 0.5],
      registers,
    });
  }

  countRead(entity: string, outcome: ReadOutcome): void {
    if (outcome === 'near') this.nearHits.set(entity, (this.nearHits.get(entity) ?? 0) + 1);
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

  /** @param count how many entries the entity's near cache has now */
  watchNearEntries(entity: string, count: () => number): void {
    this.nearEntries.set(entity, count);
  }

  setNearLease(isHeld: boolean): void {
    this.nearLease.set(isHeld ? 1 : 0);
  }

  observeNearWait(seconds: number): void {
    this.nearWaits.observe(seconds);
  }

  observeDegradedWrite(seconds: number): void {
    this.degradedWrites.observe(seconds);
  }
}
