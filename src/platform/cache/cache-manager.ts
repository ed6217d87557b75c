/**
 * The store behind CACHE_MANAGER, for values that may lag (aggregates over many rows): cache-manager over Keyv over
 * cache-manager-redis-yet on the connections that the strict cache has already, or over a bounded map without Redis. Nothing
 * strict goes through it: it has no conditional write. Redis gone or slow is a miss, never an error and never a wait.
 */
import type { redisInsStore } from 'cache-manager-redis-yet';
import { Keyv, type KeyvStoreAdapter } from 'keyv';
import { LRUCache } from 'lru-cache';
import type { RedisCommands } from './redis.store.js';

const MOST_ENTRIES = 1_000;
/** Milliseconds until a call counts as a miss. */
const PATIENCE_MS = 200;

const orMiss = <T>(call: Promise<T>): Promise<T | undefined> =>
  Promise.race([
    call,
    new Promise<undefined>((resolve) => setTimeout(resolve, PATIENCE_MS, undefined).unref()),
  ]).catch(() => undefined);

/** Keyv hands `set` a number of milliseconds where lru-cache takes options: passed on as it is, every set throws, unseen. */
function memoryStore(): Pick<KeyvStoreAdapter, 'get' | 'set' | 'delete' | 'clear'> {
  const entries = new LRUCache<string, object>({ max: MOST_ENTRIES });
  return {
    get: (key) => Promise.resolve(entries.get(key) as never),
    set: (key, value, ttl) =>
      void entries.set(key, value as object, ttl === undefined ? {} : { ttl }),
    delete: (key) => Promise.resolve(entries.delete(key)),
    clear: () => Promise.resolve(entries.clear()),
  };
}

/** @param client undefined: this process's memory */
export async function keyvStore(client: RedisCommands | undefined): Promise<Keyv> {
  if (!client) return new Keyv({ store: memoryStore() });
  // Loaded where it is used: it brings every Redis module with it, which a start without Redis need not wait for.
  const { redisInsStore: storeOf } = await import('cache-manager-redis-yet');
  // The package is typed for a node-redis 4 client; these commands (GET, SET PX, DEL) are all that it is asked for here.
  const redis = storeOf(client as unknown as Parameters<typeof redisInsStore>[0], {
    keyPrefix: 'hf:eventual',
  });
  const adapter: Pick<KeyvStoreAdapter, 'get' | 'set' | 'delete' | 'clear' | 'opts' | 'on'> = {
    opts: {},
    get: (key) => orMiss(redis.get(key)) as Promise<never>,
    set: (key, value, ttl) => orMiss(redis.set(key, value, ttl)),
    delete: async (key) => (await orMiss(redis.del(key).then(() => true))) ?? false,
    // Only ever called by mistake: it would flush the strict cache, which the protocol survives but users would feel.
    clear: () => Promise.reject(new Error('the eventual cache is not cleared as a whole')),
    on: () => adapter as never,
  };
  return new Keyv({ store: adapter as KeyvStoreAdapter, useKeyPrefix: false });
}
