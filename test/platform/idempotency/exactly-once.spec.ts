/** Exactly once between two nodes: races for one key, for one version, retries on the other node, and what leaves a key unused. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { Idempotency } from '../../src/http/idempotency.js';
import { OutboxService } from '../../src/outbox/outbox.service.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { ORDER, person, type Person, placeOrder } from '../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { expectProblem } from '../support/problem.js';
import { type RedisServer, startRedis } from '../support/redis.js';

describe('two nodes', () => {
  let database: TestDatabase;
  let redis: RedisServer;
  let nodes: [TestApp, TestApp];
  let owner: Person;
  let client: pg.Client;

  beforeAll(async () => {
    [database, redis] = await Promise.all([createTestDatabase(), startRedis()]);
    const env = { REDIS_URL: redis.url, DATABASE_POOL: '30' };
    const first = await startApp(env, database.url);
    nodes = [first, await startApp(env, database.url)];
    owner = await person(first);
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
  }, 60_000);
  afterAll(async () => {
    await client?.end();
    await Promise.all((nodes ?? []).map((node) => node.close()));
    await redis?.stop();
    await database?.drop();
  });

  const nodeOf = (index: number): TestApp => nodes[index % 2] as TestApp;
  const place = (
    node: TestApp,
    key: string,
    body: unknown = ORDER,
    token = owner.token,
  ): Promise<Reply> =>
    node.call('POST', '/v1/orders', { token, body, headers: { 'Idempotency-Key': key } });
  const countOf = async (sql: string, ...values: unknown[]): Promise<number> =>
    Number(
      (await client.query<{ count: string }>(`SELECT count(*) FROM ${sql}`, values)).rows[0]?.count,
    );

  it('let one of 100 writers with the same ETag win; 99 are told 412', async () => {
    const order = await placeOrder(nodeOf(0), owner.token);
    const replies = await Promise.all(
      Array.from({ length: 100 }, (_, writer) =>
        nodeOf(writer).call('PATCH', `/v1/orders/${order.id}`, {
          token: owner.token,
          body: { note: `writer ${writer}` },
          headers: { 'If-Match': '"1"' },
        }),
      ),
    );
    const won = replies.filter(({ status }) => status === 200);
    expect(won.map(({ body }) => body.version)).toEqual([2]);
    for (const lost of replies.filter(({ status }) => status !== 200))
      expectProblem(lost, 412, 'version-mismatch');
    expect(await countOf('order_events WHERE order_id = $1', order.id)).toBe(2);
    for (const node of nodes)
      expect(
        (await node.call('GET', `/v1/orders/${order.id}`, { token: owner.token })).body,
      ).toEqual(won[0]?.body);
  });

  it('make one order of 40 requests with one key, and give its bytes to each that waits', async () => {
    const key = crypto.randomUUID();
    const note = `race ${key}`;
    const untilAnswered = async (writer: number): Promise<Reply> => {
      for (;;) {
        const reply = await place(nodeOf(writer), key, { ...ORDER, note });
        if (reply.status !== 409) return reply;
        expectProblem(reply, 409, 'idempotency-key-in-flight');
        expect(reply.headers.get('retry-after')).toBe('1');
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    const replies = await Promise.all(
      Array.from({ length: 40 }, (_, writer) => untilAnswered(writer)),
    );
    expect(new Set(replies.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
    expect(
      replies.filter(({ headers }) => headers.get('idempotent-replayed') === null),
    ).toHaveLength(1);
    expect(await countOf('orders WHERE note = $1', note)).toBe(1);
    expect(await countOf('idempotency_keys WHERE key = $1', key)).toBe(1);
  });

  it('answer a retry on the other node with the same bytes, also when it is of another body', async () => {
    const key = crypto.randomUUID();
    const [first, again] = [await place(nodeOf(0), key), await place(nodeOf(1), key)];
    expect([
      again.status,
      again.text,
      again.headers.get('location'),
      again.headers.get('etag'),
    ]).toEqual([201, first.text, first.headers.get('location'), first.headers.get('etag')]);
    expect(again.headers.get('idempotent-replayed')).toBe('true');
    expectProblem(
      await place(nodeOf(1), key, { ...ORDER, note: 'another' }),
      422,
      'idempotency-key-reused',
    );
  });

  it('keep nothing of a request that failed after its order was written: both or neither', async () => {
    const key = crypto.randomUUID();
    const note = `half ${key}`;
    const outbox = nodeOf(0).app.get(OutboxService);
    const append = outbox.append.bind(outbox);
    outbox.append = () => Promise.reject(new Error('the disk is full'));
    const failed = await place(nodeOf(0), key, { ...ORDER, note });
    outbox.append = append;
    expectProblem(failed, 500, 'internal-error');
    expect([
      await countOf('orders WHERE note = $1', note),
      await countOf('idempotency_keys WHERE key = $1', key),
    ]).toEqual([0, 0]);
    const reply = await place(nodeOf(1), key, { ...ORDER, note });
    expect([reply.status, reply.headers.get('idempotent-replayed')]).toEqual([201, null]);
    expect(await countOf('orders WHERE note = $1', note)).toBe(1);
  });

  it('keep no answer of a limit: 429, and the key is as new', async () => {
    const limited = await startApp(
      { REDIS_URL: redis.url, RATE_LIMIT_PER_MINUTE: '1' },
      database.url,
    );
    try {
      const key = crypto.randomUUID();
      await place(limited, crypto.randomUUID());
      expectProblem(await place(limited, key), 429, 'rate-limited');
      expect(await countOf('idempotency_keys WHERE key = $1', key)).toBe(0);
      expect((await place(nodeOf(0), key)).status).toBe(201);
    } finally {
      await limited.close();
    }
  });

  it('keep what an action answered, and not that it was refused', async () => {
    const { id } = await placeOrder(nodeOf(0), owner.token);
    const act = (node: TestApp, action: string, key: string, headers = {}): Promise<Reply> =>
      node.call('POST', `/v1/orders/${id}/${action}`, {
        token: owner.token,
        headers: { 'Idempotency-Key': key, ...headers },
      });
    const key = crypto.randomUUID();
    expectProblem(await act(nodeOf(0), 'refund', key), 403, 'forbidden');
    expectProblem(await act(nodeOf(0), 'pay', key, { 'If-Match': '"9"' }), 412, 'version-mismatch');
    const paid = await act(nodeOf(0), 'pay', key);
    const again = await act(nodeOf(1), 'pay', key);
    expect([paid.status, again.status, again.text]).toEqual([200, 200, paid.text]);
    expectProblem(await act(nodeOf(1), 'pay', crypto.randomUUID()), 409, 'invalid-transition');
  });

  describe('forget keys after 24 hours', () => {
    const OLD = 2_500;
    const fill = (): Promise<unknown> =>
      client.query(
        `INSERT INTO idempotency_keys (user_id, key, fingerprint, status, headers, body, cache_keys, created_at)
         SELECT $1, 'old-' || n, 'f', 201, '{}', '{}', '{}', now() - interval '25 hours' FROM generate_series(1, ${OLD}) AS n
         ON CONFLICT DO NOTHING`,
        [owner.id],
      );
    const old = (): Promise<number> => countOf(`idempotency_keys WHERE key LIKE 'old-%'`);

    it('1 000 at a time, the oldest first, and none that is younger', async () => {
      await fill();
      const young = await countOf(`idempotency_keys WHERE key NOT LIKE 'old-%'`);
      const idempotency = nodeOf(0).app.get(Idempotency);
      const left: [boolean, number][] = [];
      for (let times = 0; times < 4; times++) left.push([await idempotency.purge(), await old()]);
      expect(left).toEqual([
        [true, 1_500],
        [true, 500],
        [false, 0],
        [false, 0],
      ]);
      expect(await countOf('idempotency_keys')).toBe(young);
    });

    it('both at once without waiting for each other', async () => {
      await fill();
      const [one, other] = nodes.map((node) => node.app.get(Idempotency)) as [
        Idempotency,
        Idempotency,
      ];
      while ((await Promise.all([one.purge(), other.purge()])).includes(true));
      expect(await old()).toBe(0);
    });

    it('by themselves, every minute, until none is left', async () => {
      await fill();
      const idempotency = nodeOf(0).app.get(Idempotency);
      const { timer } = idempotency as unknown as {
        timer: { _repeat: number; _onTimeout(): void };
      };
      expect(timer._repeat).toBe(60_000);
      timer._onTimeout();
      for (const deadline = Date.now() + 10_000; (await old()) > 0 && Date.now() < deadline;)
        await new Promise((resolve) => setTimeout(resolve, 20));
      expect(await old()).toBe(0);
    });
  });
});
