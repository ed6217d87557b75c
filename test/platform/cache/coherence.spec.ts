/**
 * Two nodes over one PostgreSQL and one Redis, through the API: what one node acknowledges, the
 * other shows. This holds while Redis or a LISTEN connection is down. Changes made with psql show
 * soon after their COMMIT.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { createClient } from 'redis';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { PASSWORD, placeOrder, registerUser, type TestUser } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { type RedisServer, startRedis } from '../../support/redis.js';

const HIT = 'holdfast; hit';
const UNAVAILABLE = 'holdfast; fwd=bypass; detail=unavailable';

let redis: RedisServer;
let nodeA: TestApp;
let nodeB: TestApp;
let psql: Client;
let user: TestUser;

const readOrder = (
  node: TestApp,
  id: string,
  headers: Record<string, string> = {},
): Promise<Reply> => node.call('GET', `/v1/orders/${id}`, { token: user.token, headers });

const payOrder = (node: TestApp, id: string): Promise<Reply> =>
  node.call('POST', `/v1/orders/${id}/pay`, { token: user.token });

const cacheStatusOf = ({ headers }: Reply): string | null => headers.get('cache-status');

/** Repeats the call until its reply is accepted. */
const eventuallyReplies = (
  what: string,
  call: () => Promise<Reply>,
  isAccepted: (reply: Reply) => boolean,
): Promise<Reply> =>
  eventually(what, async () => {
    const reply = await call();
    if (isAccepted(reply)) return reply;
    throw new Error(`${reply.status} ${cacheStatusOf(reply)} ${reply.text}`);
  }) as Promise<Reply>;

/** Reads until the node answers from the cache. */
const eventuallyHits = (node: TestApp, id: string): Promise<Reply> =>
  eventuallyReplies(
    'the node answers from the cache',
    () => readOrder(node, id),
    (reply) => cacheStatusOf(reply) === HIT,
  );

