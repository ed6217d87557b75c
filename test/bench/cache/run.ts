/**
 * What the fenced cache costs, and what readers see when something goes wrong, on real PostgreSQL
 * and Redis: each read and write beside the raw commands, a stampede, the lag of writes past the
 * service, and requests while Redis hangs.
 */
import 'reflect-metadata';
import pg from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { parseArguments } from '../../../src/cli/arguments.js';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { ORDER, placeOrder, registerUser } from '../../support/factories.js';
import { percentile } from '../../support/percentile.js';
import { createTestDatabase, startSharedPostgres } from '../../support/postgres.js';
import { type RedisServer, startRedis } from '../../support/redis.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { describeMachine } from '../machine.js';
import { markdownTable, writePage } from '../page.js';
import { CacheNode } from './cache-node.js';
import { DEGRADED_WRITES, type DegradedResult, measureDegradedWrites } from './degraded-writes.js';
import {
  HANG_MS,
  measureHang,
  measureLagByHand,
  measureStampede,
  STAMPEDE,
  UPDATES_BY_HAND,
} from './incidents.js';
import { measureOperations, measureRawCommands, ONE_WAY_MS } from './operations.js';

export const USAGE = 'npm run bench -- cache';

const ROW_COUNT = 100;
/** Rows that are read and written while Redis hangs. */
const HANG_ROW_COUNT = 20;

const INSERT_ORDERS = `
  INSERT INTO orders (id, user_id, status, currency, items, total)
  SELECT id, $2, 'placed', 'EUR', $3, 9998
    FROM unnest($1::uuid[]) AS id`;

export async function run(argv: string[]): Promise<number> {
  parseArguments(argv, { usage: USAGE });
  const closing: (() => unknown)[] = [];
  try {
    const postgres = await startSharedPostgres(migrateDatabase);
    closing.unshift(() => postgres.stop());
    process.env.TEST_POSTGRES_URL = postgres.url;
    const redis = await startRedis();
    closing.unshift(() => redis.stop());
    const where = await describeMachine(postgres.url, redis.url);
    console.log(where);
    const database = await createTestDatabase();
    const results = await measureAll(redis, database.url, closing);
    await writePage('cache', pageOf(results, where));
  } finally {
    for (const close of closing) await close();
  }
  return 0;
}

type Results = Awaited<ReturnType<typeof measureAll>>;

/** @param closing receives what is to be closed, the last first */
async function measureAll(redis: RedisServer, databaseUrl: string, closing: (() => unknown)[]) {
  const redisProxy = await TcpProxy.start(redis.port);
  const postgresProxy = await TcpProxy.start(Number(new URL(databaseUrl).port));
  closing.unshift(
    () => redisProxy.close(),
    () => postgresProxy.close(),
  );
  const startNode = async (redisUrl: string, url: string): Promise<CacheNode> => {
    const node = await CacheNode.start(redisUrl, url);
    closing.unshift(() => node.app.close());
    return node;
  };
  const first = await startNode(redis.url, databaseUrl);
  const second = await startNode(redis.url, databaseUrl);
  const delayedUrl = new URL(databaseUrl);
  delayedUrl.port = String(postgresProxy.port);
  const delayedNode = await startNode(`redis://127.0.0.1:${redisProxy.port}`, delayedUrl.href);
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  closing.unshift(() => client.end());

  const { token, id: userId } = await registerUser(first.app);
  const { id } = (await placeOrder(first.app, token)) as { id: string };
  const ids = Array.from({ length: ROW_COUNT }, () => uuidv7());
  await client.query(INSERT_ORDERS, [ids, userId, JSON.stringify(ORDER.items)]);

  const nodes = [first, second];
  console.log('Operations ...');
  const text = JSON.stringify(await first.readRow(id));
  const rawCosts = await measureRawCommands(redis.url, text, ROW_COUNT);
  const delayed = { node: delayedNode, redisProxy, postgresProxy };
  const costs = await measureOperations(nodes, delayed, id, ids);
  console.log('A stampede ...');
  const stampede = await measureStampede(nodes, id);
  console.log('Writes past the service ...');
  const lags = await measureLagByHand(nodes, client, id);
  console.log('Redis hangs ...');
  const hang = await measureHang(first, redis, token, ids.slice(0, HANG_ROW_COUNT));
  console.log('Writes that cannot be fenced ...');
  const degraded = await measureDegraded(redis);
  return { costs: [...rawCosts, ...costs], rowLength: text.length, stampede, lags, hang, degraded };
}

