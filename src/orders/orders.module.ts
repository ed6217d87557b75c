/** The orders' door. */
import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { AuthModule } from '../auth/auth.module.js';
import { CacheModule } from '../cache/cache.module.js';
import { Idempotency } from '../http/idempotency.js';
import { IdempotencyRecord } from '../http/idempotency.entity.js';
import { StreamedAnswers } from '../http/streamed-answers.js';
import { UsersModule } from '../users/users.module.js';
import { faultsOfLifecycle, TRANSITIONS } from './order-lifecycle.js';
import { OrderEvent } from './order-event.entity.js';
import { OrderFigure, OrderFigures } from './order-figures.js';
import { OrderSummaryService } from './order-summary.service.js';
import { Order } from './order.entity.js';
import { OrdersController, UserOrdersController } from './orders.controller.js';
import { OrdersService } from './orders.service.js';

@Module({
  imports: [
    AuthModule,
    UsersModule,
    TypeOrmModule.forFeature([Order, OrderEvent, OrderFigure, IdempotencyRecord]),
    CacheModule.forFeature([Order]),
  ],
  controllers: [OrdersController, UserOrdersController],
  providers: [OrdersService, OrderSummaryService, OrderFigures, StreamedAnswers, Idempotency],
  exports: [OrdersService],
})
export class OrdersModule {
  constructor() {
    const faults = faultsOfLifecycle(TRANSITIONS);
    if (faults.length > 0) throw new Error(`order-lifecycle.ts: ${faults.join('; ')}`);
  }
}
