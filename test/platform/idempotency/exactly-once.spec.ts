/**
 * Exactly once on two nodes that share a database: races for one version and for one key, retries
 * on the other node, failures that leave a key unused, and the removal of expired keys.
 */
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  it,
  jest,
} from '@jest/globals';
import pg from 'pg';
import { createClient } from 'redis';
import { DataSource } from 'typeorm';
import { InvalidationService } from '../../../src/platform/cache/write/invalidation.service.js';
import { PeriodicPurge } from '../../../src/platform/database/purge.js';
import { UnitOfWork } from '../../../src/platform/database/unit-of-work.js';
import type { Transaction } from '../../../src/platform/database/transaction.js';
import {
  IdempotencyService,
  type IdempotentResult,
} from '../../../src/platform/idempotency/idempotency.service.js';
import { OutboxService } from '../../../src/platform/outbox/outbox.service.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { ORDER, placeOrder, registerUser, type TestUser } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { expectProblem } from '../../support/problem.js';
import { type RedisServer, startRedis } from '../../support/redis.js';

let database: TestDatabase;
let redis: RedisServer;
let nodes: [TestApp, TestApp];
let owner: TestUser;
let client: pg.Client;

beforeAll(async () => {
  [database, redis] = await Promise.all([createTestDatabase(), startRedis()]);
  const env = { REDIS_URL: redis.url, DATABASE_POOL: '30' };
  const first = await startApp(env, database.url);
  nodes = [first, await startApp(env, database.url)];
  owner = await registerUser(first);
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
afterAll(async () => {
  await client?.end();
  await Promise.all((nodes ?? []).map((node) => node.close()));
  await redis?.stop();
  await database?.drop();
});

/** Alternates between the nodes. */
const nodeOf = (index: number): TestApp => nodes[index % 2] as TestApp;

const place = (node: TestApp, key: string, body: unknown = ORDER): Promise<Reply> =>
  node.call('POST', '/v1/orders', {
    token: owner.token,
    body,
    headers: { 'Idempotency-Key': key },
  });

const act = (
  node: TestApp,
  id: string,
  action: string,
  key: string,
  headers: Record<string, string> = {},
): Promise<Reply> =>
  node.call('POST', `/v1/orders/${id}/${action}`, {
    token: owner.token,
    headers: { 'Idempotency-Key': key, ...headers },
  });

/** @param from what follows FROM */
async function countOf(from: string, ...values: unknown[]): Promise<number> {
  const { rows } = await client.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM ${from}`,
    values,
  );
  return rows[0]?.count ?? NaN;
}
const countKeys = (key: string): Promise<number> => countOf('idempotency_keys WHERE key = $1', key);
const countOrdersWithNote = (note: string): Promise<number> =>
  countOf('orders WHERE note = $1', note);

describe('100 changes of one version at once on two nodes', () => {
  it('→ one succeeds, 99 get 412, and both nodes show the winner', async () => {
    const { id } = await placeOrder(nodeOf(0), owner.token);
    const replies = await Promise.all(
      Array.from({ length: 100 }, (_, index) =>
        nodeOf(index).call('PATCH', `/v1/orders/${id}`, {
          token: owner.token,
          body: { note: `writer ${index}` },
          headers: { 'If-Match': '"1"' },
        }),
      ),
    );
    const winners = replies.filter(({ status }) => status === 200);
    const losers = replies.filter(({ status }) => status !== 200);
    expect(winners.map(({ body }) => body.version as number)).toEqual([2]);
    for (const loser of losers) expectProblem(loser, 412, 'version-mismatch');
    expect(await countOf('order_events WHERE order_id = $1', id)).toBe(2);
    const reads = await Promise.all(
      nodes.map((node) => node.call('GET', `/v1/orders/${id}`, { token: owner.token })),
    );
    expect(reads.map(({ body }) => body as unknown)).toEqual([winners[0]?.body, winners[0]?.body]);
  });
});

describe('40 requests with one key at once on two nodes', () => {
  it('→ place one order, and all get the same bytes when they retry after a 409', async () => {
    const key = crypto.randomUUID();
    const note = `race ${key}`;
    const conflicts: Reply[] = [];
    const sendUntilAnswered = (index: number): Promise<Reply> =>
      eventually('the request was answered', async () => {
        const reply = await place(nodeOf(index), key, { ...ORDER, note });
        if (reply.status !== 409) return reply;
        conflicts.push(reply);
        return undefined as unknown as Reply;
      });
    const replies = await Promise.all(
      Array.from({ length: 40 }, (_, index) => sendUntilAnswered(index)),
    );
    const responses = new Set(replies.map(({ status, text }) => `${status} ${text}`));
    const originals = replies.filter(({ headers }) => !headers.has('idempotent-replayed'));
    expect(responses.size).toBe(1);
    expect(originals).toHaveLength(1);
    expect([await countOrdersWithNote(note), await countKeys(key)]).toEqual([1, 1]);
    for (const conflict of conflicts) expectProblem(conflict, 409, 'idempotency-key-in-flight');
    const retryAfters = new Set(conflicts.map(({ headers }) => headers.get('retry-after')));
    expect([...retryAfters].filter((seconds) => seconds !== '1')).toEqual([]);
  });
});

describe('a retry on the other node', () => {
  it('with the same body → gets the same bytes and headers', async () => {
    const key = crypto.randomUUID();
    const first = await place(nodeOf(0), key);
    const retry = await place(nodeOf(1), key);
    const partsOf = ({ status, text, headers }: Reply): unknown[] => [
      status,
      text,
      headers.get('location'),
      headers.get('etag'),
    ];
    expect(partsOf(retry)).toEqual(partsOf(first));
    expect(retry.status).toBe(201);
    expect(retry.headers.get('idempotent-replayed')).toBe('true');
  });

  it('with another body → 422', async () => {
    const key = crypto.randomUUID();
    await place(nodeOf(0), key);
    const reply = await place(nodeOf(1), key, { ...ORDER, note: 'another' });
    expectProblem(reply, 422, 'idempotency-key-reused');
  });

  it('of an action → gets the same bytes', async () => {
    const { id } = await placeOrder(nodeOf(0), owner.token);
    const key = crypto.randomUUID();
    const first = await act(nodeOf(0), id, 'pay', key);
    const retry = await act(nodeOf(1), id, 'pay', key);
    expect([first.status, retry.status, retry.text]).toEqual([200, 200, first.text]);
    const withNewKey = await act(nodeOf(1), id, 'pay', crypto.randomUUID());
    expectProblem(withNewKey, 409, 'invalid-transition');
  });
});

describe('a repetition of a write that its node has committed and not published', () => {
  const connectRedis = () => createClient({ url: redis.url });
  type RedisClient = ReturnType<typeof connectRedis>;

  /** The text of an order in the cache, once it has one. */
  async function cachedText(cache: RedisClient, id: string): Promise<[key: string, text: string]> {
    const readIt = async (): Promise<[string, string] | undefined> => {
      await nodeOf(0).call('GET', `/v1/orders/${id}`, { token: owner.token });
      const [key = ''] = await cache.keys(`hf:*:order:id:${id}`);
      const text = (await cache.get(key)) ?? '';
      return text.startsWith('V') ? [key, text] : undefined;
    };
    return (await eventually('the order is cached', readIt)) as [string, string];
  }

  it('→ is acknowledged only when every node shows the write', async () => {
    const cache = await connectRedis().connect();
    try {
      const { id } = await placeOrder(nodeOf(0), owner.token);
      const [, oldText] = await cachedText(cache, id);
      const key = crypto.randomUUID();
      const paid = await act(nodeOf(0), id, 'pay', key);
      const [redisKey, newText] = await cachedText(cache, id);
      expect(newText).not.toBe(oldText);
      const readStatus = async (): Promise<unknown> =>
        (await nodeOf(1).call('GET', `/v1/orders/${id}`, { token: owner.token })).body.status;
      // As a node leaves it that has lost its fence before its COMMIT, and died after it.
      await cache.set(redisKey, oldText);
      expect(await readStatus()).toBe('placed');

      const repetition = await act(nodeOf(1), id, 'pay', key);

      expect([repetition.status, repetition.text]).toEqual([200, paid.text]);
      expect(await readStatus()).toBe('paid');
    } finally {
      cache.destroy();
    }
  });
});

describe('two requests with one key, of which the first commits', () => {
  /** Runs `before` when the transaction is about to lock the key. */
  function beforeLock(transaction: Transaction, before: () => Promise<unknown>): Transaction {
    const { manager } = transaction;
    const query = async (sql: string, values?: unknown[]): Promise<unknown> => {
      if (sql.includes('pg_try_advisory_xact_lock')) await before();
      return manager.query(sql, values);
    };
    const watched = new Proxy(manager, {
      get: (target, name) => (name === 'query' ? query : bound(target, name)),
    });
    return new Proxy(transaction, {
      get: (target, name) => (name === 'manager' ? watched : bound(target, name)),
    });
  }

  function bound(target: object, name: string | symbol): unknown {
    const value: unknown = Reflect.get(target, name, target);
    return typeof value === 'function' ? (value.bind(target) as unknown) : value;
  }

  it('while the second looks for the key → the second gets the response of the first', async () => {
    const { app } = nodeOf(0);
    const request = { key: crypto.randomUUID(), fingerprint: 'the same' };
    const actor = {
      userId: owner.id,
      roles: [],
      sessionId: crypto.randomUUID(),
      lockSession: async () => undefined,
    };
    const ran: string[] = [];
    const workOf = (name: string) => async (): Promise<IdempotentResult> => {
      ran.push(name);
      return { status: 201, headers: {}, body: { name } };
    };
    const first = (): Promise<unknown> =>
      app.get(IdempotencyService).runOnce(request, actor, workOf('first'));
    const unitOfWork = app.get(UnitOfWork);
    const runAs: UnitOfWork['runAs'] = (caller, work) =>
      unitOfWork.runAs(caller, (transaction) => work(beforeLock(transaction, first)));
    const late = new IdempotencyService(
      Object.assign(Object.create(unitOfWork) as UnitOfWork, { runAs }),
      app.get(DataSource),
      app.get(InvalidationService),
    );

    const response = await late.runOnce(request, actor, workOf('second'));

    expect([response.replayed, response.body]).toEqual([true, '{"name":"first"}']);
    expect(ran).toEqual(['first']);
  });
});

describe('a key whose request failed', () => {
  afterEach(() => void jest.restoreAllMocks());

  it('after the order was written → leaves no order and no key, and works later', async () => {
    const key = crypto.randomUUID();
    const note = `half ${key}`;
    const outbox = nodeOf(0).app.get(OutboxService);
    jest.spyOn(outbox, 'append').mockRejectedValueOnce(new Error('the disk is full'));
    expectProblem(await place(nodeOf(0), key, { ...ORDER, note }), 500, 'internal-error');
    expect([await countOrdersWithNote(note), await countKeys(key)]).toEqual([0, 0]);
    const retry = await place(nodeOf(1), key, { ...ORDER, note });
    expect([retry.status, retry.headers.get('idempotent-replayed')]).toEqual([201, null]);
    expect(await countOrdersWithNote(note)).toBe(1);
  });

  it('at its COMMIT → leaves no order, no event and no key, and works later', async () => {
    const key = crypto.randomUUID();
    const note = `refused ${key}`;
    const countAll = async (): Promise<number[]> => {
      const tables = ['orders', 'order_events', 'outbox', 'inbox', 'idempotency_keys'];
      const counts: number[] = [];
      for (const table of tables) counts.push(await countOf(table));
      return counts;
    };
    const before = await countAll();
    await client.query(`
      CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';
      END $$`);
    await client.query(`
      CREATE CONSTRAINT TRIGGER zz_refuse_commit AFTER INSERT ON orders
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.note LIKE 'refused %')
        EXECUTE FUNCTION refuse_commit()`);
    const refused = await place(nodeOf(0), key, { ...ORDER, note });
    await client.query('DROP FUNCTION refuse_commit() CASCADE');
    expect(refused.status).toBeGreaterThanOrEqual(400);
    expect(await countAll()).toEqual(before);
    const retry = await place(nodeOf(1), key, { ...ORDER, note });
    expect([retry.status, retry.headers.get('idempotent-replayed')]).toEqual([201, null]);
  });

  it('because of the rate limit → is unused', async () => {
    const env = { REDIS_URL: redis.url, RATE_LIMIT_PER_MINUTE: '1' };
    const limited = await startApp(env, database.url);
    try {
      const key = crypto.randomUUID();
      await place(limited, crypto.randomUUID());
      expectProblem(await place(limited, key), 429, 'rate-limited');
      expect(await countKeys(key)).toBe(0);
      expect((await place(nodeOf(0), key)).status).toBe(201);
    } finally {
      await limited.close();
    }
  });

  it('because of the lifecycle or an old version → is unused', async () => {
    const { id } = await placeOrder(nodeOf(0), owner.token);
    const key = crypto.randomUUID();
    expectProblem(await act(nodeOf(0), id, 'refund', key), 403, 'forbidden');
    const outdated = await act(nodeOf(0), id, 'pay', key, { 'If-Match': '"9"' });
    expectProblem(outdated, 412, 'version-mismatch');
    expect((await act(nodeOf(0), id, 'pay', key)).status).toBe(200);
  });
});

describe('the removal of expired keys', () => {
  const EXPIRED_KEYS = 2_500;
  const INSERT_EXPIRED = `
    INSERT INTO idempotency_keys
      (user_id, key, fingerprint, status, headers, body, cache_keys, created_at)
    SELECT $1, 'expired-' || number, 'f', 201, '{}', '{}', '{}', now() - interval '25 hours'
      FROM generate_series(1, ${EXPIRED_KEYS}) AS number
    ON CONFLICT DO NOTHING`;
  const countExpired = (): Promise<number> =>
    countOf(`idempotency_keys WHERE key LIKE 'expired-%'`);
  const countOthers = (): Promise<number> =>
    countOf(`idempotency_keys WHERE key NOT LIKE 'expired-%'`);
  const serviceOf = (node: TestApp): IdempotencyService => node.app.get(IdempotencyService);

  // The nodes' own purges would remove keys between two batches of a test.
  beforeAll(async () => {
    await Promise.all(nodes.map((node) => serviceOf(node).onApplicationShutdown()));
  });
  beforeEach(async () => {
    await client.query(INSERT_EXPIRED, [owner.id]);
  });
  afterEach(() => void jest.restoreAllMocks());

  it('removes 1 000 keys a batch, and no key that has not expired', async () => {
    await place(nodeOf(0), crypto.randomUUID());
    const others = await countOthers();
    const service = serviceOf(nodeOf(0));
    const batches: [mayHaveMore: boolean, left: number][] = [];
    while (batches.length < 4) {
      batches.push([await service.removeExpired(), await countExpired()]);
    }
    expect(batches).toEqual([
      [true, 1_500],
      [true, 500],
      [false, 0],
      [false, 0],
    ]);
    expect(await countOthers()).toBe(others);
  });

  it('on two nodes at once → removes every key, and neither node waits for the other', async () => {
    const services = nodes.map(serviceOf);
    let mayHaveMore = true;
    while (mayHaveMore) {
      const results = await Promise.all(services.map((service) => service.removeExpired()));
      mayHaveMore = results.includes(true);
    }
    expect(await countExpired()).toBe(0);
  });

  it('runs every minute until no expired key is left', async () => {
    const start = jest.spyOn(PeriodicPurge.prototype, 'start').mockReturnValue(undefined);
    const { app } = nodeOf(0);
    const service = new IdempotencyService(
      app.get(UnitOfWork),
      app.get(DataSource),
      app.get(InvalidationService),
    );
    service.onModuleInit();
    const [purge] = start.mock.contexts as [PeriodicPurge];
    expect(purge).toMatchObject({ options: { intervalMs: 60_000 } });
    await purge.purge();
    expect(await countExpired()).toBe(0);
  });
});
