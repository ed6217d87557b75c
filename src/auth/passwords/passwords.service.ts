/**
 * Passwords (NIST SP 800-63B-4, 3.1.1): any Unicode in NFC, 15 to 128 code points, no composition rules, none that is common
 * or made of the user's own words. Hashed with argon2id, at one set of parameters, on threads that give way to all others; only
 * so many wait for it, and the rest is shed: a storm of logins makes logins slow, not reads.
 */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { ZxcvbnFactory } from '@zxcvbn-ts/core';
import * as common from '@zxcvbn-ts/language-common';
import { bulkhead, BulkheadRejectedError } from 'cockatiel';
import { Piscina } from 'piscina';
import { problems, retryLater } from '../http/problem.js';
import { invalid } from '../http/validation.js';

/**
 * Memory in KiB, passes, lanes (OWASP Password Storage Cheat Sheet, argon2id). Raised here, they are every new hash's, and an
 * older hash is replaced at its user's next login.
 */
export const ARGON2ID = { algorithm: 2, memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const;
/** Threads that hash. One core less than there are: libuv's own threads would be as urgent as the event loop, and are not used. */
const RUNNING = Math.min(3, Math.max(1, availableParallelism() - 1));
/** Added to the threads' niceness (setpriority(2)): whoever answers a read takes the core from whoever hashes. */
const NICE = 15;
/** A hashing thread ends when it had nothing to do for so many milliseconds. */
const IDLE_MS = 60_000;
/** About two seconds' worth: who would wait longer is told to come back. */
const WAITING = 40 * RUNNING;
/** Code points that are looked at: more cost time, and what begins like this is no common password any more. */
const LOOKED_AT = 48;
/** A password that takes fewer guesses than 10 to this, by lists and patterns, is a common one with a tail; or one spaced out. */
const FEW_GUESSES_LOG10 = { typed: 9, bare: 7 } as const;
/** Letters and digits that must be left of a password when words that anyone would try first are taken out. */
const OWN_PART = 8;

/** Patterns that a whole password must not be: a listed one, one chunk over and over, a run of the alphabet or the keyboard. */
const WEAK_PATTERNS = new Set(['dictionary', 'repeat', 'sequence', 'spatial', 'date']);
/** What a guesser tries first here, whoever the user is (ASVS 5.0, 6.1.2 and 6.2.11). */
const CONTEXT_WORDS = [
  'holdfast',
  'password',
  'passphrase',
  'administrator',
  'admin',
  'welcome',
  'changeme',
  'letmein',
];

/** Compatibility forms, accents and case do not make a password another one to a guesser. */
const fold = (text: string): string => text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();
const bare = (folded: string): string => folded.replace(/[^\p{L}\p{N}]/gu, '');
/** A name or an address and its parts, longest first: what is taken out of a password must not hide a longer word. */
const wordsOf = (names: readonly string[]): string[] => {
  const parts = names
    .map(fold)
    .flatMap((name) => [name, bare(name), ...name.split(/[^\p{L}\p{N}]+/u)]);
  return [...new Set(parts)]
    .filter(({ length }) => length > 2)
    .sort((one, other) => other.length - one.length);
};
const isMadeOf = (folded: string, words: readonly string[]): boolean => {
  const rest = words.reduce((left, word) => left.replaceAll(word, ' '), folded);
  return rest !== folded && [...bare(rest)].length < OWN_PART;
};

@Injectable()
export class Passwords implements OnApplicationShutdown {
  private readonly threads = new Piscina<object, string | boolean>({
    filename: fileURLToPath(new URL('./argon2.worker.mjs', import.meta.url)),
    minThreads: 0,
    maxThreads: RUNNING,
    idleTimeout: IDLE_MS,
    niceIncrement: NICE,
  });
  private readonly slots = bulkhead(RUNNING, WAITING);
  private readonly analyser = new ZxcvbnFactory({
    dictionary: common.dictionary,
    graphs: common.adjacencyGraphs,
  });
  /** What an unknown user's password is verified against, so that it costs what a known one's does. */
  private readonly decoy = this.hash('the password of nobody at all');

  constructor() {
    // A process that stops before it is made has not failed; whoever verifies is told.
    this.decoy.catch(() => undefined);
  }

  /**
   * @param names the user's own, which the password must not be made of
   * @throws Problem validation-failed for `field`
   */
  check(password: string, names: readonly string[], field: string): void {
    const folded = fold(password);
    const own = wordsOf(names);
    if (isMadeOf(folded, own) || isMadeOf(bare(folded), own))
      throw invalid(
        field,
        'own-name',
        `${field} must not be made of the username or the email address`,
      );
    if (
      isMadeOf(folded, CONTEXT_WORDS) ||
      this.isCommon(folded, own, 'typed') ||
      this.isCommon(bare(folded), own, 'bare')
    )
      throw invalid(field, 'common', `${field} must not be a commonly used password`);
  }

  private isCommon(folded: string, own: string[], form: keyof typeof FEW_GUESSES_LOG10): boolean {
    const looked = [...folded].slice(0, LOOKED_AT).join('');
    const { sequence, guessesLog10 } = this.analyser.check(looked, [...own, ...CONTEXT_WORDS]);
    const [whole] = sequence;
    const patterned =
      sequence.length === 1 && whole !== undefined && WEAK_PATTERNS.has(whole.pattern);
    return looked.length > 0 && (patterned || guessesLog10 < FEW_GUESSES_LOG10[form]);
  }

  /** Logins that have not been answered by now are cut with their connections. */
  async onApplicationShutdown(): Promise<void> {
    await this.threads.destroy();
  }

  /** @throws Problem overloaded when too many wait already */
  hash(password: string): Promise<string> {
    const task = { password: password.normalize('NFC'), parameters: ARGON2ID };
    return this.bounded(() => this.threads.run(task) as Promise<string>);
  }

  /**
   * Whether the password is right, with what was found; in the same time whether or not there is a hash.
   * @param find called when its turn has come, so that a storm does not ask the database for what it must wait for anyway
   * @throws Problem overloaded; whatever `find` throws
   */
  async verify<F extends { readonly passwordHash: string | undefined }>(
    password: string,
    find: () => Promise<F>,
  ): Promise<F & { readonly right: boolean }> {
    const decoy = await this.decoy;
    return this.bounded(async () => {
      const found = await find();
      const matches = await this.threads.run({
        hash: found.passwordHash ?? decoy,
        password: password.normalize('NFC'),
      });
      return { ...found, right: matches === true && found.passwordHash !== undefined };
    });
  }

  /** Whether a hash (a PHC string) was made with less than today's parameters. */
  isOutdated(passwordHash: string): boolean {
    const [, memory, passes, lanes] =
      /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$/.exec(passwordHash) ?? [];
    const { memoryCost, timeCost, parallelism } = ARGON2ID;
    return !(
      Number(memory) >= memoryCost &&
      Number(passes) >= timeCost &&
      Number(lanes) >= parallelism
    );
  }

  private async bounded<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await this.slots.execute(work);
    } catch (error) {
      if (error instanceof BulkheadRejectedError)
        throw problems.overloaded(undefined, { ...retryLater, cause: error });
      throw error;
    }
  }
}
