/**
 * Removes each guard of the protocol in turn. Each scenario acknowledges a write and then reads,
 * over the real read and write paths, PostgreSQL and Redis. With the guard the read shows the
 * write; without it the same steps show an older row. So a change that removes a guard fails here,
 * and so does a change that makes a scenario harmless.
 */
import { createHash, randomUUID } from 'node:crypto';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Client } from 'pg';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { Order } from '../../../src/orders/order.entity.js';
import { CacheMetrics } from '../../../src/platform/cache/cache-metrics.js';
import { DEFAULT_CACHE_TIMINGS } from '../../../src/platform/cache/cache-timings.js';
import { CachedEntities, CachedEntity } from '../../../src/platform/cache/cached-entity.js';
import { CachedRepository } from '../../../src/platform/cache/cached-repository.js';
import { Membership } from '../../../src/platform/cache/epoch/membership.js';
import { type GatePass, ReadGate } from '../../../src/platform/cache/read/read-gate.js';
import {
  type CacheStore,
  CacheUnavailableError,
} from '../../../src/platform/cache/store/cache-store.js';
import type { EpochStore } from '../../../src/platform/cache/store/epoch-store.js';
import { GuardedStore } from '../../../src/platform/cache/store/guarded-store.js';
import { scripts } from '../../../src/platform/cache/store/redis/redis-scripts.js';
import { RedisStore } from '../../../src/platform/cache/store/redis/redis-store.js';
import { DatabaseInvalidations } from '../../../src/platform/cache/write/database-invalidations.js';
import type { DegradedWrites } from '../../../src/platform/cache/write/invalidation.js';
import { InvalidationService } from '../../../src/platform/cache/write/invalidation.service.js';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { UnitOfWork } from '../../../src/platform/database/unit-of-work.js';
import { eventually } from '../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import {
  newGate,
  PRETENDED_EPOCH,
  pretendEpoch,
  pretendMembership,
} from '../../support/pretend-epoch.js';
import { type RedisServer, sendRedisCommand, startRedis } from '../../support/redis.js';
import { registerCleanup } from './cleanup.js';

Logger.overrideLogger(false);

/** Long enough that no step times out because the machine is busy. */
const COMMAND_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 30_000;

const INSERT_USER = `
  INSERT INTO users (id, username, email) VALUES ($1, $2, $2 || '@guards.test')`;
const ITEMS = JSON.stringify([{ sku: 'S', name: 'N', quantity: 1, unitPrice: 1 }]);
const INSERT_ORDER = `
  INSERT INTO orders (id, user_id, status, currency, items, total)
  VALUES ($1, $2, 'placed', 'EUR', $3, 1)`;

let redis: RedisServer;
let database: TestDatabase;
let psql: Client;
let orderId: string;

beforeAll(async () => {
  [redis, database] = await Promise.all([startRedis(), createTestDatabase()]);
  psql = new Client({ connectionString: database.url });
  await psql.connect();
});

afterAll(async () => {
  await psql?.end();
  await redis?.stop();
  await database?.drop();
});

beforeEach(async () => {
  // Of writes whose publication a test has lost: nobody applies them.
  await psql.query('DELETE FROM cache_invalidations');
  const userId = randomUUID();
  orderId = randomUUID();
  await psql.query(INSERT_USER, [userId, `u${orderId.slice(0, 8)}`]);
  await psql.query(INSERT_ORDER, [orderId, userId, ITEMS]);
  await psql.query('TRUNCATE cache_invalidations, cache_readers');
  await psql.query('UPDATE cache_epoch SET epoch = $1', [PRETENDED_EPOCH]);
});

const afterThisTest = registerCleanup();
afterEach(() => sendRedisCommand(redis.port, 'FLUSHALL'));

/** What a scenario may change about a node. Everything else is as CacheModule builds it. */
interface NodeOptions {
  readonly url?: string;
  readonly gate?: ReadGate;
  readonly degradedWrites?: DegradedWrites;
  /** Replaces some steps of the node's store. */
  readonly replaceSteps?: (store: CacheStore) => Partial<CacheStore>;
  /**
   * Whether the node is registered and applies `cache_invalidations`. If not, its gate is open from
   * the start.
   */
  readonly appliesInvalidations?: boolean;
}

