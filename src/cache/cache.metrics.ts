/** What the cache counts, under the names that operators' dashboards use. One instance for each process (registry). */
import { Injectable } from '@nestjs/common';
import { Counter, Registry } from 'prom-client';
import type { Outcome } from './read-context.js';

@Injectable()
export class CacheMetrics {
  private readonly requests: Counter<'entity' | 'outcome'>;
  private readonly rowsLoaded: Counter<'entity'>;
  private readonly fillsRejected: Counter<'entity'>;

  constructor(registry: Registry) {
    const registers = [registry];
    this.requests = new Counter({
      name: 'holdfast_cache_requests_total',
      help: 'Reads by entity and by how they were answered',
      labelNames: ['entity', 'outcome'],
      registers,
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
  }

  request(entity: string, outcome: Outcome): void {
    this.requests.inc({ entity, outcome: outcome === 'request' ? 'bypass' : outcome });
  }

  loads(entity: string, rows: number): void {
    this.rowsLoaded.inc({ entity }, rows);
  }

  fillRejected(entity: string): void {
    this.fillsRejected.inc({ entity });
  }
}
