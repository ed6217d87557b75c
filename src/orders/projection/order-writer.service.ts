/**
 * The one place where the service changes an order: the projection, the event and the message, in
 * the caller's transaction and under the row's lock.
 */
import { Injectable } from '@nestjs/common';
import { v7 as uuidv7 } from 'uuid';
import type { Transaction } from '../../platform/database/transaction.js';
import { problems } from '../../platform/http/problems/problem.js';
import { OutboxService } from '../../platform/outbox/outbox.service.js';
import { Order } from '../order.entity.js';
import { orderEventMessage } from './order-event-message.js';
import { OrderEvent } from './order-event.entity.js';
import { evolve, type OrderChange, WRITTEN_EVENT_SCHEMA } from './order-events.js';

@Injectable()
export class OrderWriter {
  constructor(private readonly outbox: OutboxService) {}

  /**
   * @param actorId the user who caused the event
   * @param before the locked row; null for a new order
   * @throws Problem version-mismatch
   */
  async appendEvent(
    transaction: Transaction,
    actorId: string,
    before: Order | null,
    change: OrderChange,
  ): Promise<Order> {
    const state = evolve(before, change);
    const order = before
      ? await transaction.update(before, state)
      : await transaction.insert(Order, { id: uuidv7(), ...state });
    if (!order) throw problems.versionMismatch();
    const { type, data } = change;
    await transaction.manager.insert(OrderEvent, {
      orderId: order.id,
      version: order.version,
      type,
      schema: WRITTEN_EVENT_SCHEMA,
      data,
      actorId,
      occurredAt: order.updatedAt,
    } as never);
    await this.outbox.append(transaction, orderEventMessage(type, order, before));
    return order;
  }
}
