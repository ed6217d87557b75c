/**
 * The message that an order's event puts into the outbox: the one place that builds its payload,
 * for the service and for the rebuild. docs/reference/events.md
 */
import type { DomainEvent } from '../../platform/outbox/outbox.service.js';
import type { Order } from '../order.entity.js';
import { refundDueOf } from '../refund-due.js';

/** The columns of an order that its messages carry. */
export type MessagedOrder = Pick<
  Order,
  'id' | 'version' | 'userId' | 'status' | 'currency' | 'total' | 'createdAt'
>;

/**
 * @param type of the event, e.g. `order.paid`
 * @param order as it is after the event
 * @param previous status and total before the event, which the daily totals subtract; null for the
 *   first event
 */
export function orderEventMessage(
  type: string,
  { id, version, userId, status, currency, total, createdAt }: MessagedOrder,
  previous: Pick<Order, 'status' | 'total'> | null,
): DomainEvent {
  return {
    type,
    subject: `orders/${id}`,
    data: {
      version,
      userId,
      status,
      currency,
      total,
      createdAt,
      previous: previous && { status: previous.status, total: previous.total },
      ...refundDueOf(type, previous, { currency }),
    },
  };
}
