/**
 * Rules for new passwords (NIST SP 800-63B-4, 3.1.1): no common password, none made of the user's
 * own names. There are no composition rules. The DTO (auth.dto.ts) checks length and characters.
 * Here is only what takes microseconds: the hashing threads estimate (password-estimates.mjs).
 */
import { invalidParameter } from '../../platform/http/validation/validation-problem.js';

/** A password that a user has chosen. */
export interface NewPassword {
  readonly password: string;
  /** Username and email address of its owner. */
  readonly names: readonly string[];
  /** Names the password in a problem. */
  readonly field: string;
}

/** What the estimator finds in one text. */
export interface Estimate {
  /** log10 of the guesses that the text withstands. */
  readonly guessesLog10: number;
  /** What the text is composed of, in zxcvbn's words. */
  readonly parts: readonly {
    readonly pattern: string;
    /** Of the pattern `dictionary`. */
    readonly dictionaryName?: string;
  }[];
}

/** Texts to estimate, and words that an attacker would try besides those of the dictionaries. */
export interface EstimateTask {
  readonly texts: readonly string[];
  readonly words: readonly string[];
}

/**
 * The estimate reads this many code points. Reading more costs time, and a password with an
 * uncommon beginning is not common.
 */
const MAX_ESTIMATED_CODE_POINTS = 48;

/** Of the user's names, the longest. An email address may have a hundred parts. */
const MAX_OWN_WORDS = 20;

/**
 * log10 of the guesses that a password must withstand, as typed and reduced to its letters and
 * digits. Passwords below it are a common password with a suffix, or one with spaces in between.
 */
const MIN_GUESSES_LOG10 = { typed: 9, lettersAndDigits: 7 } as const;

/** With symbols of this many guesses (log10), letters and digits need not be strong as well. */
const ENOUGH_SYMBOLS_LOG10 = 7;

/** Letters, digits and distinct symbols that must remain without the easily guessed words. */
const MIN_REMAINING_CHARACTERS = 8;

/** Names and parts of names that are shorter say nothing about a password. */
const MIN_WORD_LENGTH = 3;

/** A password is weak if one of these patterns describes all of it. */
const WEAK_PATTERNS = new Set(['dictionary', 'repeat', 'sequence', 'spatial', 'date']);

/** zxcvbn's patterns in words, for the problem. Other patterns say nothing to a user. */
const PATTERN_NAMES: Readonly<Record<string, string>> = {
  dictionary: 'a common word',
  wordSequence: 'common words',
  repeat: 'a repetition',
  sequence: 'a sequence of characters',
  spatial: 'a row of keys on a keyboard',
  date: 'a date',
  regex: 'a year',
};

/** The same for its dictionaries. */
const DICTIONARY_NAMES: Readonly<Record<string, string>> = {
  'passwords-common': 'a common password',
  userInputs: 'a name of yours or of this service',
};

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

/**
 * Rejects what needs no estimate.
 * @throws Problem validation-failed with code `own-name` or `common`
 */
export function requireOwnWords({ password, names, field }: NewPassword): void {
  const typed = fold(password);
  if (isMadeOf(typed, wordsOf(names))) {
    const detail = `${field} must not be made of the username or the email address`;
    throw invalidParameter(field, 'own-name', detail);
  }
  if (isMadeOf(typed, CONTEXT_WORDS)) {
    const detail = `${field} is easy to guess: it is made of words that are obvious here`;
    throw invalidParameter(field, 'common', detail);
  }
}

/** The texts that {@link requireHardToGuess} needs the estimates of. */
export function estimateTaskOf({ password, names }: NewPassword): EstimateTask {
  const typed = fold(password);
  const texts = [typed, lettersAndDigitsOf(typed), symbolsOf(typed)];
  return { texts: texts.map(beginningOf), words: [...wordsOf(names), ...CONTEXT_WORDS] };
}

/**
 * @param estimates of the texts of {@link estimateTaskOf}
 * @throws Problem validation-failed with code `common`
 */
export function requireHardToGuess(
  { field }: Pick<NewPassword, 'field'>,
  [typed, lettersAndDigits, symbols]: readonly Estimate[],
): void {
  if (!typed || !lettersAndDigits || !symbols) throw new Error('An estimate is missing');
  if (isEasyToGuess(typed, MIN_GUESSES_LOG10.typed)) {
    const detail = `${field} is easy to guess: it is ${descriptionOf(typed)}`;
    throw invalidParameter(field, 'common', detail);
  }
  // A strong password may have few letters and digits, and they may form a word.
  const hasStrongSymbols = symbols.guessesLog10 >= ENOUGH_SYMBOLS_LOG10;
  if (hasStrongSymbols) return;
  if (isEasyToGuess(lettersAndDigits, MIN_GUESSES_LOG10.lettersAndDigits)) {
    const rest = descriptionOf(lettersAndDigits);
    const detail = `${field} is easy to guess: without spaces and symbols it is ${rest}`;
    throw invalidParameter(field, 'common', detail);
  }
}

/** Attackers try a password in all cases, with and without accents, in all compatible forms. */
const fold = (text: string): string => text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();

const lettersAndDigitsOf = (folded: string): string => folded.replace(/[^\p{L}\p{N}]/gu, '');

const symbolsOf = (folded: string): string => folded.replace(/[\p{L}\p{N}]/gu, '');

const beginningOf = (text: string): string =>
  [...text].slice(0, MAX_ESTIMATED_CODE_POINTS).join('');

/** The names and their parts. Longest first: a removed word must not break a longer one. */
function wordsOf(names: readonly string[]): string[] {
  const words = names
    .map(fold)
    .flatMap((name) => [name, lettersAndDigitsOf(name), ...name.split(/[^\p{L}\p{N}]+/u)])
    .filter(({ length }) => length >= MIN_WORD_LENGTH);
  return [...new Set(words)].sort((a, b) => b.length - a.length).slice(0, MAX_OWN_WORDS);
}

/** Whether little remains without these words, as typed or without symbols. */
function isMadeOf(folded: string, words: readonly string[]): boolean {
  const distinctSymbols = new Set(symbolsOf(folded)).size;
  return [folded, lettersAndDigitsOf(folded)].some((text) => {
    const rest = words.reduce((remaining, word) => remaining.replaceAll(word, ' '), text);
    const hasWord = rest !== text;
    const remainingCharacters = [...lettersAndDigitsOf(rest)].length + distinctSymbols;
    return hasWord && remainingCharacters < MIN_REMAINING_CHARACTERS;
  });
}

function isEasyToGuess({ guessesLog10, parts }: Estimate, minGuessesLog10: number): boolean {
  const [part, ...furtherParts] = parts;
  if (part === undefined) return false;
  const isWeakPattern = furtherParts.length === 0 && WEAK_PATTERNS.has(part.pattern);
  return isWeakPattern || guessesLog10 < minGuessesLog10;
}

/** E.g. `a common password and a year`. */
function descriptionOf({ parts }: Estimate): string {
  const names = parts.map(
    ({ pattern, dictionaryName = '' }) =>
      DICTIONARY_NAMES[dictionaryName] ?? PATTERN_NAMES[pattern],
  );
  const known = [...new Set(names.filter((name) => name !== undefined))];
  if (known.length === 0) return 'too few different characters';
  const isAll = !names.includes(undefined);
  const list = new Intl.ListFormat('en').format(known);
  return isAll ? list : `little more than ${list}`;
}
