/**
 * Counters in windows of time (rate-limiter-flexible): one for all nodes in Redis and, while that is gone or does not answer in
 * time, one in each process. Bounded on both sides: in Redis by their end and its eviction, here by a number of keys.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { LRUCache } from 'lru-cache';
import { RateLimiterMemory, RateLimiterRedis } from 'rate-limiter-flexible';
import type { RedisClient } from '../cache/cache.module.js';

/** Keys that one counter keeps in a process. The one counted longest ago gives way: it starts again. */
export const MOST_KEYS = 20_000;

interface CounterOptions {
  readonly keyPrefix: string;
  /** How many are let through in a window. */
  readonly points: number;
  /** The window's length, in seconds. */
  readonly duration: number;
}

class BoundedMemory extends RateLimiterMemory {
  private readonly keys = new LRUCache<string, true>({
    max: MOST_KEYS,
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

export type Counter = RateLimiterMemory | RateLimiterRedis;

/** `consume` counts one and rejects with a RateLimiterRes past the limit. @param redis undefined: this process alone */
export function counter(redis: RedisClient | undefined, options: CounterOptions): Counter {
  const memory = new BoundedMemory(options);
  // The client's commands fail within 200 ms, also where Redis hangs; then the memory counts.
  return redis
    ? new RateLimiterRedis({
        ...options,
        storeClient: redis,
        useRedisPackage: true,
        insuranceLimiter: memory,
      })
    : memory;
}

/** What counts as one address: an IPv4 address, however it is written, or an IPv6 /64, which one customer has at least. */
export function networkOf(ip: string): string {
  const [address = ''] = ip.split('%');
  if (!isIPv6(address)) return address;
  // The URL parser writes every form of an address in one (RFC 5952), an embedded IPv4 address as two groups.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const left = head ? head.split(':') : [];
  const right = tail ? tail.split(':') : [];
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
  if (groups.slice(0, 6).join(':') === '0:0:0:0:0:ffff') {
    const [high, low] = groups.slice(6).map((group) => parseInt(group, 16)) as [number, number];
    const mapped = [high >> 8, high & 255, low >> 8, low & 255].join('.');
    if (isIPv4(mapped)) return mapped;
  }
  return `${groups.slice(0, 4).join(':')}::/64`;
}
