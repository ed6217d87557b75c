/**
 * The daily figures of orders (UTC days of their placing): how many, and of what total, by status and currency. Kept up by the
 * events: each takes an order from one figure and gives it to another. The changes are sums, so the figures come out the same
 * in whatever order events are handled, those of one order included; that each counts once is the inbox's part.
 */
import { Injectable } from '@nestjs/common';
import { Column, Entity, type EntityManager, PrimaryColumn } from 'typeorm';
import { safeInteger } from '../database/columns.js';
import { type ConsumedEvent, OnEvent } from '../inbox/on-event.js';

/** The consumer's name, for ever. */
export const FIGURES = 'order-figures';

@Entity('order_figures')
export class OrderFigure {
  @PrimaryColumn('date', { primaryKeyConstraintName: 'order_figures_pkey' })
  day: string;

  @PrimaryColumn('text', { primaryKeyConstraintName: 'order_figures_pkey' })
  status: string;

  @PrimaryColumn('text', { primaryKeyConstraintName: 'order_figures_pkey' })
  currency: string;

  @Column('bigint', { transformer: safeInteger })
  count: number;

  /** In minor units, as decimal text: many orders may total more than 2^53 - 1. */
  @Column('numeric')
  total: string;
}

/** The day of an event's order, in SQL over its `data`. */
export const DAY = `((data ->> 'createdAt')::timestamptz AT TIME ZONE 'UTC')::date`;

/** What an event moves, in SQL over its `data`: from the figure that it was in (`previous`, null for the first) to that of now. */
export const CHANGES = `LATERAL (VALUES
    (data ->> 'status', 1, (data ->> 'total')::numeric),
    (data -> 'previous' ->> 'status', -1, -(data -> 'previous' ->> 'total')::numeric)) AS change (status, count, total)`;

@Injectable()
export class OrderFigures {
  /** @throws Error for an event that does not say what was before: `npm run orders:rebuild -- figures` counts anew */
  @OnEvent(FIGURES, 'order.')
  async move({ type, data }: ConsumedEvent, manager: EntityManager): Promise<void> {
    if (!('createdAt' in data && 'previous' in data))
      throw new Error(`${type} does not say what was before`);
    await manager.query(
      `INSERT INTO order_figures AS figure (day, status, currency, count, total)
       SELECT ${DAY}, change.status, data ->> 'currency', sum(change.count), sum(change.total)
         FROM (SELECT $1::jsonb AS data) AS event, ${CHANGES}
        WHERE change.status IS NOT NULL GROUP BY 1, 2, 3 HAVING sum(change.count) <> 0 OR sum(change.total) <> 0
       ON CONFLICT (day, status, currency)
       DO UPDATE SET count = figure.count + excluded.count, total = figure.total + excluded.total`,
      [data],
    );
  }
}
