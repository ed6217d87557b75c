/**
 * The database's own path over a real Redis Cluster of which a part is gone: what can be dropped is dropped, whatever waits in
 * front of it, and the rest when that part is back. (Its triggers, LISTEN and the gate are in coherence.spec.ts.)
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { CacheMetrics } from '../../src/cache/cache.metrics.js';
import { DatabaseInvalidations } from '../../src/cache/database-invalidations.js';
import { GuardedStore } from '../../src/cache/guarded.store.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { slotOf } from '../../src/cache/redis.cluster.js';
import { RedisStore } from '../../src/cache/redis.store.js';
import { dataSourceOptions } from '../../src/database/data-source.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { type RedisCluster, startCluster } from '../support/redis.js';
import { show } from './store.contract.js';

/** A slot of the third master, which has no replica. */
const isLost = (key: string): boolean => slotOf(`{${key}}`) > 10_922;
const some = (count: number, accept: (key: string) => boolean): string[] =>
  Array.from({ length: 20 * count }, (_, index) => `order:id:${index}`)
    .filter(accept)
    .slice(0, count);

let cluster: RedisCluster;
let database: TestDatabase;
let dataSource: DataSource;
let store: GuardedStore;
let gate: ReadGate;
let invalidations: DatabaseInvalidations;

const waiting = async (): Promise<string[]> => {
  const rows = await dataSource.query<{ keys: string[] }[]>(
    'SELECT keys FROM cache_invalidations ORDER BY position',
  );
  return rows.map(({ keys }) => keys.join());
};
async function eventually(accept: () => Promise<boolean>, ms = 15_000): Promise<void> {
  for (const end = Date.now() + ms; !(await accept()); await sleep(20)) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms`);
  }
}
const fill = async (keys: string[]): Promise<void> => {
  await store.lease(keys, 'reader', 60_000);
  await store.fill(
    'reader',
    keys.map((key) => ({ key, version: 1, payload: 'old', ttlMs: 60_000 })),
  );
};

beforeAll(async () => {
  [cluster, database] = await Promise.all([startCluster(), createTestDatabase()]);
  dataSource = await new DataSource(dataSourceOptions(database.url, 3)).initialize();
  gate = new ReadGate();
  const redis = RedisStore.connect({ url: cluster.url, onStateChange: () => gate.close() });
  store = new GuardedStore(redis, () => gate.close());
  await eventually(async () =>
    [...some(20, isLost), ...some(20, (key) => !isLost(key))].every((key) => redis.nameOf(key)),
  );
  invalidations = new DatabaseInvalidations(
    store,
    dataSource,
    gate,
    new CacheMetrics(new Registry()),
  );
  await invalidations.onApplicationBootstrap();
}, 60_000);
afterAll(async () => {
  await invalidations?.onApplicationShutdown();
  await store?.close();
  await dataSource?.destroy();
  await Promise.all([cluster?.stop(), database?.drop()]);
});

describe('a part of the cluster that is gone', () => {
  // More than a batch in front of the others.
  const lost = some(600, isLost);
  const kept = some(10, (key) => !isLost(key));

  it('holds up no row but its own, and the breaker stays closed', async () => {
    await eventually(async () => gate.isOpen);
    await fill([...kept, ...lost.slice(0, 3)]);
    await cluster.masters[2].kill();
    await dataSource.query(
      'INSERT INTO cache_invalidations (keys) SELECT ARRAY[key] FROM unnest($1::text[]) AS key',
      [lost],
    );
    const mixed = [kept[0] as string, lost[0] as string];
    await invalidations.leave(mixed);
    await invalidations.leave(kept.slice(1));
    await eventually(async () => (await waiting()).length === lost.length + 1, 5_000);
    expect(await waiting()).toEqual([...lost, mixed.join()]);
    expect((await store.get(kept)).map(show)).toEqual(kept.map(() => 'absent'));
    expect(store.isOpen).toBe(false);
    // And again, with all of them still in front.
    await fill([kept[1] as string]);
    await invalidations.leave([kept[1] as string]);
    await eventually(async () => (await waiting()).length === lost.length + 1, 2_000);
    expect((await store.get([kept[1] as string])).map(show)).toEqual(['absent']);
  });

  it('takes its rows when it is back', async () => {
    await cluster.masters[2].restart();
    await eventually(async () => (await waiting()).length === 0);
    await eventually(async () => gate.isOpen);
    expect((await store.get(lost.slice(0, 3))).map(show)).toEqual(['absent', 'absent', 'absent']);
  });
});