interface Node {
  readonly store: CacheStore;
  readonly gate: ReadGate;
  /** Changes the order. Resolves with the version that was acknowledged. */
  write(): Promise<number>;
  /** The order's version as a reader of this node sees it. */
  read(): Promise<number | undefined>;
}

async function startNode({
  url = redis.url,
  gate = newGate(),
  degradedWrites = 'reject',
  ...options
}: NodeOptions = {}): Promise<Node> {
  const dataSource = await new DataSource({
    ...dataSourceOptions(database.url, 4),
    connectTimeoutMS: CONNECT_TIMEOUT_MS,
    entities: [Order],
  }).initialize();
  afterThisTest(() => dataSource.destroy());
  const redisStore = RedisStore.connect({
    url,
    commandTimeoutMs: COMMAND_TIMEOUT_MS,
    onStateChange: () => gate.close(),
  });
  const guardedStore = new GuardedStore(redisStore, () => gate.close());
  afterThisTest(() => guardedStore.close());
  const steps = options.replaceSteps?.(guardedStore);
  const store = steps ? withSteps(guardedStore, steps) : guardedStore;

  const metrics = new CacheMetrics(new Registry());
  const entities = new CachedEntities();
  const cached = new CachedEntity(Order, dataSource.getRepository(Order));
  entities.add(cached);
  await eventually('the store is available', () => store.isAvailable);
  const membership = options.appliesInvalidations
    ? new Membership(store, gate, entities, metrics, DEFAULT_CACHE_TIMINGS)
    : pretendMembership(pretendEpoch(store), entities);
  const invalidations = new DatabaseInvalidations(
    store,
    dataSource,
    gate,
    membership,
    metrics,
    DEFAULT_CACHE_TIMINGS,
  );
  const service = new InvalidationService(membership, entities, degradedWrites, invalidations);
  const unitOfWork = new UnitOfWork(dataSource, service);
  const orders = new CachedRepository(cached, store, metrics, gate);

  if (options.appliesInvalidations) {
    await invalidations.onApplicationBootstrap();
    afterThisTest(() => invalidations.onApplicationShutdown());
    await eventually('the gate opens', () => gate.isOpen);
  } else {
    gate.open(gate.takePass(), pretendEpoch(store));
  }
  return {
    store,
    gate,
    write: () =>
      unitOfWork.run(async (transaction) => {
        const before = (await transaction.lock(Order, orderId)) as Order;
        const after = await transaction.update(before, { note: `after ${before.version}` });
        return (after as Order).version;
      }),
    read: async () => (await orders.findById(orderId))?.version,
  };
}

/** The store with some of its steps replaced. */
const withSteps = (store: CacheStore, steps: Partial<CacheStore>): CacheStore =>
  new Proxy(store, {
    get(target, name: keyof CacheStore) {
      const value = steps[name] ?? target[name];
      const owner = steps[name] ? steps : target;
      return typeof value === 'function' ? (value as () => unknown).bind(owner) : value;
    },
  });

interface BlockableStep<Args extends unknown[], Result> {
  readonly step: (...args: Args) => Promise<Result>;
  /** Resolves when the step was called. */
  readonly isReached: Promise<void>;
  /** Lets the step run. */
  readonly unblock: () => void;
}

/** A step that waits until the test lets it run. */
function blockable<Args extends unknown[], Result>(
  runStep: (...args: Args) => Promise<Result>,
): BlockableStep<Args, Result> {
  let unblock!: () => void;
  let reach!: () => void;
  const isUnblocked = new Promise<void>((resolve) => {
    unblock = resolve;
  });
  const isReached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  const step = async (...args: Args): Promise<Result> => {
    reach();
    await isUnblocked;
    return runStep(...args);
  };
  return { step, isReached, unblock };
}

const loseCommand = (): Promise<never> =>
  Promise.reject(new CacheUnavailableError('lost on the way to Redis'));

/**
 * Replaces a piece of the Lua scripts until the test is over.
 * @throws Error when no script has that piece
 */
