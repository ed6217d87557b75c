/**
 * Carries committed events to RabbitMQ: persistent, `mandatory`, with publisher confirms, as CloudEvents 1.0 JSON. Any number
 * of nodes may relay. A row is taken only while no earlier event of its subject waits, so that events of one aggregate never
 * overtake each other; it is marked only when the broker has confirmed it, so that none is lost (a repeat carries the same id).
 */
import { Injectable, Logger, type OnApplicationBootstrap, type OnApplicationShutdown } from '@nestjs/common';
import { type ChannelModel, connect, type ConfirmChannel, type Message } from 'amqplib';
import { DataSource } from 'typeorm';
import { Config } from '../config.js';

export const EXCHANGE = 'holdfast.events';
const BATCH = 100;
const IDLE_MS = 250;
const RECONNECT_MS = { least: 250, most: 10_000 } as const;
const CONFIRM_MS = 5_000;
/** Published events are kept this long for whoever must look back, and removed a bounded number at a time. */
const RETENTION = { hours: 24, rows: 1_000 } as const;

interface WaitingEvent {
  position: string;
  id: string;
  type: string;
  subject: string;
  data: Record<string, unknown>;
  trace_parent: string | null;
  occurred_at: Date;
}

export type BrokerState = 'off' | 'connected' | 'disconnected';

@Injectable()
export class OutboxRelay implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Outbox');
  private connection: ChannelModel | undefined;
  private channel: ConfirmChannel | undefined;
  private stopping = false;
  private running: Promise<void> = Promise.resolve();
  private wake: () => void = () => undefined;

  constructor(
    private readonly config: Config,
    private readonly dataSource: DataSource,
  ) {}

  get broker(): BrokerState {
    if (!this.config.rabbitmqUrl) return 'off';
    return this.channel ? 'connected' : 'disconnected';
  }

  onApplicationBootstrap(): void {
    if (this.config.rabbitmqUrl) this.running = this.run(this.config.rabbitmqUrl);
  }

  async onApplicationShutdown(): Promise<void> {
    this.stopping = true;
    this.wake();
    await this.running;
  }

  private async run(url: string): Promise<void> {
    let wait: number = RECONNECT_MS.least;
    while (!this.stopping) {
      try {
        if (!this.channel) {
          await this.open(url);
          this.logger.log('RabbitMQ is connected');
        }
        wait = RECONNECT_MS.least;
        const moved = await this.relayBatch();
        if (moved < BATCH) {
          await this.purge();
          await this.pause(IDLE_MS);
        }
      } catch (error) {
        if (!this.stopping) this.logger.warn(`Relay: ${error instanceof Error ? error.message : String(error)}`);
        await this.closeConnection();
        await this.pause(wait);
        wait = Math.min(wait * 2, RECONNECT_MS.most);
      }
    }
    await this.closeConnection();
  }

  private async open(url: string): Promise<void> {
    const address = new URL(url);
    // A broker that hangs is noticed after two missed heartbeats, not after TCP's minutes.
    if (!address.searchParams.has('heartbeat')) address.searchParams.set('heartbeat', '5');
    const connection = await connect(address.href, { timeout: 2_000 });
    connection.on('error', (error: Error) => this.logger.warn(`RabbitMQ: ${error.message}`));
    connection.on('close', () => {
      if (this.connection === connection) this.connection = this.channel = undefined;
    });
    const channel = await connection.createConfirmChannel();
    channel.on('error', (error: Error) => this.logger.warn(`RabbitMQ channel: ${error.message}`));
    channel.on('close', () => {
      if (this.channel === channel) this.channel = undefined;
    });
    await channel.assertExchange(EXCHANGE, 'topic', { durable: true });
    this.connection = connection;
    this.channel = channel;
  }

  /** One batch in one transaction: its row locks keep other nodes' relays off these events until they are marked. */
  private async relayBatch(): Promise<number> {
    const channel = this.channel;
    if (!channel) throw new Error('the channel has closed');
    return this.dataSource.transaction(async (manager) => {
      const events: WaitingEvent[] = await manager.query(
        `SELECT position, id, type, subject, data, trace_parent, occurred_at
           FROM outbox AS event
          WHERE published_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM outbox AS earlier
                             WHERE earlier.subject = event.subject AND earlier.published_at IS NULL AND earlier.position < event.position)
          ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED`,
        [BATCH],
      );
      if (events.length === 0) return 0;
      await this.publish(channel, events);
      const positions = events.map(({ position }) => position);
      await manager.query(
        `UPDATE outbox SET published_at = date_trunc('milliseconds', clock_timestamp()), attempts = attempts + 1 WHERE position = ANY($1)`,
        [positions],
      );
      return events.length;
    });
  }

  /** Resolves when the broker has confirmed all of them. An event that no queue is bound for is returned and counts as delivered. */
  private async publish(channel: ConfirmChannel, events: readonly WaitingEvent[]): Promise<void> {
    const unroutable = new Set<string>();
    const onReturn = ({ properties }: Message): void => void unroutable.add(String(properties.messageId));
    channel.on('return', onReturn);
    try {
      for (const event of events) {
        const body = {
          specversion: '1.0',
          id: event.id,
          source: '/holdfast',
          type: event.type,
          subject: event.subject,
          time: event.occurred_at.toISOString(),
          datacontenttype: 'application/json',
          ...(event.trace_parent ? { traceparent: event.trace_parent } : {}),
          data: event.data,
        };
        channel.publish(EXCHANGE, event.type, Buffer.from(JSON.stringify(body)), {
          persistent: true,
          mandatory: true,
          messageId: event.id,
          type: event.type,
          contentType: 'application/cloudevents+json',
        });
      }
      await withDeadline(channel.waitForConfirms(), CONFIRM_MS, 'the broker did not confirm in time');
    } finally {
      channel.off('return', onReturn);
    }
    if (unroutable.size > 0) this.logger.debug(`${unroutable.size} events had no queue bound for them`);
  }

  private async purge(): Promise<void> {
    await this.dataSource.query(
      `DELETE FROM outbox WHERE position = ANY (ARRAY(
         SELECT position FROM outbox WHERE published_at < now() - make_interval(hours => $1) ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED))`,
      [RETENTION.hours, RETENTION.rows],
    );
  }

  private async closeConnection(): Promise<void> {
    const { connection } = this;
    this.connection = this.channel = undefined;
    await withDeadline(Promise.resolve(connection?.close()), 1_000, 'close').catch(() => undefined);
  }

  private pause(ms: number): Promise<void> {
    if (this.stopping) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => (clearTimeout(timer), resolve());
    });
  }
}

function withDeadline<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(what)), ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
