/**
 * Hands committed events to the consumers of this service. The outbox's trigger puts a row here for each consumer, in the
 * transaction of the event; {@link Inbox} hands out what waits, in one transaction with what the handler does. A consumer is
 * served by one node at a time, so its handler needs no locks of its own; a handler that fails holds back its subject alone.
 */
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { DiscoveryService, MetadataScanner } from '@nestjs/core';
import { Gauge, Registry } from 'prom-client';
import { DataSource, type EntityManager } from 'typeorm';
import { Delivery, EventConsumer } from './inbox.entity.js';
import { type EventHandler, type Subscription, subscriptionOf } from './on-event.js';

const BATCH = 100;
/** How long an event waits at most until a free node looks, in milliseconds. */
const IDLE_MS = 500;
/** A handler that failed gets its event again after the least, doubled up to the most. */
const RETRY_SECONDS = { least: 1, most: 300 } as const;
const RECONNECT_MS = { least: 500, most: 10_000 } as const;
/** Handled events are known this long, for whoever delivers one again, and removed a bounded number at a time. */
const KEPT = { hours: 24, rows: 1_000, everyMs: 60_000 } as const;

/** The advisory lock that keeps a consumer to one node, and whoever rebuilds what it keeps. `$1` is its name. */
export const CONSUMER_LOCK = `hashtextextended('inbox:' || $1, 0)`;

interface Consumer extends Subscription {
  readonly handle: EventHandler;
}

