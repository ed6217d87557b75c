/**
 * A node's place in an epoch without a registration in PostgreSQL, for tests of one part: the
 * epoch's cache, a gate that is open to it, and the membership that a writer asks.
 */
import type { CachedEntities } from '../../src/platform/cache/cached-entity.js';
import {
  type CacheTimings,
  DEFAULT_CACHE_TIMINGS,
} from '../../src/platform/cache/cache-timings.js';
import type { Membership } from '../../src/platform/cache/epoch/membership.js';
import { ReadGate } from '../../src/platform/cache/read/read-gate.js';
import type { CacheStore } from '../../src/platform/cache/store/cache-store.js';
import { EpochStore } from '../../src/platform/cache/store/epoch-store.js';

/** A gate's lease that neither a slow machine nor an injected clock outlasts. */
export const STEADY_TIMINGS: CacheTimings = {
  ...DEFAULT_CACHE_TIMINGS,
  gateLeaseMs: 36_000_000,
  gateTimeoutMs: 36_001_000,
};

export const newGate = (timings: CacheTimings = STEADY_TIMINGS): ReadGate => new ReadGate(timings);

/** The epoch's id. A test whose database decides at COMMIT sets it there. */
export const PRETENDED_EPOCH = 'pretended';

export function pretendEpoch(cache: CacheStore): EpochStore {
  if (cache.identity === undefined) throw new Error('The cache cannot be reached');
  return new EpochStore(cache, { id: PRETENDED_EPOCH, cache: cache.identity });
}

/** @returns a gate that stays open until something closes it */
export function openGateTo(store: EpochStore, gate = newGate()): ReadGate {
  gate.open(gate.takePass(), store);
  return gate;
}

/** A membership for ever, whose transactions declare the keys of these entities. */
export function pretendMembership(store: EpochStore, entities: CachedEntities): Membership {
  return {
    state: 'member',
    get epochStore() {
      return store.isAvailable ? store : undefined;
    },
    declarationOf: () =>
      [store.epoch.id, ...entities.tables().map(({ keys }) => keys.join(';')), ''].join('|'),
  } as unknown as Membership;
}
