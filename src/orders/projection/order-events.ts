/**
 * The events of an order and their effect. `evolve` alone computes an order's state: for a write,
 * for a read of the past and for the rebuild. It is pure, so equal events give equal orders.
 * Stored events never change; {@link upcast} brings an older form to the current one.
 */
import type { Order, OrderItem } from '../order.entity.js';
import {
  INITIAL_STATUS,
  ORDER_CHANGED,
  ORDER_PLACED,
  type OrderStatus,
  type Transition,
  TRANSITIONS,
} from '../order-lifecycle.js';
import { refundDueOf } from '../refund-due.js';

/**
 * The current form, which {@link upcast} yields. Since form 2, an event holds the agreed total.
 * Since form 3, an event that may return money says what is due (refund-due.ts).
 */
export const EVENT_SCHEMA = 3;

/**
 * The number that new events carry: the newest form that the previous release reads. That release
 * ignores new members, but refuses a higher number. The next release raises this one
 * (docs/adr/0023-complete-lifecycle.md).
 */
export const WRITTEN_EVENT_SCHEMA = 2;

/** The event of a repair (repair-projection.ts). It changes no state. */
export const ORDER_REBUILT = 'order.rebuilt';

/** Every event type, with the first form in which it was written. */
export const EVENT_TYPES: ReadonlyMap<string, number> = new Map([
  [ORDER_PLACED, 1],
  [ORDER_CHANGED, 1],
  ...TRANSITIONS.map(({ event }) => [event, 1] as const),
  [ORDER_REBUILT, 2],
]);

/** The columns of an order that events decide. Its id, version and times come from the rows. */
export type OrderState = Pick<Order, 'userId' | 'status' | 'currency' | 'items' | 'total' | 'note'>;

/** The content of an event in the current form. */
export interface OrderChange {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** The content of an event in the form `schema`. */
export interface StoredOrderChange extends OrderChange {
  readonly schema: number;
}

const STATUS_AFTER: ReadonlyMap<string, OrderStatus> = new Map(
  TRANSITIONS.map(({ event, to }) => [event, to]),
);

/**
 * The sum of quantity × unit price in minor units, computed exactly.
 * @returns NaN when the sum exceeds 2^53 - 1
 */
export function totalOf(items: readonly OrderItem[]): number {
  let total = 0n;
  for (const { quantity, unitPrice } of items) total += BigInt(quantity) * BigInt(unitPrice);
  return total <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(total) : NaN;
}

const withTotal = (data: OrderChange['data']): OrderChange['data'] =>
  data.items === undefined ? data : { ...data, total: totalOf(data.items as OrderItem[]) };

/** The event of a new order. */
export const toPlacedEvent = (
  order: Pick<OrderState, 'userId' | 'currency' | 'items' | 'note'>,
): OrderChange => ({ type: ORDER_PLACED, data: withTotal(order) });

/** The event of a change. It holds only what is replaced. */
export const toChangedEvent = (
  changes: Partial<Pick<OrderState, 'items' | 'note'>>,
): OrderChange => ({ type: ORDER_CHANGED, data: withTotal(changes) });

/**
 * The event of an action.
 * @param before the order before it
 */
export const toActionEvent = (
  { event: type }: Transition,
  before: Pick<OrderState, 'status' | 'total' | 'currency'>,
  reason: string | undefined,
): OrderChange => ({
  type,
  data: { ...(reason !== undefined && { reason }), ...refundDueOf(type, before, before) },
});

/** Form → the step from it to the next form. */
const UPCASTERS: Readonly<Record<number, (change: OrderChange) => OrderChange>> = {
  1: ({ type, data }) => ({ type, data: withTotal(data) }),
  // An event without `refundDue` is of a release that recorded none. What was not recorded is not
  // invented: the member stays absent, and null says that nothing is due.
  2: (change) => change,
};

/**
 * A stored event in the current form.
 * @throws Error for a form that this release does not know
 */
export function upcast({ type, data, schema }: StoredOrderChange): OrderChange {
  let change: OrderChange = { type, data };
  for (let form = schema; form !== EVENT_SCHEMA; form++) {
    const step = UPCASTERS[form];
    if (!step) {
      throw new Error(`${type} has schema ${schema}, this release knows 1 to ${EVENT_SCHEMA}`);
    }
    change = step(change);
  }
  return change;
}

/**
 * The state after one event.
 * @param state before the event; null before the first
 * @throws Error for a sequence that no order can have: the stored events are damaged
 */
export function evolve(state: OrderState | null, { type, data }: OrderChange): OrderState {
  if (type === ORDER_PLACED) {
    if (state) throw new Error(`${ORDER_PLACED} twice`);
    const { userId, currency, items, total, note } = data as unknown as Omit<OrderState, 'status'>;
    return { userId, status: INITIAL_STATUS, currency, items, total, note };
  }
  if (!state) throw new Error(`${type} before ${ORDER_PLACED}`);
  if (type === ORDER_CHANGED) {
    const {
      items = state.items,
      total = state.total,
      note = state.note,
    } = data as Partial<OrderState>;
    return { ...state, items, total, note };
  }
  if (type === ORDER_REBUILT) return state;
  const status = STATUS_AFTER.get(type);
  if (status === undefined) throw new Error(`unknown event ${type}`);
  return { ...state, status };
}

/**
 * The state after all these events.
 * @param state before the first of them; null when they begin with the order's first
 * @throws Error for a sequence that no order can have
 */
export const replay = (
  events: readonly StoredOrderChange[],
  state: OrderState | null = null,
): OrderState | null =>
  events.reduce<OrderState | null>((before, event) => evolve(before, upcast(event)), state);
