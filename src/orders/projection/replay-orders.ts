/**
 * Replays the events of many orders, in the order of their ids. It reads one bounded page of events
 * at a time, so that memory holds one page and one order, however many and large they are.
 */
import type { ClientBase } from 'pg';
import { boundedPage } from '../../platform/database/bounded-page.js';
import { ORDER_PLACED } from '../order-lifecycle.js';
import { type OrderState, replay, type StoredOrderChange } from './order-events.js';

/** The most that a page has. It ends with the event whose data reaches `bytes`. */
export const MAX_REPLAY_PAGE = { events: 5_000, bytes: 2_097_152 } as const;

/** The row of `orders` that an order's events make. */
export interface ReplayedOrder {
  readonly id: string;
  readonly state: OrderState;
  /** The version of the last event. */
  readonly version: number;
  /** Less than `version` when versions are missing. */
  readonly eventCount: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** An order whose events cannot be replayed. */
export interface BrokenHistory {
  readonly id: string;
  readonly problem: string;
}

interface EventRow extends StoredOrderChange {
  readonly order_id: string;
  /** A bigint, which the driver returns as text. */
  readonly version: string;
  readonly occurred_at: Date;
  /** Of the page, up to and including this event. */
  readonly pageBytes: number;
}

/** The ids greater than `after`, up to and including `upTo`, in PostgreSQL's order of UUIDs. */
export interface IdRange {
  readonly after: string;
  readonly upTo: string;
}

/** Every id that can occur: no order has the nil UUID. */
export const ALL_IDS: IdRange = {
  after: '00000000-0000-0000-0000-000000000000',
  upTo: 'ffffffff-ffff-ffff-ffff-ffffffffffff',
};

/** The events after $1 (order_id) and $2 (version), of orders up to $3. */
const NEXT_EVENTS = boundedPage({
  table: 'order_events',
  key: ['order_id', 'version'],
  direction: 'ASC',
  after: ['$1::uuid', '$2::bigint'],
  where: 'order_id <= $3::uuid',
  rowBytes: 'octet_length(data::text)',
  maxRows: MAX_REPLAY_PAGE.events,
  maxBytes: MAX_REPLAY_PAGE.bytes,
});
export const SELECT_EVENTS = `
  WITH RECURSIVE page AS (${NEXT_EVENTS})
  SELECT order_id, version, type, schema, data, occurred_at, page_bytes AS "pageBytes" FROM page`;

/**
 * Yields every order of the range that has events, by ascending id. Each page is a statement of its
 * own: a caller that needs one snapshot begins a REPEATABLE READ transaction first.
 */
export async function* replayOrders(
  client: ClientBase,
  { after, upTo }: IdRange,
): AsyncGenerator<ReplayedOrder | BrokenHistory> {
  let order: ReplayedOrder | BrokenHistory | undefined;
  // The page begins after the last event that `after` can have.
  let lastId = after;
  let lastVersion = String(Number.MAX_SAFE_INTEGER);
  let hasMore = true;
  while (hasMore) {
    const { rows } = await client.query<EventRow>({
      name: 'replay',
      text: SELECT_EVENTS,
      values: [lastId, lastVersion, upTo],
    });
    for (const event of rows) {
      if (order?.id === event.order_id) {
        order = applyEvent(order, event);
        continue;
      }
      if (order) yield order;
      order = beginReplay(event);
    }
    const last = rows.at(-1);
    if (last) {
      lastId = last.order_id;
      lastVersion = last.version;
    }
    const { events, bytes } = MAX_REPLAY_PAGE;
    hasMore = rows.length === events || (last !== undefined && last.pageBytes >= bytes);
  }
  if (order) yield order;
}

function beginReplay(event: EventRow): ReplayedOrder | BrokenHistory {
  const { order_id: id, version, type, occurred_at: occurredAt } = event;
  const isFirst = Number(version) === 1 && type === ORDER_PLACED;
  if (!isFirst) return { id, problem: `begins with ${type} as version ${version}` };
  return catchProblem(id, () => ({
    id,
    state: replay([event]) as OrderState,
    version: 1,
    eventCount: 1,
    createdAt: occurredAt,
    updatedAt: occurredAt,
  }));
}

function applyEvent(
  order: ReplayedOrder | BrokenHistory,
  event: EventRow,
): ReplayedOrder | BrokenHistory {
  if ('problem' in order) return order;
  return catchProblem(order.id, () => ({
    ...order,
    state: replay([event], order.state) as OrderState,
    version: Number(event.version),
    eventCount: order.eventCount + 1,
    updatedAt: event.occurred_at,
  }));
}

function catchProblem(id: string, step: () => ReplayedOrder): ReplayedOrder | BrokenHistory {
  try {
    return step();
  } catch (error) {
    return { id, problem: (error as Error).message };
  }
}