/** The sum of a metric over all its label values that match. */
async function sumOfMetric(node: TestApp, name: string, label = ''): Promise<number> {
  const { text } = await node.call('GET', '/metrics');
  const samples = text
    .split('\n')
    .filter((line) => /^\w+/.exec(line)?.[0] === name && line.includes(label));
  return samples.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

const createRedisClient = () => createClient({ url: redis.url });
type RedisClient = ReturnType<typeof createRedisClient>;

/** Runs `work` with a connection to Redis of its own. */
async function withRedisClient<T>(work: (client: RedisClient) => Promise<T>): Promise<T> {
  const client = createRedisClient();
  await client.connect();
  try {
    return await work(client);
  } finally {
    client.destroy();
  }
}

const redisKeysOf = (client: RedisClient, orderId: string): Promise<string[]> =>
  client.keys(`hf:*:order:id:${orderId}`);

beforeAll(async () => {
  redis = await startRedis();
  nodeA = await startApp({ REDIS_URL: redis.url });
  nodeB = await startApp({ REDIS_URL: redis.url }, nodeA.databaseUrl);
  psql = new Client({ connectionString: nodeA.databaseUrl });
  await psql.connect();
  user = await registerUser(nodeA);
  const order = await placeOrder(nodeA, user.token);
  await Promise.all([eventuallyHits(nodeA, order.id), eventuallyHits(nodeB, order.id)]);
});

afterAll(async () => {
  await psql?.end();
  await nodeB?.close();
  await nodeA?.close();
  await redis?.stop();
});

describe('two nodes over one cache', () => {
  it('a node acknowledges a change → the other shows it at once, then from the cache', async () => {
    const order = await placeOrder(nodeA, user.token);
    const acknowledged: unknown[] = [];
    const shown: unknown[] = [];
    const cached: unknown[] = [];
    for (let version = 1; version <= 20; version++) {
      const [writer, reader] = version % 2 ? [nodeA, nodeB] : [nodeB, nodeA];
      const written = await writer.call('PATCH', `/v1/orders/${order.id}`, {
        token: user.token,
        body: { note: `note ${version}` },
        headers: { 'If-Match': `"${version}"` },
      });
      acknowledged.push(written.body);
      shown.push((await readOrder(reader, order.id)).body);
      cached.push((await eventuallyHits(reader, order.id)).body);
    }
    expect(acknowledged.at(-1)).toMatchObject({ version: 21, note: 'note 20' });
    expect(shown).toEqual(acknowledged);
    expect(cached).toEqual(acknowledged);
  });

  it('a node acknowledges an order → the other node lists it first', async () => {
    await nodeA.call('GET', '/v1/orders', { token: user.token });
    const order = await placeOrder(nodeB, user.token);
    const list = await nodeA.call('GET', '/v1/orders', { token: user.token });
    expect(list.body.data[0]).toEqual(order);
  });

  it('a node ends a session → every node rejects its token', async () => {
    const stranger = await registerUser(nodeA);
    const statusesOnBothNodes = async (): Promise<number[]> => {
      const replies = [nodeA, nodeB].map((node) =>
        node.call('GET', '/v1/users/me', { token: stranger.token }),
      );
      return (await Promise.all(replies)).map(({ status }) => status);
    };
    expect(await statusesOnBothNodes()).toEqual([200, 200]);
    const ended = await nodeA.call('DELETE', '/v1/sessions/current', { token: stranger.token });
    expect(ended.status).toBe(204);
    expect(await statusesOnBothNodes()).toEqual([401, 401]);
  });

  it('many requests read a cold row at once → hardly any of them reads PostgreSQL', async () => {
    const order = await placeOrder(nodeA, user.token);
    await eventuallyHits(nodeA, order.id);
    const deletedKeys = await withRedisClient(async (client) => {
      const keys = await redisKeysOf(client, order.id);
      await client.del(keys);
      return keys;
    });
    expect(deletedKeys).toHaveLength(1);
    const countLoads = async (): Promise<number> => {
      const counts = [nodeA, nodeB].map((node) =>
        sumOfMetric(node, 'holdfast_cache_loads_total', 'entity="order"'),
      );
      return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
    };
    const loadsBefore = await countLoads();
    const replies = await Promise.all(
      Array.from({ length: 400 }, (_, index) => readOrder(index % 2 ? nodeA : nodeB, order.id)),
    );
    expect(replies.filter(({ status, body }) => status !== 200 || body.version !== 1)).toEqual([]);
    // 2 on an idle machine; more when a load takes longer than others wait for its lease.
    // coalescer.spec.ts and read-through.spec.ts count exactly.
    expect((await countLoads()) - loadsBefore).toBeLessThanOrEqual(replies.length / 10);
  });

  it('a request has Cache-Control: no-cache → the node reads the primary and says so', async () => {
    const order = await placeOrder(nodeA, user.token);
    await eventuallyHits(nodeA, order.id);
    const reply = await readOrder(nodeA, order.id, { 'Cache-Control': 'no-cache' });
    expect(cacheStatusOf(reply)).toBe('holdfast; fwd=request');
  });
});

describe('a payload in Redis that a node cannot read', () => {
  const DAMAGES: Readonly<Record<string, (text: string) => string>> = {
    'is no envelope': (text) => `${text.slice(0, 21)}nonsense`,
    'belongs to another key': (text) => text.replace(/(?<=\|\d+\|)[0-9a-f-]{36}/, user.id),
    'is cut off': (text) => text.slice(0, -3),
  };

  it.each(Object.keys(DAMAGES))('a payload %s → the node replaces it', async (damage) => {
    const order = await placeOrder(nodeA, user.token);
    await eventuallyHits(nodeA, order.id);
    const damagePayload = DAMAGES[damage] as (text: string) => string;
    await withRedisClient(async (client) => {
      const [key] = (await redisKeysOf(client, order.id)) as [string];
      const text = (await client.get(key)) as string;
      expect(damagePayload(text)).not.toBe(text);
      await client.set(key, damagePayload(text));
    });
    const reply = await readOrder(nodeA, order.id);
    expect([reply.status, reply.body]).toEqual([200, order]);
    expect((await eventuallyHits(nodeA, order.id)).body).toEqual(order);
  });

  it('a payload of a later release → the node reads PostgreSQL and leaves it', async () => {
    const order = await placeOrder(nodeA, user.token);
    await eventuallyHits(nodeA, order.id);
    await withRedisClient(async (client) => {
      const [key] = (await redisKeysOf(client, order.id)) as [string];
      const text = (await client.get(key)) as string;
      const laterText = text.replace(/^(V\d{20})1\|/, '$19|');
      expect(laterText).not.toBe(text);
      await client.set(key, laterText);
      const reply = await readOrder(nodeA, order.id);
      expect([reply.status, reply.body]).toEqual([200, order]);
      expect(await client.get(key)).toBe(laterText);
      await client.del(key);
    });
  });
});

describe('a change that is made with psql', () => {
  it('psql changes a row → both nodes show the change, and no invalidation is left', async () => {
    const order = await placeOrder(nodeA, user.token);
    await Promise.all([eventuallyHits(nodeA, order.id), eventuallyHits(nodeB, order.id)]);
    for (let round = 0; round < 30; round++) {
      const note = `by hand ${round}`;
      await psql.query('UPDATE orders SET note = $2 WHERE id = $1', [order.id, note]);
      await eventuallyReplies(
        'a node shows the note that psql wrote',
        () => readOrder(round % 2 ? nodeA : nodeB, order.id),
        ({ body }) => body.note === note,
      );
    }
    await eventually('no invalidation is left', async () => {
      const { rowCount } = await psql.query('SELECT 1 FROM cache_invalidations WHERE position > 0');
      return rowCount === 0;
    });
  });

  it('psql changes a username → the new name logs in and the old one does not', async () => {
    const stranger = await registerUser(nodeA);
    const newUsername = `${stranger.username}x`.slice(-32);
    const logIn = (username: string): Promise<Reply> =>
      nodeA.call('POST', '/v1/sessions', { body: { username, password: PASSWORD } });
    expect((await logIn(newUsername)).status).toBe(401);
    await psql.query('UPDATE users SET username = $2, email = upper(email) WHERE id = $1', [
      stranger.id,
      newUsername,
    ]);
    await eventuallyReplies(
      'the new username logs in',
      () => logIn(newUsername),
      ({ status }) => status === 201,
    );
    expect((await logIn(stranger.username)).status).toBe(401);
  });

  it('psql gives an order to another user → the first user lists it no more', async () => {
    const stranger = await registerUser(nodeA);
    const order = await placeOrder(nodeA, stranger.token);
    const listOrders = (): Promise<Reply> =>
      nodeA.call('GET', '/v1/orders', { token: stranger.token });
    expect((await listOrders()).body.data).toEqual([order]);
    await psql.query('UPDATE orders SET user_id = $2 WHERE id = $1', [order.id, user.id]);
    await eventuallyReplies('the list is empty', listOrders, ({ body }) => body.data.length === 0);
  });

  it('the service fences the keys of a write → the trigger enqueues nothing', async () => {
    const readLastPosition = async (): Promise<string> => {
      const sql = 'SELECT last_value FROM cache_invalidations_position_seq';
      return (await psql.query<{ last_value: string }>(sql)).rows[0]!.last_value;
    };
    // Repeated, because a fence that times out on a busy machine makes a write enqueue its keys.
    await eventually('a write is acknowledged without a row in cache_invalidations', async () => {
      const order = await placeOrder(nodeA, user.token);
      const positionBefore = await readLastPosition();
      const paid = await payOrder(nodeA, order.id);
      return paid.status === 200 && (await readLastPosition()) === positionBefore;
    });
  });

  it('a LISTEN connection is cut → its node reads PostgreSQL until it is up to date', async () => {
    const order = await placeOrder(nodeA, user.token);
    await eventuallyHits(nodeA, order.id);
    const cut = await psql.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'holdfast-cache' AND datname = current_database()`,
    );
    expect(cut.rowCount).toBe(2);
    const note = 'while nobody listened';
    await psql.query('UPDATE orders SET note = $2 WHERE id = $1', [order.id, note]);
    await eventuallyReplies(
      'the node shows the note that psql wrote',
      () => readOrder(nodeA, order.id),
      ({ body }) => body.note === note,
    );
    expect((await eventuallyHits(nodeA, order.id)).body.note).toBe(note);
  });
});

describe('Redis that goes down', () => {
  afterEach(async () => {
    const order = await placeOrder(nodeA, user.token);
    await eventuallyHits(nodeA, order.id);
    await eventuallyHits(nodeB, order.id);
  });

  it('Redis is killed → requests go on with PostgreSQL, nothing old is shown later', async () => {
    const order = await placeOrder(nodeA, user.token);
    await redis.kill();
    const replyWithoutRedis = await eventuallyReplies(
      'the node reports the cache as unavailable',
      () => readOrder(nodeA, order.id),
      (reply) => reply.status === 200 && cacheStatusOf(reply) === UNAVAILABLE,
    );
    expect(replyWithoutRedis.body).toEqual(order);
    const readiness = await eventuallyReplies(
      'readiness reports Redis as degraded',
      () => nodeA.call('GET', '/health/ready'),
      ({ body }) => body.checks?.redis?.status === 'degraded',
    );
    expect([readiness.status, readiness.body.status]).toEqual([200, 'degraded']);
    const paid = await payOrder(nodeA, order.id);
    expect(paid.status).toBe(200);
    expect((await readOrder(nodeB, order.id)).body).toEqual(paid.body);
    await redis.restart();
    expect((await eventuallyHits(nodeB, order.id)).body).toEqual(paid.body);
  });

  it('Redis hangs → requests are answered without it, nothing old is shown later', async () => {
    const order = await placeOrder(nodeA, user.token);
    await Promise.all([eventuallyHits(nodeA, order.id), eventuallyHits(nodeB, order.id)]);
    redis.pause();
    try {
      await readOrder(nodeA, order.id);
      const paid = await payOrder(nodeA, order.id);
      expect(paid.status).toBe(200);
      expect((await readOrder(nodeA, order.id)).body).toEqual(paid.body);
      await eventually('the breaker skips Redis', async () => {
        await readOrder(nodeA, order.id);
        return (await sumOfMetric(nodeA, 'holdfast_cache_breaker_open')) === 1;
      });
      const replies = await Promise.all(
        Array.from({ length: 20 }, () => readOrder(nodeA, order.id)),
      );
      const statuses = new Set(replies.map(cacheStatusOf));
      expect([...statuses]).toEqual([UNAVAILABLE]);
    } finally {
      redis.resume();
    }
    const replies = await Promise.all([nodeA, nodeB].map((node) => eventuallyHits(node, order.id)));
    expect(replies.map(({ body }) => body.status)).toEqual(['paid', 'paid']);
  });

  it('Redis is down and degraded writes are rejected → a write gets 503', async () => {
    const strictNode = await startApp(
      { REDIS_URL: redis.url, CACHE_DEGRADED_WRITES: 'reject' },
      nodeA.databaseUrl,
    );
    try {
      const order = await placeOrder(strictNode, user.token);
      await redis.kill();
      const rejected = await eventuallyReplies(
        'the write is rejected',
        () => payOrder(strictNode, order.id),
        ({ status }) => status === 503,
      );
      expect(rejected.body.code).toBe('cache-unavailable');
      expect(rejected.headers.get('retry-after')).toBe('1');
      await redis.restart();
      expect((await eventuallyHits(strictNode, order.id)).body.status).toBe('placed');
    } finally {
      await strictNode.close();
    }
  });

  it('Redis is flushed → rows are read from PostgreSQL again', async () => {
    const order = await placeOrder(nodeA, user.token);
    await withRedisClient((client) => client.flushAll());
    expect((await readOrder(nodeB, order.id)).body).toEqual(order);
  });
});
