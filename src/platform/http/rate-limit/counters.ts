/**
 * Counters over windows of time, shared by all nodes through Redis (rate-limiter-flexible). While
 * Redis does not answer, each process counts alone. Memory is bounded: in Redis by expiry and
 * eviction, in the process by MAX_KEYS.
 */
import { LRUCache } from 'lru-cache';
import { RateLimiterMemory, RateLimiterRedis } from 'rate-limiter-flexible';
import type { RedisClient } from '../../cache/cache.module.js';

/** Keys that one counter keeps in a process. The least recently counted is evicted: it restarts. */
export const MAX_KEYS = 20_000;

interface CounterOptions {
  readonly keyPrefix: string;
  /** Allowed in one window. */
  readonly points: number;
  /** Length of the window, in seconds. */
  readonly duration: number;
}

class BoundedMemory extends RateLimiterMemory {
  // With `max`, each counter would allocate all of its entries at the start.
  private readonly keys = new LRUCache<string, true>({
    maxSize: MAX_KEYS,
    sizeCalculation: () => 1,
    dispose: (_, key, reason) => {
      if (reason === 'evict') void this.delete(key);
    },
  });

  override consume(
    ...[key, ...rest]: Parameters<RateLimiterMemory['consume']>
  ): ReturnType<RateLimiterMemory['consume']> {
    this.keys.set(String(key), true);
    return super.consume(key, ...rest);
  }
}

/** `consume(key)` counts one. Past the limit it rejects with a RateLimiterRes. */
export type Counter = RateLimiterMemory | RateLimiterRedis;

/** @param redis undefined: counts in this process alone */
export function createCounter(redis: RedisClient | undefined, options: CounterOptions): Counter {
  const memory = new BoundedMemory(options);
  if (!redis) return memory;
  return new RateLimiterRedis({
    ...options,
    storeClient: redis,
    useRedisPackage: true,
    // Commands of this client fail within 200 ms, even when Redis hangs. Then memory counts.
    insuranceLimiter: memory,
  });
}