@Injectable()
export class Inbox implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Inbox');
  private consumers: ReadonlyMap<string, Consumer> = new Map();
  private stopping = false;
  private running: Promise<unknown> = Promise.resolve();
  private readonly wakes = new Set<() => void>();
  private purgedAt = 0;

  constructor(
    private readonly dataSource: DataSource,
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
    registry: Registry,
  ) {
    new Gauge({
      name: 'holdfast_inbox_oldest_seconds',
      help: 'Age of the oldest event that a consumer of this service has not handled; 0 when none waits',
      labelNames: ['consumer'],
      registers: [registry],
      collect: async function (this: Gauge<'consumer'>) {
        const rows = await dataSource
          .query<{ name: string; age: number | null }[]>(
            `SELECT name, (SELECT extract(epoch FROM clock_timestamp() - occurred_at)::float8 FROM inbox
                            WHERE consumer = name AND handled_at IS NULL ORDER BY position LIMIT 1) AS age FROM event_consumers`,
          )
          .catch(() => []);
        for (const { name, age } of rows) this.set({ consumer: name }, age ?? 0);
      },
    });
  }

  onApplicationBootstrap(): void {
    this.consumers = this.discover();
    this.running = Promise.all([...this.consumers.values()].map((consumer) => this.run(consumer)));
  }

  async onApplicationShutdown(): Promise<void> {
    this.stopping = true;
    for (const wake of this.wakes) wake();
    await this.running;
  }

  /** Every method with `@OnEvent`, by its consumer's name. @throws Error for a name that is taken: a mistake of the program */
  private discover(): Map<string, Consumer> {
    const found = new Map<string, Consumer>();
    for (const { instance } of this.discovery.getProviders() as {
      instance?: Record<string, unknown>;
    }[]) {
      const prototype: unknown = instance && Object.getPrototypeOf(instance);
      if (!instance || !prototype) continue;
      for (const name of this.scanner.getAllMethodNames(prototype as object)) {
        const method = (prototype as Record<string, unknown>)[name];
        const subscription = typeof method === 'function' ? subscriptionOf(method) : undefined;
        if (!subscription) continue;
        if (found.has(subscription.consumer))
          throw new Error(`two handlers are called ${subscription.consumer}`);
        found.set(subscription.consumer, {
          ...subscription,
          handle: (method as EventHandler).bind(instance),
        });
      }
    }
    return found;
  }

  private async run(consumer: Consumer): Promise<void> {
    let wait: number = RECONNECT_MS.least;
    let registered = false;
    while (!this.stopping) {
      try {
        if (!registered) await this.register(consumer);
        registered = true;
        if ((await this.handleBatch(consumer.consumer)) === BATCH) continue;
        await this.purge();
        wait = RECONNECT_MS.least;
        await this.pause(IDLE_MS);
      } catch (error) {
        if (this.stopping) return;
        this.logger.debug(
          `${consumer.consumer}: ${error instanceof Error ? error.message : String(error)}`,
        );
        await this.pause(wait);
        wait = Math.min(wait * 2, RECONNECT_MS.most);
      }
    }
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

  /** Hands out what waits, in its order. @returns how many it has looked at; 0 while another node serves the consumer */
  async handleBatch(name: string): Promise<number> {
    return this.dataSource.transaction(async (manager) => {
      const [{ mine }] = await manager.query<[{ mine: boolean }]>(
        `SELECT pg_try_advisory_xact_lock(${CONSUMER_LOCK}) AS mine`,
        [name],
      );
      if (!mine) return 0;
      const waiting = await manager
        .createQueryBuilder(Delivery, 'event')
        .where('event.consumer = :name AND event.handledAt IS NULL', { name })
        .andWhere('(event.retryAt IS NULL OR event.retryAt <= now())')
        .andWhere(
          `NOT EXISTS (SELECT FROM inbox AS failed WHERE failed.consumer = event.consumer AND failed.subject = event.subject
             AND failed.handled_at IS NULL AND failed.retry_at > now() AND failed.position < event.position)`,
        )
        .orderBy('event.position', 'ASC')
        .limit(BATCH)
        .getMany();
      const held = new Set<string>();
      for (const event of waiting) {
        if (held.has(event.subject)) continue;
        try {
          await manager.transaction((nested) => this.deliver(nested, event));
        } catch (error) {
          held.add(event.subject);
          await this.postpone(manager, event, error);
        }
      }
      return waiting.length;
    });
  }

  /**
   * The event's handler, once: a delivery of what is handled already does nothing, however often it comes.
   * @returns whether the handler ran @throws whatever it throws, and then nothing of it may be committed
   */
  async deliver(manager: EntityManager, event: Delivery): Promise<boolean> {
    const handler = this.consumers.get(event.consumer);
    if (!handler) throw new Error(`no handler is called ${event.consumer}`);
    const { affected } = await manager
      .createQueryBuilder()
      .update(Delivery)
      .set({ handledAt: () => 'clock_timestamp()', attempts: () => 'attempts + 1', retryAt: null })
      .where('consumer = :consumer AND event_id = :eventId AND handled_at IS NULL', {
        consumer: event.consumer,
        eventId: event.eventId,
      })
      .execute();
    if (affected !== 1) return false;
    await handler.handle(event, manager);
    return true;
  }

  private async postpone(manager: EntityManager, event: Delivery, error: unknown): Promise<void> {
    const reason = error instanceof Error ? error.message : String(error);
    const seconds = Math.min(
      RETRY_SECONDS.least * 2 ** Math.min(event.attempts, 20),
      RETRY_SECONDS.most,
    );
    this.logger.warn(
      `${event.consumer} failed with ${event.type} of ${event.subject}, again in ${seconds} s: ${reason}`,
    );
    await manager.query(
      `UPDATE inbox SET attempts = attempts + 1, last_error = $3, retry_at = clock_timestamp() + make_interval(secs => $4)
        WHERE consumer = $1 AND event_id = $2`,
      [event.consumer, event.eventId, reason.slice(0, 1_000), seconds],
    );
  }

  /** Forgets what was handled long ago. */
  async purge(): Promise<void> {
    if (Date.now() - this.purgedAt < KEPT.everyMs) return;
    this.purgedAt = Date.now();
    await this.dataSource.query(
      `DELETE FROM inbox WHERE (consumer, event_id) IN (
         SELECT consumer, event_id FROM inbox WHERE handled_at < now() - make_interval(hours => $1)
          ORDER BY handled_at LIMIT $2 FOR UPDATE SKIP LOCKED)`,
      [KEPT.hours, KEPT.rows],
    );
  }

  private pause(ms: number): Promise<void> {
    if (this.stopping) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.wakes.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.wakes.add(wake);
    });
  }
}
