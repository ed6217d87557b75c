/**
 * What a write does before it is acknowledged when a fence or a publication failed, and what a
 * repetition does. The test answers for the store and for the path through the database.
 */
import { beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CachedEntities, CachedEntity } from '../../../../src/platform/cache/cached-entity.js';
import { CacheUnavailableError } from '../../../../src/platform/cache/store/cache-store.js';
import type { EpochStore } from '../../../../src/platform/cache/store/epoch-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import type { DatabaseInvalidations } from '../../../../src/platform/cache/write/database-invalidations.js';
import { UnconfirmedWriteError } from '../../../../src/platform/cache/write/invalidation.errors.js';
import type { Invalidation } from '../../../../src/platform/cache/write/invalidation.js';
import { InvalidationService } from '../../../../src/platform/cache/write/invalidation.service.js';
import { eventually } from '../../../support/eventually.js';
import { Gate } from '../../../support/gate.js';
import { pretendEpoch, pretendMembership } from '../../../support/pretend-epoch.js';
import { registerCleanup } from '../cleanup.js';
import { ScheduledDatabase, Thing } from '../scheduled-database.js';
import { show } from '../store/store-contract.js';

Logger.overrideLogger(false);

const LONG_MS = 60_000;
const KEY = 'thing:id:a';
const BEFORE = Object.assign(new Thing(), { id: 'a', name: 'ada', shelf: 's', version: 1 });
const AFTER = Object.assign(new Thing(), { ...BEFORE, version: 2 });

const afterThisTest = registerCleanup();

/** The path through the database. */
class StubDatabase {
  /** What was asked of it, in order. */
  readonly calls: string[] = [];
  readonly mayAcknowledge = new Gate();
  isEpochCurrent = true;
  canEnqueue = true;

  async enqueue(keys: readonly string[]): Promise<void> {
    this.calls.push(`enqueue ${keys.join()}`);
    if (!this.canEnqueue) throw new Error('PostgreSQL is gone');
  }

  async awaitInvalidation(keys: readonly string[]): Promise<void> {
    this.calls.push(`wait ${keys.join()}`);
    await this.mayAcknowledge.opened;
  }

  async isCurrent(): Promise<boolean> {
    return this.isEpochCurrent;
  }

  async findOpenTransactions(): Promise<Map<number, string>> {
    return new Map();
  }
}

/** Breaks single steps. */
class BrokenStore extends MemoryStore {
  broken = new Set<'fence' | 'publish'>();
  fences = 0;

  override async fence(...args: Parameters<MemoryStore['fence']>): Promise<void> {
    this.fences++;
    this.requireWhole('fence');
    await super.fence(...args);
  }

  override async publish(
    ...args: Parameters<MemoryStore['publish']>
  ): ReturnType<MemoryStore['publish']> {
    this.requireWhole('publish');
    return super.publish(...args);
  }

  private requireWhole(step: 'fence' | 'publish'): void {
    if (this.broken.has(step)) throw new CacheUnavailableError('gone');
  }
}

let cache: BrokenStore;
let epoch: EpochStore;
let database: StubDatabase;
let service: InvalidationService;

beforeEach(() => {
  cache = new BrokenStore();
  epoch = pretendEpoch(cache);
  database = new StubDatabase();
  const entities = new CachedEntities();
  const table = new ScheduledDatabase(async () => undefined);
  entities.add(new CachedEntity(Thing, table.repository()));
  const membership = pretendMembership(epoch, entities);
  const invalidations = database as unknown as DatabaseInvalidations;
  service = new InvalidationService(membership, entities, 'wait', invalidations);
  afterThisTest(() => service.onApplicationShutdown());
});

/** A transaction that has changed the row, up to its COMMIT. */
async function changeRow(): Promise<Invalidation> {
  const invalidation = service.begin();
  invalidation.fence(Thing, BEFORE, AFTER);
  invalidation.recordChange(Thing, BEFORE, AFTER, AFTER.version);
  await invalidation.awaitFences();
  return invalidation;
}

/** The state of a promise after everything that waits for nothing. */
function watch(promise: Promise<unknown>): { readonly isOver: () => Promise<boolean> } {
  let isOver = false;
  void promise.then(
    () => (isOver = true),
    () => (isOver = true),
  );
  return {
    isOver: async () => {
      for (let turn = 0; turn < 10; turn++) await nextTurn();
      return isOver;
    },
  };
}

