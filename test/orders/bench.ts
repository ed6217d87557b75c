/**
 * What placing an order costs beside what PostgreSQL alone takes: the rounds of each way alternate in one process over one
 * database, and the bare statements go through the connection pool of the service itself.
 */
import { randomUUID } from 'node:crypto';
import { DataSource } from 'typeorm';
import { createApp } from '../../src/app.js';
import { loadConfig } from '../../src/config.js';
import { callUrl } from '../support/app.js';
import { startTestPostgres } from '../support/postgres.js';
import { startRedis } from '../support/redis.js';

const PERSON = {
  username: 'bench',
  email: 'bench@example.com',
  password: 'nine tall ships at anchor',
};
const ITEMS = [1, 2, 3].map((n) => ({
  sku: `SKU-${n}`,
  name: `Thing ${n}`,
  quantity: n,
  unitPrice: 1_000 * n,
}));
const TOTAL = 14_000;

const INSERT_ORDER = `INSERT INTO orders (id, user_id, status, currency, items, total) VALUES ($1, $2, 'placed', 'EUR', $3, ${TOTAL})`;
const INSERT_EVENT = `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at) VALUES ($1, 1, 'order.placed', 2, $3, $2, now())`;
const INSERT_OUTBOX = `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'order.placed', $2, $3)`;
const INSERT_KEY = `INSERT INTO idempotency_keys (user_id, key, fingerprint, status, headers, body, cache_keys) VALUES ($1, $2, $3, 201, $4, $5, '{}')`;

export interface BenchOptions {
  readonly rounds: number;
  /** Of each way in each round. */
  readonly orders: number;
  readonly concurrency: number;
}

/** @returns the report as Markdown */
export async function runBench({ rounds, orders, concurrency }: BenchOptions): Promise<string> {
  const postgres = await startTestPostgres([
    'fsync=on',
    'synchronous_commit=on',
    'full_page_writes=on',
  ]);
  const redis = await startRedis();
  const env = {
    DATABASE_URL: postgres.url,
    PORT: '0',
    LOG_LEVEL: 'silent',
    RATE_LIMIT_PER_MINUTE: '0',
  };
  const apps = [
    await createApp(loadConfig(env)),
    await createApp(loadConfig({ ...env, REDIS_URL: redis.url })),
  ] as const;
  try {
    for (const app of apps) await app.listen(0, '127.0.0.1');
    const [memoryUrl, redisUrl] = [await apps[0].getUrl(), await apps[1].getUrl()];
    const { id } = (await callUrl(`${memoryUrl}/v1/users`, 'POST', { body: PERSON })).body as {
      id: string;
    };
    const login = { username: PERSON.username, password: PERSON.password };
    const { token } = (await callUrl(`${memoryUrl}/v1/sessions`, 'POST', { body: login })).body as {
      token: string;
    };
    const pool = apps[0].get(DataSource);
    const items = JSON.stringify(ITEMS);
    const place = (url: string) => async (): Promise<void> => {
      const headers = { 'Idempotency-Key': randomUUID() };
      const { status, text } = await callUrl(`${url}/v1/orders`, 'POST', {
        token,
        headers,
        body: { currency: 'EUR', items: ITEMS },
      });
      if (status !== 201) throw new Error(`${status} ${text}`);
    };
    const ways: readonly (readonly [name: string, once: () => Promise<unknown>])[] = [
      ['bare INSERT of the order’s row', () => pool.query(INSERT_ORDER, [randomUUID(), id, items])],
      [
        'the same four rows in one bare transaction',
        () =>
          pool.transaction(async (manager) => {
            const order = randomUUID();
            const told = JSON.stringify({
              version: 1,
              userId: id,
              status: 'placed',
              currency: 'EUR',
              total: TOTAL,
            });
            await manager.query(INSERT_ORDER, [order, id, items]);
            await manager.query(INSERT_EVENT, [
              order,
              id,
              JSON.stringify({
                userId: id,
                currency: 'EUR',
                items: ITEMS,
                total: TOTAL,
                note: null,
              }),
            ]);
            await manager.query(INSERT_OUTBOX, [randomUUID(), `orders/${order}`, told]);
            await manager.query(INSERT_KEY, [id, randomUUID(), order, '{}', items + told]);
          }),
      ],
      ['POST /v1/orders, cache in memory', place(memoryUrl)],
      ['POST /v1/orders, cache in Redis', place(redisUrl)],
    ];
    const taken = new Map<string, number[]>(ways.map(([name]) => [name, []]));
    // The first round warms the JITs and the pools.
    for (let round = 0; round <= rounds; round++)
      for (const [name, once] of ways) {
        let left = orders;
        await Promise.all(
          Array.from({ length: concurrency }, async () => {
            while (left-- > 0) {
              const began = performance.now();
              await once();
              if (round > 0) taken.get(name)?.push(performance.now() - began);
            }
          }),
        );
      }
    return reportOf(taken, { rounds, orders, concurrency });
  } finally {
    await Promise.all(apps.map((app) => app.close()));
    await redis.stop();
    await postgres.stop();
  }
}

function reportOf(
  taken: ReadonlyMap<string, number[]>,
  { rounds, orders, concurrency }: BenchOptions,
): string {
  const at = (times: readonly number[], share: number): number =>
    times.toSorted((a, b) => a - b)[Math.floor(times.length * share)] as number;
  const [base] = taken.values() as Iterable<number[]>;
  const line = ([name, times]: [string, number[]]): string => {
    const [p50, p95] = [at(times, 0.5), at(times, 0.95)];
    const [ratio50, ratio95] = [p50 / at(base as number[], 0.5), p95 / at(base as number[], 0.95)];
    return `| ${[name, times.length, p50.toFixed(2), p95.toFixed(2), ratio50.toFixed(1), ratio95.toFixed(1)].join(' | ')} |`;
  };
  return `# Placing an order

\`npm run bench:orders\`: ${rounds} rounds of ${orders} of each way, alternating, ${concurrency} at a time, in one process with its HTTP client, over one
PostgreSQL with fsync. The bare statements use the service's own connection pool. Times in milliseconds; what the machine did
besides is in all of them, so the ratios count.

| | n | p50 | p95 | p50 beside the bare INSERT | p95 beside it |
| --- | ---: | ---: | ---: | ---: | ---: |
${[...taken].map(line).join('\n')}

An order is a transaction of four rows (order, event, outbox, key), after a look for the key, its lock and a look at the session, with
two fences before COMMIT and their publication after it; the bare INSERT is one statement that commits by itself.
`;
}
