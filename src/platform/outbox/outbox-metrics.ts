/** Metrics of the outbox: oldest waiting event, blocked subjects, publications of this process. */
import { Injectable } from '@nestjs/common';
import { Counter, Gauge, Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { NEWEST_POSITION, type NewestPosition, QueueFloors } from '../database/queue-floors.js';
import { ALL_PARTITIONS, FIND_BUSY, type PartitionState } from './outbox-statements.js';
import type { RelayProgress } from './relay-progress.js';

/** Bounds what a scrape costs, however many subjects are blocked. */
const MAX_COUNTED_SUBJECTS = 1_000;
/** The number of blocked subjects, and the age of the oldest first event of them. */
export const BLOCKED = `
  SELECT count(*)::float8 AS subjects,
         extract(epoch FROM clock_timestamp() - min(occurred_at))::float8 AS "ageSeconds"
    FROM (SELECT occurred_at FROM outbox WHERE published_at IS NULL AND retry_at IS NOT NULL
           LIMIT ${MAX_COUNTED_SUBJECTS}) AS blocked`;

@Injectable()
export class OutboxMetrics {
  private readonly publishedEvents: Counter;
  private readonly rejections: Counter;
  private readonly unroutableEvents: Counter;

  private readonly floors = new QueueFloors<number>();
  private relay: RelayProgress | undefined;

  constructor(
    private readonly registry: Registry,
    private readonly dataSource: DataSource,
  ) {
    this.addGauge(
      'holdfast_outbox_oldest_seconds',
      'Age of the oldest event that the broker has not confirmed; 0 when no event waits',
      () => this.measureOldest(),
    );
    this.addGauge(
      'holdfast_outbox_held_subjects',
      `Aggregates whose next event the broker rejected, up to ${MAX_COUNTED_SUBJECTS}`,
      async () => (await this.measureBlocked()).subjects,
    );
    this.addGauge(
      'holdfast_outbox_stalled_partitions',
      'Partitions whose first waiting event has been the same for a minute',
      async () => this.relay?.stalledPartitions.length ?? 0,
    );
    this.addGauge(
      'holdfast_outbox_relay_pass_age_seconds',
      'Seconds since the relay of this process finished a pass; 0 without a broker',
      async () => this.relay?.secondsSincePass ?? 0,
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

  /** Reports this relay from now on. */
  watchRelay(relay: RelayProgress): void {
    this.relay = relay;
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

  private addGauge(name: string, help: string, measure: () => Promise<number>): void {
    new Gauge({
      name,
      help,
      registers: [this.registry],
      async collect() {
        // NaN while PostgreSQL does not answer: 0 would look like an empty outbox.
        this.set(await measure().catch(() => NaN));
      },
    });
  }

  private async measureOldest(): Promise<number> {
    const { dataSource, floors } = this;
    const [newest] = await dataSource.query<[NewestPosition]>(NEWEST_POSITION);
    floors.observe(newest);
    const states = await floors.findFirst(ALL_PARTITIONS, (...parameters) =>
      dataSource.query<PartitionState[]>(FIND_BUSY, parameters),
    );
    const blocked = await this.measureBlocked();
    return Math.max(blocked.ageSeconds ?? 0, ...states.map(({ ageSeconds }) => ageSeconds ?? 0));
  }

  private async measureBlocked(): Promise<{ subjects: number; ageSeconds: number | null }> {
    const [blocked] =
      await this.dataSource.query<[{ subjects: number; ageSeconds: number | null }]>(BLOCKED);
    return blocked;
  }

  private addCounter(name: string, help: string): Counter {
    return new Counter({ name, help, registers: [this.registry] });
  }
}
