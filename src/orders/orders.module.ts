/** Provides orders: placing, changing, listing, their history, summary and export. */
import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CacheModule } from '../platform/cache/cache.module.js';
import { IdempotencyModule } from '../platform/idempotency/idempotency.module.js';
import { UsersModule } from '../users/users.module.js';
import { DailyTotal } from './daily-totals/daily-total.entity.js';
import { DailyTotalsService } from './daily-totals/daily-totals.service.js';
import { OrderSummaryService } from './daily-totals/order-summary.service.js';
import { TRANSITIONS, validateLifecycle } from './order-lifecycle.js';
import { OrderOperations } from './order-operations.service.js';
import { Order } from './order.entity.js';
import { OrdersController } from './orders.controller.js';
import { OrderExportService } from './order-export.service.js';
import { OrdersService } from './orders.service.js';
import { OrderEvent } from './projection/order-event.entity.js';
import { OrderHistoryService } from './projection/order-history.service.js';
import { OrderWriter } from './projection/order-writer.service.js';
import { ReplayQueue } from './projection/replay-queue.js';
import { UserOrdersController } from './user-orders.controller.js';

@Module({
  imports: [
    IdempotencyModule,
    UsersModule,
    TypeOrmModule.forFeature([Order, OrderEvent, DailyTotal]),
    CacheModule.forFeature([Order]),
  ],
  controllers: [OrdersController, UserOrdersController],
  providers: [
    OrdersService,
    OrderExportService,
    OrderOperations,
    OrderWriter,
    OrderHistoryService,
    ReplayQueue,
    OrderSummaryService,
    DailyTotalsService,
  ],
  exports: [OrdersService],
})
export class OrdersModule {
  constructor() {
    const problems = validateLifecycle(TRANSITIONS);
    if (problems.length > 0) {
      throw new Error(`The table in order-lifecycle.ts is inconsistent: ${problems.join('; ')}`);
    }
  }
}
