/**
 * Keeps the daily totals up to date: it consumes the orders' events, and each event moves its order
 * from one total to another. The effects are sums, so the result does not depend on the order in
 * which events are handled. The inbox guarantees that each event counts once.
 */
import { Injectable } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import { type ConsumedEvent, OnEvent } from '../../platform/inbox/on-event.decorator.js';
import { EVENT_DAY, EVENT_EFFECTS } from './event-effects.js';

/**
 * The consumer's name in `event_consumers` and `inbox`. A new name would count all events again.
 */
export const DAILY_TOTALS_CONSUMER = 'order-figures';

/** An event that leaves a total as it is, e.g. a changed note, touches no row. */
const ADD_EFFECTS = `
  INSERT INTO order_figures AS daily (day, status, currency, count, total)
  SELECT ${EVENT_DAY}, effect.status, data ->> 'currency', sum(effect.count), sum(effect.total)
    FROM (SELECT $1::jsonb AS data) AS event, ${EVENT_EFFECTS}
   WHERE effect.status IS NOT NULL
   GROUP BY 1, 2, 3
  HAVING sum(effect.count) <> 0 OR sum(effect.total) <> 0
  ON CONFLICT (day, status, currency)
  DO UPDATE SET count = daily.count + excluded.count, total = daily.total + excluded.total`;

@Injectable()
export class DailyTotalsService {
  /**
   * @throws Error for an event of an old release, which lacks `createdAt` or `previous`: the
   *   delivery then waits until `holdfast rebuild-orders daily-totals` counts all events again
   */
  @OnEvent(DAILY_TOTALS_CONSUMER, 'order.')
  async applyEvent({ type, data }: ConsumedEvent, manager: EntityManager): Promise<void> {
    const isComplete = 'createdAt' in data && 'previous' in data;
    if (!isComplete) throw new Error(`${type} lacks createdAt or previous`);
    await manager.query(ADD_EFFECTS, [data]);
  }
}
