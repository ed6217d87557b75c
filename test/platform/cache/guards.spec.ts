/**
 * Each guard of the protocol, taken out: a directed scenario over the real read and write paths, PostgreSQL and Redis, in which
 * a write is acknowledged and then read. With the guard in place the read shows it; without, the very same steps show an older
 * row. So whoever removes a guard from src/ sees the scenario of its name fail, and whoever weakens a scenario sees that too.
 *
 * A guard is taken out from here: by a Lua script without the line in question, a store that leaves a step out, a Redis that
 * calls itself by the same name in each of its lives, a gate that is always open.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createServer, connect, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Client } from 'pg';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { CacheMetrics } from '../../src/cache/cache.metrics.js';
import { type CacheStore, CacheUnavailableError } from '../../src/cache/cache.store.js';
import { CachedEntity, CachedRepository } from '../../src/cache/cached-repository.js';
import { DatabaseInvalidations } from '../../src/cache/database-invalidations.js';
import { GuardedStore } from '../../src/cache/guarded.store.js';
import {
  CachedEntities,
  type DegradedWrites,
  InvalidationService,
} from '../../src/cache/invalidation.service.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { scripts } from '../../src/cache/redis.scripts.js';
import { RedisStore } from '../../src/cache/redis.store.js';
import { dataSourceOptions } from '../../src/database/data-source.js';
import { UnitOfWork } from '../../src/database/unit-of-work.js';
import { Order } from '../../src/orders/order.entity.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { ask, type RedisServer, startRedis } from '../support/redis.js';

Logger.overrideLogger(false);

let redis: RedisServer;
let database: TestDatabase;
let psql: Client;
let id: string;
const cleanup: (() => unknown)[] = [];

beforeAll(async () => {
  [redis, database] = await Promise.all([startRedis(), createTestDatabase()]);
  psql = new Client({ connectionString: database.url, options: '-c holdfast.fenced=on' });
  await psql.connect();
});

afterAll(async () => {
  await psql?.end();
  await redis?.stop();
  await database?.drop();
});

beforeEach(async () => {
  const user = randomUUID();
  id = randomUUID();
  await psql.query(
    `INSERT INTO users (id, username, email) VALUES ($1, $2, $2 || '@guards.test')`,
    [user, `u${id.slice(0, 8)}`],
  );
  await psql.query(
    `INSERT INTO orders (id, user_id, status, currency, items, total) VALUES ($1, $2, 'placed', 'EUR', '[{"sku": "S", "name": "N", "quantity": 1, "unitPrice": 1}]', 1)`,
    [id, user],
  );
});

afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
  await ask(redis.port, 'FLUSHALL');
});

/** What a scenario may set about a node; everything else is as CacheModule puts it together. */
interface Options {
  readonly url?: string;
  readonly gate?: ReadGate;
  readonly degradedWrites?: DegradedWrites;
  /** Stands between the node and its store. */
  readonly around?: (store: CacheStore) => Partial<CacheStore>;
  /** Whether it applies what waits in `cache_invalidations`; without, its gate is open from the start. */
  readonly drains?: boolean;
}

interface Node {
  readonly store: CacheStore;
  readonly gate: ReadGate;
  /** Changes the order, and gives the version that was acknowledged. */
  write(): Promise<number>;
  /** The version that a reader gets. */
  read(): Promise<number | undefined>;
}

async function startNode({
  url = redis.url,
  gate = new ReadGate(),
  ...options
}: Options = {}): Promise<Node> {
  const dataSource = await new DataSource({
    ...dataSourceOptions(database.url, 4),
    entities: [Order],
  }).initialize();
  cleanup.push(() => dataSource.destroy());
  const guarded = new GuardedStore(
    RedisStore.connect({ url, onStateChange: () => gate.close() }),
    () => gate.close(),
  );
  cleanup.push(() => guarded.close());
  const store = options.around ? instead(guarded, options.around(guarded)) : guarded;
  const metrics = new CacheMetrics(new Registry());
  const entities = new CachedEntities();
  const cached = new CachedEntity(Order, dataSource.getRepository(Order));
  entities.add(cached);
  const invalidations = new DatabaseInvalidations(store, dataSource, gate, metrics);
  const service = new InvalidationService(
    store,
    entities,
    options.degradedWrites ?? 'reject',
    invalidations,
  );
  const unitOfWork = new UnitOfWork(dataSource, service);
  const orders = new CachedRepository(cached, store, metrics, gate);
  await until(() => store.available);
  if (options.drains) {
    await invalidations.onApplicationBootstrap();
    cleanup.push(() => invalidations.onApplicationShutdown());
    await until(() => gate.isOpen);
  } else gate.open(gate.pass());
  return {
    store,
    gate,
    write: () =>
      unitOfWork.run(async (transaction) => {
        const before = (await transaction.lock(Order, id)) as Order;
        const after = await transaction.update(before, { note: `after ${before.version}` });
        return (after as Order).version;
      }),
    read: async () => (await orders.findById(id))?.version,
  };
}

