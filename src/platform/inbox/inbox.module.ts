/**
 * The inbox. A module whose provider has a method with `@OnEvent` (on-event.decorator.ts) imports
 * this module, and needs nothing else to get events.
 */
import { Module } from '@nestjs/common';
import { DiscoveryModule } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { InboxMetrics } from './inbox-metrics.js';
import { InboxPurge } from './inbox-purge.js';
import { DeadLetter, Delivery, EventConsumer } from './inbox.entity.js';
import { InboxService } from './inbox.service.js';

@Module({
  imports: [DiscoveryModule, TypeOrmModule.forFeature([DeadLetter, Delivery, EventConsumer])],
  providers: [InboxService, InboxMetrics, InboxPurge],
  exports: [InboxService],
})
export class InboxModule {}
