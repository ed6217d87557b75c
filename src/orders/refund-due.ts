/**
 * What the shop owes the buyer after a step of an order. It is recorded in the event and in the
 * published message, so that whoever pays it back needs neither the order nor its history.
 */
import { HOLDS_MONEY, TRANSITIONS } from './order-lifecycle.js';
import type { Order } from './order.entity.js';

export interface RefundDue {
  /** In minor units of the currency. */
  readonly amount: number;
  /** An ISO 4217 code in upper case. */
  readonly currency: string;
}

/** The types of events that may return money. */
const REFUND_EVENTS: ReadonlySet<string> = new Set(
  TRANSITIONS.filter(({ from, to }) => HOLDS_MONEY[from] && !HOLDS_MONEY[to]).map(
    ({ event }) => event,
  ),
);

/**
 * The member `refundDue` of an event and its message; null when nothing is due.
 * @param type of the event
 * @param before the order before the event; null before the first
 * @returns no member for a type of event that never returns money
 */
export function refundDueOf(
  type: string,
  before: Pick<Order, 'status' | 'total'> | null,
  { currency }: Pick<Order, 'currency'>,
): { readonly refundDue?: RefundDue | null } {
  if (!before || !REFUND_EVENTS.has(type)) return {};
  const { status, total: amount } = before;
  const isDue = HOLDS_MONEY[status] && amount > 0;
  return { refundDue: isDue ? { amount, currency } : null };
}