/** On a database of its own, where no other node reads the cache. */
async function measureDegraded(redis: RedisServer): Promise<DegradedResult> {
  const { url: databaseUrl } = await createTestDatabase();
  const links = [await TcpProxy.start(redis.port), await TcpProxy.start(redis.port)] as const;
  const start = (link: TcpProxy): Promise<CacheNode> =>
    CacheNode.start(`redis://127.0.0.1:${link.port}`, databaseUrl);
  const nodes = [await start(links[0]), await start(links[1])] as const;
  const { token } = await registerUser(nodes[0].app);
  const { id } = (await placeOrder(nodes[0].app, token)) as { id: string };
  try {
    return await measureDegradedWrites({ nodes, links, databaseUrl, id });
  } finally {
    links.forEach((link) => link.close());
  }
}

const showMs = (value: number): string => `${value.toFixed(1)} ms`;

function pageOf(results: Results, where: string): string {
  const { costs, rowLength, stampede, lags, hang, degraded } = results;
  const costHead = [
    'operation',
    'median, µs',
    'trips to Redis',
    'trips to PostgreSQL',
    'trips, both far',
  ];
  const costRows = costs.map(({ name, medianMs, roundTrips }) => [
    name,
    String(Math.round(medianMs * 1_000)),
    ...roundTrips.map((trips) => trips.toFixed(1)),
  ]);
  const loadCount = stampede.loads.reduce((sum, loads) => sum + loads, 0);
  const averageLoads = (loadCount / stampede.loads.length).toFixed(2);
  return `# What the fenced cache costs

\`npm run bench -- cache\`, ${new Date().toISOString().slice(0, 10)}

${where}.

${markdownTable(costHead, costRows)}

- The microseconds are those of one caller, one call after the other, with the servers on the same
  machine. The row is an order of ${rowLength} characters.
- **Trips** are the round trips that an operation waits for one after the other. They are measured,
  not counted: the connections to Redis, to PostgreSQL, or to both take ${2 * ONE_WAY_MS} ms a round
  trip, and the additional time is divided by ${2 * ONE_WAY_MS}.
- The fence runs beside the SQL and the publication follows the COMMIT. Where PostgreSQL is near and
  Redis is far, the fence is one more trip before the COMMIT.

${markdownTable(
  [
    'stampede',
    `${STAMPEDE.readers} readers of one uncached row on 2 nodes, ${STAMPEDE.rounds} times`,
  ],
  [
    [
      'rows read from PostgreSQL',
      `${averageLoads} on average, at most ${Math.max(...stampede.loads)}`,
    ],
    ['slowest reader', showMs(stampede.slowestMs)],
  ],
)}

${markdownTable(
  [
    'writes past the service',
    `${UPDATES_BY_HAND} UPDATEs, from their acknowledgement until a node reads the new row`,
  ],
  [
    ['50th percentile', showMs(percentile(lags, 0.5))],
    ['99th percentile', showMs(percentile(lags, 0.99))],
    ['longest', showMs(Math.max(...lags))],
  ],
)}

${markdownTable(
  [`Redis hangs (SIGSTOP) for ${HANG_MS / 1_000} s`, '16 readers and 2 writers over HTTP'],
  [
    ['requests while it hangs', String(hang.requests)],
    ['requests that failed', String(hang.failed)],
    ['slowest in the two seconds before, with Redis', showMs(hang.slowestBeforeMs)],
    ['slowest that began in the first second', showMs(hang.slowestFirstSecondMs)],
    ['slowest that began later', showMs(hang.slowestLaterMs)],
    ['from the end of the hang to the next hit', showMs(hang.recoveryMs)],
  ],
)}

${markdownTable(
  [`a write, ${DEGRADED_WRITES} times, one after the other`, '50th percentile', '99th percentile'],
  degraded.costs.map(({ name, p50Ms, p99Ms }) => [name, showMs(p50Ms), showMs(p99Ms)]),
)}

- Each write reads its row from PostgreSQL and changes it. A write that cannot be fenced waits until
  no node answers from before it.
- After an outage of Redis, both nodes used it again ${showMs(degraded.backAfterOutageMs)} after its
  end. A node with another cache used its own ${showMs(degraded.takeOverMs)} after the others began
  to stop.
`;
}
