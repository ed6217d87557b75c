/**
 * What operators command for orders (cli/orders.ts). The lifecycle table holds for them too. They
 * act as the service itself, and give a reason.
 */
import { Injectable } from '@nestjs/common';
import { UnitOfWork } from '../platform/database/unit-of-work.js';
import { problems } from '../platform/http/problems/problem.js';
import { explainRefusal, OPERATOR, transitionOf } from './order-lifecycle.js';
import { Order } from './order.entity.js';
import { orderProblems } from './orders.errors.js';
import { toActionEvent } from './projection/order-events.js';
import { OrderWriter } from './projection/order-writer.service.js';
import { ENSURE_SERVICE_USER, SERVICE_USER_ID } from './projection/service-user.js';

@Injectable()
export class OrderOperations {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly writer: OrderWriter,
  ) {}

  /**
   * Refunds an order that was lost on its way. Repeatable: an order that is refunded already stays
   * as it is.
   * @returns the order, and whether this call refunded it
   * @throws Problem not-found, invalid-transition
   */
  refund(id: string, reason: string): Promise<{ order: Order; isNew: boolean }> {
    return this.unitOfWork.run(async (transaction) => {
      const before = await transaction.lock(Order, id);
      if (!before) throw problems.notFound();
      if (before.status === 'refunded') return { order: before, isNew: false };
      const { userId, status } = before;
      const known = { userId, status, ownerIsDeleted: false };
      const transition = transitionOf(OPERATOR, known, 'refund');
      if (!transition) {
        throw orderProblems.invalidTransition(explainRefusal(OPERATOR, known, 'refund'));
      }
      await transaction.manager.query(ENSURE_SERVICE_USER, [SERVICE_USER_ID]);
      const event = toActionEvent(transition, before, reason);
      const order = await this.writer.appendEvent(transaction, SERVICE_USER_ID, before, event);
      return { order, isNew: true };
    });
  }
}
