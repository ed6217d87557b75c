/**
 * Refreshing ahead: one node refreshes an entry that is read often and about to expire, while
 * readers go on; a writer that comes between wins. store-contract.ts tests the compare-and-set
 * itself, the protocol model (test/verify/protocol-model) every order of the steps.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Registry } from 'prom-client';
import { DataSource, type Repository } from 'typeorm';
import { Order } from '../../../../src/orders/order.entity.js';
import { CacheMetrics, type RefreshOutcome } from '../../../../src/platform/cache/cache-metrics.js';
import { CachedEntity } from '../../../../src/platform/cache/cached-entity.js';
import { CachedRepository } from '../../../../src/platform/cache/cached-repository.js';
import {
  REFRESH_POLICY,
  type RefreshPolicy,
} from '../../../../src/platform/cache/read/key-loader.js';
import { ReadContext } from '../../../../src/platform/cache/read/read-context.js';
import { type CacheStore, deleteKeys } from '../../../../src/platform/cache/store/cache-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { RedisStore } from '../../../../src/platform/cache/store/redis/redis-store.js';
import { eventually } from '../../../support/eventually.js';
import { openGateTo, pretendEpoch } from '../../../support/pretend-epoch.js';
import { type RedisServer, startRedis } from '../../../support/redis.js';

const connection = new DataSource({ type: 'postgres', entities: [Order] });
await (connection as unknown as { buildMetadatas(): Promise<void> }).buildMetadatas();

const createOrder = (id: string, version: number): Order =>
  Object.assign(new Order(), {
    id,
    version,
    userId: 'u',
    status: 'placed',
    currency: 'EUR',
    items: [],
    total: 0,
    note: null,
    createdAt: new Date(),
    updatedAt: new Date(),
  });

/** A table of orders that counts its loads and can block them. */
class OrderTable {
  readonly rows = new Map<string, Order>();
  loads = 0;
  private unblocked: Promise<void> = Promise.resolve();

  /** From now on loads see the rows as they are, but do not answer until the result is called. */
  blockLoads(): () => void {
    let unblock!: () => void;
    this.unblocked = new Promise<void>((resolve) => {
      unblock = resolve;
    });
    return () => {
      this.unblocked = Promise.resolve();
      unblock();
    };
  }

  get repository(): Repository<Order> {
    const getMany = async (ids: string[]): Promise<Order[]> => {
      this.loads += ids.length;
      const orders = ids.flatMap((id) => this.rows.get(id) ?? []);
      await this.unblocked;
      return orders;
    };
    return {
      metadata: connection.getMetadata(Order),
      createQueryBuilder: () => ({
        where: (_sql: string, { ids }: { ids: string[] }) => ({ getMany: () => getMany(ids) }),
      }),
    } as unknown as Repository<Order>;
  }
}

class Node {
  readonly orders: CachedRepository<Order>;
  private readonly registry = new Registry();

  constructor(cached: CachedEntity<Order>, store: CacheStore) {
    const gate = openGateTo(pretendEpoch(store));
    this.orders = new CachedRepository(cached, store, new CacheMetrics(this.registry), gate);
  }

  /** @returns outcome and version */
  async read(id: string): Promise<string> {
    const context = new ReadContext(false);
    const row = await this.orders.findById(id, context);
    return `${context.outcome} ${row?.version}`;
  }

  async countRefreshes(outcome: RefreshOutcome): Promise<number> {
    const { values } = await this.registry.getSingleMetric('holdfast_cache_refreshes_total')!.get();
    return values.find(({ labels }) => labels.outcome === outcome)?.value ?? 0;
  }
}

let orderCount = 0;

/** Two nodes over one store and one table with one order. */
class Fixture {
  readonly id: string;
  readonly table = new OrderTable();
  readonly cached: CachedEntity<Order>;
  readonly nodes: readonly [Node, Node];

  constructor(store: CacheStore, ttlSeconds: number, policy: RefreshPolicy) {
    orderCount++;
    this.id = `order-${orderCount}`;
    this.setVersion(1);
    this.cached = new CachedEntity(Order, this.table.repository, ttlSeconds, policy);
    this.nodes = [new Node(this.cached, store), new Node(this.cached, store)];
  }

  setVersion(version: number): void {
    this.table.rows.set(this.id, createOrder(this.id, version));
  }
}

/** Each read of an entry of any age starts a refresh. */
const REFRESH_AT_EVERY_READ: RefreshPolicy = { window: 2, reads: 1, maxConcurrent: 4 };

