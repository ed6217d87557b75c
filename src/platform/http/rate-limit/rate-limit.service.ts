/**
 * The general limit: requests a minute for each user, or for each address without one, counted on all nodes together
 * (counters.ts). Told in the IETF draft's headers (draft-ietf-httpapi-ratelimit-headers).
 */
import { Inject, Injectable } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { RateLimiterRes } from 'rate-limiter-flexible';
import { REDIS_CLIENT, type RedisClient } from '../cache/cache.module.js';
import { Config } from '../config.js';
import { addressOf } from './client-address.js';
import { type Counter, counter, networkOf } from './counters.js';
import { problems } from './problem.js';

const WINDOW_SECONDS = 60;

@Injectable()
export class RateLimit {
  private readonly limiter: Counter | undefined;
  private readonly policy: string;

  constructor(config: Config, @Inject(REDIS_CLIENT) redis: RedisClient | undefined) {
    const points = config.rateLimitPerMinute;
    this.policy = `"default";q=${points};w=${WINDOW_SECONDS}`;
    if (points === 0) return;
    this.limiter = counter(redis, { keyPrefix: 'hf:rate', points, duration: WINDOW_SECONDS });
  }

  /** Counts one request and writes the headers. @throws Problem rate-limited */
  async consume(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (!this.limiter) return;
    const key = request.actor
      ? `user:${request.actor.userId}`
      : `address:${networkOf(addressOf(request))}`;
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
    if (refused)
      throw problems.rateLimited(undefined, { headers: { 'Retry-After': String(seconds) } });
  }
}
