/**
 * Counts and totals of orders by day, status and currency. An aggregate is not a row, so it is not
 * strict: it may lag behind the events, is cached for seconds, and states its age (`asOf`). A fresh
 * read counts the orders in the primary database. docs/design/order-history.md
 */
import { Cache, CACHE_MANAGER } from '@nestjs/cache-manager';
import { Inject, Injectable } from '@nestjs/common';
import { DataSource, type EntityManager } from 'typeorm';
import type { ReadContext } from '../../platform/cache/read/read-context.js';
import { Replicas } from '../../platform/database/replicas.js';
import { invalidParameter } from '../../platform/http/validation/validation-problem.js';
import { DAILY_TOTALS_CONSUMER } from './daily-totals.service.js';
import { EVENT_DAY, EVENT_EFFECTS } from './event-effects.js';
import type { OrderSummary, SummaryQuery, SummaryRow } from './order-summary.dto.js';

const CACHE_TTL_MS = 10_000;
/** Pending events that a summary adds to the table. Of more, it reports the age. */
const MAX_PENDING_EVENTS = 1_000;
const DAY_MS = 86_400_000;
const MAX_PERIOD_DAYS = 366;
const DEFAULT_PERIOD_DAYS = 30;

/**
 * The daily totals of $1 to $2, with the effects of the events that their consumer ($3) has not
 * handled yet. One statement, so that all of it is read at the same moment.
 */
const SUM_DAILY_TOTALS = `
  WITH
    -- The oldest events that the consumer has not handled. Events of old releases may lack data.
    pending AS MATERIALIZED (
      SELECT data, position, occurred_at, data ?& '{createdAt,previous}' AS is_complete
        FROM inbox
       WHERE consumer = $3 AND handled_at IS NULL
       ORDER BY position LIMIT ${MAX_PENDING_EVENTS}),
    -- The first events whose effects are missing: an incomplete one, and the one behind the limit.
    missing AS (
      (SELECT occurred_at FROM pending WHERE NOT is_complete ORDER BY position LIMIT 1)
      UNION ALL
      (SELECT occurred_at FROM inbox
        WHERE consumer = $3 AND handled_at IS NULL
          AND position > (SELECT max(position) FROM pending)
        ORDER BY position LIMIT 1)),
    -- The table, and the effects of the pending events. OFFSET 0: filter first, then compute.
    part AS (
      SELECT day, status, currency, count, total FROM order_figures
      UNION ALL
      SELECT ${EVENT_DAY}, effect.status, data ->> 'currency', effect.count, effect.total
        FROM (SELECT data FROM pending WHERE is_complete OFFSET 0) AS event, ${EVENT_EFFECTS}),
    -- One row for each day, status and currency of the period.
    daily AS (
      SELECT day, status, currency, sum(count)::bigint AS count, sum(total) AS total
        FROM part
       WHERE day BETWEEN $1 AND $2 AND status IS NOT NULL
       GROUP BY 1, 2, 3
      HAVING sum(count) <> 0),
    -- bigint and numeric as text, which JSON numbers cannot hold.
    listed AS (
      SELECT json_agg(json_build_object('day', day, 'status', status, 'currency', currency,
                                        'count', count::text, 'total', total::text)
                      ORDER BY day, status, currency) AS rows
        FROM daily),
    -- Seconds since the oldest missing event; 0 when none is missing.
    backlog AS (
      SELECT coalesce(extract(epoch FROM statement_timestamp() - min(occurred_at))::float8, 0)
             AS seconds
        FROM missing)
  SELECT coalesce(listed.rows, '[]') AS rows, backlog.seconds AS "backlogSeconds"
    FROM listed, backlog`;

/** The same, counted from the orders themselves. */
const COUNT_ORDERS = `
  SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, status, currency,
         count(*) AS count, sum(total) AS total
    FROM orders
   WHERE created_at >= $1::date::timestamp AT TIME ZONE 'UTC'
     AND created_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
   GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`;

