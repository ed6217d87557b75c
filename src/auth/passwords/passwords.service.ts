/**
 * Hashes, verifies and judges passwords on threads with a lower priority than the event loop.
 * Invariant: a bounded number of requests works or waits for it, the rest is rejected. So a storm
 * of logins slows down logins, not reads (docs/benchmarks/logins.md).
 */
import { randomBytes } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Inject, Injectable, type OnApplicationShutdown, Optional } from '@nestjs/common';
import { Piscina } from 'piscina';
import { HashingQueue, type HashingTurn } from './hashing-queue.js';
import {
  type Estimate,
  estimateTaskOf,
  type NewPassword,
  requireHardToGuess,
  requireOwnWords,
} from './password-rules.js';

/**
 * `memoryCost` in KiB, `timeCost` in passes (OWASP Password Storage Cheat Sheet). When a value is
 * raised, a user's hash is replaced at the next login.
 */
export const ARGON2ID = { algorithm: 2, memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const;

/**
 * One core is left for the event loop. Hashing does not use libuv's threads: they would have the
 * priority of the event loop.
 */
export const MAX_HASHING_THREADS = Math.min(3, Math.max(1, availableParallelism() - 1));

export interface HashingSettings {
  /** Of new hashes. */
  readonly parameters: Readonly<Record<keyof typeof ARGON2ID, number>>;
  /** Of the hashing threads (setpriority(2)): the kernel runs the event loop first. */
  readonly niceness: number;
}

export const HASHING: HashingSettings = { parameters: ARGON2ID, niceness: 15 };

/** Where passwords are hashed; see passwords.worker.mjs. */
export type HashingThreads = Piscina<object, string | boolean | Estimate[]>;

export interface HashingOverrides extends Partial<HashingSettings> {
  /** Threads that outlive the service. Without them it has its own. */
  readonly threads?: HashingThreads;
}

/**
 * Injection token for {@link HashingOverrides} over {@link HASHING}. The service does not provide
 * it. Tests do: on a busy machine, threads of a low priority hardly run, and most tests hash
 * passwords only to have a user.
 */
export const HASHING_OVERRIDES = Symbol('HashingOverrides');

/** An unused hashing thread ends after this time. */
const THREAD_IDLE_MS = 60_000;

/** Bytes of the salt and of the hash in what `hash` makes. */
const HASH_PARTS = [16, 32];

/** The cost parameters of a PHC string: `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`. */
const PHC_PARAMETERS = /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$/;

interface StoredHash {
  /** A PHC string; undefined for an unknown user. */
  readonly passwordHash: string | undefined;
}

@Injectable()
export class PasswordsService implements OnApplicationShutdown {
  private readonly threads: HashingThreads;
  private readonly ownsThreads: boolean;
  private readonly queue = new HashingQueue(MAX_HASHING_THREADS);
  /** Verified in place of an unknown user's hash, so that both cost the same time. */
  private readonly decoyHash: string;
  private readonly parameters: HashingSettings['parameters'];

  constructor(@Optional() @Inject(HASHING_OVERRIDES) overrides: HashingOverrides = {}) {
    const { parameters, niceness, threads } = { ...HASHING, ...overrides };
    this.parameters = parameters;
    this.threads = threads ?? createHashingThreads(niceness);
    this.ownsThreads = threads === undefined;
    this.decoyHash = decoyHashOf(parameters);
  }

  /** Logins that are still unanswered fail; their connections are closed anyway. */
  async onApplicationShutdown(): Promise<void> {
    if (this.ownsThreads) await this.threads.destroy();
  }

  /**
   * @returns a PHC string
   * @throws Problem overloaded when too many requests wait already
   */
  hash(turn: HashingTurn, password: string): Promise<string> {
    return this.queue.run(turn, () => this.hashNow(password));
  }

  /**
   * Hashes a password that a user has chosen, if the rules allow it.
   * @returns a PHC string
   * @throws Problem validation-failed with code `own-name` or `common`; overloaded
   */
  async hashNew(turn: HashingTurn, chosen: NewPassword): Promise<string> {
    requireOwnWords(chosen);
    return this.queue.run(turn, async () => {
      const estimates = await this.threads.run(estimateTaskOf(chosen));
      requireHardToGuess(chosen, estimates as Estimate[]);
      return this.hashNow(chosen.password);
    });
  }

  /**
   * Verifies a password. Takes the same time whether or not there is a hash.
   * @param findHash called when a hashing slot is free: a storm of logins must not query the
   *   database for requests that wait or are rejected
   * @returns what `findHash` found, and whether the password is correct
   * @throws Problem overloaded; whatever `findHash` throws
   */
  async verify<Found extends StoredHash>(
    turn: HashingTurn,
    password: string,
    findHash: () => Promise<Found>,
  ): Promise<Found & { readonly isCorrect: boolean }> {
    return this.queue.run(turn, async () => {
      const found = await findHash();
      const matches = await this.threads.run({
        hash: found.passwordHash ?? this.decoyHash,
        password: password.normalize('NFC'),
      });
      const isCorrect = matches === true && found.passwordHash !== undefined;
      return { ...found, isCorrect };
    });
  }

  /** Whether a hash (a PHC string) has weaker parameters than new hashes get. */
  isOutdated(passwordHash: string): boolean {
    const [, memory, passes, threads] = PHC_PARAMETERS.exec(passwordHash) ?? [];
    const { memoryCost, timeCost, parallelism } = this.parameters;
    const isCurrent =
      Number(memory) >= memoryCost && Number(passes) >= timeCost && Number(threads) >= parallelism;
    return !isCurrent;
  }

  /** Needs a turn of the queue. */
  private hashNow(password: string): Promise<string> {
    const task = { password: password.normalize('NFC'), parameters: this.parameters };
    return this.threads.run(task) as Promise<string>;
  }
}

/** They start when there is work. @param niceness see {@link HashingSettings} */
export function createHashingThreads(niceness: number): HashingThreads {
  return new Piscina({
    filename: fileURLToPath(new URL('./passwords.worker.mjs', import.meta.url)),
    minThreads: 0,
    maxThreads: MAX_HASHING_THREADS,
    idleTimeout: THREAD_IDLE_MS,
    niceIncrement: niceness,
  });
}

/** @returns a hash of no known password, in the form of others: its salt and hash are random */
function decoyHashOf({ memoryCost, timeCost, parallelism }: HashingSettings['parameters']): string {
  const parts = HASH_PARTS.map((bytes) => randomBytes(bytes).toString('base64').replace(/=+$/, ''));
  const parameters = `m=${memoryCost},t=${timeCost},p=${parallelism}`;
  return ['', 'argon2id', 'v=19', parameters, ...parts].join('$');
}
