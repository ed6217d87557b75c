/**
 * What placing an order costs beside what PostgreSQL alone takes. The ways alternate in one process
 * over one database with fsync; the bare statements use the connection pool of the service.
 */
import 'reflect-metadata';
import { randomUUID } from 'node:crypto';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { DataSource } from 'typeorm';
import { createApp } from '../../../src/app.js';
import { loadConfig } from '../../../src/config.js';
import { requestBody } from '../../support/http-client.js';
import { percentile } from '../../support/percentile.js';
import { startTestPostgres } from '../../support/postgres.js';
import { callOf, parseNumbers, usageOf } from '../../support/program-table.js';
import { startRedis } from '../../support/redis.js';
import { describeMachine } from '../machine.js';
import { markdownTable, writePage } from '../page.js';
import { alternate, timeOf } from '../rounds.js';

const DEFAULTS = { rounds: 10, orders: 100, concurrency: 8 } as const;
type Options = Record<keyof typeof DEFAULTS, number>;

const CALL = 'npm run bench -- orders';
export const USAGE = usageOf(CALL, DEFAULTS);

const DURABLE_FLAGS = ['fsync=on', 'synchronous_commit=on', 'full_page_writes=on'];
const USER = {
  username: 'bench',
  email: 'bench@example.com',
  password: 'nine tall ships at anchor',
} as const;
const ITEMS = [1, 2, 3].map((number) => ({
  sku: `SKU-${number}`,
  name: `Thing ${number}`,
  quantity: number,
  unitPrice: 1_000 * number,
}));
const TOTAL = 14_000;

const INSERT_ORDER = `
  INSERT INTO orders (id, user_id, status, currency, items, total)
  VALUES ($1, $2, 'placed', 'EUR', $3, ${TOTAL})`;
const INSERT_EVENT = `
  INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
  VALUES ($1, 1, 'order.placed', 2, $3, $2, now())`;
const INSERT_OUTBOX = `
  INSERT INTO outbox (id, type, subject, data)
  VALUES ($1, 'order.placed', $2, $3)`;
const INSERT_KEY = `
  INSERT INTO idempotency_keys (user_id, key, fingerprint, status, headers, body, cache_keys)
  VALUES ($1, $2, $3, 201, $4, $5, '{}')`;

export async function run(argv: string[]): Promise<number> {
  const options = parseNumbers(argv, USAGE, DEFAULTS);
  const postgres = await startTestPostgres(DURABLE_FLAGS);
  const redis = await startRedis();
  const apps: NestFastifyApplication[] = [];
  const start = async (env: Record<string, string>): Promise<NestFastifyApplication> => {
    const settings = { DATABASE_URL: postgres.url, PORT: '0', RATE_LIMIT_PER_MINUTE: '0' };
    const app = await createApp(loadConfig({ ...settings, LOG_LEVEL: 'silent', ...env }));
    apps.push(app);
    await app.listen(0, '127.0.0.1');
    return app;
  };
  try {
    const where = await describeMachine(postgres.url, redis.url);
    const inMemory = await start({});
    const withRedis = await start({ REDIS_URL: redis.url });
    const ways = await waysToPlace(inMemory, withRedis);
    const measurements = Object.entries(ways).map(([name, place]) => [
      name,
      () => placeMany(place, options),
    ]);
    const rounds = await alternate<number[]>(options.rounds, Object.fromEntries(measurements));
    await writePage('orders-latency', pageOf(rounds, options, where));
  } finally {
    await Promise.all(apps.map((app) => app.close()));
    await redis.stop();
    await postgres.stop();
  }
  return 0;
}

type Place = () => Promise<unknown>;

