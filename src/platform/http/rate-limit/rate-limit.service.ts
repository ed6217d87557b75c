/**
 * Limits the requests per minute of each user or, without a session, of each client network. All
 * nodes count together (counters.ts). Each response carries the state in the headers of
 * draft-ietf-httpapi-ratelimit-headers.
 */
import { Inject, Injectable, Logger } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { RateLimiterRes } from 'rate-limiter-flexible';
import { REDIS_CLIENT, type RedisClient } from '../../cache/cache.module.js';
import { Config } from '../../../config.js';
import { type Problem, problems } from '../problems/problem.js';
import { clientAddressOf, networkOf } from '../server/client-address.js';
import { type Counter, createCounter } from './counters.js';

const WINDOW_SECONDS = 60;

function keyOf(request: FastifyRequest): string {
  if (request.actor) return `user:${request.actor.userId}`;
  return keyOfAddress(clientAddressOf(request));
}

const keyOfAddress = (address: string): string => `address:${networkOf(address)}`;

@Injectable()
export class RateLimit {
  /** Undefined when limits are off. */
  private readonly counter: Counter | undefined;
  /** Tokens that turned out to have no session, by address. Undefined when limits are off. */
  private readonly unknownTokens: Counter | undefined;
  private readonly policy: string;
  private readonly logger = new Logger('Http');

  constructor(config: Config, @Inject(REDIS_CLIENT) redis: RedisClient | undefined) {
    const points = config.rateLimitPerMinute;
    this.policy = `"default";q=${points};w=${WINDOW_SECONDS}`;
    if (points === 0) return;
    const limit = { points, duration: WINDOW_SECONDS };
    this.counter = createCounter(redis, { keyPrefix: 'hf:rate', ...limit });
    this.unknownTokens = createCounter(redis, { keyPrefix: 'hf:unknown-tokens', ...limit });
  }

  /**
   * Counts one request and writes the headers.
   * @throws Problem rate-limited
   */
  async consume(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (!this.counter) return;
    const { state, isOverLimit } = await count(this.counter, keyOf(request));
    const seconds = secondsUntilReset(state);
    void reply
      .header('RateLimit-Policy', this.policy)
      .header('RateLimit', `"default";r=${state.remainingPoints};t=${seconds}`);
    if (isOverLimit) throw rateLimited(state);
  }

  /**
   * Looks up a token that this process does not know. Counts it for its address first, and takes it
   * back when the token has a session, so that addresses pay for wrong tokens only.
   * @param lookUp resolves to undefined when the token has no session
   * @throws Problem rate-limited, without a look-up, when the address has sent too many of them
   */
  async lookUpToken<T>(
    request: FastifyRequest,
    reply: FastifyReply,
    lookUp: () => Promise<T | undefined>,
  ): Promise<T | undefined> {
    if (!this.unknownTokens) return lookUp();
    const key = keyOfAddress(clientAddressOf(request));
    const { state, isOverLimit } = await count(this.unknownTokens, key);
    if (isOverLimit) {
      await this.consume(request, reply);
      throw rateLimited(state);
    }
    let isUnknown = false;
    try {
      const found = await lookUp();
      isUnknown = found === undefined;
      return found;
    } finally {
      // Not when the look-up failed either: the token may be right.
      if (!isUnknown) await this.unknownTokens.reward(key);
    }
  }

  /**
   * Counts a request that is refused before its caller is known, for its address.
   * @returns rate-limited when the address is past its limit
   */
  async countRefused(address: string): Promise<Problem | undefined> {
    if (!this.counter) return undefined;
    try {
      const { state, isOverLimit } = await count(this.counter, keyOfAddress(address));
      return isOverLimit ? rateLimited(state) : undefined;
    } catch (error) {
      // The request is refused either way.
      this.logger.warn(`Could not count a refused request: ${String(error)}`);
      return undefined;
    }
  }
}

/** At least one. */
const secondsUntilReset = ({ msBeforeNext }: RateLimiterRes): number =>
  Math.max(1, Math.ceil(msBeforeNext / 1000));

const rateLimited = (state: RateLimiterRes): Problem =>
  problems.rateLimited(undefined, {
    headers: { 'Retry-After': String(secondsUntilReset(state)) },
  });

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
