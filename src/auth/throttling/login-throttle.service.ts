/**
 * Slows down the guessing of passwords: counts failed logins on all nodes together and rejects
 * attempts past a limit. Invariant: an attempt is counted before its password is verified, and a
 * correct one takes its count back. So parallel attempts cannot pass a limit
 * (docs/adr/0015-login-throttle.md).
 */
import { createHash } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { RateLimiterRes } from 'rate-limiter-flexible';
import { REDIS_CLIENT, type RedisClient } from '../../platform/cache/cache.module.js';
import { type Counter, createCounter } from '../../platform/http/rate-limit/counters.js';
import { authProblems } from '../auth.errors.js';

interface Window {
  readonly maxFailures: number;
  readonly seconds: number;
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/**
 * An account has two login names, each with counters of its own: a shared counter would reveal that
 * both belong to one user. So at most 100 failures in a row are possible, as NIST SP 800-63B-4,
 * 3.2.2 demands.
 */
const TARGET_WINDOWS = [
  { maxFailures: 10, seconds: MINUTE },
  { maxFailures: 25, seconds: 15 * MINUTE },
  { maxFailures: 50, seconds: 14 * DAY },
] as const satisfies readonly Window[];

/** Many users may share one network. */
const NETWORK_WINDOWS = [
  { maxFailures: 60, seconds: MINUTE },
  { maxFailures: 300, seconds: HOUR },
  { maxFailures: 1_000, seconds: DAY },
] as const satisfies readonly Window[];

/** The windows of each kind of counter. A longer window makes the next wait longer. */
export const FAILED_LOGIN_WINDOWS = {
  /** A login name, of an existing user or not, tried from devices that are new to it. */
  account: TARGET_WINDOWS,
  /** A user on a device with an earlier login. Failures of other devices do not lock it out. */
  device: TARGET_WINDOWS,
  /** A client network, for all login names together. */
  address: NETWORK_WINDOWS,
  /** A session that changes its user's password. */
  session: TARGET_WINDOWS,
} as const satisfies Record<string, readonly Window[]>;

export type FailedLoginKind = keyof typeof FAILED_LOGIN_WINDOWS;

/** What one attempt is counted for: kinds of counters, each with a key of any text. */
export type LoginAttempt = Partial<Readonly<Record<FailedLoginKind, string>>>;

/** One counter of an attempt. */
interface AttemptCounter {
  readonly kind: FailedLoginKind;
  readonly counter: Counter;
  readonly key: string;
}

@Injectable()
export class LoginThrottle {
  private readonly counters: Readonly<Record<FailedLoginKind, readonly Counter[]>>;

  constructor(@Inject(REDIS_CLIENT) redis: RedisClient | undefined) {
    const createCounters = (kind: FailedLoginKind): readonly Counter[] =>
      FAILED_LOGIN_WINDOWS[kind].map(({ maxFailures, seconds }) =>
        createCounter(redis, {
          keyPrefix: `hf:guess:${kind}:${seconds}`,
          points: maxFailures,
          duration: seconds,
        }),
      );
    this.counters = {
      account: createCounters('account'),
      device: createCounters('device'),
      address: createCounters('address'),
      session: createCounters('session'),
    };
  }

  /**
   * Counts an attempt as a failure, before its password is verified.
   * @param userId the user that the attempt is aimed at, if there is one: for the security log
   * @throws Problem too-many-attempts; the attempt is not counted then
   */
  async recordAttempt(attempt: LoginAttempt, userId?: string): Promise<void> {
    const counters = this.countersOf(attempt);
    const waits = await Promise.all(counters.map(countFailure));
    const waitMs = Math.max(...waits);
    if (waitMs === 0) return;
    await Promise.all(counters.map(takeBack));
    throw authProblems.tooManyAttempts(undefined, {
      account: userId,
      headers: { 'Retry-After': String(Math.max(1, Math.ceil(waitMs / 1000))) },
    });
  }

  /**
   * The password of a counted attempt was correct: resets the counters of its target. The network's
   * counters only take this attempt back. Otherwise an attacker could reset them by logging in to
   * an account of his own.
   */
  async recordSuccess(attempt: LoginAttempt): Promise<void> {
    await Promise.all(
      this.countersOf(attempt).map((counted) =>
        counted.kind === 'address' ? takeBack(counted) : reset(counted),
      ),
    );
  }

  private countersOf(attempt: LoginAttempt): AttemptCounter[] {
    const targets = Object.entries(attempt) as [FailedLoginKind, string][];
    return targets.flatMap(([kind, text]) => {
      const key = hashKey(text);
      return this.counters[kind].map((counter) => ({ kind, counter, key }));
    });
  }
}

/** Users type passwords into the name field, too: no text of theirs is stored in Redis. */
const hashKey = (text: string): string =>
  createHash('sha256').update(text).digest('base64url').slice(0, 22);

/** @returns milliseconds until the window ends if its limit is exceeded, else 0 */
async function countFailure({ counter, key }: AttemptCounter): Promise<number> {
  const state = await counter.consume(key).catch((error: unknown) => {
    // The library rejects with the state when the limit is exceeded.
    if (error instanceof RateLimiterRes) return error;
    throw error;
  });
  return state.consumedPoints > counter.points ? state.msBeforeNext : 0;
}

const takeBack = ({ counter, key }: AttemptCounter): Promise<unknown> => counter.reward(key);

const reset = ({ counter, key }: AttemptCounter): Promise<unknown> => counter.delete(key);
