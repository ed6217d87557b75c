/** Metrics of the inbox: the oldest unhandled event and the dead letters of each consumer. */
import { Injectable } from '@nestjs/common';
import { Gauge, Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { NEWEST_POSITION, type NewestPosition, QueueFloors } from '../database/queue-floors.js';

/** Bounds what a scrape costs, however many events have failed. */
const MAX_COUNTED_EVENTS = 1_000;

/**
 * Of each consumer of $1: the first event above position $2, up to $3 higher, that has not failed
 * and does not wait behind one that has; the age of that event or of the oldest failed one; the
 * number of dead letters.
 */
const MEASURE_CONSUMERS = `
  SELECT part, waiting.position::float8 AS position, failed."deadLetters",
         extract(epoch FROM clock_timestamp() - least(waiting.occurred_at, failed.occurred_at)
           )::float8 AS age
    FROM unnest($1::text[], $2::bigint[]) AS consumer (part, floor)
    LEFT JOIN LATERAL (
      SELECT position, occurred_at FROM inbox
       WHERE inbox.consumer = part AND handled_at IS NULL AND retry_at IS NULL AND NOT held
         AND position > floor AND position <= floor + $3::bigint
       ORDER BY position LIMIT 1) AS waiting ON true
    CROSS JOIN LATERAL (
      SELECT min(occurred_at) AS occurred_at,
             (count(*) FILTER (WHERE retry_at = 'infinity'))::int AS "deadLetters"
        FROM (SELECT occurred_at, retry_at FROM inbox
               WHERE inbox.consumer = part AND handled_at IS NULL AND retry_at IS NOT NULL
               LIMIT ${MAX_COUNTED_EVENTS}) AS counted) AS failed`;

interface Measurement {
  /** The consumer. */
  readonly part: string;
  readonly position: number | null;
  /** Seconds; null for a consumer that has handled every event. */
  readonly age: number | null;
  readonly deadLetters: number;
}

@Injectable()
export class InboxMetrics {
  private readonly floors = new QueueFloors<string>();
  private measuring: Promise<Measurement[]> | undefined;

  constructor(
    registry: Registry,
    private readonly dataSource: DataSource,
  ) {
    this.addGauge(
      registry,
      'holdfast_inbox_oldest_seconds',
      'Age of the oldest event that a consumer has not handled; 0 when no event waits',
      ({ age }) => age ?? 0,
    );
    this.addGauge(
      registry,
      'holdfast_inbox_dead_letters',
      `Events that wait for holdfast inbox retry or skip, up to ${MAX_COUNTED_EVENTS}`,
      ({ deadLetters }) => deadLetters,
    );
  }

  private addGauge(
    registry: Registry,
    name: string,
    help: string,
    valueOf: (measurement: Measurement) => number,
  ): void {
    const measure = (): Promise<Measurement[]> => this.measureOnce();
    new Gauge({
      name,
      help,
      labelNames: ['consumer'],
      registers: [registry],
      async collect() {
        for (const measurement of await measure()) {
          this.set({ consumer: measurement.part }, valueOf(measurement));
        }
      },
    });
  }

  /** The gauges of one scrape share one measurement. */
  private measureOnce(): Promise<Measurement[]> {
    this.measuring ??= this.measure()
      .catch(() => [])
      .finally(() => {
        this.measuring = undefined;
      });
    return this.measuring;
  }

  private async measure(): Promise<Measurement[]> {
    const { dataSource, floors } = this;
    const [newest] = await dataSource.query<[NewestPosition]>(NEWEST_POSITION);
    floors.observe(newest);
    const consumers = await dataSource.query<{ name: string }[]>(
      'SELECT name FROM event_consumers',
    );
    return floors.findFirst(
      consumers.map(({ name }) => name),
      (...parameters) => dataSource.query<Measurement[]>(MEASURE_CONSUMERS, parameters),
    );
  }
}
