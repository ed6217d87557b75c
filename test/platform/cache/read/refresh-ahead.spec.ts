/**
 * Refreshing ahead over a real Redis: an entry that is much read shortly before its end is renewed by one node while readers go
 * on; whatever a writer does in between wins. (Every interleaving is in model/, the compare-and-set itself in store.contract.ts.)
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { DataSource, type Repository } from 'typeorm';
import { CacheMetrics } from '../../src/cache/cache.metrics.js';
import { type CacheStore, dropKeys } from '../../src/cache/cache.store.js';
import { CachedEntity, CachedRepository } from '../../src/cache/cached-repository.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { Reading } from '../../src/cache/reading.js';
import { RedisStore } from '../../src/cache/redis.store.js';
import { REFRESH } from '../../src/cache/source.js';
import { Order } from '../../src/orders/order.entity.js';
import { type RedisServer, startRedis } from '../support/redis.js';

const connection = new DataSource({ type: 'postgres', entities: [Order] });
await (connection as unknown as { buildMetadatas(): Promise<void> }).buildMetadatas();

const order = (id: string, version: number): Order =>
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

/** What the database has, how often it was asked, and what it waits for before it answers. */
class Table {
  readonly rows = new Map<string, Order>();
  loads = 0;
  slow: Promise<unknown> = Promise.resolve();

  get repository(): Repository<Order> {
    let ids: string[] = [];
    const builder = {
      where: (_: string, parameters: { ids: string[] }) => ((ids = parameters.ids), builder),
      getMany: async () => {
        this.loads += ids.length;
        const found = ids.flatMap((id) => this.rows.get(id) ?? []);
        await this.slow;
        return found;
      },
    };
    return {
      metadata: connection.getMetadata(Order),
      createQueryBuilder: () => builder,
    } as unknown as Repository<Order>;
  }
}

class Node {
  readonly registry = new Registry();
  readonly orders: CachedRepository<Order>;

  constructor(
    readonly cached: CachedEntity<Order>,
    readonly store: CacheStore,
  ) {
    const gate = new ReadGate();
    gate.open(gate.pass());
    this.orders = new CachedRepository(cached, store, new CacheMetrics(this.registry), gate);
  }

  async read(id: string): Promise<string> {
    const reading = new Reading(false);
    const row = await this.orders.findById(id, reading);
    return `${reading.outcome} ${row?.version}`;
  }

  async refreshes(outcome: string): Promise<number> {
    const { values } = await this.registry.getSingleMetric('holdfast_cache_refreshes_total')!.get();
    return values.find(({ labels }) => labels.outcome === outcome)?.value ?? 0;
  }
}

let server: RedisServer;
let store: RedisStore;
let serial = 0;

beforeAll(async () => {
  server = await startRedis();
  store = RedisStore.connect({ url: server.url });
  while (!store.available) await sleep(5);
});
afterAll(async () => {
  await store.close();
  await server.stop();
});

/** Two nodes over one table with one row, whose entries live `seconds` and are hot from the beginning of the last `share`. */
function setUp(
  seconds: number,
  policy = REFRESH,
): { table: Table; nodes: [Node, Node]; id: string; cached: CachedEntity<Order> } {
  const table = new Table();
  const id = `order-${++serial}`;
  table.rows.set(id, order(id, 1));
  const cached = new CachedEntity(Order, table.repository, seconds, policy);
  return { table, nodes: [new Node(cached, store), new Node(cached, store)], id, cached };
}

const AT_ONCE = { share: 2, reads: 1, atOnce: 4 };
const until = async (accept: () => Promise<boolean>): Promise<void> => {
  for (const end = Date.now() + 3_000; !(await accept()); await sleep(5))
    if (Date.now() > end) throw new Error('never');
};

describe('a hot entry', () => {
  it('is renewed again and again by one of two nodes before it expires, and no reader misses', async () => {
    const { table, nodes, id } = setUp(2, { ...REFRESH, share: 0.8, reads: 3 });
    expect(await nodes[0].read(id)).toBe('miss 1');
    const outcomes = new Set<string>();
    for (const end = Date.now() + 5_000; Date.now() < end; await sleep(10))
      for (const node of nodes) outcomes.add(await node.read(id));
    expect([...outcomes]).toEqual(['hit 1']);
    const refreshed =
      (await nodes[0].refreshes('refreshed')) + (await nodes[1].refreshes('refreshed'));
    expect(refreshed).toBeGreaterThanOrEqual(2);
    expect(table.loads).toBe(1 + refreshed);
  }, 15_000);

  it('is hot only when it is read often enough, and late enough', async () => {
    const { table, nodes, id } = setUp(60, { share: 2, reads: 10, atOnce: 4 });
    const early = setUp(60, { ...REFRESH, reads: 1 });
    await nodes[0].read(id);
    await early.nodes[0].read(early.id);
    for (let read = 0; read < 9; read++)
      await Promise.all([nodes[0].read(id), early.nodes[0].read(early.id)]);
    await sleep(50);
    expect([table.loads, early.table.loads]).toEqual([1, 1]);
    await nodes[0].read(id);
    await until(async () => (await nodes[0].refreshes('refreshed')) === 1);
    expect(table.loads).toBe(2);
  });

  it('is read all the while, by an answer that waits for nothing', async () => {
    const { table, nodes, id } = setUp(60, AT_ONCE);
    await nodes[0].read(id);
    let release = (): void => undefined;
    table.slow = new Promise<void>((resolve) => (release = resolve));
    table.rows.set(id, order(id, 2));
    for (let read = 0; read < 20; read++) expect(await nodes[read % 2]!.read(id)).toBe('hit 1');
    expect(table.loads).toBe(2);
    release();
    await until(async () => (await nodes[1].read(id)) === 'hit 2');
  });

  it.each([
    ['a fence', (key: string) => store.fence([key], 'writer', 1_000), 'fenced 3'],
    [
      'a publication',
      (key: string, text: string) =>
        store.publish('writer', [{ key, version: 3, payload: text, ttlMs: 60_000 }]),
      'hit 3',
    ],
    ['a drop', (key: string) => dropKeys(store, [key]), 'miss 3'],
  ])('that a writer takes away by %s meanwhile is left alone', async (_, write, after) => {
    const { table, nodes, id, cached } = setUp(60, AT_ONCE);
    await nodes[0].read(id);
    let release = (): void => undefined;
    table.slow = new Promise<void>((resolve) => (release = resolve));
    table.rows.set(id, order(id, 2));
    await nodes[0].read(id);
    await until(async () => table.loads === 2);
    table.rows.set(id, order(id, 3));
    await write(cached.rowKey(id), cached.seal(order(id, 3), 60_000));
    table.slow = Promise.resolve();
    release();
    await until(async () => (await nodes[0].refreshes('lost')) === 1);
    expect(await nodes[1].read(id)).toBe(after);
  });

  it('waits for no place: more at once than allowed are left out', async () => {
    const { table, nodes } = setUp(60, { ...AT_ONCE, atOnce: 2 });
    const ids = Array.from({ length: 5 }, (_, index) => `crowd-${serial}-${index}`);
    for (const id of ids) table.rows.set(id, order(id, 1));
    await nodes[0].orders.findByIds(ids);
    let release = (): void => undefined;
    table.slow = new Promise<void>((resolve) => (release = resolve));
    await nodes[0].orders.findByIds(ids);
    expect(await nodes[0].refreshes('skipped')).toBe(3);
    await until(async () => table.loads === 7);
    release();
    await until(async () => (await nodes[0].refreshes('refreshed')) === 2);
  });
});
