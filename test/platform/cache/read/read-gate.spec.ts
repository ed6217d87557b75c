/** When a node may answer from the cache: its gate, by clocks that the test moves. */
import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import { DEFAULT_CACHE_TIMINGS } from '../../../../src/platform/cache/cache-timings.js';
import { ReadGate } from '../../../../src/platform/cache/read/read-gate.js';
import type { CacheStore } from '../../../../src/platform/cache/store/cache-store.js';
import type { EpochStore } from '../../../../src/platform/cache/store/epoch-store.js';
import { pretendEpoch } from '../../../support/pretend-epoch.js';
import { registerCleanup } from '../cleanup.js';

const { gateLeaseMs } = DEFAULT_CACHE_TIMINGS;

const afterThisTest = registerCleanup();

/** What the two clocks show. One of them stops while the machine is suspended. */
let steadyMs: number;
let wallMs: number;
let cache: { identity: string | undefined };
let store: EpochStore;
let gate: ReadGate;

beforeEach(() => {
  steadyMs = 1_000;
  wallMs = 1_700_000_000_000;
  const clocks = [
    jest.spyOn(performance, 'now').mockImplementation(() => steadyMs),
    jest.spyOn(Date, 'now').mockImplementation(() => wallMs),
  ];
  afterThisTest(() => clocks.forEach((clock) => clock.mockRestore()));
  cache = { identity: 'a cache' };
  store = pretendEpoch(cache as CacheStore);
  gate = new ReadGate(DEFAULT_CACHE_TIMINGS);
});

function advance(ms: number): void {
  steadyMs += ms;
  wallMs += ms;
}

describe('an open gate', () => {
  it('closes by itself at the end of its lease, which began with the pass', () => {
    const pass = gate.takePass();
    advance(gateLeaseMs / 2);
    gate.open(pass, store);
    expect(gate.store).toBe(store);
    advance(gateLeaseMs / 2 - 1);
    expect(gate.store).toBe(store);
    advance(1);
    expect([gate.store, gate.isOpen]).toEqual([undefined, false]);
  });

  it('stays open for as long as later passes confirm it', () => {
    gate.open(gate.takePass(), store);
    for (let pass = 0; pass < 5; pass++) {
      advance(0.9 * gateLeaseMs);
      gate.open(gate.takePass(), store);
    }
    expect(gate.store).toBe(store);
  });

  it.each([
    ['forwards: the machine was suspended', gateLeaseMs],
    ['backwards', -gateLeaseMs],
  ])('closes when the wall clock jumps %s', (_, jumpMs) => {
    gate.open(gate.takePass(), store);
    wallMs += jumpMs;
    expect(gate.store).toBeUndefined();
  });

  it.each([
    ['cannot be reached', undefined],
    ['is another one', 'another cache'],
  ])('is closed while the cache %s', (_, identity) => {
    gate.open(gate.takePass(), store);
    cache.identity = identity;
    expect(gate.store).toBeUndefined();
  });
});

describe('a gate that was closed', () => {
  it('is not opened by a pass from before', () => {
    const pass = gate.takePass();
    gate.close();
    gate.open(pass, store);
    expect(gate.store).toBeUndefined();
    gate.open(gate.takePass(), store);
    expect(gate.store).toBe(store);
  });

  it('tells its listener', () => {
    let closings = 0;
    gate.onClosed = () => closings++;
    gate.open(gate.takePass(), store);
    gate.close();
    expect([closings, gate.isOpen]).toEqual([1, false]);
  });
});
