/**
 * Carries committed events to RabbitMQ, at least once and in order within each aggregate; any number of nodes may relay. The
 * order rests on one rule: an event is sent only after every earlier one of its subject was confirmed, to this relay or to
 * the one that marked it. So of whatever sequences several relays send, even one that has lost its lane without knowing,
 * each begins where nothing is missing, and first arrivals are in order. The lanes' locks only keep repeats rare.
 */
import { tracingChannel } from 'node:diagnostics_channel';
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  type OnModuleDestroy,
} from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Config } from '../config.js';
import { Broker, BrokerGoneError, type BrokerState, EventRefusedError } from './outbox.broker.js';
import { type Fate, type Group, LARGEST, OutboxLanes, type WaitingEvent } from './outbox.lanes.js';
import { OutboxMetrics } from './outbox.metrics.js';

/** Tells who subscribes (telemetry/tracing.ts) of each event that goes out, and of the request that caused it. */
const publishes = tracingChannel<object, object>('holdfast:publish');

const IDLE_MS = 200;
/** Lanes that one node works on at a time: with a batch of each, what it holds in memory. */
const AT_ONCE = 4;
const RECONNECT_MS = { least: 250, most: 10_000 } as const;
/** A refused event is tried again after this long, doubled with each refusal. */
const RETRY_MS = { least: 1_000, most: 300_000 } as const;
/** Published events are kept this long for whoever must look back, and removed a bounded number at a time. */
const RETENTION = { hours: 24, everyMs: 10_000, rows: 1_000, batches: 20 } as const;
/** What may happen to every event is told at most this often, with how often it has happened. */
const TELL_MS = 60_000;

/** Removes a bounded number of events that were published before the retention. */
export const PURGE = `
  DELETE FROM outbox WHERE position = ANY (ARRAY(
    SELECT position FROM outbox WHERE published_at < now() - make_interval(hours => ${RETENTION.hours})
     ORDER BY published_at LIMIT ${RETENTION.rows} FOR UPDATE SKIP LOCKED))`;

@Injectable()
export class OutboxRelay implements OnApplicationBootstrap, OnModuleDestroy, OnApplicationShutdown {
  private readonly logger = new Logger('Outbox');
  private readonly broker: Broker | undefined;
  private stopping = false;
  private deadline = 0;
  private running: Promise<void> = Promise.resolve();
  private wake: () => void = () => undefined;
  private purging: NodeJS.Timeout | undefined;
  private readonly told = {
    refused: { at: -Infinity, count: 0 },
    unroutable: { at: -Infinity, count: 0 },
  };

  constructor(
    private readonly config: Config,
    private readonly dataSource: DataSource,
    private readonly metrics: OutboxMetrics,
  ) {
    if (config.rabbitmqUrl)
      this.broker = new Broker(config.rabbitmqUrl, (type) => this.noteUnroutable(type));
  }

  get brokerState(): BrokerState {
    return this.broker?.state ?? 'off';
  }

  onApplicationBootstrap(): void {
    if (this.broker) this.running = this.run(this.broker);
    const purge = (): Promise<void> =>
      this.purge().catch((error: unknown) => this.logger.warn(`Purge: ${String(error)}`));
    this.purging = setInterval(() => void purge(), RETENTION.everyMs).unref();
  }

  /** The grace begins with the signal: requests that end in it still have their events sent. */
  onModuleDestroy(): void {
    this.deadline = Date.now() + this.config.shutdownGraceSeconds * 1_000;
  }

  /** What is under way is confirmed and marked as long as the grace lasts; the rest waits for another node. */
  async onApplicationShutdown(): Promise<void> {
    clearInterval(this.purging);
    this.stopping = true;
    this.wake();
    const late = setTimeout(
      () => void this.broker?.close('the process ends'),
      Math.max(this.deadline - Date.now(), 500),
    );
    await this.running;
    clearTimeout(late);
  }

  private async run(broker: Broker): Promise<void> {
    // The embedded server's URL is known to the data source alone.
    const { url = '' } = this.dataSource.options as { url?: string };
    const lanes = new OutboxLanes(url);
    let wait: number = RECONNECT_MS.least;
    while (!this.stopping) {
      try {
        if (broker.state === 'disconnected') {
          await broker.open();
          this.logger.log('RabbitMQ is connected');
        }
        await lanes.open();
        const idle = broker.state === 'blocked' || !(await this.pass(lanes, broker));
        wait = RECONNECT_MS.least;
        if (idle) await this.pause(IDLE_MS);
      } catch (error) {
        if (!(error instanceof BrokerGoneError)) await lanes.close();
        if (!this.stopping)
          this.logger.warn(`Relay: ${error instanceof Error ? error.message : String(error)}`);
        // Half of it by chance: nodes that lost the broker together do not come back together.
        await this.pause(wait * (0.5 + Math.random() / 2));
        wait = Math.min(wait * 2, RECONNECT_MS.most);
      }
    }
    await Promise.all([lanes.close(), broker.close()]);
  }

