/**
 * Orders placed over HTTP through two nodes while their links to RabbitMQ and PostgreSQL are
 * disturbed, and a node and RabbitMQ are killed. Afterwards every event must be in the queue, in
 * order within its order.
 */
import { Client } from 'pg';
import type { PartitionTimeouts } from '../../../src/platform/outbox/outbox-partitions.js';
import type { RabbitmqServer } from '../../support/rabbitmq.js';
import { Random } from '../../support/random.js';
import { type Arrivals, bindArrivalsQueue, judgeArrivals } from './arrivals.js';
import { Clients } from './clients.js';
import { FaultInjector, type Progress } from './faults.js';
import { ServiceNodes } from './service-node.js';

export interface CampaignOptions {
  /** The compiled service (scripts/compile.mjs). */
  readonly folder: string;
  /** A migrated database without orders. */
  readonly databaseUrl: string;
  readonly rabbitmq: RabbitmqServer;
  readonly orders: number;
  /** Decides which faults happen to which node. */
  readonly seed: number;
  /** Whether RabbitMQ is killed too; its restart takes some seconds. */
  readonly restartsRabbitmq: boolean;
  /** The relay's own when absent. */
  readonly relayTimeouts?: Partial<PartitionTimeouts>;
}

export interface CampaignResult extends Arrivals {
  readonly orders: number;
  /** How often each fault happened. */
  readonly faults: Readonly<Record<string, number>>;
  /** From the loss of a relay's PostgreSQL session until its partitions were free. */
  readonly takeoverSeconds: readonly number[];
  /** From the first request until every order was placed. */
  readonly driveSeconds: number;
}

/**
 * @throws Error when the nodes do not answer the clients, or events still wait two minutes after
 *   the last order
 */
export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const { folder, databaseUrl, rabbitmq, orders, restartsRabbitmq, relayTimeouts } = options;
  const random = new Random(options.seed);
  await bindArrivalsQueue(rabbitmq);
  const nodes = await ServiceNodes.start({
    folder,
    databaseUrl,
    rabbitmq,
    count: 2,
    random,
    relayTimeouts,
  });
  const database = new Client({ connectionString: databaseUrl });
  await database.connect();
  const progress: Progress = { totalOrders: orders, placedOrders: 0 };
  const clients = new Clients(nodes.all, progress, random.fork('clients'));
  const faults = new FaultInjector(nodes.all, database, rabbitmq, progress, random);
  try {
    const startedAt = performance.now();
    // When the clients fail, the faults must not wait for further orders.
    const placing = clients.placeOrders().finally(() => {
      progress.placedOrders = orders;
    });
    const results = await Promise.allSettled([
      placing,
      faults.disturbLinks(),
      faults.killNode(),
      restartsRabbitmq ? faults.restartRabbitmq() : undefined,
    ]);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
    const driveSeconds = (performance.now() - startedAt) / 1_000;
    faults.healLinks();
    const arrivals = await judgeArrivals(database, rabbitmq);
    const { counts, takeoverSeconds } = faults;
    return { ...arrivals, orders, faults: counts, takeoverSeconds, driveSeconds };
  } finally {
    await nodes.stop();
    await database.end();
  }
}
