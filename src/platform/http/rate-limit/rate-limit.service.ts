/**
 * Limits the requests per minute of each user or, without a session, of each client network. All
 * nodes count together (counters.ts). Each response carries the state in the headers of
 * draft-ietf-httpapi-ratelimit-headers.
 */
import { Inject, Injectable } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { RateLimiterRes } from 'rate-limiter-flexible';
import { REDIS_CLIENT, type RedisClient } from '../../cache/cache.module.js';
import { Config } from '../../../config.js';
import { problems } from '../problems/problem.js';
import { clientAddressOf, networkOf } from '../server/client-address.js';
import { type Counter, createCounter } from './counters.js';

const WINDOW_SECONDS = 60;

function keyOf(request: FastifyRequest): string {
  if (request.actor) return `user:${request.actor.userId}`;
  return `address:${networkOf(clientAddressOf(request))}`;
}

@Injectable()
export class RateLimit {
  /** Undefined when limits are off. */
  private readonly counter: Counter | undefined;
  private readonly policy: string;

  constructor(config: Config, @Inject(REDIS_CLIENT) redis: RedisClient | undefined) {
    const points = config.rateLimitPerMinute;
    this.policy = `"default";q=${points};w=${WINDOW_SECONDS}`;
    if (points === 0) return;
    this.counter = createCounter(redis, { keyPrefix: 'hf:rate', points, duration: WINDOW_SECONDS });
  }

  /**
   * Counts one request and writes the headers.
   * @throws Problem rate-limited
   */
  async consume(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (!this.counter) return;
    const { state, isOverLimit } = await count(this.counter, keyOf(request));
    const seconds = Math.max(1, Math.ceil(state.msBeforeNext / 1000));
    void reply
      .header('RateLimit-Policy', this.policy)
      .header('RateLimit', `"default";r=${state.remainingPoints};t=${seconds}`);
    if (isOverLimit) {
      throw problems.rateLimited(undefined, { headers: { 'Retry-After': String(seconds) } });
    }
  }
}

/** rate-limiter-flexible reports an exceeded limit by rejecting with the state. */
async function count(
  counter: Counter,
  key: string,
): Promise<{ state: RateLimiterRes; isOverLimit: boolean }> {
  try {
    return { state: await counter.consume(key), isOverLimit: false };
  } catch (error) {
    if (!(error instanceof RateLimiterRes)) throw error;
    return { state: error, isOverLimit: true };
  }
}
