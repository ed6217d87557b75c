/**
 * Nodes that do not share one cache, through the API: they notice before they serve from it, stay
 * correct at PostgreSQL's speed, and use the cache again as soon as they agree.
 */
import { randomUUID } from 'node:crypto';
import { Writable } from 'node:stream';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { Provider } from '@nestjs/common';
import { Client } from 'pg';
import { CACHE_TIMING_OVERRIDES } from '../../../../src/platform/cache/cache-timings.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { eventually } from '../../../support/eventually.js';
import { placeOrder, registerUser, type TestUser } from '../../../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../../../support/postgres.js';
import { type RedisServer, startRedis } from '../../../support/redis.js';
import { TcpProxy } from '../../../support/tcp-proxy.js';
import { registerCleanup } from '../cleanup.js';

const HIT = 'holdfast; hit';

/** The service's own times: a silent node counts as a reader for 3 s. */
const DEFAULT_TIMINGS: Provider = { provide: CACHE_TIMING_OVERRIDES, useValue: {} };

let database: TestDatabase;
let psql: Client;
let redis: readonly [RedisServer, RedisServer];
let user: TestUser;
let orderId: string;

const afterThisTest = registerCleanup();

beforeAll(async () => {
  [database, redis] = await Promise.all([
    createTestDatabase(),
    Promise.all([startRedis(), startRedis()]),
  ]);
  psql = new Client({ connectionString: database.url });
  await psql.connect();
});
afterAll(async () => {
  await psql?.end();
  await Promise.all((redis ?? []).map((server) => server.stop()));
  await database?.drop();
});

beforeEach(async () => {
  const node = await startApp({}, database.url);
  user = await registerUser(node);
  orderId = (await placeOrder(node, user.token)).id as string;
  await node.close();
});

interface NodeSettings {
  readonly log?: Writable;
  readonly overrides?: readonly Provider[];
}

/** @param redisUrl absent: the cache is in the memory of the node */
async function startNode(
  redisUrl?: string,
  { log, overrides = [] }: NodeSettings = {},
): Promise<TestApp> {
  const env = {
    ...(redisUrl === undefined ? {} : { REDIS_URL: redisUrl }),
    ...(log ? { LOG_LEVEL: 'info' } : {}),
  };
  const node = await startApp(env, database.url, log, overrides);
  afterThisTest(() => stopNode(node));
  return node;
}

const stoppedNodes = new WeakSet<TestApp>();
async function stopNode(node: TestApp): Promise<void> {
  if (stoppedNodes.has(node)) return;
  stoppedNodes.add(node);
  await node.close();
}

interface CacheCheck {
  readonly status: string;
  readonly message?: string;
}

async function readinessOf(node: TestApp): Promise<{ status: string; cache: CacheCheck }> {
  const { body } = await node.call('GET', '/health/ready');
  return { status: body.status, cache: body.checks.cache };
}

const untilMember = (node: TestApp): Promise<unknown> =>
  eventually('the node uses the cache', async () => (await readinessOf(node)).status === 'ok');

/** Waits until the node says that it uses no cache, and why. */
const untilState = (node: TestApp, state: string): Promise<unknown> =>
  eventually(`the node is in the state ${state}`, async () => {
    const { status, cache } = await readinessOf(node);
    if (status === 'degraded' && cache.message?.startsWith(`${state}: `)) return true;
    throw new Error(JSON.stringify({ status, cache }));
  });

async function read(node: TestApp): Promise<{ version: number; outcome: string | null }> {
  const { body, headers } = await node.call('GET', `/v1/orders/${orderId}`, { token: user.token });
  return { version: body.version, outcome: headers.get('cache-status') };
}

async function write(node: TestApp, version: number): Promise<number> {
  const reply = await node.call('PATCH', `/v1/orders/${orderId}`, {
    token: user.token,
    body: { note: `after ${version}` },
    headers: { 'If-Match': `"${version}"` },
  });
  if (reply.status !== 200) throw new Error(reply.text);
  return reply.body.version;
}

