/**
 * A mutant is the service with one part of a protocol taken away. The specs named for it must fail:
 * a mutant that they do not notice is a gap in the tests. The tables are data; run.ts applies them.
 */

/** Which tests of which files are meant to fail. */
export interface SpecSelection {
  /** Paths from the root of the repository. */
  readonly specs: readonly string[];
  /** A regular expression for the full names of the tests (`jest -t`); all tests when absent. */
  readonly tests?: string;
}

export interface Mutant extends SpecSelection {
  /** Unique, in kebab-case. */
  readonly name: string;
  /** What is gone, in plain words: completes "The service in which …". */
  readonly without: string;
  readonly file: string;
  /** The exact source text that is replaced. It occurs once in the file. */
  readonly text: string;
  readonly replacement: string;
  /** The specs take longer than 20 s, so a handful does not choose this mutant. */
  readonly isSlow?: boolean;
}

export interface MutantTable {
  readonly area: string;
  readonly mutants: readonly Mutant[];
}

/** The table does not fit the source any more. */
export class MutantTextError extends Error {
  override readonly name = 'MutantTextError';
}

/**
 * @returns the source with the mutant's part taken away
 * @throws MutantTextError when the text does not occur exactly once
 */
export function mutate(source: string, { name, file, text, replacement }: Mutant): string {
  const pieces = source.split(text);
  if (pieces.length === 2) return pieces.join(replacement);
  const found = pieces.length === 1 ? 'not at all' : `${pieces.length - 1} times`;
  throw new MutantTextError(
    `Mutant ${name}: its text must occur once in ${file}, but occurs ${found}. ` +
      'Adapt test/verify/mutants/tables to the source.',
  );
}

/** Source text of several lines. */
export const lines = (...texts: readonly string[]): string => texts.join('\n');

/**
 * A part of the mutants that differs from seed to seed and covers all of them in turn.
 * @param seed a whole number; the next one begins where this one ends
 */
export function chooseHandful(all: readonly Mutant[], count: number, seed: number): Mutant[] {
  const quick = all.filter(({ isSlow }) => !isSlow);
  const size = Math.min(count, quick.length);
  const first = (seed * size) % quick.length;
  return Array.from(
    { length: size },
    (_, index) => quick[(first + index) % quick.length] as Mutant,
  );
}
