/** The outbox's door: {@link OutboxService} for whoever has something to tell, and the relay to the broker. */
import { Global, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { OutboxEvent } from './outbox.entity.js';
import { OutboxMetrics } from './outbox.metrics.js';
import { OutboxRelay } from './outbox.relay.js';
import { OutboxService } from './outbox.service.js';

@Global()
@Module({
  imports: [TypeOrmModule.forFeature([OutboxEvent])],
  providers: [OutboxService, OutboxMetrics, OutboxRelay],
  exports: [OutboxService, OutboxRelay],
})
export class OutboxModule {}
