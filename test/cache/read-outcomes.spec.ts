/** How each kind of read is answered and counted, by entity; and what is written down of a row. */
import { describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { DataSource, type Repository } from 'typeorm';
import { CacheMetrics } from '../../src/cache/cache.metrics.js';
import { type CacheStore, CacheUnavailableError } from '../../src/cache/cache.store.js';
import { CachedEntity, CachedRepository } from '../../src/cache/cached-repository.js';
import { seal } from '../../src/cache/envelope.js';
import { MemoryStore } from '../../src/cache/memory.store.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { Reading } from '../../src/cache/reading.js';
import { jitter } from '../../src/cache/source.js';
import { User } from '../../src/users/user.entity.js';

const LONG = 60_000;
const connection = new DataSource({ type: 'postgres', entities: [User] });
await (connection as unknown as { buildMetadatas(): Promise<void> }).buildMetadatas();

const user = (id: string): User =>
  Object.assign(new User(), {
    id,
    username: id,
    email: `${id}@example.com`,
    roles: ['user'],
    version: 3,
    createdAt: new Date(0),
    updatedAt: new Date(0),
    deletedAt: null,
  });

function setUp() {
  const [store, gate, registry] = [new MemoryStore(), new ReadGate(), new Registry()];
  gate.open(gate.pass());
  const table = new Map(['ada', 'bob'].map((id) => [id, user(id)]));
  let queries = 0;
  const repository = {
    metadata: connection.getMetadata(User),
    createQueryBuilder: () => ({
      where: (_: string, { ids }: { ids: string[] }) => ({
        getMany: async () => (queries++, ids.flatMap((id) => table.get(id) ?? [])),
      }),
    }),
  } as unknown as Repository<User>;
  const cached = new CachedEntity(User, repository);
  const metrics = new CacheMetrics(registry);
  const repositoryOf = (over: CacheStore) => new CachedRepository(cached, over, metrics, gate);
  const users = repositoryOf(store);
  const read = async (id: string, fresh = false, from = users): Promise<string> => {
    const reading = new Reading(fresh);
    const row = await from.findById(id, reading);
    return `${reading.outcome}: ${row?.id ?? 'nobody'}`;
  };
  const counted = async (name: string): Promise<Record<string, number>> => {
    const { values } = await registry.getSingleMetric(name)!.get();
    return Object.fromEntries(
      values.map(({ labels, value }) => [Object.values(labels).join(' '), value]),
    );
  };
  return { store, gate, cached, users, repositoryOf, read, counted, queries: () => queries };
}

describe('a read', () => {
  it('is told and counted as what it was, by entity', async () => {
    const { store, gate, cached, read, counted, repositoryOf } = setUp();
    expect([await read('ada'), await read('ada')]).toEqual(['miss: ada', 'hit: ada']);
    expect(await read('ada', true)).toBe('request: ada');
    await store.fence([cached.rowKey('ada')], 'writer', LONG);
    expect(await read('ada')).toBe('fenced: ada');
    gate.close();
    expect(await read('bob')).toBe('bypass: bob');
    gate.open(gate.pass());
    const gone = () => Promise.reject(new CacheUnavailableError('gone'));
    const broken = Object.assign(new MemoryStore(), { get: gone, lease: gone });
    expect(await read('bob', false, repositoryOf(broken))).toBe('unavailable: bob');
    expect(await counted('holdfast_cache_requests_total')).toEqual({
      'user miss': 1,
      'user hit': 1,
      'user bypass': 2,
      'user fenced': 1,
      'user unavailable': 1,
    });
    expect(await counted('holdfast_cache_loads_total')).toEqual({ user: 5 });
  });

  it('of what does not exist is cached as that, for a short time', async () => {
    const { store, cached, read, queries } = setUp();
    expect([await read('carl'), await read('carl')]).toEqual(['miss: nobody', 'hit: nobody']);
    expect(queries()).toBe(1);
    expect(await store.get([cached.rowKey('carl')])).toEqual([{ state: 'none', version: 0 }]);
  });

  it('of many is one query for all that miss, in the order asked, with doubles and gaps', async () => {
    const { users, queries } = setUp();
    await users.findById('bob');
    const rows = await users.findByIds(['ada', 'nobody', 'bob', 'ada']);
    expect(rows.map((row) => row?.id)).toEqual(['ada', undefined, 'bob', 'ada']);
    expect(queries()).toBe(2);
  });

  it('whose fill a writer forbids is counted as rejected', async () => {
    const { store, cached, users, counted } = setUp();
    const lease = store.lease.bind(store);
    store.lease = async (...args) => {
      const entries = await lease(...args);
      await store.fence([cached.rowKey('ada')], 'writer', LONG);
      return entries;
    };
    expect((await users.findById('ada'))?.id).toBe('ada');
    expect(await counted('holdfast_cache_fills_rejected_total')).toEqual({ user: 1 });
  });

  it.each([
    ['of a later release is a miss, and stays', 9, true],
    ['of an earlier release is a miss, and is replaced', 0, false],
  ])('of an entry %s', async (_, schema, stays) => {
    const { store, cached, read } = setUp();
    const key = cached.rowKey('ada');
    const payload = seal(schema, 'ada', '["another form"]', LONG);
    await store.lease([key], 'other', LONG);
    await store.fill('other', [{ key, version: 3, payload, ttlMs: LONG }]);
    expect(await read('ada')).toBe('miss: ada');
    const [held] = await store.get([key]);
    expect(held).toEqual(stays ? { state: 'value', version: 3, payload } : { state: 'absent' });
    if (!stays) expect([await read('ada'), await read('ada')]).toEqual(['miss: ada', 'hit: ada']);
  });
});

it('lives a time that is spread by a tenth each way', () => {
  expect([jitter(1_000, () => 0), jitter(1_000, () => 0.5), jitter(1_000, () => 0.999999)]).toEqual(
    [900, 1_000, 1_100],
  );
});