/** Each node in turn writes, and every node reads what was acknowledged. */
async function expectFreshReads(nodes: readonly TestApp[], rounds = 6): Promise<void> {
  const seen: number[][] = [];
  const acknowledged: number[][] = [];
  let { version } = await read(nodes[0]!);
  for (let round = 0; round < rounds; round++) {
    for (const node of nodes) await read(node);
    version = await write(nodes[round % nodes.length]!, version);
    seen.push(await Promise.all(nodes.map(async (node) => (await read(node)).version)));
    acknowledged.push(nodes.map(() => version));
  }
  expect(seen).toEqual(acknowledged);
}

const untilHit = (node: TestApp): Promise<unknown> =>
  eventually('the node answers from the cache', async () => (await read(node)).outcome === HIT);

/** One line for each entry of the log. */
class LogLines extends Writable {
  readonly lines: string[] = [];

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.lines.push(...chunk.toString().split('\n').filter(Boolean));
    done();
  }
}

describe('two nodes that do not share a cache', () => {
  const url = (index: 0 | 1, path = ''): string => `${redis[index].url}${path}`;

  it.each<[string, () => [string | undefined, string | undefined]]>([
    ['memory and memory', () => [undefined, undefined]],
    ['Redis and memory', () => [url(0), undefined]],
    ['memory and Redis', () => [undefined, url(0)]],
    ['database 0 and database 1 of one Redis', () => [url(0, '/0'), url(0, '/1')]],
    ['two Redis servers', () => [url(0), url(1)]],
  ])('%s: the second reads PostgreSQL, and no read is stale', async (_, urlsOf) => {
    const [firstUrl, secondUrl] = urlsOf();
    const first = await startNode(firstUrl);
    await untilMember(first);
    const second = await startNode(secondUrl);
    await untilState(second, 'other-cache');
    await expectFreshReads([first, second]);
    await untilHit(first);
    expect((await read(second)).outcome).toBe('holdfast; fwd=bypass');

    await stopNode(first);
    await untilMember(second);
    await untilHit(second);
  });

  it('one address leads to two servers, one after the other', async () => {
    const proxy = await TcpProxy.start(redis[0].port);
    afterThisTest(() => proxy.close());
    const address = `redis://127.0.0.1:${proxy.port}`;
    const first = await startNode(address);
    await untilMember(first);
    proxy.leadTo(redis[1].port);
    const second = await startNode(address);
    await untilState(second, 'other-cache');
    await expectFreshReads([first, second]);
    proxy.cut();
    await Promise.all([untilMember(first), untilMember(second)]);
    await expectFreshReads([first, second]);
  });

  it('REDIS_URL changes node by node', async () => {
    const old = [await startNode(url(0)), await startNode(url(0))] as const;
    await Promise.all(old.map(untilMember));
    await expectFreshReads(old);
    await stopNode(old[1]);
    const first = await startNode(url(1));
    await untilState(first, 'other-cache');
    await expectFreshReads([old[0], first]);
    await stopNode(old[0]);
    await untilMember(first);
    const second = await startNode(url(1));
    await untilMember(second);
    await expectFreshReads([first, second]);
    await untilHit(second);
  });
});

