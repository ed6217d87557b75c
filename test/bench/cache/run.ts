/**
 * `npm run bench:cache`: what the fenced cache costs and what it keeps, in one run on real PostgreSQL and Redis: each read and
 * write beside the raw commands; a stampede; the lag of the database's own path; requests while Redis hangs. Writes
 * docs/bench/cache.md.
 *
 * Round trips are not counted but timed: over connections that take 20 ms a round trip, an operation takes 20 ms for each of those
 * that it waits for one after the other, and none for what runs beside another.
 */
import 'reflect-metadata';
import { mkdir, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { format, resolveConfig } from 'prettier';
import { Registry } from 'prom-client';
import { createClient } from 'redis';
import { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { CACHE_STORE, type CacheStore, dropKeys } from '../../../src/cache/cache.store.js';
import type { CachedRepository } from '../../../src/cache/cached-repository.js';
import { cachedRepositoryToken } from '../../../src/cache/cached.decorator.js';
import { ReadGate } from '../../../src/cache/read-gate.js';
import { migrateDatabase } from '../../../src/database/migrate.js';
import { UnitOfWork } from '../../../src/database/unit-of-work.js';
import { Order } from '../../../src/orders/order.entity.js';
import { startApp, type TestApp } from '../../support/app.js';
import { ORDER, person, placeOrder } from '../../support/factories.js';
import { createTestDatabase, startSharedPostgres } from '../../support/postgres.js';
import { startRedis } from '../../support/redis.js';
import { startDelayProxy } from '../consistency/delay-proxy.js';
import { machine } from '../machine.js';

const PAGE = 'docs/bench/cache.md';
/** Milliseconds that each direction of a slow connection takes. */
const ONE_WAY_MS = 10;
const SAMPLES = {
  fast: 2_000,
  slow: 300,
  far: 12,
  stampedes: 20,
  readers: 400,
  updates: 300,
  beforeMs: 2_000,
  hungMs: 5_000,
} as const;

/** One node, by its parts. */
class Node {
  readonly orders: CachedRepository<Order>;
  readonly store: CacheStore;
  readonly unitOfWork: UnitOfWork;
  readonly dataSource: DataSource;

  constructor(readonly app: TestApp) {
    const part = <T>(token: string | symbol | (abstract new (...args: never[]) => T)): T =>
      app.app.get<T>(token as never, { strict: false });
    this.orders = part<CachedRepository<Order>>(cachedRepositoryToken(Order));
    this.store = part<CacheStore>(CACHE_STORE);
    this.unitOfWork = part(UnitOfWork);
    this.dataSource = part(DataSource);
  }

  static async start(redisUrl: string, databaseUrl: string): Promise<Node> {
    const node = new Node(await startApp({ REDIS_URL: redisUrl }, databaseUrl));
    while (!node.app.app.get(ReadGate, { strict: false }).isOpen) await sleep(10);
    return node;
  }

  /** Rows asked of PostgreSQL so far, of orders. */
  async loads(): Promise<number> {
    const metric = this.app.app
      .get(Registry, { strict: false })
      .getSingleMetric('holdfast_cache_loads_total');
    const { values } = (await metric?.get()) ?? { values: [] };
    return values.find(({ labels }) => labels.entity === 'order')?.value ?? 0;
  }

  row(id: string): Promise<Order> {
    return this.dataSource.getRepository(Order).findOneByOrFail({ id });
  }

  cool(ids: readonly string[]): Promise<void> {
    return dropKeys(
      this.store,
      ids.map((id) => `order:id:${id}`),
    );
  }
}

const percentile = (all: readonly number[], share: number): number =>
  [...all].sort((a, b) => a - b)[Math.ceil(share * all.length) - 1] ?? NaN;

/** Milliseconds that each call took, one after the other; `before` prepares each, and is not timed. */
async function times<T>(
  count: number,
  call: (prepared: T) => Promise<unknown>,
  before: () => Promise<T> | T = () => undefined as T,
): Promise<number[]> {
  const took: number[] = [];
  for (let index = 0; index < count; index++) {
    const prepared = await before();
    const began = performance.now();
    await call(prepared);
    took.push(performance.now() - began);
  }
  return took;
}

interface Operation {
  readonly name: string;
  readonly count: number;
  /** Prepares one call on this node, and gives it. */
  on(node: Node): Promise<() => Promise<unknown>> | (() => Promise<unknown>);
}

/** The same transaction as UnitOfWork's, with nothing of the cache. */
async function sqlAlone(node: Node, row: Order, note: string): Promise<void> {
  const runner = node.dataSource.createQueryRunner('master');
  await runner.connect();
  try {
    await runner.startTransaction();
    await runner.manager
      .createQueryBuilder()
      .update(Order)
      .set({ note })
      .where('id = :id AND version = :version', { id: row.id, version: row.version })
      .returning('*')
      .execute();
    await runner.commitTransaction();
  } finally {
    await runner.release();
  }
}

function operations(id: string, hundred: readonly string[]): Operation[] {
  let note = 0;
  const { fast, slow } = SAMPLES;
  return [
    { name: 'hit', count: fast, on: (node) => () => node.orders.findById(id) },
    {
      name: 'miss',
      count: slow,
      on: async (node) => {
        await node.cool([id]);
        return () => node.orders.findById(id);
      },
    },
    { name: '100 hits', count: slow, on: (node) => () => node.orders.findByIds(hundred) },
    {
      name: 'the SQL of a write alone',
      count: slow,
      on: async (node) => {
        const row = await node.row(id);
        return () => sqlAlone(node, row, `note ${note++}`);
      },
    },
    {
      name: 'a write: the SQL, fence and publish',
      count: slow,
      on: async (node) => {
        const row = await node.row(id);
        return () =>
          node.unitOfWork.run((transaction) => transaction.update(row, { note: `note ${note++}` }));
      },
    },
  ];
}

/** Median milliseconds of each of these on one node; in turns, so that what disturbs the machine disturbs all of them. */
async function medians(
  all: readonly Operation[],
  node: Node,
  countOf: (operation: Operation) => number,
) {
  const took = new Map<string, number[]>(all.map(({ name }) => [name, []]));
  for (let turn = 0; turn < 4; turn++)
    for (const operation of all) {
      const some = await times(
        countOf(operation) / 4,
        (call) => call(),
        () => operation.on(node),
      );
      took.get(operation.name)?.push(...some);
    }
  return new Map([...took].map(([name, list]) => [name, percentile(list, 0.5)]));
}

async function stampede(
  nodes: readonly Node[],
  id: string,
): Promise<{ loads: number[]; slowest: number }> {
  const rows = async () =>
    (await Promise.all(nodes.map((node) => node.loads()))).reduce((sum, some) => sum + some);
  const loads: number[] = [];
  let slowest = 0;
  for (let round = 0; round < SAMPLES.stampedes; round++) {
    await nodes[0]?.cool([id]);
    const before = await rows();
    const took = await Promise.all(
      Array.from({ length: SAMPLES.readers }, async (_, reader) => {
        const began = performance.now();
        await nodes[reader % nodes.length]?.orders.findById(id);
        return performance.now() - began;
      }),
    );
    slowest = Math.max(slowest, ...took);
    loads.push((await rows()) - before);
  }
  return { loads, slowest };
}

/** Milliseconds from the acknowledgement of an UPDATE by hand until a node reads it. */
async function lags(nodes: readonly Node[], psql: pg.Client, id: string): Promise<number[]> {
  const found: number[] = [];
  for (let round = 0; round < SAMPLES.updates; round++) {
    const node = nodes[round % nodes.length] as Node;
    await node.orders.findById(id);
    const note = `by hand ${round}`;
    await psql.query('UPDATE orders SET note = $2 WHERE id = $1', [id, note]);
    const began = performance.now();
    // A pause between two looks: a loop without one would keep the node from hearing of it.
    while ((await node.orders.findById(id))?.note !== note) await sleep(1);
    found.push(performance.now() - began);
    await sleep(2);
  }
  return found;
}

interface Hang {
  readonly requests: number;
  readonly failed: number;
  /** The slowest, in milliseconds, of those that began before it, in the breaker's first second, and later. */
  readonly before: number;
  readonly first: number;
  readonly later: number;
  /** Milliseconds from the end of the hang to the next hit. */
  readonly back: number;
}

/** Requests over HTTP, readers and writers, while Redis is stopped (SIGSTOP). */
async function hang(
  node: Node,
  redis: { pause(): void; resume(): void },
  token: string,
  ids: string[],
): Promise<Hang> {
  const seen: { at: number; took: number; ok: boolean }[] = [];
  const began = performance.now() + SAMPLES.beforeMs;
  const loop = async (call: (round: number) => Promise<{ status: number }>): Promise<void> => {
    for (let round = 0; performance.now() - began < SAMPLES.hungMs; round++) {
      const at = performance.now();
      const { status } = await call(round);
      seen.push({ at: at - began, took: performance.now() - at, ok: status < 300 });
      await sleep(5);
    }
  };
  const pause = sleep(SAMPLES.beforeMs).then(() => redis.pause());
  const reader = (_: unknown, index: number) =>
    loop((round) =>
      node.app.call('GET', `/v1/orders/${ids[(round + index) % ids.length]}`, { token }),
    );
  const writer = (id: string) =>
    loop(async () => {
      const { version } = await node.row(id);
      const headers = { 'If-Match': `"${version}"` };
      return node.app.call('PATCH', `/v1/orders/${id}`, {
        token,
        headers,
        body: { note: `hung ${version}` },
      });
    });
  try {
    await Promise.all([
      pause,
      ...Array.from({ length: 16 }, reader),
      ...ids.slice(0, 2).map(writer),
    ]);
  } finally {
    redis.resume();
  }
  const resumed = performance.now();
  const isHit = async () =>
    (await node.app.call('GET', `/v1/orders/${ids[5]}`, { token })).headers.get('cache-status') ===
    'holdfast; hit';
  while (!(await isHit())) await sleep(5);
  const slowest = (accept: (at: number) => boolean) =>
    Math.max(...seen.filter(({ at }) => accept(at)).map(({ took }) => took));
  return {
    requests: seen.filter(({ at }) => at >= 0).length,
    failed: seen.filter(({ ok }) => !ok).length,
    before: slowest((at) => at < -500),
    first: slowest((at) => at >= 0 && at < 1_000),
    later: slowest((at) => at >= 1_000),
    back: performance.now() - resumed,
  };
}

const postgres = await startSharedPostgres(migrateDatabase);
process.env.TEST_POSTGRES_URL = postgres.url;
const redis = await startRedis();
const delays = { redis: 0, postgres: 0 };
const [farRedis, farPostgres] = await Promise.all([
  startDelayProxy({ host: '127.0.0.1', port: redis.port }, () => delays.redis),
  startDelayProxy(
    { host: '127.0.0.1', port: Number(new URL(postgres.url).port) },
    () => delays.postgres,
  ),
]);
const database = await createTestDatabase();
const closing: (() => Promise<unknown>)[] = [];
try {
  const where = await machine(postgres.url, redis.url);
  console.log(where);
  const nodes = [
    await Node.start(redis.url, database.url),
    await Node.start(redis.url, database.url),
  ] as const;
  const [near] = nodes;
  const farUrl = new URL(database.url);
  farUrl.port = String(farPostgres.port);
  const far = await Node.start(`redis://127.0.0.1:${farRedis.port}`, farUrl.href);
  closing.push(
    ...[...nodes, far].map(
      ({ app }) =>
        () =>
          app.close(),
    ),
  );
  const psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  closing.unshift(() => psql.end());

  const { token, id: userId } = await person(near.app);
  const { id } = (await placeOrder(near.app, token)) as { id: string };
  const hundred = Array.from({ length: 100 }, () => uuidv7());
  await psql.query(
    `INSERT INTO orders (id, user_id, status, currency, items, total)
     SELECT id, $2, 'placed', 'EUR', $3, 9998 FROM unnest($1::uuid[]) AS id`,
    [hundred, userId, JSON.stringify(ORDER.items)],
  );
  const all = operations(id, hundred);
  const warm = async (node: Node): Promise<void> => {
    await node.orders.findByIds([id, ...hundred]);
    await medians(all, node, () => 40);
  };
  for (const node of [near, nodes[1]]) await warm(node);

  console.log('raw commands and operations ...');
  const raw = await createClient({ url: redis.url }).connect();
  closing.unshift(async () => raw.destroy());
  const text = JSON.stringify(await near.row(id));
  const rawKeys = hundred.map((other) => `raw:${other}`);
  await Promise.all(rawKeys.map((key) => raw.set(key, text)));
  const rawTimes = [
    ['raw GET', SAMPLES.fast, () => raw.get(rawKeys[0] as string)],
    ['raw SET', SAMPLES.fast, () => raw.set(rawKeys[0] as string, text)],
    ['raw MGET of 100', SAMPLES.slow, () => raw.mGet(rawKeys)],
  ] as const;
  const rows: [name: string, us: number, trips: readonly (number | string)[]][] = [];
  for (const [name, count, call] of rawTimes)
    rows.push([name, percentile(await times(count, call), 0.5) * 1000, [1, 0, 1]]);
  const direct = await medians(all, near, ({ count }) => count);

  console.log('round trips ...');
  const trips = new Map<string, number[]>(all.map(({ name }) => [name, []]));
  await warm(far);
  for (const [toRedis, toPostgres] of [
    [ONE_WAY_MS, 0],
    [0, ONE_WAY_MS],
    [ONE_WAY_MS, ONE_WAY_MS],
  ] as const) {
    Object.assign(delays, { redis: toRedis, postgres: toPostgres });
    await sleep(100);
    const took = await medians(all, far, () => SAMPLES.far);
    for (const [name, ms] of took)
      trips.get(name)?.push(Math.max(0, ms - (direct.get(name) ?? 0)) / (2 * ONE_WAY_MS));
  }
  Object.assign(delays, { redis: 0, postgres: 0 });
  for (const [name, ms] of direct) rows.push([name, ms * 1000, trips.get(name) ?? []]);

  console.log('a stampede ...');
  const { loads, slowest } = await stampede(nodes, id);
  console.log("the database's path ...");
  const lag = await lags(nodes, psql, id);
  console.log('Redis hangs ...');
  const hung = await hang(near, redis, token, hundred.slice(0, 20));

  const show = (value: number | string): string =>
    typeof value === 'string' ? value : value.toFixed(1);
  const table = rows.map(
    ([name, us, count]) => `| ${name} | ${Math.round(us)} | ${count.map(show).join(' | ')} |`,
  );
  const ms = (value: number): string => `${value.toFixed(1)} ms`;
  const page = `# What the fenced cache costs

\`npm run bench:cache\`, ${new Date().toISOString().slice(0, 10)}

${where}.

| operation | median, µs | trips to Redis | trips to PostgreSQL | trips, both far |
| :-- | --: | --: | --: | --: |
${table.join('\n')}

- The microseconds are of one caller, one call after the other, servers on the same machine. The row is an order of ${text.length} characters.
- **Trips** are those that are waited for one after the other, measured and not counted: over connections that take ${2 * ONE_WAY_MS} ms a round
  trip, to Redis, to PostgreSQL, or to both, the time beyond the near one's, divided by ${2 * ONE_WAY_MS}. With both far, a write takes as many
  more than its SQL as its cache's side is not beside it: the fence runs beside the SQL, the publication after COMMIT. With a
  PostgreSQL that is near and a Redis that is far, nothing hides the fence: that is the one more trip in front of COMMIT.

| stampede | ${SAMPLES.readers} readers of one cold row on 2 nodes, ${SAMPLES.stampedes} times |
| :-- | --: |
| rows read from PostgreSQL, each time | ${(loads.reduce((sum, some) => sum + some) / loads.length).toFixed(2)} on average, ${Math.max(...loads)} at most |
| slowest reader | ${ms(slowest)} |

| the database's own path | ${SAMPLES.updates} UPDATEs by hand, from their acknowledgement to a node that reads them |
| :-- | --: |
| 50th percentile | ${ms(percentile(lag, 0.5))} |
| 99th percentile | ${ms(percentile(lag, 0.99))} |
| longest | ${ms(Math.max(...lag))} |

| Redis hangs (SIGSTOP) for ${SAMPLES.hungMs / 1000} s | 16 readers and 2 writers over HTTP |
| :-- | --: |
| requests, of these not answered as usual | ${hung.requests}, ${hung.failed} |
| slowest in the two seconds before it, with Redis |  ${ms(hung.before)} |
| slowest of those that began in the first second | ${ms(hung.first)} |
| slowest of those that began later | ${ms(hung.later)} |
| from its end to the next hit | ${ms(hung.back)} |
`;
  console.log(`\n${page}`);
  await mkdir('docs/bench', { recursive: true });
  await writeFile(PAGE, await format(page, { ...(await resolveConfig(PAGE)), filepath: PAGE }));
} finally {
  for (const close of closing) await close();
  await Promise.all([farRedis.close(), farPostgres.close()]);
  await database.drop();
  await redis.stop();
  await postgres.stop();
}
