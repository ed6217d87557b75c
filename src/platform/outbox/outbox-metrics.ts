/** What operators see of the outbox: how old the oldest waiting event is, how many subjects are held, what this node sent. */
import { Injectable } from '@nestjs/common';
import { Counter, Gauge, Registry } from 'prom-client';
import { DataSource } from 'typeorm';

/** The oldest that waits or is held: the first of an index. */
export const OLDEST = `SELECT extract(epoch FROM clock_timestamp() - occurred_at)::float8 AS value FROM outbox WHERE published_at IS NULL ORDER BY position LIMIT 1`;
/** Counted up to here: a scrape costs what it costs, whatever has gone wrong. */
const MOST_COUNTED = 1_000;
export const HELD = `SELECT count(*)::float8 AS value FROM (SELECT FROM outbox WHERE published_at IS NULL AND retry_at IS NOT NULL LIMIT ${MOST_COUNTED}) AS held`;

@Injectable()
export class OutboxMetrics {
  private readonly counts: Readonly<Record<'published' | 'refused' | 'unroutable', Counter>>;

  constructor(registry: Registry, dataSource: DataSource) {
    const gauge = (name: string, help: string, sql: string): Gauge =>
      new Gauge({
        name,
        help,
        registers: [registry],
        async collect() {
          // Nobody knows while PostgreSQL is gone, and 0 would be a lie.
          const rows = await dataSource
            .query<{ value: number }[]>(sql)
            .catch(() => [{ value: NaN }]);
          this.set(rows[0]?.value ?? 0);
        },
      });
    const counter = (name: string, help: string): Counter =>
      new Counter({ name, help, registers: [registry] });
    gauge(
      'holdfast_outbox_oldest_seconds',
      'Age of the oldest event that the broker has not confirmed; 0 when none waits',
      OLDEST,
    );
    gauge(
      'holdfast_outbox_held_subjects',
      `Aggregates whose next event the broker refused, up to ${MOST_COUNTED}`,
      HELD,
    );
    this.counts = {
      published: counter(
        'holdfast_outbox_published_total',
        'Events that the broker confirmed to this process',
      ),
      refused: counter('holdfast_outbox_refused_total', 'Times that the broker refused an event'),
      unroutable: counter('holdfast_outbox_unroutable_total', 'Events that no queue was bound for'),
    };
  }

  published(): void {
    this.counts.published.inc();
  }

  refused(): void {
    this.counts.refused.inc();
  }

  unroutable(): void {
    this.counts.unroutable.inc();
  }
}