/** A summary that includes everything that was committed before `asOf`. */
export interface DatedSummary {
  readonly summary: OrderSummary;
  /** Milliseconds since 1970. */
  readonly asOf: number;
}

/** The first and the last day, both included, e.g. `2026-01-31`. */
interface Period {
  readonly from: string;
  readonly to: string;
}

/** The database returns bigint and numeric as text. */
type CountedRow = Omit<SummaryRow, 'count' | 'total'> & { count: string; total: string };

interface CountedRows {
  readonly rows: readonly CountedRow[];
  readonly asOf: number;
}

@Injectable()
export class OrderSummaryService {
  constructor(
    private readonly dataSource: DataSource,
    private readonly replicas: Replicas,
    @Inject(CACHE_MANAGER) private readonly cache: Cache,
  ) {}

  /**
   * @param query the last 30 days, for what it leaves out
   * @throws Problem validation-failed for a period that is empty or longer than 366 days
   */
  async summarize(query: SummaryQuery, readContext: ReadContext): Promise<DatedSummary> {
    const period = periodOf(query);
    if (readContext.isPrimaryRequired) {
      readContext.recordOutcome('request');
      return this.store(period, await this.countOrders(period));
    }
    const cached = await this.cache.get<DatedSummary>(cacheKeyOf(period));
    readContext.recordOutcome(cached ? 'hit' : 'miss');
    if (cached) return cached;
    const counted = await this.replicas.read((manager, asOf) =>
      this.sumDailyTotals(manager, period, asOf),
    );
    return this.store(period, counted);
  }

  private async store(period: Period, { rows, asOf }: CountedRows): Promise<DatedSummary> {
    const dated = { summary: { ...period, data: rows.map(summaryRowOf) }, asOf };
    await this.cache.set(cacheKeyOf(period), dated, CACHE_TTL_MS);
    return dated;
  }

  /** @param readAsOf what was committed before it is visible to `manager` */
  private async sumDailyTotals(
    manager: EntityManager,
    { from, to }: Period,
    readAsOf: number,
  ): Promise<CountedRows> {
    const startedAt = Date.now();
    const [{ rows, backlogSeconds }] = await manager.query<
      [{ rows: CountedRow[]; backlogSeconds: number }]
    >(SUM_DAILY_TOTALS, [from, to, DAILY_TOTALS_CONSUMER]);
    return { rows, asOf: Math.min(readAsOf, startedAt - backlogSeconds * 1000) };
  }

  private async countOrders({ from, to }: Period): Promise<CountedRows> {
    const startedAt = Date.now();
    const rows = await this.dataSource.query<CountedRow[]>(COUNT_ORDERS, [from, to]);
    return { rows, asOf: startedAt };
  }
}

/** The number is the version of the cached form. */
const cacheKeyOf = ({ from, to }: Period): string => `orders:summary:2:${from}:${to}`;

const dayOf = (time: number): string => new Date(time).toISOString().slice(0, 10);

function periodOf(query: SummaryQuery): Period {
  const to = query.to ?? dayOf(Date.now());
  const from = query.from ?? dayOf(Date.parse(to) - (DEFAULT_PERIOD_DAYS - 1) * DAY_MS);
  const days = (Date.parse(to) - Date.parse(from)) / DAY_MS + 1;
  if (days < 1) throw invalidParameter('to', 'range', 'to must not be before from');
  if (days > MAX_PERIOD_DAYS) {
    throw invalidParameter(
      'to',
      'range',
      `from and to must span at most ${MAX_PERIOD_DAYS} days, both included`,
    );
  }
  return { from, to };
}

function summaryRowOf({ count, total, ...group }: CountedRow): SummaryRow {
  const number = Number(total);
  return {
    ...group,
    count: Number(count),
    total: Number.isSafeInteger(number) ? number : total,
  };
}
