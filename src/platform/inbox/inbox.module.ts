/** The inbox's door: a module with a method under `@OnEvent` (on-event.ts) needs nothing else to be given events. */
import { Module } from '@nestjs/common';
import { DiscoveryModule } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Delivery, EventConsumer } from './inbox.entity.js';
import { Inbox } from './inbox.service.js';

@Module({
  imports: [DiscoveryModule, TypeOrmModule.forFeature([Delivery, EventConsumer])],
  providers: [Inbox],
  exports: [Inbox],
})
export class InboxModule {}
