/**
 * The events of an order and what they make of it. `evolve` is the only way an order's state comes about: the service uses it
 * to write the projection, a read of the past replays it. It is pure: the same events give the same order.
 */
import type { Order, OrderItem } from './order.entity.js';
import { INITIAL, ORDER_CHANGED, ORDER_PLACED, type OrderStatus, TRANSITIONS } from './order-lifecycle.js';

/** The number that events are written with now. */
export const EVENT_SCHEMA = 1;

/** What events decide of an order; its id, version and times come from the rows. */
export type OrderState = Pick<Order, 'userId' | 'status' | 'currency' | 'items' | 'total' | 'note'>;

export interface OrderFact {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

const STATUS_AFTER: ReadonlyMap<string, OrderStatus> = new Map(TRANSITIONS.map(({ event, to }) => [event, to]));

/** Sum of quantity × unit price in minor units; NaN when it is no safe integer. Each step is exact below 2^53. */
export function totalOf(items: readonly OrderItem[]): number {
  let total = 0n;
  for (const { quantity, unitPrice } of items) total += BigInt(quantity) * BigInt(unitPrice);
  return total <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(total) : NaN;
}

/** @throws Error for a sequence that no order can have: the store is damaged */
export function evolve(state: OrderState | null, { type, data }: OrderFact): OrderState {
  if (type === ORDER_PLACED) {
    const { userId, currency, items, note } = data as unknown as Pick<
      OrderState,
      'userId' | 'currency' | 'items' | 'note'
    >;
    return { userId, status: INITIAL, currency, items, total: totalOf(items), note };
  }
  if (!state) throw new Error(`${type} before ${ORDER_PLACED}`);
  if (type === ORDER_CHANGED) {
    const items = (data.items as OrderItem[] | undefined) ?? state.items;
    const note = data.note === undefined ? state.note : (data.note as string | null);
    return { ...state, items, total: totalOf(items), note };
  }
  const status = STATUS_AFTER.get(type);
  if (status === undefined) throw new Error(`unknown event ${type}`);
  return { ...state, status };
}
