/** How long the keys of an unanswered COMMIT stay fenced; the test answers for PostgreSQL. */
import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { Logger } from '@nestjs/common';
import type { EpochStore } from '../../../../src/platform/cache/store/epoch-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import type { DatabaseInvalidations } from '../../../../src/platform/cache/write/database-invalidations.js';
import { UnansweredCommits } from '../../../../src/platform/cache/write/unanswered-commits.js';
import { eventually } from '../../../support/eventually.js';
import { pretendEpoch } from '../../../support/pretend-epoch.js';
import { registerCleanup } from '../cleanup.js';
import { show } from '../store/store-contract.js';

const FENCE_MS = 15_000;
const POLL_INTERVAL_MS = 1_000;
const BACKEND_PID = 4711;

const afterThisTest = registerCleanup();

/** Answers for PostgreSQL. */
class StubDatabase {
  /** By process id. Undefined: PostgreSQL cannot be asked. */
  openTransactions: Map<number, string> | undefined = new Map([[BACKEND_PID, '7']]);
  polls = 0;
  readonly enqueued: string[][] = [];
  isEpochCurrent = true;

  async findOpenTransactions(): Promise<Map<number, string>> {
    this.polls++;
    if (!this.openTransactions) throw new Error('no answer');
    return this.openTransactions;
  }

  async enqueue(keys: string[]): Promise<void> {
    this.enqueued.push(keys);
  }

  async isCurrent(): Promise<boolean> {
    return this.isEpochCurrent;
  }
}

let nowMs: number;
let store: MemoryStore;
let keys: EpochStore;
let database: StubDatabase;
let commits: UnansweredCommits;

beforeEach(async () => {
  // Pauses end only when a test advances the clock.
  jest.useFakeTimers({ doNotFake: ['Date', 'performance', 'nextTick', 'setImmediate'] });
  afterThisTest(() => jest.useRealTimers());
  nowMs = 0;
  store = new MemoryStore({ now: () => nowMs });
  keys = pretendEpoch(store);
  database = new StubDatabase();
  const logger = { warn: () => undefined, error: () => undefined } as unknown as Logger;
  commits = new UnansweredCommits(database as unknown as DatabaseInvalidations, FENCE_MS, logger);
  afterThisTest(() => commits.stop());
  await keys.fence(['k'], 'writer', FENCE_MS);
});

const watch = (token: string, commit: { backendPid?: undefined } = {}): void =>
  commits.watch({ backendPid: BACKEND_PID, ...commit, store: keys, token, keys: ['k'] });

const showKey = async (): Promise<string> => show((await keys.get(['k']))[0]!);

/** Waits for the polls of the next intervals. */
async function awaitPolls(count: number): Promise<void> {
  const pollsBefore = database.polls;
  await eventually('PostgreSQL is asked', () => {
    jest.advanceTimersByTime(POLL_INTERVAL_MS);
    return database.polls >= pollsBefore + count;
  });
}

describe('an unanswered COMMIT', () => {
  it('the transaction stays open → the fence is renewed beyond its deadline', async () => {
    watch('writer');
    for (let renewal = 0; renewal < 3; renewal++) {
      await awaitPolls(2);
      nowMs += 0.9 * FENCE_MS;
    }
    expect(await showKey()).toBe('fence');
  });

  it('the transaction is over → the keys are deleted, PostgreSQL is asked no more', async () => {
    watch('writer');
    await awaitPolls(1);
    database.openTransactions = new Map();
    await eventually('the key is deleted', async () => {
      jest.advanceTimersByTime(POLL_INTERVAL_MS);
      return (await showKey()) === 'absent';
    });
    expect(jest.getTimerCount()).toBe(0);
  });

  it('the process has another transaction → the keys are deleted', async () => {
    watch('writer');
    await awaitPolls(1);
    database.openTransactions = new Map([[BACKEND_PID, '8']]);
    await eventually('the key is deleted', async () => {
      jest.advanceTimersByTime(POLL_INTERVAL_MS);
      return (await showKey()) === 'absent';
    });
  });

  it('PostgreSQL cannot be asked → the keys stay fenced', async () => {
    database.openTransactions = undefined;
    watch('writer');
    await awaitPolls(3);
    expect(await showKey()).toBe('fence');
  });

  it('the transaction is over while the cache is gone → the keys are enqueued', async () => {
    await store.close();
    database.openTransactions = new Map();
    watch('writer');
    await eventually('the keys are enqueued', () => database.enqueued.length > 0);
    expect(database.enqueued).toEqual([['k']]);
  });

  it('the transaction is over when the epoch has moved → the keys are enqueued', async () => {
    database.isEpochCurrent = false;
    database.openTransactions = new Map();
    watch('writer');
    await eventually('the keys are enqueued', () => database.enqueued.length > 0);
    expect(database.enqueued).toEqual([['k']]);
  });

  it('a write is known to be over, but was not published → the keys are deleted', async () => {
    watch('writer', { backendPid: undefined });
    await eventually('the key is deleted', async () => {
      jest.advanceTimersByTime(POLL_INTERVAL_MS);
      return (await showKey()) === 'absent';
    });
  });

  it('a COMMIT comes after another was resolved → it is watched as well', async () => {
    database.openTransactions = new Map();
    watch('writer');
    await eventually('the first is resolved', async () => (await showKey()) === 'absent');
    await keys.fence(['k'], 'next writer', FENCE_MS);
    watch('next writer');
    await eventually('the second is resolved', async () => (await showKey()) === 'absent');
  });

  it('the service stops → PostgreSQL is asked no more', async () => {
    watch('writer');
    await awaitPolls(1);
    commits.stop();
    await eventually('no poll is planned', () => jest.getTimerCount() === 0);
    const pollsBefore = database.polls;
    watch('writer');
    expect(database.polls).toBe(pollsBefore);
  });
});
