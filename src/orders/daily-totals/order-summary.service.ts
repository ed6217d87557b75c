/**
 * Counts and totals by day, status and currency, out of the figures that the events keep up (order-figures.ts). An aggregate is
 * no row, so it is not strict: it may lag behind the events, is kept for a few seconds in CACHE_MANAGER, and always says since
 * when it is right (`asOf`). Who asks for the primary database gets a count of the rows. It depends on no caller, and only
 * support and admin may ask.
 */
import { Cache, CACHE_MANAGER } from '@nestjs/cache-manager';
import { Inject, Injectable } from '@nestjs/common';
import { DataSource, type EntityManager } from 'typeorm';
import type { Reading } from '../cache/reading.js';
import { Replicas } from '../database/replicas.js';
import { invalid } from '../http/validation.js';
import { CHANGES, DAY, FIGURES } from './order-figures.js';
import type { OrderSummary, SummaryQuery, SummaryRow } from './orders.dto.js';

const TTL_MS = 10_000;
/** Events that are added to the figures before their consumer has handled them. */
const MOST_WAITING = 1_000;
const DAY_MS = 86_400_000;
const MOST_DAYS = 366;
const DEFAULT_DAYS = 30;

const dayOf = (time: number): string => new Date(time).toISOString().slice(0, 10);

/** A summary, and the moment (milliseconds since 1970) before which nothing is missing from it. */
export interface DatedSummary {
  readonly summary: OrderSummary;
  readonly asOf: number;
}

/** As the database counts: bigint and numeric as text. */
type CountedRow = Omit<SummaryRow, 'count' | 'total'> & { count: string; total: string };

const rowOf = ({ count, total, ...group }: CountedRow): SummaryRow => {
  const sum = Number(total);
  return { ...group, count: Number(count), total: Number.isSafeInteger(sum) ? sum : total };
};

@Injectable()
export class OrderSummaryService {
  constructor(
    private readonly dataSource: DataSource,
    private readonly replicas: Replicas,
    @Inject(CACHE_MANAGER) private readonly cache: Cache,
  ) {}

  /** @throws Problem validation-failed */
  async summary({ from, to }: SummaryQuery, reading: Reading): Promise<DatedSummary> {
    const last = to ?? dayOf(Date.now());
    const first = from ?? dayOf(Date.parse(last) - (DEFAULT_DAYS - 1) * DAY_MS);
    const days = (Date.parse(last) - Date.parse(first)) / DAY_MS + 1;
    if (days < 1) throw invalid('to', 'range', 'to must not be before from');
    if (days > MOST_DAYS)
      throw invalid('to', 'range', `from and to must be at most ${MOST_DAYS} days apart`);

    const key = `orders:summary:2:${first}:${last}`;
    const kept = reading.fresh ? undefined : await this.cache.get<DatedSummary>(key);
    reading.note(kept ? 'hit' : reading.fresh ? 'request' : 'miss');
    if (kept) return kept;
    const { rows, asOf } = await (reading.fresh
      ? this.count(first, last)
      : this.replicas.read((manager) => this.figures(manager, first, last)));
    const dated = { summary: { from: first, to: last, data: rows.map(rowOf) }, asOf };
    await this.cache.set(key, dated, TTL_MS);
    return dated;
  }

  /**
   * In one statement, and so of one moment: the figures, and what the events that wait will move in them. Of more events than
   * are looked at, or of one that says too little, the oldest tells since when something is missing; a replica adds the time since
   * it has followed the primary, at most.
   */
  private async figures(
    manager: EntityManager,
    first: string,
    last: string,
  ): Promise<{ rows: CountedRow[]; asOf: number }> {
    const began = Date.now();
    const [{ rows, age }] = await manager.query<[{ rows: CountedRow[]; age: number }]>(
      `WITH waiting AS MATERIALIZED (
         SELECT data, position, occurred_at, data ?& '{createdAt,previous}' AS known FROM inbox
          WHERE consumer = $3 AND handled_at IS NULL ORDER BY position LIMIT ${MOST_WAITING}),
       missing AS (
         (SELECT occurred_at FROM waiting WHERE NOT known ORDER BY position LIMIT 1)
         UNION ALL
         (SELECT occurred_at FROM inbox WHERE consumer = $3 AND handled_at IS NULL
             AND position > (SELECT max(position) FROM waiting) ORDER BY position LIMIT 1)),
       figure AS (
         SELECT day, status, currency, sum(count)::bigint AS count, sum(total) AS total
           FROM (SELECT day, status, currency, count, total FROM order_figures
                 UNION ALL
                 SELECT ${DAY}, change.status, data ->> 'currency', change.count, change.total
                   FROM (SELECT data FROM waiting WHERE known OFFSET 0) AS event, ${CHANGES}) AS part
          WHERE day BETWEEN $1 AND $2 AND status IS NOT NULL GROUP BY 1, 2, 3)
       SELECT coalesce((SELECT json_agg(json_build_object('day', day, 'status', status, 'currency', currency,
                                                          'count', count::text, 'total', total::text) ORDER BY day, status, currency)
                          FROM figure WHERE count <> 0), '[]') AS rows,
              coalesce((SELECT extract(epoch FROM statement_timestamp() - min(occurred_at))::float8 FROM missing), 0)
                + CASE WHEN pg_is_in_recovery()
                       THEN coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8, 0) ELSE 0 END AS age`,
      [first, last, FIGURES],
    );
    return { rows, asOf: began - age * 1000 };
  }

  private async count(first: string, last: string): Promise<{ rows: CountedRow[]; asOf: number }> {
    const asOf = Date.now();
    const rows = await this.dataSource.query<CountedRow[]>(
      `SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, status, currency, count(*) AS count, sum(total) AS total
         FROM orders
        WHERE created_at >= $1::date::timestamp AT TIME ZONE 'UTC' AND created_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
      [first, last],
    );
    return { rows, asOf };
  }
}
