/**
 * Counts and totals by day, status and currency. An aggregate is no row, so it is not strict: it is kept for half a minute in
 * CACHE_MANAGER, under a key of exactly what it depends on, and counted on a replica unless the caller asks for the primary. It depends on no caller, and only support and admin may ask.
 */
import { Cache, CACHE_MANAGER } from '@nestjs/cache-manager';
import { Inject, Injectable } from '@nestjs/common';
import { DataSource, type EntityManager } from 'typeorm';
import type { Reading } from '../cache/reading.js';
import { Replicas } from '../database/replicas.js';
import { invalid } from '../http/validation.js';
import type { OrderSummary, SummaryQuery, SummaryRow } from './orders.dto.js';

const TTL_MS = 30_000;
const DAY_MS = 86_400_000;
const MOST_DAYS = 366;
const DEFAULT_DAYS = 30;

const dayOf = (time: number): string => new Date(time).toISOString().slice(0, 10);

@Injectable()
export class OrderSummaryService {
  constructor(
    private readonly dataSource: DataSource,
    private readonly replicas: Replicas,
    @Inject(CACHE_MANAGER) private readonly cache: Cache,
  ) {}

  /** @throws Problem validation-failed */
  async summary({ from, to }: SummaryQuery, reading: Reading): Promise<OrderSummary> {
    const last = to ?? dayOf(Date.now());
    const first = from ?? dayOf(Date.parse(last) - (DEFAULT_DAYS - 1) * DAY_MS);
    const days = (Date.parse(last) - Date.parse(first)) / DAY_MS + 1;
    if (days < 1) throw invalid('to', 'range', 'to must not be before from');
    if (days > MOST_DAYS) throw invalid('to', 'range', `from and to must be at most ${MOST_DAYS} days apart`);

    const key = `orders:summary:1:${first}:${last}`;
    const kept = reading.fresh ? undefined : await this.cache.get<OrderSummary>(key);
    reading.note(kept ? 'hit' : reading.fresh ? 'request' : 'miss');
    if (kept) return kept;
    const summary = { from: first, to: last, data: await this.count(first, last, reading) };
    await this.cache.set(key, summary, TTL_MS);
    return summary;
  }

  private async count(first: string, last: string, { fresh }: Reading): Promise<SummaryRow[]> {
    type Row = Omit<SummaryRow, 'count' | 'total'> & { count: string; total: string };
    const count = (manager: EntityManager): Promise<Row[]> =>
      manager.query(
        `SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, status, currency, count(*) AS count, sum(total) AS total
         FROM orders
        WHERE created_at >= $1::date::timestamp AT TIME ZONE 'UTC' AND created_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
        [first, last],
      );
    const rows = await (fresh ? count(this.dataSource.manager) : this.replicas.read(count));
    return rows.map(({ count, total, ...group }) => {
      const sum = Number(total);
      return { ...group, count: Number(count), total: Number.isSafeInteger(sum) ? sum : total };
    });
  }
}
