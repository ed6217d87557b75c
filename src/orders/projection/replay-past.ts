/**
 * Replays one order up to a version, a page of events at a time. Each page is a statement of its
 * own: between pages the replay holds no connection and no event, only the state.
 */
import type { Repository } from 'typeorm';
import { MAX_PAGE_BYTES } from '../../platform/http/bounds/bounds.js';
import type { OrderEvent } from './order-event.entity.js';
import { type OrderState, replay, type StoredOrderChange } from './order-events.js';

/** An event may have 100 KB, so a page of the largest ones reaches the bound of bytes first. */
export const MAX_EVENTS_PER_PAGE = 16;

/** A page of events after a version. It ends with the event that reaches MAX_PAGE_BYTES. */
const SELECT_PAGE = `
  -- The events of the page, with the bytes of those before each.
  WITH page AS (
    SELECT version, type, schema, data, occurred_at,
           sum(octet_length(data::text)) OVER (
             ORDER BY version ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
      FROM (SELECT * FROM order_events
             WHERE order_id = $1 AND version > $2 AND version <= $3
             ORDER BY version LIMIT ${MAX_EVENTS_PER_PAGE}) AS event)
  SELECT version, type, schema, data, occurred_at AS "occurredAt"
    FROM page
   WHERE coalesce(bytes_before, 0) < ${MAX_PAGE_BYTES}
   ORDER BY version`;

interface EventRow extends StoredOrderChange {
  /** A bigint, which the driver returns as text. */
  readonly version: string;
  readonly occurredAt: Date;
}

/** An order as its events made it. */
export interface PastOrder {
  readonly state: OrderState;
  readonly version: number;
  readonly updatedAt: Date;
}

/**
 * @param version of an event that the order has
 * @throws Error for events that no order can have
 */
export async function replayUntil(
  events: Repository<OrderEvent>,
  id: string,
  version: number,
): Promise<PastOrder> {
  let past: PastOrder | undefined;
  while (past?.version !== version) {
    const page: EventRow[] = await events.query(SELECT_PAGE, [id, past?.version ?? 0, version]);
    const last = page.at(-1);
    if (!last) throw new Error(`The order ${id} has no event of the version ${version}`);
    const state = replay(page, past?.state ?? null) as OrderState;
    past = { state, version: Number(last.version), updatedAt: last.occurredAt };
  }
  return past;
}
