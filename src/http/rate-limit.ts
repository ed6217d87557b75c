/**
 * The general limit: requests a minute for each user, or for each address without one, counted on all nodes together in Redis
 * and, while that is gone or does not answer in time, in each process. Told in the IETF draft's headers (draft-ietf-httpapi-ratelimit-headers).
 */
import { isIPv6 } from 'node:net';
import { Inject, Injectable } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { REDIS_CLIENT, type RedisClient } from '../cache/cache.module.js';
import { Config } from '../config.js';
import { problems } from './problem.js';

const WINDOW_SECONDS = 60;

/** An IPv6 customer has at least a /64: counting single addresses would count nothing. */
export function networkOf(ip: string): string {
  if (!isIPv6(ip) || ip.startsWith('::ffff:')) return ip;
  const [head = '', tail] = ip.split('::');
  const left = head ? head.split(':') : [];
  const right = tail ? tail.split(':') : [];
  const groups = [...left, ...Array<string>(Math.max(0, 8 - left.length - right.length)).fill('0'), ...right];
  return `${groups.slice(0, 4).join(':')}::/64`;
}

@Injectable()
export class RateLimit {
  private readonly limiter: RateLimiterMemory | RateLimiterRedis | undefined;
  private readonly policy: string;

  constructor(config: Config, @Inject(REDIS_CLIENT) redis: RedisClient | undefined) {
    const points = config.rateLimitPerMinute;
    this.policy = `"default";q=${points};w=${WINDOW_SECONDS}`;
    if (points === 0) return;
    const memory = new RateLimiterMemory({ keyPrefix: 'hf:rate', points, duration: WINDOW_SECONDS });
    this.limiter = redis
      ? new RateLimiterRedis({
          // Its commands fail within 200 ms, also where Redis hangs; then the memory counts.
          storeClient: redis,
          useRedisPackage: true,
          keyPrefix: 'hf:rate',
          points,
          duration: WINDOW_SECONDS,
          insuranceLimiter: memory,
        })
      : memory;
  }

  /** Counts one request and writes the headers. @throws Problem rate-limited */
  async consume(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (!this.limiter) return;
    const key = request.actor ? `user:${request.actor.userId}` : `address:${networkOf(request.ip)}`;
    let state: RateLimiterRes;
    let refused = false;
    try {
      state = await this.limiter.consume(key);
    } catch (error) {
      if (!(error instanceof RateLimiterRes)) throw error;
      [state, refused] = [error, true];
    }
    const seconds = Math.max(1, Math.ceil(state.msBeforeNext / 1000));
    void reply
      .header('RateLimit-Policy', this.policy)
      .header('RateLimit', `"default";r=${state.remainingPoints};t=${seconds}`);
    if (refused) throw problems.rateLimited(undefined, { headers: { 'Retry-After': String(seconds) } });
  }
}