/** Acknowledged only when the database path says so, after exactly these calls. */
async function expectWait(writing: Promise<unknown>, calls: readonly string[]): Promise<void> {
  expect(await watch(writing).isOver()).toBe(false);
  expect(database.calls).toEqual(calls);
  database.mayAcknowledge.open();
  await writing;
}

describe('a write that was fenced and published', () => {
  it('is acknowledged at once', async () => {
    await (await changeRow()).publish(1);
    expect(database.calls).toEqual([]);
    expect((await epoch.get([KEY])).map(({ state }) => state)).toEqual(['value']);
  });
});

describe('a write whose fence failed', () => {
  it('waits; its transaction has enqueued the keys', async () => {
    cache.broken.add('fence');
    await expectWait((await changeRow()).publish(0), [`wait ${KEY}`]);
  });
});

describe('a write of which PostgreSQL found some changes unfenced', () => {
  it('waits; the trigger has enqueued the keys', async () => {
    await expectWait((await changeRow()).publish(0), [`wait ${KEY}`]);
  });

  it('waits although another change of the same row was found fenced', async () => {
    const invalidation = await changeRow();
    invalidation.recordChange(Thing, AFTER, AFTER, 3);
    await expectWait(invalidation.publish(1), [`wait ${KEY}`]);
  });
});

describe('a write whose publication failed', () => {
  it('enqueues its keys, then waits', async () => {
    cache.broken.add('publish');
    await expectWait((await changeRow()).publish(1), [`enqueue ${KEY}`, `wait ${KEY}`]);
  });

  it('is not acknowledged when its keys cannot be enqueued either', async () => {
    cache.broken.add('publish');
    database.canEnqueue = false;
    const writing = (await changeRow()).publish(1);
    await expect(writing).rejects.toBeInstanceOf(UnconfirmedWriteError);
  });

  it('keeps its fences until its keys are enqueued', async () => {
    cache.broken.add('publish');
    database.canEnqueue = false;
    const invalidation = await changeRow();
    await invalidation.publish(1).catch(() => undefined);
    const fencesBefore = cache.fences;
    await eventually('the fence is renewed', () => cache.fences > fencesBefore + 1);
    expect((await epoch.get([KEY])).map(show)).toEqual(['fence']);
    database.canEnqueue = true;
    const callsBefore = database.calls.length;
    await eventually('the keys are enqueued', () => database.calls.length > callsBefore);
  });
});

describe('a write that changed nothing', () => {
  it('waits for nothing when its fence cannot be removed', async () => {
    const invalidation = service.begin();
    invalidation.fence(Thing, BEFORE, AFTER);
    await invalidation.awaitFences();
    await cache.close();
    await invalidation.release();
    expect([invalidation.hasChanges, database.calls]).toEqual([false, []]);
  });
});

describe('a repetition', () => {
  const fillOldRow = async (): Promise<void> => {
    await epoch.lease([KEY], 'reader', LONG_MS);
    await epoch.fill('reader', [{ key: KEY, version: 1, payload: 'old', ttlMs: LONG_MS }]);
  };

  it('deletes what the cache has, and is acknowledged at once', async () => {
    await fillOldRow();
    await service.invalidate([KEY]);
    expect((await epoch.get([KEY])).map(show)).toEqual(['absent']);
    expect(database.calls).toEqual([]);
  });

  it('enqueues the keys and waits when the cache cannot be reached', async () => {
    cache.broken.add('publish');
    await expectWait(service.invalidate([KEY]), [`enqueue ${KEY}`, `wait ${KEY}`]);
  });

  it('enqueues the keys and waits when the epoch has moved to another cache', async () => {
    database.isEpochCurrent = false;
    await expectWait(service.invalidate([KEY]), [`enqueue ${KEY}`, `wait ${KEY}`]);
  });

  it('enqueues the keys and waits on a node that uses no cache', async () => {
    await cache.close();
    await expectWait(service.invalidate([KEY]), [`enqueue ${KEY}`, `wait ${KEY}`]);
  });
});