async function waysToPlace(
  inMemory: NestFastifyApplication,
  withRedis: NestFastifyApplication,
): Promise<Record<string, Place>> {
  const [memoryUrl, redisUrl] = [await inMemory.getUrl(), await withRedis.getUrl()];
  const { username, password } = USER;
  const user = (await requestBody(`${memoryUrl}/v1/users`, 'POST', { body: USER })) as {
    id: string;
  };
  const login = { body: { username, password } };
  const { token } = (await requestBody(`${memoryUrl}/v1/sessions`, 'POST', login)) as {
    token: string;
  };
  const pool = inMemory.get(DataSource);
  return {
    'bare INSERT of the order’s row': () =>
      pool.query(INSERT_ORDER, [randomUUID(), user.id, JSON.stringify(ITEMS)]),
    'the same four rows in one bare transaction': () => insertFourRows(pool, user.id),
    'POST /v1/orders, cache in memory': () => placeOverHttp(memoryUrl, token),
    'POST /v1/orders, cache in Redis': () => placeOverHttp(redisUrl, token),
  };
}

/** The rows that the service writes for an order: order, event, outbox, idempotency key. */
function insertFourRows(pool: DataSource, userId: string): Promise<void> {
  const orderId = randomUUID();
  const order = { userId, currency: 'EUR', total: TOTAL };
  const event = JSON.stringify({ ...order, items: ITEMS, note: null });
  const message = JSON.stringify({ ...order, version: 1, status: 'placed' });
  const items = JSON.stringify(ITEMS);
  return pool.transaction(async (manager) => {
    await manager.query(INSERT_ORDER, [orderId, userId, items]);
    await manager.query(INSERT_EVENT, [orderId, userId, event]);
    await manager.query(INSERT_OUTBOX, [randomUUID(), `orders/${orderId}`, message]);
    await manager.query(INSERT_KEY, [userId, randomUUID(), orderId, '{}', items + message]);
  });
}

function placeOverHttp(url: string, token: string): Promise<unknown> {
  return requestBody(`${url}/v1/orders`, 'POST', {
    token,
    headers: { 'Idempotency-Key': randomUUID() },
    body: { currency: 'EUR', items: ITEMS },
  });
}

/** @returns the milliseconds of each order */
async function placeMany(place: Place, { orders, concurrency }: Options): Promise<number[]> {
  const took: number[] = [];
  let remaining = orders;
  const placeInTurn = async (): Promise<void> => {
    while (remaining > 0) {
      remaining--;
      took.push(await timeOf(place));
    }
  };
  await Promise.all(Array.from({ length: concurrency }, placeInTurn));
  return took;
}

function pageOf(
  results: ReadonlyMap<string, readonly number[][]>,
  options: Options,
  where: string,
): string {
  const { rounds, orders, concurrency } = options;
  const samples = [...results].map(([name, lists]) => ({ name, took: lists.flat() }));
  const base = samples[0]?.took ?? [];
  const rows = samples.map(({ name, took }) => {
    const [p50, p95] = [percentile(took, 0.5), percentile(took, 0.95)];
    const ratios = [p50 / percentile(base, 0.5), p95 / percentile(base, 0.95)];
    const cells = [p50.toFixed(2), p95.toFixed(2), ...ratios.map((ratio) => ratio.toFixed(1))];
    return [name, String(took.length), ...cells];
  });
  const head = ['', 'orders', 'p50 ms', 'p95 ms', 'p50, ratio to the bare INSERT', 'p95, ratio'];
  return `# Placing an order

\`${callOf(CALL, options)}\`

${where}.

${markdownTable(head, rows)}

- In each of ${rounds} rounds each way places ${orders} orders, ${concurrency} at a time. The ways
  alternate in one process with its HTTP client, over one PostgreSQL with fsync.
- The bare statements use the service's own connection pool.
- Whatever else the machine did is in all of the times, so the ratios count and not the times.
- The service writes four rows in one transaction (order, event, outbox, idempotency key). Before
  them it looks up the key, locks it, and reads the session. Two fences precede the COMMIT and their
  publication follows it. The bare INSERT is one statement that commits by itself.
`;
}
