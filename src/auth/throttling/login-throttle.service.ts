/**
 * Slows down the guessing of passwords: counts failed logins in PostgreSQL, on all nodes together.
 * Invariants: an attempt is counted before its password is verified, and a correct one takes its
 * count back, so parallel attempts cannot pass a limit; no wait is longer than the interval of a
 * limit (docs/adr/0020-known-devices.md).
 */
import { createHash } from 'node:crypto';
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { DataSource } from 'typeorm';
import { PeriodicPurge } from '../../platform/database/purge.js';
import { authProblems } from '../auth.errors.js';

/** So many failures at once; then one more each interval. So a wait is one interval at most. */
interface Limit {
  readonly burst: number;
  readonly intervalSeconds: number;
}

interface Limits {
  readonly short: Limit;
  readonly long: Limit;
}

const MINUTE = 60;

/** For one person, or for one who pretends to be. */
const PERSONAL: Limits = {
  short: { burst: 10, intervalSeconds: MINUTE },
  long: { burst: 30, intervalSeconds: 15 * MINUTE },
};

/** For all who may be after one user together. */
const COLLECTIVE: Limits = {
  short: { burst: 50, intervalSeconds: 10 },
  long: { burst: 100, intervalSeconds: 2 * MINUTE },
};

/**
 * The limits of each kind of counter. A user has two login names, each with counters of its own: a
 * shared one would reveal that both belong to one user.
 */
export const FAILED_LOGIN_LIMITS = {
  /** A login name, of an existing user or not, from one client network. */
  nameAndNetwork: PERSONAL,
  /** A login name from all networks. Known devices are not counted here. */
  name: COLLECTIVE,
  /** A client network, for all login names. Many users may share one. */
  network: {
    short: { burst: 60, intervalSeconds: 1 },
    long: { burst: 300, intervalSeconds: 30 },
  },
  /** A device that its user has logged in from. Failures of others do not lock it out. */
  device: PERSONAL,
  /** All devices of a user. Bounds what somebody can do who once knew the password. */
  devicesOfUser: COLLECTIVE,
  /** A session that changes its user's password. */
  session: PERSONAL,
} as const satisfies Record<string, Limits>;

export type FailedLoginKind = keyof typeof FAILED_LOGIN_LIMITS;

/** What one attempt is counted for: kinds of counters, each with a key of any text. */
export type LoginAttempt = Partial<Readonly<Record<FailedLoginKind, string>>>;

/** A correct password empties these. The others only take the attempt back. */
const EMPTIED_BY_SUCCESS = new Set<FailedLoginKind>(['nameAndNetwork', 'device', 'session']);

const COUNT_FAILURE = 'SELECT count_failed_login($1, $2, $3, $4, $5) AS "waitSeconds"';

/** Locks in the order of the keys, as count_failed_login does. */
const TAKE_BACK = `
  WITH counter AS (
    SELECT counted.key, counter.short_seconds, counter.long_seconds
      FROM unnest($1::bytea[], $2::int[], $3::int[]) AS counter (key, short_seconds, long_seconds)
      JOIN failed_logins AS counted ON counted.key = counter.key
     ORDER BY counted.key FOR UPDATE OF counted)
  UPDATE failed_logins AS counted
     SET short_drained_at = counted.short_drained_at - make_interval(secs => short_seconds),
         long_drained_at = counted.long_drained_at - make_interval(secs => long_seconds)
    FROM counter WHERE counted.key = counter.key`;

/** A hashing thread counts fewer rows in a minute than a purge deletes in 10 s. */
const PURGE = { intervalMs: 10_000, maxRows: 1_000, maxBatches: 10 } as const;

/** An empty counter is the same as none. SKIP LOCKED: a purge waits for no login. */
const DELETE_EMPTY = `
  DELETE FROM failed_logins WHERE key = ANY (ARRAY(
    SELECT key FROM failed_logins
     WHERE long_drained_at < now() AND short_drained_at < now()
     ORDER BY long_drained_at LIMIT $1 FOR UPDATE SKIP LOCKED))`;

@Injectable()
export class LoginThrottle implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly emptyCounters: PeriodicPurge;

  constructor(private readonly dataSource: DataSource) {
    this.emptyCounters = new PeriodicPurge({
      what: 'counters of failed logins',
      intervalMs: PURGE.intervalMs,
      maxBatches: PURGE.maxBatches,
      removeBatch: () => this.removeEmptyBatch(),
      logger: new Logger('Auth'),
    });
  }

  onApplicationBootstrap(): void {
    this.emptyCounters.start();
  }

  async onApplicationShutdown(): Promise<void> {
    await this.emptyCounters.stop();
  }

  /**
   * Counts an attempt as a failure, before its password is verified. One statement.
   * @param userId the user that the attempt is aimed at, if there is one: for the security log
   * @throws Problem too-many-attempts; the attempt is not counted then
   */
  async recordAttempt(attempt: LoginAttempt, userId?: string): Promise<void> {
    const counters = countersOf(attempt);
    const limits = counters.map(({ kind }) => FAILED_LOGIN_LIMITS[kind]);
    const [row] = await this.dataSource.query<{ waitSeconds: number }[]>(COUNT_FAILURE, [
      counters.map(({ key }) => key),
      limits.map(({ short }) => short.burst),
      limits.map(({ short }) => `${short.intervalSeconds} s`),
      limits.map(({ long }) => long.burst),
      limits.map(({ long }) => `${long.intervalSeconds} s`),
    ]);
    const waitSeconds = row?.waitSeconds ?? 0;
    if (waitSeconds === 0) return;
    throw authProblems.tooManyAttempts(undefined, {
      account: userId,
      headers: { 'Retry-After': String(Math.max(1, Math.ceil(waitSeconds))) },
    });
  }

  /**
   * The password of a counted attempt was correct: empties the counters of its own target. Shared
   * counters only take this attempt back. Otherwise an attacker could empty them by logging in to
   * an account of his own, or wait until the owner does.
   */
  async recordSuccess(attempt: LoginAttempt): Promise<void> {
    const counters = countersOf(attempt);
    const secondsOf = (kind: FailedLoginKind, limit: Limit): number =>
      limit.intervalSeconds * (EMPTIED_BY_SUCCESS.has(kind) ? limit.burst : 1);
    await this.dataSource.query(TAKE_BACK, [
      counters.map(({ key }) => key),
      counters.map(({ kind }) => secondsOf(kind, FAILED_LOGIN_LIMITS[kind].short)),
      counters.map(({ kind }) => secondsOf(kind, FAILED_LOGIN_LIMITS[kind].long)),
    ]);
  }

  /** Deletes empty counters, in bounded batches. */
  async purge(): Promise<void> {
    await this.emptyCounters.purge();
  }

  private async removeEmptyBatch(): Promise<boolean> {
    const [, removed] = await this.dataSource.query<[unknown, number]>(DELETE_EMPTY, [
      PURGE.maxRows,
    ]);
    return removed === PURGE.maxRows;
  }
}

function countersOf(attempt: LoginAttempt): { kind: FailedLoginKind; key: Buffer }[] {
  const targets = Object.entries(attempt) as [FailedLoginKind, string][];
  return targets.map(([kind, text]) => ({ kind, key: hashKey(kind, text) }));
}

const KEY_BYTES = 16;

/** Users type passwords into the name field, too: no text of theirs is stored. */
const hashKey = (kind: FailedLoginKind, text: string): Buffer =>
  createHash('sha256').update(`${kind} ${text}`).digest().subarray(0, KEY_BYTES);