  /** One batch of each lane that has something and is nobody's. False when there was nothing to do. */
  private async pass(lanes: OutboxLanes, broker: Broker): Promise<boolean> {
    const busy = await lanes.busy();
    // Another node begins elsewhere.
    const first = Math.floor(Math.random() * busy.length);
    const queue = [...busy.slice(first), ...busy.slice(0, first)];
    let worked = false;
    const work = async (): Promise<void> => {
      for (let lane = queue.shift(); lane !== undefined && !this.stopping; lane = queue.shift()) {
        const its = lane;
        if (await lanes.lock(its, () => this.relay(lanes, broker, its))) worked = true;
      }
    };
    const done = await Promise.allSettled(Array.from({ length: AT_ONCE }, work));
    for (const outcome of done) if (outcome.status === 'rejected') throw outcome.reason;
    return worked;
  }

  private async relay(lanes: OutboxLanes, broker: Broker, lane: number): Promise<void> {
    const groups = await lanes.take(lane);
    const sent = await Promise.all(groups.map((group) => this.send(broker, group)));
    await lanes.settle(sent.flatMap(({ fates }) => fates));
    const gone = sent.find(({ error }) => error);
    if (gone?.error) throw gone.error;
  }

  /** Sends one subject's events, one after the other, up to the first that is not confirmed. */
  private async send(
    broker: Broker,
    { due, events, behind }: Group,
  ): Promise<{ fates: Fate[]; error?: Error }> {
    const fates: Fate[] = [];
    for (const [index, event] of events.entries()) {
      const rest = [...events.slice(index + 1), ...behind].map(({ position }) => ({ position }));
      try {
        if (this.stopping) throw new Error('the relay stops');
        if (event.bytes > LARGEST)
          throw new EventRefusedError(
            `its data has ${event.bytes} bytes, ${LARGEST} is the most`,
            true,
          );
        const { type: operation, traceParent } = event;
        const publish = (): Promise<void> => broker.publish(event);
        await (publishes.start.hasSubscribers
          ? publishes.tracePromise(publish, { operation, traceParent })
          : publish());
        this.metrics.published();
        fates.push({ position: event.position, published: true, tried: true });
      } catch (error) {
        if (error instanceof EventRefusedError)
          return { fates: [...fates, this.refused(event, error), ...rest] };
        // Nobody's fault: a waiting event stays as it is, a held one keeps leading those behind it.
        const stays = due ? [{ position: event.position, retryAt: new Date() }, ...rest] : [];
        return { fates: [...fates, ...stays], error: error as Error };
      }
    }
    const [next, ...others] = behind;
    if (!next) return { fates };
    const leads = { position: next.position, retryAt: due ? new Date() : null };
    return { fates: [...fates, leads, ...others.map(({ position }) => ({ position }))] };
  }

  private refused(
    { position, id, type, subject, attempts }: WaitingEvent,
    { message, forGood }: EventRefusedError,
  ): Fate {
    const ms = Math.min(RETRY_MS.least * 2 ** attempts, RETRY_MS.most) * (0.75 + Math.random() / 2);
    const next = forGood ? 'waits for an operator' : `is tried again in ${Math.ceil(ms / 1000)} s`;
    this.tell(
      'refused',
      `${type} ${id} of ${subject} was refused and ${next}; its subject waits: ${message}`,
    );
    this.metrics.refused();
    return {
      position,
      retryAt: forGood ? 'infinity' : new Date(Date.now() + ms),
      tried: true,
      error: message,
    };
  }

  /** Delivered as far as the broker goes: nobody has asked for it. */
  private noteUnroutable(type: string): void {
    this.metrics.unroutable();
    this.tell('unroutable', `no queue is bound for ${type}`);
  }

  private tell(kind: 'refused' | 'unroutable', line: string): void {
    const told = this.told[kind];
    told.count++;
    if (performance.now() - told.at < TELL_MS) return;
    this.logger.warn(
      told.count > 1 ? `${line} (${told.count} times since the last such line)` : line,
    );
    Object.assign(told, { at: performance.now(), count: 0 });
  }

  private async purge(): Promise<void> {
    for (let batch = 0; batch < RETENTION.batches && !this.stopping; batch++) {
      const [, removed] = await this.dataSource.query<[unknown, number]>(PURGE);
      if (removed < RETENTION.rows) return;
    }
  }

  private pause(ms: number): Promise<void> {
    if (this.stopping) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => (clearTimeout(timer), resolve());
    });
  }
}
