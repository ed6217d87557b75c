/**
 * Publishes committed events to RabbitMQ, at least once, and in order within each subject. Any
 * number of nodes may relay: partitions.lock divides the work, relay-pass.ts guarantees the order.
 * Without RABBITMQ_URL the events stay in the outbox. See docs/reference/events.md.
 */
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  type OnModuleDestroy,
  Optional,
} from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Config } from '../../config.js';
import { PollingLoop } from '../timing/polling-loop.js';
import { type BrokerState, BrokerUnavailableError, OutboxBroker } from './outbox-broker.js';
import { OutboxMetrics } from './outbox-metrics.js';
import {
  OutboxPartitions,
  PARTITION_TIMEOUTS,
  type PartitionTimeouts,
  type RejectedEvent,
  type WaitingEvent,
} from './outbox-partitions.js';
import { RelayPass } from './relay-pass.js';
import { SummarizedWarning } from './summarized-warning.js';

const POLL_INTERVAL_MS = 200;
const RECONNECT_MS = { minMs: 250, maxMs: 10_000 } as const;
/** For unconfirmed messages, also when the grace of the shutdown has passed. */
const MIN_CONFIRM_WAIT_MS = 500;

@Injectable()
export class OutboxRelay implements OnApplicationBootstrap, OnModuleDestroy, OnApplicationShutdown {
  private readonly logger = new Logger('Outbox');
  private readonly rejectionWarning = new SummarizedWarning(this.logger);
  private readonly unroutableWarning = new SummarizedWarning(this.logger);
  private readonly broker: OutboxBroker | undefined;
  private loop: PollingLoop | undefined;
  private partitions: OutboxPartitions | undefined;
  private shutdownDeadline = 0;

  constructor(
    private readonly config: Config,
    private readonly dataSource: DataSource,
    private readonly metrics: OutboxMetrics,
    @Optional()
    @Inject(PARTITION_TIMEOUTS)
    private readonly timeouts?: Partial<PartitionTimeouts>,
  ) {
    if (!config.rabbitmqUrl) return;
    this.broker = new OutboxBroker(config.rabbitmqUrl, (type) => this.onUnroutable(type));
  }

  get brokerState(): BrokerState {
    return this.broker?.state ?? 'off';
  }

  /** Why events wait although the broker is connected; undefined when nothing is wrong. */
  get stallReason(): string | undefined {
    return this.partitions?.progress.stallReason;
  }

  onApplicationBootstrap(): void {
    if (this.broker) this.start(this.broker);
  }

  /** The grace begins here: requests that end within it still have their events published. */
  onModuleDestroy(): void {
    this.shutdownDeadline = Date.now() + this.config.shutdownGraceSeconds * 1_000;
  }

  /** Settles what was sent, once it is confirmed, within the grace. Other nodes relay the rest. */
  async onApplicationShutdown(): Promise<void> {
    const confirmWaitMs = Math.max(this.shutdownDeadline - Date.now(), MIN_CONFIRM_WAIT_MS);
    const giveUp = setTimeout(() => void this.broker?.close('the process ends'), confirmWaitMs);
    await this.loop?.stop();
    clearTimeout(giveUp);
    await Promise.all([this.partitions?.close(), this.broker?.close()]);
  }

  private start(broker: OutboxBroker): void {
    // With the embedded server, only the data source knows the URL.
    const { url = '' } = this.dataSource.options as { url?: string };
    const partitions = new OutboxPartitions(url, this.timeouts);
    const pass = new RelayPass({
      partitions,
      publish: (event) => broker.publish(event),
      onPublished: () => this.metrics.countPublished(),
      onRejected: (event, rejection) => this.onRejected(event, rejection),
      isStopping: () => this.loop?.stopping === true,
    });
    this.partitions = partitions;
    this.metrics.watchRelay(partitions.progress);
    this.loop = new PollingLoop({
      step: () => this.relay(broker, partitions, pass),
      onError: (error) => this.logger.warn(`Could not relay events, retrying: ${String(error)}`),
      retry: RECONNECT_MS,
    });
    this.loop.start();
  }

  /**
   * One step of the loop: connect where needed, then one pass.
   * @returns milliseconds until the next step
   */
  private async relay(
    broker: OutboxBroker,
    partitions: OutboxPartitions,
    pass: RelayPass,
  ): Promise<number> {
    try {
      if (broker.state !== 'connected') partitions.progress.reset();
      if (broker.state === 'disconnected') {
        await broker.open();
        this.logger.log('Connected to RabbitMQ');
      }
      await partitions.open();
      if (broker.state === 'blocked') return POLL_INTERVAL_MS;
      const hasRelayed = await pass.run();
      return hasRelayed ? 0 : POLL_INTERVAL_MS;
    } catch (error) {
      // The connection to PostgreSQL may be at fault: without it, its partitions are unlocked.
      if (!(error instanceof BrokerUnavailableError)) await partitions.close();
      throw error;
    }
  }

  private onRejected(event: WaitingEvent, { retrySeconds, error }: RejectedEvent): void {
    const { id, type, subject } = event;
    const next =
      retrySeconds === null
        ? 'see `holdfast outbox list`, then requeue or skip it'
        : `next attempt in ${Math.ceil(retrySeconds)} s`;
    const failure = `Could not publish ${type} ${id}, so ${subject} is blocked: ${error}`;
    this.rejectionWarning.add(`${failure}; ${next}`);
    this.metrics.countRejected();
  }

  private onUnroutable(type: string): void {
    this.unroutableWarning.add(`No queue is bound for ${type}: the event counts as delivered`);
    this.metrics.countUnroutable();
  }
}
