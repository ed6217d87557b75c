/** The outbox: modules append events through {@link OutboxService}; the relay publishes them. */
import { Global, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { OutboxEvent } from './outbox.entity.js';
import { OutboxMetrics } from './outbox-metrics.js';
import { OutboxPurge } from './outbox-purge.js';
import { OutboxRelay } from './outbox-relay.js';
import { OutboxService } from './outbox.service.js';

@Global()
@Module({
  imports: [TypeOrmModule.forFeature([OutboxEvent])],
  providers: [OutboxService, OutboxMetrics, OutboxRelay, OutboxPurge],
  exports: [OutboxService, OutboxRelay],
})
export class OutboxModule {}
