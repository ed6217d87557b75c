/** Metric of the inbox: how long the oldest unhandled event of each consumer has waited. */
import { Injectable } from '@nestjs/common';
import { Gauge, Registry } from 'prom-client';
import { DataSource } from 'typeorm';

/** Seconds; null for a consumer that has handled every event. */
const OLDEST = `
  SELECT name,
         (SELECT extract(epoch FROM clock_timestamp() - occurred_at)::float8
            FROM inbox WHERE consumer = name AND handled_at IS NULL
           ORDER BY position LIMIT 1) AS age
    FROM event_consumers`;

@Injectable()
export class InboxMetrics {
  constructor(registry: Registry, dataSource: DataSource) {
    new Gauge({
      name: 'holdfast_inbox_oldest_seconds',
      help: 'Age of the oldest event that a consumer has not handled; 0 when no event waits',
      labelNames: ['consumer'],
      registers: [registry],
      collect: async function (this: Gauge<'consumer'>) {
        const rows = await dataSource
          .query<{ name: string; age: number | null }[]>(OLDEST)
          .catch(() => []);
        for (const { name, age } of rows) {
          this.set({ consumer: name }, age ?? 0);
        }
      },
    });
  }
}
