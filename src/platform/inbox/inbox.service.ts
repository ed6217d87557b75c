/**
 * Delivers committed events to the consumers of this service. A trigger on `outbox` inserts a
 * delivery for each consumer in the event's transaction; {@link InboxService} runs the handlers.
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
import { Delivery, EventConsumer } from './inbox.entity.js';

/** Deliveries of one transaction. */
const MAX_BATCH_DELIVERIES = 100;
const POLL_INTERVAL_MS = 500;
const RECONNECT_MS = { minMs: 500, maxMs: 10_000 } as const;
/** Seconds until a failed event is tried again: `min`, doubled with each attempt up to `max`. */
const RETRY_SECONDS = { min: 1, max: 300 } as const;
const MAX_ERROR_CHARACTERS = 1_000;

/**
 * Key of the advisory lock of a consumer; `$1` is the consumer's name. It is held by the node that
 * serves the consumer, and by the program that rebuilds the consumer's tables.
 */
export const CONSUMER_LOCK = `hashtextextended('inbox:' || $1, 0)`;

/** An earlier event of the same subject failed, and its retry is not due yet. */
const IS_BLOCKED = `
  EXISTS (SELECT FROM inbox AS failed
           WHERE failed.consumer = delivery.consumer AND failed.subject = delivery.subject
             AND failed.handled_at IS NULL AND failed.retry_at > now()
             AND failed.position < delivery.position)`;

const POSTPONE = `
  UPDATE inbox
     SET attempts = attempts + 1, last_error = $3,
         retry_at = clock_timestamp() + make_interval(secs => $4)
   WHERE consumer = $1 AND event_id = $2`;

@Injectable()
export class InboxService implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Inbox');
  private consumers: ReadonlyMap<string, Consumer> = new Map();
  private loops: readonly PollingLoop[] = [];

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
    await Promise.all(this.loops.map((loop) => loop.stop()));
  }

  /**
   * Delivers the next waiting events of a consumer, in order, in one transaction.
   * @returns how many events were waiting; 0 also while another node serves the consumer
   */
  async handleBatch(consumer: string): Promise<number> {
    return this.dataSource.transaction(async (manager) => {
      const isLocked = await this.lockConsumer(manager, consumer);
      if (!isLocked) return 0;
      const deliveries = await this.findWaiting(manager, consumer);
      const failedSubjects = new Set<string>();
      for (const delivery of deliveries) {
        if (failedSubjects.has(delivery.subject)) continue;
        try {
          await manager.transaction((savepoint) => this.deliver(savepoint, delivery));
        } catch (error) {
          failedSubjects.add(delivery.subject);
          await this.postpone(manager, delivery, error);
        }
      }
      return deliveries.length;
    });
  }

  /**
   * Runs the handler, unless the event is handled already: repeated deliveries do nothing.
   * @returns whether the handler ran
   * @throws whatever the handler throws; the caller must then roll the transaction back
   */
  async deliver(manager: EntityManager, delivery: Delivery): Promise<boolean> {
    const { consumer: name, eventId } = delivery;
    const consumer = this.consumers.get(name);
    if (!consumer) throw new Error(`No @OnEvent method uses the consumer name "${name}"`);
    const { affected } = await manager
      .createQueryBuilder()
      .update(Delivery)
      .set({ handledAt: () => 'clock_timestamp()', attempts: () => 'attempts + 1', retryAt: null })
      .where('consumer = :name AND event_id = :eventId AND handled_at IS NULL', { name, eventId })
      .execute();
    if (affected !== 1) return false;
    await consumer.handle(delivery, manager);
    return true;
  }

  private loopFor(consumer: Consumer): PollingLoop {
    let isRegistered = false;
    return new PollingLoop({
      step: async () => {
        if (!isRegistered) await this.register(consumer);
        isRegistered = true;
        const waiting = await this.handleBatch(consumer.consumer);
        return waiting === MAX_BATCH_DELIVERIES ? 0 : POLL_INTERVAL_MS;
      },
      onError: (error) => {
        const failure = `Could not deliver events to consumer ${consumer.consumer}`;
        this.logger.debug(`${failure}, retrying: ${String(error)}`);
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

  private async lockConsumer(manager: EntityManager, consumer: string): Promise<boolean> {
    const [row] = await manager.query<[{ isLocked: boolean }]>(
      `SELECT pg_try_advisory_xact_lock(${CONSUMER_LOCK}) AS "isLocked"`,
      [consumer],
    );
    return row.isLocked;
  }

  private findWaiting(manager: EntityManager, consumer: string): Promise<Delivery[]> {
    return manager
      .createQueryBuilder(Delivery, 'delivery')
      .where('delivery.consumer = :consumer AND delivery.handledAt IS NULL', { consumer })
      .andWhere('(delivery.retryAt IS NULL OR delivery.retryAt <= now())')
      .andWhere(`NOT ${IS_BLOCKED}`)
      .orderBy('delivery.position', 'ASC')
      .limit(MAX_BATCH_DELIVERIES)
      .getMany();
  }

  private async postpone(
    manager: EntityManager,
    delivery: Delivery,
    error: unknown,
  ): Promise<void> {
    const { consumer, eventId, type, subject, attempts } = delivery;
    const reason = error instanceof Error ? error.message : String(error);
    const seconds = Math.min(RETRY_SECONDS.min * 2 ** attempts, RETRY_SECONDS.max);
    const failure = `Consumer ${consumer} failed on ${type} of ${subject}`;
    this.logger.warn(`${failure}: ${reason}; next attempt in ${seconds} s`);
    const lastError = reason.slice(0, MAX_ERROR_CHARACTERS);
    await manager.query(POSTPONE, [consumer, eventId, lastError, seconds]);
  }
}
