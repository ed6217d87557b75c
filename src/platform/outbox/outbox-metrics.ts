/** Metrics of the outbox: oldest waiting event, blocked subjects, publications of this process. */
import { Injectable } from '@nestjs/common';
import { Counter, Gauge, Registry } from 'prom-client';
import { DataSource } from 'typeorm';

/** Age in seconds of the oldest event that waits or is blocked: the first entry of an index. */
export const OLDEST = `
  SELECT extract(epoch FROM clock_timestamp() - occurred_at)::float8 AS value
    FROM outbox WHERE published_at IS NULL ORDER BY position LIMIT 1`;
/** Bounds what a scrape costs, however many subjects are blocked. */
const MAX_COUNTED_SUBJECTS = 1_000;
/** Number of blocked subjects: the first event of each has `retry_at`. */
export const BLOCKED = `
  SELECT count(*)::float8 AS value
    FROM (SELECT FROM outbox WHERE published_at IS NULL AND retry_at IS NOT NULL
           LIMIT ${MAX_COUNTED_SUBJECTS}) AS blocked`;

@Injectable()
export class OutboxMetrics {
  private readonly publishedEvents: Counter;
  private readonly rejections: Counter;
  private readonly unroutableEvents: Counter;

  constructor(
    private readonly registry: Registry,
    private readonly dataSource: DataSource,
  ) {
    this.addGauge(
      'holdfast_outbox_oldest_seconds',
      'Age of the oldest event that the broker has not confirmed; 0 when no event waits',
      OLDEST,
    );
    this.addGauge(
      'holdfast_outbox_held_subjects',
      `Aggregates whose next event the broker rejected, up to ${MAX_COUNTED_SUBJECTS}`,
      BLOCKED,
    );
    this.publishedEvents = this.addCounter(
      'holdfast_outbox_published_total',
      'Events that the broker confirmed to this process',
    );
    this.rejections = this.addCounter(
      'holdfast_outbox_refused_total',
      'Rejections of events by the broker; one event may be rejected several times',
    );
    this.unroutableEvents = this.addCounter(
      'holdfast_outbox_unroutable_total',
      'Events that no queue was bound for',
    );
  }

  countPublished(): void {
    this.publishedEvents.inc();
  }

  countRejected(): void {
    this.rejections.inc();
  }

  countUnroutable(): void {
    this.unroutableEvents.inc();
  }

  private addGauge(name: string, help: string, sql: string): void {
    const { dataSource, registry } = this;
    new Gauge({
      name,
      help,
      registers: [registry],
      async collect() {
        // NaN while PostgreSQL does not answer: 0 would look like an empty outbox.
        const rows = await dataSource.query<{ value: number }[]>(sql).catch(() => [{ value: NaN }]);
        this.set(rows[0]?.value ?? 0);
      },
    });
  }

  private addCounter(name: string, help: string): Counter {
    return new Counter({ name, help, registers: [this.registry] });
  }
}
