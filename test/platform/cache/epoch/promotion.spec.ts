/**
 * PostgreSQL fails over for real: a replica that never received the last commits is promoted behind
 * the same address, while the cache still holds what those commits wrote.
 */
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import type { Provider } from '@nestjs/common';
import { Client } from 'pg';
import { CACHE_TIMING_OVERRIDES } from '../../../../src/platform/cache/cache-timings.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { eventually } from '../../../support/eventually.js';
import { placeOrder, registerUser } from '../../../support/factories.js';
import { startTestPostgres, type TestPostgres } from '../../../support/postgres.js';
import { type RedisServer, startRedis } from '../../../support/redis.js';
import { TcpProxy } from '../../../support/tcp-proxy.js';

const DEFAULT_TIMINGS: Provider = { provide: CACHE_TIMING_OVERRIDES, useValue: {} };

let primary: TestPostgres;
let replica: TestPostgres;
let redis: RedisServer;
/** Where the nodes reach PostgreSQL. */
let address: TcpProxy;
/** Where the replica reaches the primary. */
let replication: TcpProxy;
let nodes: TestApp[];

async function run(server: TestPostgres, sql: string): Promise<Record<string, unknown>[]> {
  const client = new Client({ connectionString: server.url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<Record<string, unknown>>(sql);
    return rows;
  } finally {
    await client.end();
  }
}

beforeAll(async () => {
  [primary, redis] = await Promise.all([startTestPostgres(), startRedis()]);
  replication = await TcpProxy.start(primary.port);
  replica = await primary.replicate(replication.port);
  address = await TcpProxy.start(primary.port);
  const url = new URL(primary.url);
  url.port = String(address.port);
  const env = { REDIS_URL: redis.url };
  nodes = [await startApp(env, url.href, undefined, [DEFAULT_TIMINGS])];
  nodes.push(await startApp(env, url.href, undefined, [DEFAULT_TIMINGS]));
});
afterAll(async () => {
  await Promise.all((nodes ?? []).map((node) => node.close()));
  address?.close();
  replication?.close();
  await replica?.stop();
  await primary?.stop();
  await redis?.stop();
});

const isMember = async (node: TestApp): Promise<boolean> => {
  const { body } = await node.call('GET', '/health/ready');
  return body.checks?.cache?.status === 'up';
};

it('a replica without the last commits is promoted → nothing that they wrote is read', async () => {
  const [first, second] = nodes as [TestApp, TestApp];
  await eventually('both nodes use the cache', async () => {
    return (await isMember(first)) && (await isMember(second));
  });
  const { token } = await registerUser(first);
  const { id } = await placeOrder(first, token);
  // Nobody writes it after the failover.
  const { id: idleId, note: idleNote } = await placeOrder(first, token);
  const patch = (node: TestApp, version: number, note: string, orderId = id) =>
    node.call('PATCH', `/v1/orders/${orderId}`, {
      token,
      body: { note },
      headers: { 'If-Match': `"${version}"` },
    });
  const read = (node: TestApp, orderId = id) =>
    node.call('GET', `/v1/orders/${orderId}`, { token });

  // The replica has the orders, and receives nothing more.
  await eventually('the replica has the orders', async () => {
    const ids = [id, idleId].map((orderId) => `'${orderId}'`).join();
    return (await run(replica, `SELECT FROM orders WHERE id IN (${ids})`)).length === 2;
  });
  replication.refuse();
  await eventually('the primary sends nothing any more', async () => {
    return (await run(primary, 'SELECT FROM pg_stat_replication')).length === 0;
  });
  expect((await patch(first, 1, 'lost')).body.version).toBe(2);
  expect((await patch(second, 2, 'lost as well')).body.version).toBe(3);
  expect((await patch(first, 1, 'lost as well', idleId)).body.version).toBe(2);
  for (const orderId of [id, idleId]) {
    const cached = await read(second, orderId);
    expect([cached.body.note, cached.headers.get('cache-status')]).toEqual([
      'lost as well',
      'holdfast; hit',
    ]);
  }

  await primary.kill();
  address.cut();
  await run(replica, 'SELECT pg_promote()');
  address.leadTo(replica.port);

  // The first answer of the new primary ends the time of the old one. It is 412 when an earlier
  // attempt was written and had no answer.
  await eventually('the new primary takes a write', async () => {
    const reply = await patch(first, 1, 'after the failover');
    if (reply.status === 200 || reply.status === 412) return true;
    throw new Error(reply.text);
  });
  const orders = [
    { orderId: id, version: 2, note: 'after the failover' },
    { orderId: idleId, version: 1, note: idleNote as unknown },
  ];
  for (const { orderId, version, note } of orders) {
    const seen = await Promise.all(nodes.map(async (node) => (await read(node, orderId)).body));
    expect(seen.map((body) => [body.version, body.note])).toEqual(nodes.map(() => [version, note]));
  }
  await eventually('both nodes use the cache again', async () => {
    return (await isMember(first)) && (await isMember(second));
  });
  const pairs = nodes.flatMap((node) => orders.map((order) => ({ node, ...order })));
  const stale: string[] = [];
  for (const { node, orderId, version, note } of pairs) {
    await eventually('the node answers from the cache', async () => {
      const { body, headers } = await read(node, orderId);
      if (body.version !== version || body.note !== note) stale.push(JSON.stringify(body));
      return headers.get('cache-status') === 'holdfast; hit';
    });
  }
  expect(stale).toEqual([]);
});