function replaceInScripts(piece: string, replacement: string): void {
  const affected = Object.values(scripts).filter(({ text }) => text.includes(piece));
  if (affected.length === 0) throw new Error(`No script contains: ${piece}`);
  for (const script of affected) {
    const { text, sha1 } = script;
    const newText = text.replace(piece, replacement);
    const newSha1 = createHash('sha1').update(newText).digest('hex');
    Object.assign(script, { text: newText, sha1: newSha1 });
    afterThisTest(() => Object.assign(script, { text, sha1 }));
  }
}

/**
 * Version 1 is cached and version 2 acknowledged. The publication of version 2 is lost, and nobody
 * applies `cache_invalidations`. Only the fence keeps readers from version 1.
 */
async function losePublication(isGuarded: boolean): Promise<unknown> {
  const withoutFence = { fence: async () => undefined };
  const writer = await startNode({
    replaceSteps: () => ({ publish: loseCommand, ...(isGuarded ? {} : withoutFence) }),
  });
  const reader = await startNode();
  expect([await reader.read(), await reader.read()]).toEqual([1, 1]);
  expect(await writer.write()).toBe(2);
  return reader.read();
}

/**
 * Two writers of one row. The first has committed version 2 and not yet published it. The second
 * fences, commits version 3 and loses its publication. Then the first publishes: the fence of the
 * second must stay.
 */
async function publishBesideAnotherFence(): Promise<unknown> {
  const reader = await startNode();
  const publish = blockable((...args: Parameters<CacheStore['publish']>) =>
    reader.store.publish(...args),
  );
  const firstWriter = await startNode({ replaceSteps: () => ({ publish: publish.step }) });
  const secondWriter = await startNode({ replaceSteps: () => ({ publish: loseCommand }) });
  await reader.read();
  const firstWrite = firstWriter.write();
  await publish.isReached;
  expect(await secondWriter.write()).toBe(3);
  publish.unblock();
  expect(await firstWrite).toBe(2);
  return reader.read();
}

/**
 * Two writers of one row. The first has committed version 2 and not yet published it. The second
 * commits and publishes version 3. Then the first publishes.
 * @param beforeSecondWrite runs between the first COMMIT and the second write
 */
async function publishInReverse(
  beforeSecondWrite: () => Promise<unknown> = async () => undefined,
): Promise<unknown> {
  const secondWriter = await startNode();
  const publish = blockable((...args: Parameters<CacheStore['publish']>) =>
    secondWriter.store.publish(...args),
  );
  const firstWriter = await startNode({ replaceSteps: () => ({ publish: publish.step }) });
  const firstWrite = firstWriter.write();
  await publish.isReached;
  await beforeSecondWrite();
  expect(await secondWriter.write()).toBe(3);
  publish.unblock();
  expect(await firstWrite).toBe(2);
  return secondWriter.read();
}

/** {@link publishInReverse}, and Redis loses everything before the second write, fences too. */
const publishAfterFlush = (): Promise<unknown> =>
  publishInReverse(() => sendRedisCommand(redis.port, 'FLUSHALL'));

/** Redis crashes and comes back with a dataset that was saved before the last write. */
async function restoreOldDataset(isGuarded: boolean): Promise<unknown> {
  const server = await startRedis();
  afterThisTest(() => server.stop());
  const url = isGuarded ? server.url : await hideIncarnations(server.port);
  const node = await startNode({ url, appliesInvalidations: true });
  expect([await node.read(), await node.read()]).toEqual([1, 1]);
  await sendRedisCommand(server.port, 'SAVE');
  expect(await node.write()).toBe(2);
  await server.kill();
  await eventually('the node notices the crash', () => !node.store.isAvailable);
  await server.restart();
  expect(await sendRedisCommand(server.port, 'DBSIZE')).toBe(':1\r\n');
  await eventually('the node uses Redis again', () => node.store.isAvailable && node.gate.isOpen);
  return node.read();
}

/**
 * A proxy in front of a Redis server that replaces what tells the server's incarnations apart.
 * @returns its URL
 */
