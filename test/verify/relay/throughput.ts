/** Measures the relay: events a second with one and two nodes, and what taking a batch costs. */
import { connect } from 'amqplib';
import { Client } from 'pg';
import { EXCHANGE } from '../../../src/platform/outbox/outbox-broker.js';
import { PARTITIONS, TAKE } from '../../../src/platform/outbox/outbox-statements.js';
import { eventually } from '../../support/eventually.js';
import { median } from '../../support/percentile.js';
import { createTestDatabase } from '../../support/postgres.js';
import type { RabbitmqServer } from '../../support/rabbitmq.js';
import { awaitEmptyOutbox } from './arrivals.js';
import { ServiceNodes } from './service-node.js';

const QUEUE = 'throughput';

/** A backlog of $1 events, each of another order. */
const INSERT_BACKLOG = `
  INSERT INTO outbox (id, type, subject, data)
  SELECT gen_random_uuid(), 'order.placed', 'orders/' || gen_random_uuid(),
         '{"version": 1, "userId": "019a0000-0000-7000-8000-000000000000",
           "status": "placed", "currency": "EUR", "total": 9998}'
    FROM generate_series(1, $1)`;

export const PLAN_ROWS = { published: 1_000_000, waiting: 100_000 } as const;
const INSERT_PLAN_ROWS = `
  INSERT INTO outbox (id, type, subject, data, published_at)
  SELECT gen_random_uuid(), 'order.placed', 'orders/' || n % 300000, '{"version": 1}',
         CASE WHEN n <= ${PLAN_ROWS.published} THEN now() END
    FROM generate_series(1, ${PLAN_ROWS.published + PLAN_ROWS.waiting}) AS n`;
export const PLAN_RUNS = 20;

/**
 * Publishes a backlog to one durable queue.
 * @param folder the compiled service (scripts/compile.mjs)
 * @param nodeCount nodes that relay
 * @param events size of the backlog
 * @returns events a second, from the insert of the backlog until every event is settled
 */
export async function measureThroughput(
  folder: string,
  rabbitmq: RabbitmqServer,
  nodeCount: number,
  events: number,
): Promise<number> {
  const testDatabase = await createTestDatabase();
  const database = new Client({ connectionString: testDatabase.url });
  await database.connect();
  const connection = await connect(rabbitmq.url);
  const channel = await connection.createChannel();
  await channel.assertExchange(EXCHANGE, 'topic', { durable: true });
  await channel.assertQueue(QUEUE, { durable: true });
  await channel.bindQueue(QUEUE, EXCHANGE, '#');
  const nodes = await ServiceNodes.start({
    folder,
    databaseUrl: testDatabase.url,
    rabbitmq,
    count: nodeCount,
  });
  try {
    await Promise.all(nodes.all.map(({ url }) => awaitBroker(url)));
    await awaitEmptyOutbox(database);
    await channel.purgeQueue(QUEUE);
    await database.query(INSERT_BACKLOG, [events]);
    const startedAt = performance.now();
    await awaitEmptyOutbox(database);
    const seconds = (performance.now() - startedAt) / 1_000;
    const { messageCount } = await channel.checkQueue(QUEUE);
    if (messageCount < events) {
      throw new Error(`Only ${messageCount} of ${events} events are in the queue`);
    }
    return events / seconds;
  } finally {
    await nodes.stop();
    await channel.deleteQueue(QUEUE);
    await connection.close();
    await database.end();
    await testDatabase.drop();
  }
}

/** Resolves when the node reports that its broker is connected. */
async function awaitBroker(url: string): Promise<void> {
  await eventually(`${url} is connected to RabbitMQ`, async () => {
    const response = await fetch(`${url}/health/ready`);
    const { checks } = (await response.json()) as { checks: { broker: { status: string } } };
    return checks.broker.status === 'up';
  });
}

/** @returns milliseconds that PostgreSQL takes for one batch, over {@link PLAN_ROWS} rows */
export async function measureTake(): Promise<{ median: number; max: number }> {
  const testDatabase = await createTestDatabase();
  const database = new Client({ connectionString: testDatabase.url });
  await database.connect();
  try {
    await database.query(INSERT_PLAN_ROWS);
    await database.query('VACUUM ANALYZE outbox');
    const times: number[] = [];
    for (let run = 0; run < PLAN_RUNS; run++) {
      const { rows } = await database.query<{
        'QUERY PLAN': [{ 'Execution Time': number }];
      }>(`EXPLAIN (ANALYZE, FORMAT JSON) ${TAKE}`, [run % PARTITIONS, 0]);
      times.push(rows[0]?.['QUERY PLAN'][0]['Execution Time'] ?? NaN);
    }
    return { median: median(times), max: Math.max(...times) };
  } finally {
    await database.end();
    await testDatabase.drop();
  }
}
