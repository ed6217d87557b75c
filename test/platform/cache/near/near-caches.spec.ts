/**
 * Three nodes with near caches over one PostgreSQL and one Redis, through the API: a node answers
 * from its own memory, and what one node acknowledges no other contradicts.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { Membership } from '../../../../src/platform/cache/epoch/membership.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { eventually } from '../../../support/eventually.js';
import { placeOrder, registerUser, type TestUser } from '../../../support/factories.js';
import type { Reply } from '../../../support/http-client.js';
import { type RedisServer, sendRedisCommand, startRedis } from '../../../support/redis.js';

const NEAR = 'holdfast; hit; detail=near';
const WRITES = 30;

let redis: RedisServer;
let psql: Client;
let nodes: [TestApp, TestApp, TestApp];
let user: TestUser;

const startNode = (databaseUrl?: string, near = 'session,user,order'): Promise<TestApp> =>
  startApp({ REDIS_URL: redis.url, CACHE_NEAR: near }, databaseUrl);

beforeAll(async () => {
  redis = await startRedis();
  const first = await startNode();
  nodes = [first, await startNode(first.databaseUrl), await startNode(first.databaseUrl)];
  psql = new Client({ connectionString: first.databaseUrl });
  await psql.connect();
  user = await registerUser(first);
});
afterAll(async () => {
  await psql?.end();
  for (const node of (nodes ?? []).toReversed()) await node.close();
  await redis?.stop();
});

const readOrder = (node: TestApp, id: string): Promise<Reply> =>
  node.call('GET', `/v1/orders/${id}`, { token: user.token });

const eventuallyNear = (node: TestApp, id: string): Promise<Reply> =>
  eventually('the node answers from its memory', async () => {
    const reply = await readOrder(node, id);
    return reply.headers.get('cache-status') === NEAR ? reply : undefined;
  }) as Promise<Reply>;

const nearOnAllNodes = (id: string): Promise<Reply[]> =>
  Promise.all(nodes.map((node) => eventuallyNear(node, id)));

const changeNote = (node: TestApp, id: string, version: number): Promise<Reply> =>
  node.call('PATCH', `/v1/orders/${id}`, {
    token: user.token,
    body: { note: `note ${version}` },
    headers: { 'If-Match': `"${version}"` },
  });

describe('three nodes with near caches', () => {
  it('answer from their own memory, and say so', async () => {
    const { id } = await placeOrder(nodes[0], user.token);
    await nearOnAllNodes(id);
    const { text } = await nodes[1].call('GET', '/metrics');
    expect(text).toMatch(/holdfast_cache_near_hits_total\{entity="order"\} [1-9]/);
    expect(text).toMatch(/holdfast_cache_near_hits_total\{entity="session"\} [1-9]/);
    expect(text).toMatch(/holdfast_cache_near_entries\{entity="user"\} [1-9]/);
    expect(text).toMatch(/holdfast_cache_requests_total\{entity="order",outcome="hit"\} [1-9]/);
    expect(text).toContain('holdfast_cache_near_lease 1');
    expect(text).not.toContain('outcome="near"');
  });

  it('show an acknowledged change at once', async () => {
    const { id } = await placeOrder(nodes[0], user.token);
    const acknowledged: unknown[] = [];
    const shown: unknown[] = [];
    for (let version = 1; version <= WRITES; version++) {
      await nearOnAllNodes(id);
      const written = await changeNote(nodes[version % 3] as TestApp, id, version);
      acknowledged.push(...nodes.map(() => written.body));
      const replies = await Promise.all(nodes.map((node) => readOrder(node, id)));
      shown.push(...replies.map(({ body }) => body));
    }
    expect(shown).toEqual(acknowledged);
  }, 240_000);

  it('show an acknowledged change at once after each loss of everything in Redis', async () => {
    const { id } = await placeOrder(nodes[0], user.token);
    const shown: unknown[] = [];
    for (let version = 1; version <= 5; version++) {
      await nearOnAllNodes(id);
      await sendRedisCommand(redis.port, 'FLUSHALL');
      await changeNote(nodes[version % 3] as TestApp, id, version);
      const replies = await Promise.all(nodes.map((node) => readOrder(node, id)));
      shown.push(...replies.map(({ body }) => (body as { version: number }).version));
    }
    expect(shown).toEqual([2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6]);
  }, 240_000);

  it('reject the token of an ended session at once', async () => {
    const stranger = await registerUser(nodes[0]);
    const statuses = (): Promise<number[]> =>
      Promise.all(
        nodes.map(async (node) => {
          const reply = await node.call('GET', '/v1/users/me', { token: stranger.token });
          return reply.status;
        }),
      );
    await statuses();
    expect(await statuses()).toEqual([200, 200, 200]);
    await nodes[1].call('DELETE', '/v1/sessions/current', { token: stranger.token });
    expect(await statuses()).toEqual([401, 401, 401]);
  });

  it('list a new order at once', async () => {
    const list = (node: TestApp): Promise<Reply> =>
      node.call('GET', '/v1/orders', { token: user.token });
    for (const node of nodes) await list(node);
    const order = await placeOrder(nodes[2], user.token);
    const lists = await Promise.all(nodes.map(list));
    expect(lists.map(({ body }) => body.data[0])).toEqual([order, order, order]);
  });

  it('soon show a change that was made past the service', async () => {
    const { id } = await placeOrder(nodes[0], user.token);
    await nearOnAllNodes(id);
    await psql.query(`UPDATE orders SET note = 'by psql' WHERE id = $1`, [id]);
    await eventually('every node shows it', async () => {
      const replies = await Promise.all(nodes.map((node) => readOrder(node, id)));
      return replies.every(({ body }) => body.note === 'by psql');
    });
  });

  it('share no cache with a node that has other near caches', async () => {
    const odd = await startNode(nodes[0].databaseUrl, 'session');
    try {
      const membership = odd.app.get(Membership, { strict: false });
      await eventually('it has noticed', () => membership.state === 'other-cache');
      const { id } = await placeOrder(nodes[0], user.token);
      await nearOnAllNodes(id);
      await changeNote(odd, id, 1);
      const replies = await Promise.all(nodes.map((node) => readOrder(node, id)));
      expect(replies.map(({ body }) => body.version)).toEqual([2, 2, 2]);
    } finally {
      await odd.close();
    }
  });
});