async function hideIncarnations(port: number): Promise<string> {
  const sockets = new Set<Socket>();
  const proxy = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    const pair = [client, upstream];
    for (const socket of pair) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => pair.forEach((each) => each.destroy()));
    }
    client.on('data', (bytes) => upstream.write(bytes));
    upstream.on('data', (bytes) => {
      const text = bytes
        .toString('latin1')
        .replace(/(run_id|master_replid):\w{40}/g, `$1:${'0'.repeat(40)}`);
      client.write(text, 'latin1');
    });
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  afterThisTest(() => {
    proxy.close();
    for (const socket of sockets) socket.destroy();
  });
  return `redis://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
}

/** Stays open to the store that it was first opened to. */
class AlwaysOpenGate extends ReadGate {
  private firstStore: EpochStore | undefined;

  override open(pass: GatePass, store: EpochStore): void {
    this.firstStore ??= store;
    super.open(pass, store);
  }

  override get store(): EpochStore | undefined {
    return this.firstStore;
  }
}

/**
 * Redis hangs while version 2 is written, so its key waits in `cache_invalidations`. Then Redis
 * answers again, with all that it had. The waiting row is locked, as if another node were applying
 * it, so the key is not deleted yet: the reader must not ask Redis.
 */
async function reconnectBeforeInvalidation(isGuarded: boolean): Promise<unknown> {
  const server = await startRedis();
  afterThisTest(() => server.stop());
  const node = await startNode({
    url: server.url,
    degradedWrites: 'wait',
    appliesInvalidations: true,
    ...(isGuarded ? {} : { gate: new AlwaysOpenGate(DEFAULT_CACHE_TIMINGS) }),
  });
  expect([await node.read(), await node.read()]).toEqual([1, 1]);
  server.pause();
  await eventually('the node notices that Redis hangs', () => !node.store.isAvailable);
  expect(await node.write()).toBe(2);

  await psql.query('BEGIN');
  afterThisTest(() => psql.query('ROLLBACK'));
  const locked = await psql.query(
    'SELECT 1 FROM cache_invalidations WHERE position > 0 FOR UPDATE',
  );
  expect(locked.rowCount).toBe(1);
  server.resume();
  await eventually('the store is available again', async () => {
    await node.store.ping();
    return node.store.isAvailable;
  });
  const seenVersion = await node.read();
  await psql.query('COMMIT');

  await eventually('the invalidation is applied', async () => {
    const { rowCount } = await psql.query('SELECT 1 FROM cache_invalidations WHERE position > 0');
    return rowCount === 0;
  });
  expect(await node.read()).toBe(2);
  return seenVersion;
}

describe('the fence', () => {
  it('with the fence, a write is read although its publication is lost', async () => {
    expect(await losePublication(true)).toBe(2);
  });

  it('without the fence, the old row is read when a publication is lost', async () => {
    expect(await losePublication(false)).toBe(1);
  });
});

describe("the fence's set of tokens", () => {
  it('with tokens, a publication leaves the fence of another writer', async () => {
    expect(await publishBesideAnotherFence()).toBe(3);
  });

  it('with one flag instead, a publication removes the fence of another writer', async () => {
    replaceInScripts('if name == token then', 'if true then');
    expect(await publishBesideAnotherFence()).toBe(2);
  });
});

describe('the comparison of versions', () => {
  it('with the comparison, a late publication does not replace a newer row', async () => {
    expect(await publishAfterFlush()).toBe(3);
  });

  it('without the comparison, a late publication replaces a newer row', async () => {
    replaceInScripts('elseif published > version then\n    put(', 'else\n    put(');
    expect(await publishAfterFlush()).toBe(2);
  });
});

describe("the fence's floor", () => {
  it('with the floor, the last publication is not stored if it is older', async () => {
    expect(await publishInReverse()).toBe(3);
  });

  it('without the floor, the last publication is stored although it is older', async () => {
    replaceInScripts('mine and published >= version', 'mine');
    expect(await publishInReverse()).toBe(2);
  });
});

describe('the incarnation in the key', () => {
  it('with the incarnation, nothing is read from an older dataset', async () => {
    expect(await restoreOldDataset(true)).toBe(2);
  });

  it('without the incarnation, an older dataset is read', async () => {
    expect(await restoreOldDataset(false)).toBe(1);
  });
});

describe('the read gate', () => {
  it('with the gate, a node that reconnects reads PostgreSQL until it is up to date', async () => {
    expect(await reconnectBeforeInvalidation(true)).toBe(2);
  });

  it('without the gate, a node that reconnects reads what Redis has kept', async () => {
    expect(await reconnectBeforeInvalidation(false)).toBe(1);
  });
});
