/** MemoryStore: the contract, by an injected clock, and what only it has: a bound, and an end. */
import { describe, expect, it } from '@jest/globals';
import {
  type CacheStore,
  CacheUnavailableError,
} from '../../../../src/platform/cache/store/cache-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { show, storeContract } from './store-contract.js';

const HOUR_MS = 3_600_000;

storeContract('MemoryStore', async () => {
  let nowMs = 0;
  const advance = async (ms: number): Promise<void> => {
    nowMs += ms;
  };
  const store = new MemoryStore({ now: () => nowMs });
  return {
    store,
    wait: advance,
    // Later than every deadline of the contract: nothing is left.
    flush: () => advance(HOUR_MS),
    close: () => store.close(),
  };
});

describe('a MemoryStore that is full', () => {
  it('a full store evicts the least recently used key', async () => {
    const store = new MemoryStore({ maxEntries: 2 });
    await store.lease(['a', 'b'], 'me', HOUR_MS);
    await store.get(['a']);
    await store.lease(['c'], 'me', HOUR_MS);
    expect((await store.get(['a', 'b', 'c'])).map(show)).toEqual(['lease', 'absent', 'lease']);
  });

  it('a full store evicts a fence → its writer stores nothing and destroys a lease', async () => {
    const store = new MemoryStore({ maxEntries: 2 });
    await store.fence(['row'], 'writer', HOUR_MS);
    await store.lease(['x', 'y'], 'other readers', HOUR_MS);
    await store.lease(['row'], 'reader', HOUR_MS);
    await store.publish('writer', [{ key: 'row', version: 2, payload: 'new', ttlMs: HOUR_MS }]);
    const fill = { key: 'row', version: 1, payload: 'old', ttlMs: HOUR_MS };
    expect(await store.fill('reader', [fill])).toEqual([false]);
    expect((await store.get(['row'])).map(show)).toEqual(['absent']);
  });

  it('a full store evicts a lease → its reader fills nothing', async () => {
    const store = new MemoryStore({ maxEntries: 1 });
    await store.lease(['row'], 'reader', HOUR_MS);
    await store.fence(['other'], 'writer', HOUR_MS);
    const fill = { key: 'row', version: 1, payload: 'old', ttlMs: HOUR_MS };
    expect(await store.fill('reader', [fill])).toEqual([false]);
  });
});

describe('a MemoryStore that is closed', () => {
  it('a closed store is unavailable and may be closed again', async () => {
    const store = new MemoryStore();
    await store.close();
    await store.close();
    expect(store.isAvailable).toBe(false);
  });

  const steps: Record<string, (store: CacheStore) => Promise<unknown>> = {
    get: (store) => store.get(['k']),
    lease: (store) => store.lease(['k'], 't', 1),
    fill: (store) => store.fill('t', []),
    replace: (store) => store.replace([]),
    fence: (store) => store.fence(['k'], 't', 1),
    publish: (store) => store.publish('t', []),
    unfence: (store) => store.unfence(['k'], 't'),
    ping: (store) => store.ping(),
  };
  it.each(Object.keys(steps))('a closed store rejects %s as unavailable', async (step) => {
    const store = new MemoryStore();
    await store.close();
    await expect(steps[step]!(store)).rejects.toThrow(CacheUnavailableError);
  });
});
