/**
 * The events of an order and what they make of it. `evolve` is the only way an order's state comes about: the service uses it
 * to write the projection, a read of the past and the rebuild replay it. It is pure: the same events give the same order.
 *
 * Stored events never change. Each says by its schema number in which form its data is; {@link upcast} brings an older form
 * to the present one, step by step, so that `evolve` knows one form only.
 */
import type { Order, OrderItem } from './order.entity.js';
import {
  INITIAL,
  ORDER_CHANGED,
  ORDER_PLACED,
  type OrderStatus,
  TRANSITIONS,
} from './order-lifecycle.js';

/** The number that events are written with now. 2: the total that was agreed stands in the event. */
export const EVENT_SCHEMA = 2;

/** What an event of the rebuild is called: the order is again what its events make of it. */
export const REBUILT = 'order.rebuilt';

/** Every type of event, and the schema number with which it came. */
export const EVENT_TYPES: ReadonlyMap<string, number> = new Map([
  [ORDER_PLACED, 1],
  [ORDER_CHANGED, 1],
  ...TRANSITIONS.map(({ event }) => [event, 1] as const),
  [REBUILT, 2],
]);

/** What events decide of an order; its id, version and times come from the rows. */
export type OrderState = Pick<Order, 'userId' | 'status' | 'currency' | 'items' | 'total' | 'note'>;

export interface OrderFact {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** A fact in the form that its schema number says. */
export interface StoredFact extends OrderFact {
  readonly schema: number;
}

const STATUS_AFTER: ReadonlyMap<string, OrderStatus> = new Map(
  TRANSITIONS.map(({ event, to }) => [event, to]),
);

/** Sum of quantity × unit price in minor units; NaN when it is no safe integer. Each step is exact below 2^53. */
export function totalOf(items: readonly OrderItem[]): number {
  let total = 0n;
  for (const { quantity, unitPrice } of items) total += BigInt(quantity) * BigInt(unitPrice);
  return total <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(total) : NaN;
}

const withTotal = (data: OrderFact['data']): OrderFact['data'] =>
  data.items === undefined ? data : { ...data, total: totalOf(data.items as OrderItem[]) };

/** An order is placed. */
export const placed = (
  order: Pick<OrderState, 'userId' | 'currency' | 'items' | 'note'>,
): OrderFact => ({
  type: ORDER_PLACED,
  data: withTotal(order),
});

/** What is named is replaced; what is not stays. */
export const changed = (changes: Partial<Pick<OrderState, 'items' | 'note'>>): OrderFact => ({
  type: ORDER_CHANGED,
  data: withTotal(changes),
});

/** From each number to the next. */
const UPCASTERS: Readonly<Record<number, (fact: OrderFact) => OrderFact>> = {
  1: ({ type, data }) => ({ type, data: withTotal(data) }),
};

/** A stored event in the present form. @throws Error for a number that this release does not know */
export function upcast({ type, data, schema }: StoredFact): OrderFact {
  let fact: OrderFact = { type, data };
  for (let number = schema; number !== EVENT_SCHEMA; number++) {
    const step = UPCASTERS[number];
    if (!step)
      throw new Error(`${type} has schema ${schema}, this release knows 1 to ${EVENT_SCHEMA}`);
    fact = step(fact);
  }
  return fact;
}

/** @throws Error for a sequence that no order can have: the store is damaged */
export function evolve(state: OrderState | null, { type, data }: OrderFact): OrderState {
  if (type === ORDER_PLACED) {
    if (state) throw new Error(`${ORDER_PLACED} twice`);
    const { userId, currency, items, total, note } = data as unknown as Omit<OrderState, 'status'>;
    return { userId, status: INITIAL, currency, items, total, note };
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
  if (type === REBUILT) return state;
  const status = STATUS_AFTER.get(type);
  if (status === undefined) throw new Error(`unknown event ${type}`);
  return { ...state, status };
}

/** The state after these events, which follow `state`. @throws Error for a sequence that no order can have */
export const replay = (
  events: readonly StoredFact[],
  state: OrderState | null = null,
): OrderState | null =>
  events.reduce<OrderState | null>((before, event) => evolve(before, upcast(event)), state);
