/** The long form: rounds of the campaign with RabbitMQ killed too, and what one and two relays carry a second, side by side. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'amqplib';
import { Client } from 'pg';
import { migrateDatabase } from '../../src/database/migrate.js';
import { EXCHANGE } from '../../src/outbox/outbox.broker.js';
import { TAKE } from '../../src/outbox/outbox.lanes.js';
import { createTestDatabase, startSharedPostgres } from '../support/postgres.js';
import { type RabbitServer, startRabbit } from '../support/rabbitmq.js';
import { type CampaignResult, runCampaign, startNodes } from './campaign.js';

export interface LongOptions {
  readonly folder: string;
  readonly orders: number;
  readonly rounds: number;
  readonly seed: number;
  /** Events of each measurement of throughput; 0: none. */
  readonly events: number;
}

interface Throughput {
  readonly nodes: number;
  readonly perSecond: number;
}

/** Prints the figures of docs/bench/relay.md, as Markdown. @returns whether nothing was lost and nothing out of order */
export async function runLong({
  folder,
  orders,
  rounds,
  seed,
  events,
}: LongOptions): Promise<boolean> {
  const server = await startSharedPostgres(migrateDatabase);
  process.env.TEST_POSTGRES_URL = server.url;
  const rabbit = await startRabbit();
  const results: CampaignResult[] = [];
  const lines: string[] = [];
  try {
    for (let round = 0; round < rounds; round++) {
      const { url: databaseUrl, drop } = await createTestDatabase();
      const result = await runCampaign({
        folder,
        databaseUrl,
        rabbit,
        orders,
        seed: seed + round,
        restarts: true,
      });
      results.push(result);
      console.error(JSON.stringify({ ...result, seed: seed + round }));
      await drop();
    }
    if (rounds > 0) lines.push(...campaignTable(results, seed));
    if (events > 0) {
      const measured: Throughput[] = [];
      // Interleaved, so that what else the machine does falls on both.
      for (const nodes of [1, 2, 1, 2])
        measured.push(await throughput(folder, rabbit, nodes, events));
      lines.push(...throughputTable(measured, events));
    }
    lines.push(...(await plan()));
  } finally {
    await rabbit.stop();
    await server.stop();
  }
  console.log(lines.join('\n'));
  return results.every(
    (it) => it.lost.length + it.invented.length + it.outOfOrder.length + it.astray === 0,
  );
}

const sum = (values: readonly number[]): number =>
  values.reduce((total, value) => total + value, 0);

function campaignTable(results: readonly CampaignResult[], seed: number): string[] {
  const faults = new Map<string, number>();
  for (const result of results)
    for (const [what, times] of Object.entries(result.faults))
      faults.set(what, (faults.get(what) ?? 0) + times);
  const rows: [string, string | number][] = [
    ['orders placed, over two nodes', sum(results.map(({ orders }) => orders))],
    ['events written', sum(results.map(({ written }) => written))],
    ['messages in the queue', sum(results.map(({ arrivals }) => arrivals))],
    ['of them repeats (same id)', sum(results.map(({ repeats }) => repeats))],
    ['**lost**', sum(results.map(({ lost }) => lost.length))],
    [
      '**out of order** within their aggregate',
      sum(results.map(({ outOfOrder }) => outOfOrder.length)),
    ],
    ['not in `order_events`, or only there', sum(results.map(({ astray }) => astray))],
    ...faults,
    [
      'seconds of driving, then until the outbox was empty',
      results.map((it) => `${it.driveSeconds} + ${it.drainSeconds}`).join(', '),
    ],
  ];
  return [
    `Seeds from ${seed}, ${results.length} rounds.`,
    '',
    '| | |',
    '| --- | --: |',
    ...rows.map(([what, n]) => `| ${what} | ${n} |`),
    '',
  ];
}

/** A backlog of single events of many orders, carried into one durable queue. */
async function throughput(
  folder: string,
  rabbit: RabbitServer,
  count: number,
  events: number,
): Promise<Throughput> {
  const { url, drop } = await createTestDatabase();
  const psql = new Client({ connectionString: url });
  await psql.connect();
  const broker = await connect(rabbit.url);
  const channel = await broker.createChannel();
  await channel.assertExchange(EXCHANGE, 'topic', { durable: true });
  await channel.assertQueue('throughput', { durable: true });
  await channel.bindQueue('throughput', EXCHANGE, '#');
  const nodes = await startNodes({ folder, databaseUrl: url, rabbit, count });
  try {
    await sleep(1_000);
    await psql.query(
      `INSERT INTO outbox (id, type, subject, data)
       SELECT gen_random_uuid(), 'order.placed', 'orders/' || gen_random_uuid(),
              '{"version": 1, "userId": "019a0000-0000-7000-8000-000000000000", "status": "placed", "currency": "EUR", "total": 9998}'
         FROM generate_series(1, $1)`,
      [events],
    );
    const began = performance.now();
    while (
      (await psql.query('SELECT FROM outbox WHERE published_at IS NULL LIMIT 1')).rowCount !== 0
    )
      await sleep(20);
    const perSecond = Math.round(events / ((performance.now() - began) / 1000));
    const { messageCount } = await channel.checkQueue('throughput');
    if (messageCount < events) throw new Error(`${messageCount} of ${events} in the queue`);
    console.error(`${count} nodes: ${perSecond} events/s`);
    return { nodes: count, perSecond };
  } finally {
    await nodes.stop();
    await channel.deleteQueue('throughput');
    await broker.close();
    await psql.end();
    await drop();
  }
}

function throughputTable(measured: readonly Throughput[], events: number): string[] {
  const of = (nodes: number): string =>
    measured
      .filter((it) => it.nodes === nodes)
      .map(({ perSecond }) => perSecond)
      .join(', ');
  return [
    `| events a second, a backlog of ${events} | |`,
    '| --- | --: |',
    `| one node | ${of(1)} |`,
    `| two nodes | ${of(2)} |`,
    '',
  ];
}

/** What taking a batch costs over a million published events and a hundred thousand waiting. */
async function plan(): Promise<string[]> {
  const { url, drop } = await createTestDatabase();
  const psql = new Client({ connectionString: url });
  await psql.connect();
  try {
    await psql.query(
      `INSERT INTO outbox (id, type, subject, data, published_at)
       SELECT gen_random_uuid(), 'order.placed', 'orders/' || n % 300000, '{"version": 1}', CASE WHEN n <= 1000000 THEN now() END
         FROM generate_series(1, 1100000) AS n`,
    );
    await psql.query('VACUUM ANALYZE outbox');
    const times: number[] = [];
    for (let run = 0; run < 20; run++) {
      const { rows } = await psql.query(`EXPLAIN (ANALYZE, FORMAT JSON) ${TAKE}`, [run % 16]);
      times.push(
        (rows[0] as { 'QUERY PLAN': [{ 'Execution Time': number }] })['QUERY PLAN'][0][
          'Execution Time'
        ],
      );
    }
    times.sort((a, b) => a - b);
    return [
      `Taking a batch of 200 with 1 000 000 published and 100 000 waiting: ${times[10]?.toFixed(1)} ms (median of 20, worst ${times[19]?.toFixed(1)} ms).`,
    ];
  } finally {
    await psql.end();
    await drop();
  }
}
