/**
 * Orders as their events make them, read in the order of their ids, a page of events at a time: what is in memory is one page
 * and one order, however many there are. The state is `evolve`'s, as everywhere.
 */
import type { ClientBase } from 'pg';
import { ORDER_PLACED } from '../src/orders/order-lifecycle.js';
import { type OrderState, replay, type StoredFact } from '../src/orders/order-events.js';

/** Events read at a time. */
const PAGE = 5_000;

/** What an order's events make of it: a row of `orders`, and how many events there are. */
export interface ReplayedOrder {
  readonly id: string;
  readonly state: OrderState;
  /** The last event's. */
  readonly version: number;
  readonly events: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** An order whose events no order can have. */
export interface BrokenHistory {
  readonly id: string;
  readonly fault: string;
}

interface EventRow extends StoredFact {
  readonly order_id: string;
  /** A bigint, as the driver gives it. */
  readonly version: string;
  readonly occurred_at: Date;
}

/** Ids after one and up to another, in PostgreSQL's order of UUIDs. */
export interface IdRange {
  readonly after: string;
  readonly upTo: string;
}

/** Before every id, and behind it. */
export const ALL_IDS: IdRange = {
  after: '00000000-0000-0000-0000-000000000000',
  upTo: 'ffffffff-ffff-ffff-ffff-ffffffffffff',
};

/** The orders of a range that have events, ascending. Every page is a statement: who needs one moment opens a snapshot. */
export async function* replayOrders(
  client: ClientBase,
  { after, upTo }: IdRange,
): AsyncGenerator<ReplayedOrder | BrokenHistory> {
  let order: ReplayedOrder | BrokenHistory | undefined;
  // Behind every event of `after`.
  let [id, version] = [after, String(Number.MAX_SAFE_INTEGER)];
  for (;;) {
    const { rows } = await client.query<EventRow>({
      name: 'replay',
      text: `SELECT order_id, version, type, schema, data, occurred_at FROM order_events
              WHERE (order_id, version) > ($1::uuid, $2::bigint) AND order_id <= $3 ORDER BY order_id, version LIMIT ${PAGE}`,
      values: [id, version, upTo],
    });
    for (const event of rows) {
      if (order?.id !== event.order_id) {
        if (order) yield order;
        order = begin(event);
      } else {
        order = follow(order, event);
      }
    }
    if (rows.length < PAGE) break;
    const last = rows.at(-1) as EventRow;
    [id, version] = [last.order_id, last.version];
  }
  if (order) yield order;
}

function begin(event: EventRow): ReplayedOrder | BrokenHistory {
  const { order_id: id, version, type, occurred_at: at } = event;
  if (Number(version) !== 1 || type !== ORDER_PLACED)
    return { id, fault: `begins with ${type} as version ${version}` };
  return attempt(id, () => ({
    id,
    state: replay([event]) as OrderState,
    version: 1,
    events: 1,
    createdAt: at,
    updatedAt: at,
  }));
}

function follow(
  order: ReplayedOrder | BrokenHistory,
  event: EventRow,
): ReplayedOrder | BrokenHistory {
  if ('fault' in order) return order;
  return attempt(order.id, () => ({
    ...order,
    state: replay([event], order.state) as OrderState,
    version: Number(event.version),
    events: order.events + 1,
    updatedAt: event.occurred_at,
  }));
}

function attempt(id: string, step: () => ReplayedOrder): ReplayedOrder | BrokenHistory {
  try {
    return step();
  } catch (error) {
    return { id, fault: (error as Error).message };
  }
}
