/** MemoryStore: the contract by an injected clock, and what is its own: the bound on its size. */
import { describe, expect, it } from '@jest/globals';
import { CacheUnavailableError } from '../../src/cache/cache.store.js';
import { MemoryStore } from '../../src/cache/memory.store.js';
import { show, storeContract } from './store.contract.js';

const HOUR = 3_600_000;

storeContract('MemoryStore', async () => {
  let now = 0;
  const store = new MemoryStore({ now: () => now });
  return {
    store,
    wait: async (ms) => void (now += ms),
    // Past every deadline, a store has lost everything.
    flush: async () => void (now += HOUR),
    close: () => store.close(),
  };
});

describe('MemoryStore at its bound', () => {
  it('drops the key that was touched least recently', async () => {
    const store = new MemoryStore({ maxEntries: 2 });
    await store.lease(['a', 'b'], 'me', HOUR);
    await store.get(['a']);
    await store.lease(['c'], 'me', HOUR);
    expect((await store.get(['a', 'b', 'c'])).map(show)).toEqual(['lease', 'absent', 'lease']);
  });

  it('stores nothing for a writer whose fence was dropped, and kills the lease taken meanwhile', async () => {
    const store = new MemoryStore({ maxEntries: 2 });
    await store.fence(['row'], 'writer', HOUR);
    await store.lease(['x', 'y'], 'crowd', HOUR);
    await store.lease(['row'], 'reader', HOUR);
    await store.publish('writer', [{ key: 'row', version: 2, payload: 'new', ttlMs: HOUR }]);
    expect(
      await store.fill('reader', [{ key: 'row', version: 1, payload: 'old', ttlMs: HOUR }]),
    ).toEqual([false]);
    expect((await store.get(['row'])).map(show)).toEqual(['absent']);
  });

  it('fills nothing over a lease that was dropped', async () => {
    const store = new MemoryStore({ maxEntries: 1 });
    await store.lease(['row'], 'reader', HOUR);
    await store.fence(['other'], 'writer', HOUR);
    expect(
      await store.fill('reader', [{ key: 'row', version: 1, payload: 'old', ttlMs: HOUR }]),
    ).toEqual([false]);
  });
});

describe('MemoryStore closed', () => {
  it('is unavailable, and says so to every step', async () => {
    const store = new MemoryStore();
    await store.close();
    await store.close();
    expect(store.available).toBe(false);
    for (const step of [
      store.get(['k']),
      store.lease(['k'], 't', 1),
      store.fill('t', []),
      store.replace([]),
      store.fence(['k'], 't', 1),
      store.publish('t', []),
      store.unfence(['k'], 't'),
      store.ping(),
    ]) {
      await expect(step).rejects.toThrow(CacheUnavailableError);
    }
  });
});