/** The store, with some of its steps replaced. */
const instead = (store: CacheStore, steps: Partial<CacheStore>): CacheStore =>
  new Proxy(store, {
    get(target, name: keyof CacheStore) {
      const value = steps[name] ?? target[name];
      return typeof value === 'function'
        ? (value as () => unknown).bind(steps[name] ? steps : target)
        : value;
    },
  });

async function until(condition: () => unknown): Promise<void> {
  for (const deadline = Date.now() + 10_000; !(await condition()); await sleep(2)) {
    if (Date.now() > deadline) throw new Error(`not in time: ${String(condition)}`);
  }
}

/** A step that waits until it is let go, and tells when it was reached. */
function holding<A extends unknown[]>(step: (...args: A) => Promise<void>) {
  let letGo!: () => void;
  let reach!: () => void;
  const [free, reached] = [
    new Promise<void>((yes) => (letGo = yes)),
    new Promise<void>((yes) => (reach = yes)),
  ];
  const held = async (...args: A): Promise<void> => {
    reach();
    await free;
    return step(...args);
  };
  return { held, reached, letGo };
}

const lost = (): Promise<never> => Promise.reject(new CacheUnavailableError('lost on its way'));

/** Until the test is over all scripts are without `line`, which stands in at least one of them. */
function withoutLine(line: string, instead: string): void {
  let found = 0;
  for (const script of Object.values(scripts) as { SCRIPT: string; SHA1: string }[]) {
    const { SCRIPT, SHA1 } = script;
    const altered = SCRIPT.replace(line, instead);
    if (altered === SCRIPT) continue;
    found++;
    Object.assign(script, {
      SCRIPT: altered,
      SHA1: createHash('sha1').update(altered).digest('hex'),
    });
    cleanup.push(() => Object.assign(script, { SCRIPT, SHA1 }));
  }
  if (found === 0) throw new Error(`no script has ${line}`);
}

/**
 * Version 1 is cached, version 2 acknowledged; its publication is lost, so that the key waits in `cache_invalidations` for a
 * node that is busy elsewhere. Only the fence keeps version 1 from being read.
 */
async function lostPublication(guard: boolean): Promise<unknown> {
  const writer = await startNode({
    around: () => ({ publish: lost, ...(guard ? {} : { fence: async () => undefined }) }),
  });
  const reader = await startNode();
  expect([await reader.read(), await reader.read()]).toEqual([1, 1]);
  expect(await writer.write()).toBe(2);
  return reader.read();
}

/**
 * Two writers of one row: the first has committed version 2 and not yet published it, when the second fences, commits version 3
 * and loses its publication. Then the first publishes: the second's fence must stay.
 */
async function twoWritersOneFence(): Promise<unknown> {
  const publishing = holding((...args: Parameters<CacheStore['publish']>) =>
    first.store.publish(...args),
  );
  const first = await startNode();
  const slow = await startNode({ around: () => ({ publish: publishing.held }) });
  const second = await startNode({ around: () => ({ publish: lost }) });
  await first.read();
  const writing = slow.write();
  await publishing.reached;
  expect(await second.write()).toBe(3);
  publishing.letGo();
  expect(await writing).toBe(2);
  return first.read();
}

/**
 * The first writer has committed version 2 and not yet published it, when the cache forgets all, fences too; the second
 * commits and publishes version 3. What the first publishes then is older than what is there.
 */
async function publicationAfterAFlush(): Promise<unknown> {
  const publishing = holding((...args: Parameters<CacheStore['publish']>) =>
    second.store.publish(...args),
  );
  const slow = await startNode({ around: () => ({ publish: publishing.held }) });
  const second = await startNode();
  const writing = slow.write();
  await publishing.reached;
  await ask(redis.port, 'FLUSHALL');
  expect(await second.write()).toBe(3);
  publishing.letGo();
  expect(await writing).toBe(2);
  return second.read();
}

/** As before without a flush: the second publishes first, and the first, the last to leave the fence, comes with less. */
async function publicationsInReverse(): Promise<unknown> {
  const publishing = holding((...args: Parameters<CacheStore['publish']>) =>
    second.store.publish(...args),
  );
  const slow = await startNode({ around: () => ({ publish: publishing.held }) });
  const second = await startNode();
  const writing = slow.write();
  await publishing.reached;
  expect(await second.write()).toBe(3);
  publishing.letGo();
  expect(await writing).toBe(2);
  return second.read();
}

