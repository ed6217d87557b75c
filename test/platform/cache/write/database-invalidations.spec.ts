/**
 * Invalidation through PostgreSQL: when a node looks into `cache_invalidations`, and what it does
 * while a part of a Redis Cluster is down. coherence.spec.ts tests the triggers and the read gate.
 */
import { createServer, type AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { CacheMetrics } from '../../../../src/platform/cache/cache-metrics.js';
import { DEFAULT_CACHE_TIMINGS } from '../../../../src/platform/cache/cache-timings.js';
import { CachedEntities } from '../../../../src/platform/cache/cached-entity.js';
import { Membership } from '../../../../src/platform/cache/epoch/membership.js';
import { type GatePass, ReadGate } from '../../../../src/platform/cache/read/read-gate.js';
import {
  type CacheSteps,
  type CacheStore,
  CacheUnavailableError,
  deleteKeys,
} from '../../../../src/platform/cache/store/cache-store.js';
import type { EpochStore } from '../../../../src/platform/cache/store/epoch-store.js';
import { GuardedStore } from '../../../../src/platform/cache/store/guarded-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { slotOf } from '../../../../src/platform/cache/store/redis/redis-cluster.js';
import { RedisStore } from '../../../../src/platform/cache/store/redis/redis-store.js';
import { DatabaseInvalidations } from '../../../../src/platform/cache/write/database-invalidations.js';
import { dataSourceOptions } from '../../../../src/platform/database/data-source.js';
import { eventually } from '../../../support/eventually.js';
import { Gate } from '../../../support/gate.js';
import { createTestDatabase, type TestDatabase } from '../../../support/postgres.js';
import { type RedisCluster, startRedisCluster } from '../../../support/redis.js';
import { registerCleanup } from '../cleanup.js';
import { show } from '../store/store-contract.js';

Logger.overrideLogger(false);

const LONG_MS = 60_000;
/** Longer than any pause between two looks at the table. */
const POLL_INTERVAL_MS = 1_000;

const afterThisTest = registerCleanup();

let database: TestDatabase;
let dataSource: DataSource;

beforeAll(async () => {
  database = await createTestDatabase();
  dataSource = await new DataSource({
    ...dataSourceOptions(database.url, 3),
    connectTimeoutMS: 30_000,
  }).initialize();
});
afterAll(async () => {
  await dataSource?.destroy();
  await database?.drop();
});

async function readWaitingKeys(): Promise<string[][]> {
  const sql = 'SELECT keys FROM cache_invalidations WHERE position > 0 ORDER BY position';
  const rows = await dataSource.query<{ keys: string[] }[]>(sql);
  return rows.map(({ keys }) => keys);
}

async function fillKeys(store: CacheSteps, keys: readonly string[]): Promise<void> {
  await store.lease(keys, 'reader', LONG_MS);
  await store.fill(
    'reader',
    keys.map((key) => ({ key, version: 1, payload: 'old', ttlMs: LONG_MS })),
  );
}

const showAll = async (store: CacheSteps, keys: readonly string[]): Promise<string[]> =>
  (await store.get(keys)).map(show);

function createInvalidations(
  store: CacheStore,
  gate: ReadGate,
  source: DataSource = dataSource,
  watchMembership: (membership: Membership) => void = () => undefined,
): DatabaseInvalidations {
  const metrics = new CacheMetrics(new Registry());
  const membership = new Membership(
    store,
    gate,
    new CachedEntities(),
    metrics,
    DEFAULT_CACHE_TIMINGS,
  );
  watchMembership(membership);
  const invalidations = new DatabaseInvalidations(
    store,
    source,
    gate,
    membership,
    metrics,
    DEFAULT_CACHE_TIMINGS,
  );
  afterThisTest(() => invalidations.onApplicationShutdown());
  return invalidations;
}

describe('when a node looks into cache_invalidations', () => {
  // Pauses end only when a test advances the clock; everything else runs in real time.
  beforeEach(() => {
    jest.useFakeTimers({
      doNotFake: [
        'Date',
        'hrtime',
        'nextTick',
        'performance',
        'queueMicrotask',
        'setImmediate',
        'clearImmediate',
        'setInterval',
        'clearInterval',
      ],
    });
    afterThisTest(() => jest.useRealTimers());
  });

  const startNode = async (): Promise<{
    store: EpochStore;
    gate: ReadGate;
    invalidations: DatabaseInvalidations;
  }> => {
    const gate = new ReadGate(DEFAULT_CACHE_TIMINGS);
    const invalidations = createInvalidations(new MemoryStore(), gate);
    await invalidations.onApplicationBootstrap();
    const store = (await eventually('the gate opens', () => gate.store)) as EpochStore;
    await fillKeys(store, ['k']);
    return { store, gate, invalidations };
  };

  it('keys are enqueued with a NOTIFY → the node deletes them before its next poll', async () => {
    const { store, invalidations } = await startNode();
    await invalidations.enqueue(['k']);
    await eventually('the key is deleted', async () => {
      return (await showAll(store, ['k'])).join() === 'absent';
    });
    await eventually('the row is deleted', async () => (await readWaitingKeys()).length === 0);
  });

  it('a NOTIFY is lost → the node deletes the keys at its next poll', async () => {
    const { store } = await startNode();
    await dataSource.query(`INSERT INTO cache_invalidations (keys) VALUES ('{k}')`);
    expect(await showAll(store, ['k'])).toEqual(['old@1']);
    await eventually('the key is deleted', async () => {
      jest.advanceTimersByTime(POLL_INTERVAL_MS);
      return (await showAll(store, ['k'])).join() === 'absent';
    });
  });

  it('the gate is closed → the node looks at once and opens it again', async () => {
    const { gate } = await startNode();
    gate.close();
    expect(gate.isOpen).toBe(false);
    await eventually('the gate opens', () => gate.isOpen);
  });

  it('the LISTEN connection is cut → the gate closes before the next poll', async () => {
    const { gate } = await startNode();
    const close = gate.close.bind(gate);
    const closings: number[] = [];
    gate.close = () => {
      closings.push(performance.now());
      close();
    };
    await dataSource.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'holdfast-cache' AND datname = current_database()`,
    );
    await eventually('the gate closes', () => closings.length > 0);
  });

  it('PostgreSQL cannot be reached → the node pauses before each new attempt', async () => {
    let attempts = 0;
    const server = createServer((socket) => {
      attempts++;
      socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    afterThisTest(() => server.close());
    const { port } = server.address() as AddressInfo;
    const unreachable = { options: { url: `postgres://127.0.0.1:${port}/x` } } as DataSource;
    const invalidations = createInvalidations(
      new MemoryStore(),
      new ReadGate(DEFAULT_CACHE_TIMINGS),
      unreachable,
    );
    await invalidations.onApplicationBootstrap();
    await eventually('the first attempt fails', () => attempts > 0);
    // Ten round trips over TCP to the server: more than an attempt without a pause needs.
    for (let trip = 0; trip < 10; trip++) await readWaitingKeys();
    expect(attempts).toBe(1);
    await eventually('the node tries again after the pause', () => {
      jest.advanceTimersByTime(POLL_INTERVAL_MS);
      return attempts > 1;
    });
  });
});

describe('a pass of a node', () => {
  const PASSES = 3;

  /** A cache that is out of reach, or waits, for those who delete keys. */
  class StoppedStore extends MemoryStore {
    beforePublish: () => Promise<void> = async () => undefined;
    publications = 0;

    override async publish(
      ...args: Parameters<MemoryStore['publish']>
    ): ReturnType<MemoryStore['publish']> {
      this.publications++;
      await this.beforePublish();
      return super.publish(...args);
    }
  }

  let cache: StoppedStore;
  let gate: ReadGate;
  /** What the node does before and after the step of its membership, in each pass. */
  let beforeRenewal: () => unknown;
  let afterRenewal: () => unknown;
  let renewals: number;
  /** The passes with which the gate was opened. */
  let openings: GatePass[];

  beforeEach(() => {
    cache = new StoppedStore();
    gate = new ReadGate(DEFAULT_CACHE_TIMINGS);
    beforeRenewal = afterRenewal = () => undefined;
    renewals = 0;
    openings = [];
    const open = gate.open.bind(gate);
    gate.open = (pass, store) => {
      openings.push(pass);
      open(pass, store);
    };
    afterThisTest(() => dataSource.query('TRUNCATE cache_invalidations, cache_readers'));
  });

  const startNode = async (): Promise<DatabaseInvalidations> => {
    const invalidations = createInvalidations(cache, gate, dataSource, (membership) => {
      const renew = membership.renew.bind(membership);
      membership.renew = async (client) => {
        await beforeRenewal();
        const store = await renew(client);
        await afterRenewal();
        renewals++;
        return store;
      };
    });
    await invalidations.onApplicationBootstrap();
    return invalidations;
  };
  const startOpenNode = async (): Promise<[EpochStore, DatabaseInvalidations]> => {
    const invalidations = await startNode();
    const store = (await eventually('the gate opens', () => gate.store)) as EpochStore;
    return [store, invalidations];
  };
  const somePasses = async (): Promise<void> => {
    const before = renewals;
    await eventually('some passes are over', () => renewals > before + PASSES);
  };
  /** The same where passes come only when something wakes the node. */
  const somePassesAfter = async (wake: () => Promise<unknown>): Promise<void> => {
    const before = renewals;
    await eventually('some passes are over', async () => {
      await wake();
      return renewals > before + PASSES;
    });
  };
  const unavailable = async (): Promise<never> => {
    throw new CacheUnavailableError('gone');
  };
  const removeRegistrations = (): Promise<unknown> => dataSource.query('DELETE FROM cache_readers');
  const enqueueSilently = (): Promise<unknown> =>
    dataSource.query(`INSERT INTO cache_invalidations (keys) VALUES ('{k}')`);
  /** Wakes the node for its next pass. */
  const notify = (): Promise<unknown> =>
    dataSource.query(`SELECT pg_notify('holdfast_cache_invalidations', '')`);

  it('finds a row that is committed just before the registration of its node', async () => {
    cache.beforePublish = unavailable;
    const isRegistered = async (): Promise<boolean> => {
      const rows = await dataSource.query<unknown[]>('SELECT FROM cache_readers');
      return rows.length === 1;
    };
    beforeRenewal = async () => {
      if (!(await isRegistered())) await enqueueSilently();
    };
    // Only the row of the pass that registers stays: an earlier look has found none.
    afterRenewal = async () => {
      if (!(await isRegistered())) await dataSource.query('TRUNCATE cache_invalidations');
    };
    await startNode();
    await eventually('the node is registered', isRegistered);
    await somePasses();
    // Each registration that cannot reach the cache ends at once, and the next one has its own row.
    expect([gate.isOpen, openings]).toEqual([false, []]);
    expect(await readWaitingKeys()).toContainEqual(['k']);
    beforeRenewal = async () => undefined;
    cache.beforePublish = async () => undefined;
    await eventually('the gate opens', () => gate.isOpen);
  });

  it('does not prolong an open gate while a row waits that it cannot apply', async () => {
    await startOpenNode();
    const other = dataSource.createQueryRunner();
    await other.connect();
    afterThisTest(() => other.release());
    // Another node is applying the row.
    beforeRenewal = async () => {
      beforeRenewal = () => undefined;
      await enqueueSilently();
      await other.startTransaction();
      await other.query('SELECT FROM cache_invalidations FOR UPDATE');
      openings = [];
    };
    await somePassesAfter(notify);
    expect(openings).toEqual([]);
    await other.query('DELETE FROM cache_invalidations');
    await other.commitTransaction();
    await eventually('the gate is prolonged', async () => {
      await notify();
      return openings.length > 0;
    });
  });

  it('confirms the gate from its beginning, not from its end', async () => {
    const renewedAt: number[] = [];
    beforeRenewal = () => renewedAt.push(performance.now());
    await startOpenNode();
    const [opening] = openings;
    const [lastRenewal] = renewedAt.slice(-1);
    expect(opening!.takenAt).toBeLessThanOrEqual(lastRenewal!);
  });

  it('does not prolong the gate while a row is not applied', async () => {
    const [, invalidations] = await startOpenNode();
    cache.beforePublish = unavailable;
    await invalidations.enqueue(['k']);
    await eventually('the row is tried', () => cache.publications > 0);
    const openingsBefore = openings.length;
    const publicationsBefore = cache.publications;
    await eventually('the row is tried again', async () => {
      await notify();
      return cache.publications > publicationsBefore + PASSES;
    });
    expect(openings.length).toBe(openingsBefore);
    cache.beforePublish = async () => undefined;
    await eventually('the gate is prolonged', () => openings.length > openingsBefore);
  });

  it('applies no row when its registration has ended meanwhile', async () => {
    const [store, invalidations] = await startOpenNode();
    await fillKeys(store, ['k']);
    afterRenewal = removeRegistrations;
    await removeRegistrations();
    await invalidations.enqueue(['k']);
    await somePasses();
    expect([await readWaitingKeys(), cache.publications]).toEqual([[['k']], 0]);
    afterRenewal = () => undefined;
    await eventually('the row is applied', async () => (await readWaitingKeys()).length === 0);
  });

  it('keeps its registration and the row until the keys are deleted', async () => {
    const [, invalidations] = await startOpenNode();
    const mayPublish = new Gate();
    afterThisTest(() => mayPublish.open());
    cache.beforePublish = () => mayPublish.opened;
    await invalidations.enqueue(['k']);
    await eventually('the keys are being deleted', () => cache.publications > 0);
    const locked = dataSource.query('SELECT FROM cache_readers FOR UPDATE NOWAIT');
    await expect(locked).rejects.toMatchObject({ code: '55P03' });
    expect(await readWaitingKeys()).toEqual([['k']]);
    mayPublish.open();
    await eventually('the row is deleted', async () => (await readWaitingKeys()).length === 0);
  });
});

describe('a Redis Cluster without its third master', () => {
  const FIRST_SLOT_OF_THIRD_MASTER = 10_923;
  const isOnThirdMaster = (key: string): boolean =>
    slotOf(`{${store.epoch.id}:${key}}`) >= FIRST_SLOT_OF_THIRD_MASTER;
  const findKeys = (count: number, isWanted: (key: string) => boolean): string[] =>
    Array.from({ length: 20 * count }, (_, index) => `order:id:${index}`)
      .filter(isWanted)
      .slice(0, count);

  let cluster: RedisCluster;
  let guardedStore: GuardedStore;
  let store: EpochStore;
  let gate: ReadGate;
  /** On the third master: more rows than one batch has. */
  let lostKeys: string[];
  let reachableKeys: string[];
  let invalidations: DatabaseInvalidations;

  beforeAll(async () => {
    cluster = await startRedisCluster();
  });
  afterAll(() => cluster?.stop());

  beforeEach(async () => {
    gate = new ReadGate(DEFAULT_CACHE_TIMINGS);
    const redis = RedisStore.connect({
      url: cluster.url,
      commandTimeoutMs: 2_000,
      onStateChange: () => gate.close(),
    });
    guardedStore = new GuardedStore(redis, () => gate.close());
    afterThisTest(() => guardedStore.close());
    // A master that an earlier test has restarted may not take writes yet.
    await eventually('every master takes writes', async () => {
      await deleteKeys(
        redis,
        findKeys(50, () => true),
      );
      return true;
    });
    invalidations = createInvalidations(guardedStore, gate);
    await invalidations.onApplicationBootstrap();
    store = (await eventually('the gate opens', () => gate.store)) as EpochStore;
    lostKeys = findKeys(600, isOnThirdMaster);
    reachableKeys = findKeys(10, (key) => !isOnThirdMaster(key));
  });

  const loseThirdMaster = async (): Promise<void> => {
    await cluster.masters[2].kill();
    afterThisTest(() => cluster.masters[2].restart());
    await dataSource.query(
      'INSERT INTO cache_invalidations (keys) SELECT ARRAY[key] FROM unnest($1::text[]) AS key',
      [lostKeys],
    );
    afterThisTest(() => dataSource.query('DELETE FROM cache_invalidations WHERE position > 0'));
  };

  it('a row with reachable keys is applied although unreachable rows precede it', async () => {
    await fillKeys(store, reachableKeys);
    await loseThirdMaster();
    await invalidations.enqueue(reachableKeys.slice(1));
    await eventually('only the unreachable rows are left', async () => {
      return (await readWaitingKeys()).length === lostKeys.length;
    });
    expect((await readWaitingKeys()).flat()).toEqual(lostKeys);
    expect(await showAll(store, reachableKeys.slice(1))).toEqual(
      reachableKeys.slice(1).map(() => 'absent'),
    );
    expect(guardedStore.isBreakerOpen).toBe(false);
  });

  it('a row with keys of both kinds stays, and its reachable keys are deleted', async () => {
    const [reachableKey, lostKey] = [reachableKeys[0] as string, lostKeys[0] as string];
    await fillKeys(store, [reachableKey]);
    await loseThirdMaster();
    await invalidations.enqueue([reachableKey, lostKey]);
    await eventually('the reachable key is deleted', async () => {
      return (await showAll(store, [reachableKey])).join() === 'absent';
    });
    // A row that comes later is applied, so the mixed row has been tried.
    await invalidations.enqueue([reachableKey]);
    await eventually('the later row is applied', async () => {
      return (await readWaitingKeys()).length === lostKeys.length + 1;
    });
    expect((await readWaitingKeys()).at(-1)).toEqual([reachableKey, lostKey]);
  });

  it('the third master comes back → its rows are applied and the gate opens', async () => {
    const cachedLostKeys = lostKeys.slice(0, 3);
    await fillKeys(store, cachedLostKeys);
    await loseThirdMaster();
    await cluster.masters[2].restart();
    await eventually('no row is left', async () => (await readWaitingKeys()).length === 0);
    await eventually('the gate opens', () => gate.isOpen);
    expect(await showAll(store, cachedLostKeys)).toEqual(cachedLostKeys.map(() => 'absent'));
  });
});
