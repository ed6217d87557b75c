/**
 * Wrong passwords are counted, on all nodes together, for what they are aimed at and for where they come from; each further
 * window is longer, so the waits grow. A guess is counted before its password is looked at, so that of any number sent at once
 * no more are tried than the limit says; a right one takes its count back.
 *
 * Whoever logs in from a device that this user has logged in from before is counted by that device alone: strangers' guesses
 * cannot lock it out (docs/adr/0015-guessing.md).
 */
import { createHash } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { RateLimiterRes } from 'rate-limiter-flexible';
import { REDIS_CLIENT, type RedisClient } from '../cache/cache.module.js';
import { type Counter, counter } from '../http/counters.js';
import { authProblems } from './auth.errors.js';

interface Window {
  /** Wrong passwords that are answered as such. */
  readonly failures: number;
  readonly seconds: number;
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/**
 * An account has two names, each with a count of its own (one count would tell that they are one user's): together at most the
 * hundred failures in a row that NIST SP 800-63B-4, 3.2.2 allows.
 */
const OF_ONE = [
  { failures: 10, seconds: MINUTE },
  { failures: 25, seconds: 15 * MINUTE },
  { failures: 50, seconds: 14 * DAY },
] as const satisfies readonly Window[];

/** What failures are counted for. */
export const GUESS_WINDOWS = {
  /** A login name, known or not, from devices that are new to it. */
  account: OF_ONE,
  /** A user on a device that is known to it. */
  device: OF_ONE,
  /** An address, whatever the names: many users may share it. */
  address: [
    { failures: 60, seconds: MINUTE },
    { failures: 300, seconds: HOUR },
    { failures: 1_000, seconds: DAY },
  ],
  /** A session that changes its user's password. */
  session: OF_ONE,
} as const satisfies Record<string, readonly Window[]>;

export type GuessKind = keyof typeof GUESS_WINDOWS;
/** What one guess is counted for: kinds with their keys, which may be any text. */
export type Guess = Partial<Readonly<Record<GuessKind, string>>>;

@Injectable()
export class Guesses {
  private readonly counters: Readonly<Record<GuessKind, readonly Counter[]>>;

  constructor(@Inject(REDIS_CLIENT) redis: RedisClient | undefined) {
    const countersOf = (kind: GuessKind): readonly Counter[] =>
      GUESS_WINDOWS[kind].map(({ failures, seconds }) =>
        counter(redis, {
          keyPrefix: `hf:guess:${kind}:${seconds}`,
          points: failures,
          duration: seconds,
        }),
      );
    this.counters = {
      account: countersOf('account'),
      device: countersOf('device'),
      address: countersOf('address'),
      session: countersOf('session'),
    };
  }

  /**
   * Counts a guess as a failure, before it is looked at.
   * @param account the user that it is aimed at, if there is one: for the security log
   * @throws Problem too-many-attempts; then it is not counted
   */
  async count(guess: Guess, account?: string): Promise<void> {
    const counts = await Promise.all(
      this.each(guess).map(async ({ counter: one, key }) => {
        const result = await one.consume(key).catch((error: unknown) => {
          if (error instanceof RateLimiterRes) return error;
          throw error;
        });
        return { one, key, waitMs: result.consumedPoints > one.points ? result.msBeforeNext : 0 };
      }),
    );
    const waitMs = Math.max(...counts.map((it) => it.waitMs));
    if (waitMs === 0) return;
    await Promise.all(counts.map(({ one, key }) => one.reward(key)));
    throw authProblems.tooManyAttempts(undefined, {
      account,
      headers: { 'Retry-After': String(Math.max(1, Math.ceil(waitMs / 1000))) },
    });
  }

  /**
   * The guess was right: what it was aimed at starts afresh. Its address only takes this one back: else a guesser would log in
   * as himself now and then.
   */
  async wasRight(guess: Guess): Promise<void> {
    await Promise.all(
      this.each(guess).map(({ kind, counter: one, key }) =>
        kind === 'address' ? one.reward(key) : one.delete(key),
      ),
    );
  }

  private each(guess: Guess): { kind: GuessKind; counter: Counter; key: string }[] {
    return (Object.entries(guess) as [GuessKind, string][]).flatMap(([kind, text]) => {
      // What is typed as a name may be anything, a password too: it stays out of Redis.
      const key = createHash('sha256').update(text).digest('base64url').slice(0, 22);
      return this.counters[kind].map((one) => ({ kind, counter: one, key }));
    });
  }
}