describe('a node without the cache', () => {
  it('says so in readiness, in a metric and in one line of the log', async () => {
    const first = await startNode();
    await untilMember(first);
    const log = new LogLines();
    const second = await startNode(undefined, { log });
    await untilState(second, 'other-cache');
    await expectFreshReads([second], 3);
    const { text } = await second.call('GET', '/metrics');
    const states = text
      .split('\n')
      .filter((line) => /^holdfast_cache_membership\{.* 1$/.test(line));
    expect(states).toEqual(['holdfast_cache_membership{state="other-cache"} 1']);
    const lines = log.lines.filter((line) => line.includes('Cache membership: other-cache'));
    expect(lines).toHaveLength(1);
  });

  it('takes over when the others show no life for 3 s', async () => {
    const { rows } = await psql.query<{ epoch: string }>('SELECT epoch FROM cache_epoch');
    await psql.query('INSERT INTO cache_readers (registration, epoch) VALUES ($1, $2)', [
      randomUUID(),
      rows[0]?.epoch,
    ]);
    const node = await startNode(undefined, { overrides: [DEFAULT_TIMINGS] });
    await untilState(node, 'other-cache');
    await untilMember(node);
    await untilHit(node);
    expect((await psql.query('SELECT FROM cache_readers')).rowCount).toBe(1);
  });

  it('rejects writes with CACHE_DEGRADED_WRITES=reject, and leaves nothing behind', async () => {
    const first = await startNode();
    await untilMember(first);
    const second = await startApp({ CACHE_DEGRADED_WRITES: 'reject' }, database.url);
    afterThisTest(() => second.close());
    await untilState(second, 'other-cache');
    const reply = await second.call('PATCH', `/v1/orders/${orderId}`, {
      token: user.token,
      body: { note: 'never' },
      headers: { 'If-Match': '"1"' },
    });
    expect([reply.status, reply.body.code]).toEqual([503, 'cache-unavailable']);
    expect((await read(first)).version).toBe(1);
  });
});

describe('a node of an older release', () => {
  /** How releases before the epochs listen, and what their sessions declare. */
  async function connectOlderNode(): Promise<Client> {
    const client = new Client({
      connectionString: database.url,
      application_name: 'holdfast-invalidations',
      options: '-c holdfast.fenced=on',
    });
    await client.connect();
    let isOpen = true;
    afterThisTest(async () => {
      if (isOpen) await client.end();
    });
    const end = client.end.bind(client);
    client.end = (async () => {
      isOpen = false;
      await end();
    }) as typeof client.end;
    return client;
  }

  const changeNote = (client: Client, note: string): Promise<unknown> =>
    client.query('UPDATE orders SET note = $2 WHERE id = $1', [orderId, note]);

  it('may not write while a node uses the cache, then ends its use', async () => {
    const node = await startNode();
    await untilMember(node);
    await untilHit(node);
    const writer = new Client({
      connectionString: database.url,
      options: '-c holdfast.fenced=on',
    });
    await writer.connect();
    afterThisTest(() => writer.end());
    await expect(changeNote(writer, 'too early')).rejects.toMatchObject({ code: '40001' });

    const older = await connectOlderNode();
    await untilState(node, 'older-release');
    await changeNote(older, 'from the older node');
    expect(await read(node)).toMatchObject({ version: 2 });

    // It deletes the rows without touching the newer nodes' cache, and leaves.
    await psql.query('DELETE FROM cache_invalidations WHERE position > 0');
    await older.end();
    await untilMember(node);
    expect((await read(node)).version).toBe(2);
    await untilHit(node);
  });
});

describe('a database that knows other keys than the release', () => {
  async function replaceTrigger(args: string): Promise<void> {
    await psql.query('DROP TRIGGER orders_cache_invalidation ON orders');
    await psql.query(`
      CREATE CONSTRAINT TRIGGER orders_cache_invalidation
        AFTER INSERT OR UPDATE OR DELETE ON orders
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        EXECUTE FUNCTION note_cache_invalidation(${args})`);
  }
  const restore = (): Promise<void> => replaceTrigger(`'order', 'ofUser,user_id'`);

  it('one key more: a write is enqueued and waited for', async () => {
    await replaceTrigger(`'order', 'ofUser,user_id', 'note,note'`);
    afterThisTest(restore);
    const nodes = [await startNode(redis[0].url), await startNode(redis[0].url)];
    await Promise.all(nodes.map(untilMember));
    await untilHit(nodes[1]!);
    await expectFreshReads(nodes);
    const { text } = await nodes[0]!.call('GET', '/metrics');
    const waited = /^holdfast_cache_degraded_write_wait_seconds_count (\d+)$/m.exec(text)?.[1];
    expect(Number(waited)).toBe(3);
  });

  it('one key less: no node uses the cache until the migration has run', async () => {
    await replaceTrigger(`'order'`);
    afterThisTest(restore);
    const node = await startNode();
    await untilState(node, 'migrations-pending');
    await expectFreshReads([node], 2);
    await restore();
    await untilMember(node);
    await untilHit(node);
  });
});