describe('when an entry is refreshed, by an injected clock', () => {
  let nowMs: number;
  let store: MemoryStore;

  /** Long enough for everything in this process that waits for no timer. */
  const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

  beforeAll(() => {
    nowMs = Date.now();
    jest.spyOn(Date, 'now').mockImplementation(() => nowMs);
  });
  afterAll(() => {
    jest.restoreAllMocks();
  });
  afterEach(() => store.close());

  it('an entry that is read often is refreshed before it expires, by one node', async () => {
    store = new MemoryStore({ now: () => nowMs });
    const policy = { ...REFRESH_POLICY, window: 0.5, reads: 3 };
    const { table, nodes, id } = new Fixture(store, 20, policy);
    expect(await nodes[0].read(id)).toBe('miss 1');
    const outcomes = new Set<string>();
    for (let step = 0; step < 1_000; step++) {
      nowMs += 500;
      outcomes.add(await nodes[step % 2]!.read(id));
      await settle();
    }
    expect([...outcomes]).toEqual(['hit 1']);
    const counts = await Promise.all(nodes.map((node) => node.countRefreshes('refreshed')));
    const refreshes = counts.reduce((sum, count) => sum + count, 0);
    // 500 s of reads, and an entry lives for some 20 s.
    expect(refreshes).toBeGreaterThan(20);
    expect(table.loads).toBe(1 + refreshes);
  });

  it('two nodes that find an entry hot at the same moment refresh it once', async () => {
    store = new MemoryStore({ now: () => nowMs });
    const { table, nodes, id } = new Fixture(store, 60, REFRESH_AT_EVERY_READ);
    await nodes[0].read(id);
    await Promise.all(nodes.map((node) => node.read(id)));
    await settle();
    const counts = await Promise.all(
      nodes.flatMap((node) => [node.countRefreshes('refreshed'), node.countRefreshes('lost')]),
    );
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(2);
    expect(table.loads).toBe(2);
  });

  it('an entry is not replaced by an older row', async () => {
    store = new MemoryStore({ now: () => nowMs });
    const fixture = new Fixture(store, 60, REFRESH_AT_EVERY_READ);
    const { nodes, id } = fixture;
    fixture.setVersion(2);
    await nodes[0].read(id);
    fixture.setVersion(1);
    expect(await nodes[0].read(id)).toBe('hit 2');
    await settle();
    expect(await nodes[0].read(id)).toBe('hit 2');
    expect(await nodes[0].countRefreshes('lost')).toBe(1);
  });

  it('an entry is not refreshed before the tenth read in its hot window', async () => {
    store = new MemoryStore({ now: () => nowMs });
    const { table, nodes, id } = new Fixture(store, 60, { ...REFRESH_AT_EVERY_READ, reads: 10 });
    await nodes[0].read(id);
    for (let read = 0; read < 9; read++) await nodes[0].read(id);
    await settle();
    expect(table.loads).toBe(1);
    await nodes[0].read(id);
    await settle();
    expect([table.loads, await nodes[0].countRefreshes('refreshed')]).toEqual([2, 1]);
  });

  it('an entry is not refreshed before its hot window', async () => {
    store = new MemoryStore({ now: () => nowMs });
    const { table, nodes, id } = new Fixture(store, 60, { ...REFRESH_POLICY, reads: 1 });
    await nodes[0].read(id);
    nowMs += 0.7 * 60_000;
    await nodes[0].read(id);
    await settle();
    expect(table.loads).toBe(1);
  });
});

describe('a refresh over Redis', () => {
  let server: RedisServer;
  let store: RedisStore;

  beforeAll(async () => {
    server = await startRedis();
    store = RedisStore.connect({ url: server.url, commandTimeoutMs: 10_000 });
    await eventually('the store is available', () => store.isAvailable);
  });
  afterAll(async () => {
    await store?.close();
    await server?.stop();
  });

  it('while a refresh runs, readers of both nodes get the old entry at once', async () => {
    const fixture = new Fixture(store, 60, REFRESH_AT_EVERY_READ);
    const { table, nodes, id } = fixture;
    await nodes[0].read(id);
    const unblockLoads = table.blockLoads();
    fixture.setVersion(2);
    const outcomes = new Set<string>();
    for (let read = 0; read < 20; read++) outcomes.add(await nodes[read % 2]!.read(id));
    expect([...outcomes]).toEqual(['hit 1']);
    await eventually('the refresh loads', () => table.loads === 2);
    unblockLoads();
    await eventually(
      'the refreshed row is read',
      async () => (await nodes[1].read(id)) === 'hit 2',
    );
  });

  type Write = (key: string, payload: string) => Promise<unknown>;
  const WRITES: Readonly<Record<string, Write>> = {
    fences: (key) => pretendEpoch(store).fence([key], 'writer', 60_000),
    publishes: (key, payload) =>
      pretendEpoch(store).publish('writer', [{ key, version: 3, payload, ttlMs: 60_000 }]),
    deletes: (key) => deleteKeys(pretendEpoch(store), [key]),
  };
  it.each([
    ['fences', 'fenced 3'],
    ['publishes', 'hit 3'],
    ['deletes', 'miss 3'],
  ])('a writer %s the key during a refresh → the refresh stores nothing', async (write, after) => {
    const fixture = new Fixture(store, 60, REFRESH_AT_EVERY_READ);
    const { table, nodes, id, cached } = fixture;
    await nodes[0].read(id);
    const unblockLoads = table.blockLoads();
    fixture.setVersion(2);
    await nodes[0].read(id);
    await eventually('the refresh loads', () => table.loads === 2);
    fixture.setVersion(3);
    await WRITES[write]?.(cached.rowKey(id), cached.seal(createOrder(id, 3), 60_000));
    unblockLoads();
    await eventually('the refresh is lost', async () => {
      return (await nodes[0].countRefreshes('lost')) === 1;
    });
    expect(await nodes[1].read(id)).toBe(after);
  });

  it('more refreshes than may run at once are skipped, not queued', async () => {
    const policy = { ...REFRESH_AT_EVERY_READ, maxConcurrent: 2 };
    const { table, nodes, id } = new Fixture(store, 60, policy);
    const ids = Array.from({ length: 5 }, (_, index) => `${id}-${index}`);
    for (const each of ids) table.rows.set(each, createOrder(each, 1));
    await nodes[0].orders.findByIds(ids);
    const unblockLoads = table.blockLoads();
    await nodes[0].orders.findByIds(ids);
    expect(await nodes[0].countRefreshes('skipped')).toBe(3);
    await eventually('two refreshes load', () => table.loads === 7);
    unblockLoads();
    await eventually('both have ended', async () => {
      return (await nodes[0].countRefreshes('refreshed')) === 2;
    });
  });
});
