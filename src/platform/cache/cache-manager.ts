/**
 * The store behind Nest's CACHE_MANAGER, for values that may lag behind the database (aggregates
 * over many rows). It shares the strict cache's Redis connections, or is a bounded map without
 * Redis. A Redis that is down or slow is a miss, never an error.
 *
 * Nothing strict may use it: it has no conditional write.
 */
import type { redisInsStore } from 'cache-manager-redis-yet';
import { Keyv, type KeyvStoreAdapter } from 'keyv';
import { LRUCache } from 'lru-cache';
import { withDeadline } from '../timing/deadline.js';
import type { RedisCommands } from './store/redis/redis-store.js';

const MAX_ENTRIES = 1_000;
/** Milliseconds after which a call counts as a miss. */
const TIMEOUT_MS = 200;

/** The reply in time, else undefined. */
async function replyOrMiss<T>(reply: Promise<T>): Promise<T | undefined> {
  try {
    return await withDeadline(TIMEOUT_MS, 'CACHE_MANAGER', reply);
  } catch {
    return undefined;
  }
}

/**
 * An adapter is necessary: Keyv passes the TTL as a number where lru-cache expects options, so
 * every
 * `set` on a bare LRUCache would throw, and Keyv would swallow the error.
 */
function createMemoryAdapter(): Pick<KeyvStoreAdapter, 'get' | 'set' | 'delete' | 'clear'> {
  const entries = new LRUCache<string, object>({ max: MAX_ENTRIES });
  return {
    get: (key) => Promise.resolve(entries.get(key) as never),
    set: (key, value, ttl) =>
      void entries.set(key, value as object, ttl === undefined ? {} : { ttl }),
    delete: (key) => Promise.resolve(entries.delete(key)),
    clear: () => Promise.resolve(entries.clear()),
  };
}

/** @param client Redis connections to share; undefined for this process's memory */
export async function createKeyvStore(client: RedisCommands | undefined): Promise<Keyv> {
  if (!client) return new Keyv({ store: createMemoryAdapter() });
  // Imported here: the package loads every Redis module, which a start without Redis does not need.
  const { redisInsStore: createRedisStore } = await import('cache-manager-redis-yet');
  // The package is typed for a node-redis 4 client. It needs only GET, SET PX and DEL of it.
  const redis = createRedisStore(client as unknown as Parameters<typeof redisInsStore>[0], {
    keyPrefix: 'hf:eventual',
  });
  const adapter: Pick<KeyvStoreAdapter, 'get' | 'set' | 'delete' | 'clear' | 'opts' | 'on'> = {
    opts: {},
    get: (key) => replyOrMiss(redis.get(key)) as Promise<never>,
    set: (key, value, ttl) => replyOrMiss(redis.set(key, value, ttl)),
    delete: async (key) => {
      const isDeleted = await replyOrMiss(redis.del(key).then(() => true));
      return isDeleted ?? false;
    },
    // It would flush the whole Redis. The strict cache survives that, but every reader would miss.
    clear: () => Promise.reject(new Error('CACHE_MANAGER cannot be cleared: delete single keys')),
    on: () => adapter as never,
  };
  return new Keyv({ store: adapter as KeyvStoreAdapter, useKeyPrefix: false });
}
