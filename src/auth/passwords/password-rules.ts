/**
 * Rules for new passwords (NIST SP 800-63B-4, 3.1.1): no common password, none made of the user's
 * own names. There are no composition rules. The DTO (auth.dto.ts) checks length and characters.
 */
import { ZxcvbnFactory } from '@zxcvbn-ts/core';
import * as common from '@zxcvbn-ts/language-common';
import { invalidParameter } from '../../platform/http/validation/validation-problem.js';

/**
 * The estimate reads this many code points. Reading more costs time, and a password with an
 * uncommon beginning is not common.
 */
const MAX_ESTIMATED_CODE_POINTS = 48;

/**
 * log10 of the guesses that a password must withstand, as typed and reduced to its letters and
 * digits. Passwords below it are a common password with a suffix, or one with spaces in between.
 */
const MIN_GUESSES_LOG10 = { typed: 9, lettersAndDigits: 7 } as const;

/** Letters and digits that must remain once easily guessed words are removed. */
const MIN_REMAINING_CHARACTERS = 8;

/** Names and parts of names that are shorter say nothing about a password. */
const MIN_WORD_LENGTH = 3;

/** A password is weak if one of these patterns describes all of it. */
const WEAK_PATTERNS = new Set(['dictionary', 'repeat', 'sequence', 'spatial', 'date']);

/** Words that an attacker tries first on this service, for any user (ASVS 5.0.0, 6.1.2, 6.2.11). */
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

const estimator = new ZxcvbnFactory({
  dictionary: common.dictionary,
  graphs: common.adjacencyGraphs,
});

/**
 * @param names username and email address of the password's owner
 * @param field names the password in the problem
 * @throws Problem validation-failed with code `own-name` or `common`
 */
export function requireUncommonPassword(
  password: string,
  names: readonly string[],
  field: string,
): void {
  const typed = fold(password);
  const compact = lettersAndDigitsOf(typed);
  const ownWords = wordsOf(names);
  if (isMadeOf(typed, ownWords) || isMadeOf(compact, ownWords)) {
    throw invalidParameter(
      field,
      'own-name',
      `${field} must not be made of the username or the email address`,
    );
  }
  const isCommon =
    isMadeOf(typed, CONTEXT_WORDS) ||
    isEasyToGuess(typed, ownWords, MIN_GUESSES_LOG10.typed) ||
    isEasyToGuess(compact, ownWords, MIN_GUESSES_LOG10.lettersAndDigits);
  if (isCommon) {
    throw invalidParameter(field, 'common', `${field} must not be a commonly used password`);
  }
}

/** Attackers try a password in all cases, with and without accents, in all compatible forms. */
const fold = (text: string): string => text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();

const lettersAndDigitsOf = (folded: string): string => folded.replace(/[^\p{L}\p{N}]/gu, '');

/** The names and their parts. Longest first: a removed word must not break a longer one. */
function wordsOf(names: readonly string[]): string[] {
  const words = names
    .map(fold)
    .flatMap((name) => [name, lettersAndDigitsOf(name), ...name.split(/[^\p{L}\p{N}]+/u)])
    .filter(({ length }) => length >= MIN_WORD_LENGTH);
  return [...new Set(words)].sort((a, b) => b.length - a.length);
}

function isMadeOf(folded: string, words: readonly string[]): boolean {
  const rest = words.reduce((text, word) => text.replaceAll(word, ' '), folded);
  const hasWord = rest !== folded;
  return hasWord && [...lettersAndDigitsOf(rest)].length < MIN_REMAINING_CHARACTERS;
}

function isEasyToGuess(folded: string, ownWords: string[], minGuessesLog10: number): boolean {
  const beginning = [...folded].slice(0, MAX_ESTIMATED_CODE_POINTS).join('');
  if (beginning === '') return false;
  const { sequence, guessesLog10 } = estimator.check(beginning, [...ownWords, ...CONTEXT_WORDS]);
  const [pattern, ...furtherPatterns] = sequence;
  const isOnePattern = pattern !== undefined && furtherPatterns.length === 0;
  const isWeakPattern = isOnePattern && WEAK_PATTERNS.has(pattern.pattern);
  return isWeakPattern || guessesLog10 < minGuessesLog10;
}
