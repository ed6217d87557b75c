/**
 * Passwords (NIST SP 800-63B-4, 3.1.1): any Unicode in NFC, 15 to 128 code points, no composition rules, none that is common
 * or the user's own name. Hashed with argon2id at OWASP's first parameters; hashing runs on libuv's few threads, so only two
 * run at once and only so many wait, and the rest is shed.
 */
import { Injectable } from '@nestjs/common';
import { hash, verify } from '@node-rs/argon2';
import { ZxcvbnFactory } from '@zxcvbn-ts/core';
import * as common from '@zxcvbn-ts/language-common';
import { bulkhead, BulkheadRejectedError } from 'cockatiel';
import { problems, retryLater } from '../http/problem.js';
import { invalid } from '../http/validation.js';

/** Memory in KiB, passes, lanes (OWASP Password Storage Cheat Sheet, argon2id). */
const ARGON2ID = { algorithm: 2, memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const;
const CONCURRENCY = { running: 2, waiting: 100 } as const;
/** Code points that are looked at: more cost time, and what begins like this is no common password any more. */
const LOOKED_AT = 48;
/** A password that takes fewer guesses than 10 to this, by lists and patterns, is a common one with a tail. */
const FEW_GUESSES_LOG10 = 8;

/** Patterns that a whole password must not be: a listed one, one chunk over and over, a run of the alphabet or the keyboard. */
const WEAK_PATTERNS = new Set(['dictionary', 'repeat', 'sequence', 'spatial', 'date']);

@Injectable()
export class Passwords {
  private readonly slots = bulkhead(CONCURRENCY.running, CONCURRENCY.waiting);
  private readonly analyser = new ZxcvbnFactory({ dictionary: common.dictionary, graphs: common.adjacencyGraphs });
  /** What an unknown user's password is verified against, so that it costs what a known one's does. */
  private readonly decoy = this.hash('the password of nobody at all');

  /**
   * @param own the user's own words, which the password must not be
   * @throws Problem validation-failed for `field`
   */
  check(password: string, own: readonly string[], field: string): void {
    const normal = password.normalize('NFC').toLowerCase();
    if (own.some((word) => word.toLowerCase() === normal))
      throw invalid(field, 'own-name', `${field} must not be the username or the email address`);
    // The lists and keyboards are ASCII's; beyond it the analyser knows only repetition, and "common" would be a guess.
    if (/[^\x20-\x7e]/.test(normal)) return;
    const { sequence, guessesLog10 } = this.analyser.check(normal.slice(0, LOOKED_AT));
    const [whole] = sequence;
    const patterned = sequence.length === 1 && whole !== undefined && WEAK_PATTERNS.has(whole.pattern);
    if (patterned || guessesLog10 < FEW_GUESSES_LOG10) {
      throw invalid(field, 'common', `${field} must not be a commonly used password`);
    }
  }

  /** @throws Problem overloaded when too many wait already */
  hash(password: string): Promise<string> {
    return this.bounded(() => hash(password.normalize('NFC'), ARGON2ID));
  }

  /** In the same time whether or not there is a hash. @throws Problem overloaded */
  async verify(passwordHash: string | undefined, password: string): Promise<boolean> {
    const against = passwordHash ?? (await this.decoy);
    const right = await this.bounded(() => verify(against, password.normalize('NFC')));
    return right && passwordHash !== undefined;
  }

  private async bounded<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await this.slots.execute(work);
    } catch (error) {
      if (error instanceof BulkheadRejectedError) throw problems.overloaded(undefined, { ...retryLater, cause: error });
      throw error;
    }
  }
}
