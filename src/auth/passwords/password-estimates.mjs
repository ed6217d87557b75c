/**
 * Estimates how many guesses a text withstands (zxcvbn). One estimate takes milliseconds: only the
 * hashing threads import this file (test/architecture/habits.ts checks it).
 */
import { ZxcvbnFactory } from '@zxcvbn-ts/core';
import * as common from '@zxcvbn-ts/language-common';

/**
 * Spellings with other characters (`p@ssw0rd`) that are tried for each text. The library's default
 * of 100 takes up to four times as long.
 */
const MAX_SPELLINGS = 20;

const estimator = new ZxcvbnFactory({
  dictionary: common.dictionary,
  graphs: common.adjacencyGraphs,
  l33tMaxSubstitutions: MAX_SPELLINGS,
});

/**
 * @param {string} text
 * @param {readonly string[]} words further words that an attacker tries
 * @returns {import('./password-rules.js').Estimate}
 */
export function estimate(text, words) {
  const { sequence, guessesLog10 } = estimator.check(text, [...words]);
  const parts = sequence.map(({ pattern, dictionaryName }) => ({ pattern, dictionaryName }));
  return { guessesLog10, parts };
}
