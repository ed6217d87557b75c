/** How each kind of read is answered, counted and filled. */
import { describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { DataSource, type Repository } from 'typeorm';
import { CacheMetrics } from '../../../../src/platform/cache/cache-metrics.js';
import { CachedEntity } from '../../../../src/platform/cache/cached-entity.js';
import { CachedRepository } from '../../../../src/platform/cache/cached-repository.js';
import { sealEnvelope } from '../../../../src/platform/cache/envelope.js';
import { ReadContext } from '../../../../src/platform/cache/read/read-context.js';
import {
  type CacheEntry,
  type CacheStore,
  CacheUnavailableError,
} from '../../../../src/platform/cache/store/cache-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { User } from '../../../../src/users/user.entity.js';
import { eventually } from '../../../support/eventually.js';
import { openGateTo, pretendEpoch } from '../../../support/pretend-epoch.js';

const LONG_MS = 60_000;
const connection = new DataSource({ type: 'postgres', entities: [User] });
await (connection as unknown as { buildMetadatas(): Promise<void> }).buildMetadatas();

const createUser = (id: string): User =>
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

/** The users `ada` and `bob`, how often they were asked for, and what an answer waits for. */
class UserTable {
  queries = 0;
  answersAfter: Promise<unknown> = Promise.resolve();
  private readonly users = new Map(['ada', 'bob'].map((id) => [id, createUser(id)]));

  get repository(): Repository<User> {
    const getMany = async (ids: string[]): Promise<User[]> => {
      this.queries++;
      await this.answersAfter;
      return ids.flatMap((id) => this.users.get(id) ?? []);
    };
    return {
      metadata: connection.getMetadata(User),
      createQueryBuilder: () => ({
        // Their usernames are their ids.
        where: (_sql: string, { ids, values }: { ids?: string[]; values?: string[] }) => ({
          getMany: () => getMany(ids ?? values ?? []),
        }),
      }),
    } as unknown as Repository<User>;
  }
}

/** A MemoryStore that counts its reads. */
class CountingStore extends MemoryStore {
  reads = 0;

  override get(keys: readonly string[]): Promise<CacheEntry[]> {
    this.reads++;
    return super.get(keys);
  }
}

function createBrokenStore(): CacheStore {
  const fail = () => Promise.reject(new CacheUnavailableError('gone'));
  return Object.assign(new MemoryStore(), { get: fail, lease: fail });
}

class Fixture {
  private readonly registry = new Registry();
  private readonly metrics = new CacheMetrics(this.registry);
  readonly cache = new CountingStore();
  readonly store = pretendEpoch(this.cache);
  readonly gate = openGateTo(this.store);
  readonly table = new UserTable();
  readonly cached = new CachedEntity(User, this.table.repository);
  readonly users = this.createNode();

  /** A further node over the same table, and over the same cache unless another one is given. */
  createNode(cache: CacheStore = this.cache): CachedRepository<User> {
    const gate = cache === this.cache ? this.gate : openGateTo(pretendEpoch(cache));
    return new CachedRepository(this.cached, cache, this.metrics, gate);
  }

  /** Puts a row under the key of an id, as a reader with the lease does. */
  fill(id: string, row: User, token = 'reader'): Promise<void> {
    return this.putEntry(id, this.cached.seal(row, LONG_MS), token);
  }

  /** Puts a payload in the envelope of the right key. */
  fillPayload(id: string, payload: string): Promise<void> {
    return this.putEntry(id, sealEnvelope(this.cached.options.schema, id, payload, LONG_MS));
  }

  /** As many values as the row has columns, all of them numbers. */
  fillDamaged(id: string): Promise<void> {
    const { columns } = connection.getMetadata(User);
    return this.fillPayload(id, JSON.stringify(columns.map((_, index) => index)));
  }

  private async putEntry(id: string, payload: string, token = 'reader'): Promise<void> {
    const key = this.cached.rowKey(id);
    await this.store.lease([key], token, LONG_MS);
    await this.store.fill(token, [{ key, version: 3, payload, ttlMs: LONG_MS }]);
  }

  /** @returns the outcome and the id that was found */
  async read(id: string, { users = this.users, isPrimaryRequired = false } = {}): Promise<string> {
    const context = new ReadContext(isPrimaryRequired);
    const row = await users.findById(id, context);
    return `${context.outcome}: ${row?.id ?? 'nobody'}`;
  }

  /** A metric's values by its labels. */
  async valuesOf(metricName: string): Promise<Record<string, number>> {
    const { values } = await this.registry.getSingleMetric(metricName)!.get();
    const entries = values.map(({ labels, value }) => [Object.values(labels).join(' '), value]);
    return Object.fromEntries(entries) as Record<string, number>;
  }
}

describe('one read', () => {
  it('a read of a cold row is a miss, and the next one a hit', async () => {
    const fixture = new Fixture();
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(await fixture.read('ada')).toBe('hit: ada');
    expect(fixture.table.queries).toBe(1);
  });

  it('a read that requires the primary reads PostgreSQL although the row is cached', async () => {
    const fixture = new Fixture();
    await fixture.read('ada');
    expect(await fixture.read('ada', { isPrimaryRequired: true })).toBe('request: ada');
    expect(fixture.table.queries).toBe(2);
  });

  it('a read of a fenced row reads PostgreSQL and leaves the fence', async () => {
    const fixture = new Fixture();
    const key = fixture.cached.rowKey('ada');
    await fixture.store.fence([key], 'writer', LONG_MS);
    expect(await fixture.read('ada')).toBe('fenced: ada');
    expect(await fixture.store.get([key])).toEqual([{ state: 'fence' }]);
  });

  it('a read while the gate is closed bypasses the cache and fills nothing', async () => {
    const fixture = new Fixture();
    await fixture.read('ada');
    fixture.gate.close();
    expect(await fixture.read('ada')).toBe('bypass: ada');
    expect(await fixture.read('bob')).toBe('bypass: bob');
    expect(await fixture.store.get([fixture.cached.rowKey('bob')])).toEqual([{ state: 'absent' }]);
  });

  it('a read during which the gate closes does not use what the cache answered', async () => {
    const fixture = new Fixture();
    await fixture.read('ada');
    const get = fixture.cache.get.bind(fixture.cache);
    fixture.cache.get = async (keys) => {
      const entries = await get(keys);
      fixture.gate.close();
      return entries;
    };
    expect(await fixture.read('ada')).toBe('bypass: ada');
  });

  it('a read does not use what a lease command found when the gate closes meanwhile', async () => {
    const fixture = new Fixture();
    const { cache, gate } = fixture;
    const lease = cache.lease.bind(cache);
    cache.lease = async (...args) => {
      cache.lease = lease;
      // Another reader has filled the key since the GET.
      await fixture.fill('ada', createUser('ada'));
      const entries = await lease(...args);
      gate.close();
      return entries;
    };
    expect(await fixture.read('ada')).toBe('bypass: ada');
  });

  it('a read does not use the fill that it waited for when the gate closes meanwhile', async () => {
    const fixture = new Fixture();
    const { cache, gate, store, cached } = fixture;
    await store.lease([cached.rowKey('ada')], 'another reader', LONG_MS);
    const get = cache.get.bind(cache);
    cache.get = async (keys) => {
      const isPoll = cache.reads > 0;
      if (isPoll) await fixture.fill('ada', createUser('ada'), 'another reader');
      const entries = await get(keys);
      if (isPoll) gate.close();
      return entries;
    };
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(fixture.table.queries).toBe(1);
  });

  it('a read by an alias does not trust the alias without its row', async () => {
    const fixture = new Fixture();
    const payload = sealEnvelope(1, 'old-name', 'ada', LONG_MS);
    const key = 'user:username:old-name';
    await fixture.store.lease([key], 'reader', LONG_MS);
    await fixture.store.fill('reader', [{ key, version: 3, payload, ttlMs: LONG_MS }]);
    expect(await fixture.users.findByAlias('username', 'old-name')).toBeNull();
    expect((await fixture.users.findByAlias('username', 'ada'))?.id).toBe('ada');
  });

  it.each([
    ['of another key', (fixture: Fixture) => fixture.fill('ada', createUser('bob'))],
    ['with a damaged row', (fixture: Fixture) => fixture.fillPayload('ada', '[1,2,3]')],
    ['with a row of the wrong types', (fixture: Fixture) => fixture.fillDamaged('ada')],
  ])('a payload %s is not used', async (_, fill) => {
    const fixture = new Fixture();
    await fill(fixture);
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(fixture.table.queries).toBe(1);
  });

  it('a read while the cache is unavailable reads PostgreSQL', async () => {
    const fixture = new Fixture();
    const users = fixture.createNode(createBrokenStore());
    expect(await fixture.read('ada', { users })).toBe('unavailable: ada');
  });

  it('a read of a row that does not exist fills a negative entry', async () => {
    const fixture = new Fixture();
    expect(await fixture.read('carl')).toBe('miss: nobody');
    expect(await fixture.read('carl')).toBe('hit: nobody');
    expect(fixture.table.queries).toBe(1);
    const entries = await fixture.store.get([fixture.cached.rowKey('carl')]);
    expect(entries).toEqual([{ state: 'none', version: 0 }]);
  });

  it('a read of an entry of a later release is a miss and leaves the entry', async () => {
    const fixture = new Fixture();
    const key = fixture.cached.rowKey('ada');
    const payload = sealEnvelope(9, 'ada', '["another form"]', LONG_MS);
    await fixture.store.lease([key], 'later release', LONG_MS);
    await fixture.store.fill('later release', [{ key, version: 3, payload, ttlMs: LONG_MS }]);
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(await fixture.store.get([key])).toEqual([{ state: 'value', version: 3, payload }]);
  });

  it('a read of an entry of an earlier release is a miss and deletes the entry', async () => {
    const fixture = new Fixture();
    const key = fixture.cached.rowKey('ada');
    // Its form happens to fit the columns of today.
    const payload = sealEnvelope(0, 'ada', fixture.cached.codec.encode(createUser('ada')), LONG_MS);
    await fixture.store.lease([key], 'earlier release', LONG_MS);
    await fixture.store.fill('earlier release', [{ key, version: 3, payload, ttlMs: LONG_MS }]);
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(await fixture.store.get([key])).toEqual([{ state: 'absent' }]);
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(await fixture.read('ada')).toBe('hit: ada');
  });

  it('reads are counted by entity and outcome, their loads by entity', async () => {
    const fixture = new Fixture();
    await fixture.read('ada');
    await fixture.read('ada');
    await fixture.read('ada', { isPrimaryRequired: true });
    await fixture.store.fence([fixture.cached.rowKey('ada')], 'writer', LONG_MS);
    await fixture.read('ada');
    await fixture.read('bob', { users: fixture.createNode(createBrokenStore()) });
    fixture.gate.close();
    await fixture.read('bob');
    expect(await fixture.valuesOf('holdfast_cache_requests_total')).toEqual({
      'user miss': 1,
      'user hit': 1,
      'user fenced': 1,
      'user unavailable': 1,
      // Of the closed gate and of the required primary.
      'user bypass': 2,
    });
    expect(await fixture.valuesOf('holdfast_cache_loads_total')).toEqual({ user: 5 });
  });

  it('a fill that a writer prevents is counted as rejected', async () => {
    const fixture = new Fixture();
    const { cache, store, cached } = fixture;
    const lease = cache.lease.bind(cache);
    cache.lease = async (...args) => {
      const entries = await lease(...args);
      await store.fence([cached.rowKey('ada')], 'writer', LONG_MS);
      return entries;
    };
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(await fixture.valuesOf('holdfast_cache_fills_rejected_total')).toEqual({ user: 1 });
  });
});

describe('a read of many rows', () => {
  it('a read of many rows costs one query and keeps order, duplicates and gaps', async () => {
    const fixture = new Fixture();
    await fixture.users.findById('bob');
    const rows = await fixture.users.findByIds(['ada', 'nobody', 'bob', 'ada']);
    expect(rows.map((row) => row?.id)).toEqual(['ada', undefined, 'bob', 'ada']);
    expect(fixture.table.queries).toBe(2);
  });
});

describe('many readers of one cold row', () => {
  const READERS = 200;

  it('readers on two nodes cost one query: one node waits for the fill of the other', async () => {
    const fixture = new Fixture();
    const otherNode = fixture.createNode();
    let answer!: () => void;
    fixture.table.answersAfter = new Promise<void>((resolve) => {
      answer = resolve;
    });
    const readMany = (users: CachedRepository<User>): Promise<string[]> =>
      Promise.all(Array.from({ length: READERS }, () => fixture.read('ada', { users })));
    const reads = readMany(fixture.users);
    await eventually('the first node loads', () => fixture.table.queries === 1);
    const readsBefore = fixture.cache.reads;
    const otherReads = readMany(otherNode);
    // Each of its readers has asked once, and its load has polled once for the lease of the first.
    await eventually('the other node polls', () => fixture.cache.reads > readsBefore + READERS);
    answer();
    expect(new Set(await reads)).toEqual(new Set(['miss: ada']));
    expect(new Set(await otherReads)).toEqual(new Set(['hit: ada']));
    expect(fixture.table.queries).toBe(1);
  });

  it('a reader whose row is leased but never filled reads PostgreSQL itself', async () => {
    const fixture = new Fixture();
    const key = fixture.cached.rowKey('ada');
    await fixture.store.lease([key], 'a node that died', LONG_MS);
    expect(await fixture.read('ada')).toBe('miss: ada');
    expect(fixture.table.queries).toBe(1);
    expect(await fixture.store.get([key])).toEqual([{ state: 'lease' }]);
  });
});