/** A Redis that comes back from a crash with a dataset that was saved before the last write. */
async function oldDataset(guard: boolean): Promise<unknown> {
  const server = await startRedis();
  cleanup.push(() => server.stop());
  const url = guard ? server.url : await redisOfOneName(server.port);
  const node = await startNode({ url, drains: true });
  expect([await node.read(), await node.read()]).toEqual([1, 1]);
  await ask(server.port, 'SAVE');
  expect(await node.write()).toBe(2);
  await server.kill();
  await until(() => !node.store.available);
  await server.restart();
  expect(await ask(server.port, 'DBSIZE')).toBe(':1\r\n');
  await until(() => node.store.available && node.gate.isOpen);
  return node.read();
}

/** Passes everything on and back, but the names by which a server tells its lives apart, which stay the same. */
async function redisOfOneName(port: number): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket
        .on('error', () => undefined)
        .on('close', () => [client, upstream].forEach((it) => it.destroy()));
    }
    client.on('data', (bytes) => upstream.write(bytes));
    upstream.on('data', (bytes) => {
      const text = bytes
        .toString('latin1')
        .replace(/(run_id|master_replid):\w{40}/g, `$1:${'0'.repeat(40)}`);
      client.write(text, 'latin1');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return `redis://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

class OpenGate extends ReadGate {
  override get isOpen(): boolean {
    return true;
  }
}

/**
 * Nobody reaches Redis when version 2 is written, so its key waits in `cache_invalidations`. Redis is back with all that it
 * had, and the key is not yet taken out (its row is locked, as while another node is at it): the reader must not ask Redis.
 */
async function reconnection(guard: boolean): Promise<unknown> {
  const server = await startRedis();
  cleanup.push(() => server.stop());
  const node = await startNode({
    url: server.url,
    degradedWrites: 'allow',
    drains: true,
    ...(guard ? {} : { gate: new OpenGate() }),
  });
  expect([await node.read(), await node.read()]).toEqual([1, 1]);
  server.pause();
  await until(() => !node.store.available || node.read().then(() => false));
  expect(await node.write()).toBe(2);
  await psql.query('BEGIN');
  cleanup.push(() => psql.query('ROLLBACK'));
  expect((await psql.query('SELECT 1 FROM cache_invalidations FOR UPDATE')).rowCount).toBe(1);
  server.resume();
  await until(() =>
    node.store.ping().then(
      () => node.store.available,
      () => false,
    ),
  );
  const seen = await node.read();
  await psql.query('COMMIT');
  await until(async () => (await psql.query('SELECT 1 FROM cache_invalidations')).rowCount === 0);
  expect(await node.read()).toBe(2);
  return seen;
}

describe('the fence', () => {
  it('in place: a write whose publication is lost is read all the same', async () =>
    expect(await lostPublication(true)).toBe(2));
  it('taken out: what was cached before it is read', async () =>
    expect(await lostPublication(false)).toBe(1));
});

describe("the fence's set of tokens", () => {
  it("in place: one writer's publication leaves another's fence", async () =>
    expect(await twoWritersOneFence()).toBe(3));
  it('taken out, one flag for all: the older write is read', async () => {
    withoutLine('if name == token then', 'if true then');
    expect(await twoWritersOneFence()).toBe(2);
  });
});

describe('the version compare', () => {
  it('in place: a late publication does not replace a newer row', async () =>
    expect(await publicationAfterAFlush()).toBe(3));
  it('taken out: it does', async () => {
    withoutLine('\n  if published > version then', '\n  if true then');
    expect(await publicationAfterAFlush()).toBe(2);
  });
});

describe("the fence's floor", () => {
  it('in place: the last to publish is not believed when it has less than another had', async () =>
    expect(await publicationsInReverse()).toBe(3));
  it('taken out: it is', async () => {
    withoutLine('mine and published >= version', 'mine');
    expect(await publicationsInReverse()).toBe(2);
  });
});

describe('the incarnation', () => {
  it('in place: nothing is read of an older dataset', async () =>
    expect(await oldDataset(true)).toBe(2));
  it('taken out, one name for all lives: it is', async () =>
    expect(await oldDataset(false)).toBe(1));
});

describe('the reconnect gate', () => {
  it('in place: a node that has reconnected reads PostgreSQL until it has caught up', async () =>
    expect(await reconnection(true)).toBe(2));
  it('taken out, always open: it reads what Redis had kept', async () =>
    expect(await reconnection(false)).toBe(1));
});
