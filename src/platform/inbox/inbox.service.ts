/**
 * Delivers committed events to the consumers of this service. A trigger on `outbox` inserts a
 * delivery for each consumer in the event's transaction; consumer-runner.ts runs the handlers.
 * Invariant: a handler's writes and the mark that its event is handled commit together. One node at
 * a time serves a consumer. A handler that fails blocks the subject of its event, nothing else.
 */
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { DiscoveryService, MetadataScanner } from '@nestjs/core';
import { DataSource, type EntityManager } from 'typeorm';
import { PollingLoop } from '../timing/polling-loop.js';
import { type Consumer, discoverConsumers } from './consumer-discovery.js';
import { ConsumerRunner } from './consumer-runner.js';
import { Delivery, EventConsumer } from './inbox.entity.js';

const POLL_INTERVAL_MS = 500;
const RECONNECT_MS = { minMs: 500, maxMs: 10_000 } as const;

@Injectable()
export class InboxService implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Inbox');
  private consumers: ReadonlyMap<string, Consumer> = new Map();
  private loops: readonly PollingLoop[] = [];
  private isStopping = false;

  constructor(
    private readonly dataSource: DataSource,
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
  ) {}

  onApplicationBootstrap(): void {
    this.consumers = discoverConsumers(this.discovery, this.scanner);
    this.loops = [...this.consumers.values()].map((consumer) => this.loopFor(consumer));
    for (const loop of this.loops) loop.start();
  }

  async onApplicationShutdown(): Promise<void> {
    this.isStopping = true;
    await Promise.all(this.loops.map((loop) => loop.stop()));
  }

  /**
   * Runs the handler, unless the event is handled already: repeated deliveries do nothing.
   * @param signal aborted when the caller waits no longer for the handler
   * @returns whether the handler ran
   * @throws whatever the handler throws; the caller must then roll the transaction back
   */
  async deliver(
    manager: EntityManager,
    delivery: Delivery,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<boolean> {
    const { consumer: name, eventId } = delivery;
    const consumer = this.consumers.get(name);
    if (!consumer) throw new Error(`No @OnEvent method uses the consumer name "${name}"`);
    const { affected } = await manager
      .createQueryBuilder()
      .update(Delivery)
      .set({ handledAt: () => 'clock_timestamp()', retryAt: null })
      .where('consumer = :name AND event_id = :eventId AND handled_at IS NULL', { name, eventId })
      .execute();
    if (affected !== 1) return false;
    await consumer.handle(delivery, manager, signal);
    return true;
  }

  private loopFor(consumer: Consumer): PollingLoop {
    let isRegistered = false;
    const runner = new ConsumerRunner({
      dataSource: this.dataSource,
      consumer,
      logger: this.logger,
      deliver: (manager, delivery, signal) => this.deliver(manager, delivery, signal),
      isStopping: () => this.isStopping,
    });
    return new PollingLoop({
      step: async () => {
        if (!isRegistered) await this.register(consumer);
        isRegistered = true;
        const mayHaveMore = await runner.step();
        return mayHaveMore ? 0 : POLL_INTERVAL_MS;
      },
      onError: (error) => {
        const failure = `Could not deliver events to consumer ${consumer.consumer}`;
        this.logger.warn(`${failure}, retrying: ${String(error)}`);
      },
      retry: RECONNECT_MS,
    });
  }

  private async register({ consumer: name, prefix }: Consumer): Promise<void> {
    await this.dataSource
      .createQueryBuilder()
      .insert()
      .into(EventConsumer)
      .values({ name, prefix })
      .orUpdate(['prefix'], ['name'])
      .execute();
  }
}
