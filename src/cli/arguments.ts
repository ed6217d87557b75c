/** Reads the arguments of commands. A wrong argument ends the command with exit code 2. */
import { parseArgs } from 'node:util';
import { CommandError } from './command.js';

export interface ArgumentRules<Name extends string> {
  /** Its first line ends the message about a wrong argument. */
  readonly usage: string;
  /** Options that take a value, e.g. `seed` for `--seed 7`. */
  readonly options?: readonly Name[];
  /** Options that take no value, e.g. `check` for `--check`. */
  readonly flags?: readonly string[];
  /** How many words without an option are allowed; none when absent. */
  readonly maxWords?: number;
}

export interface ParsedArguments<Name extends string> {
  readonly options: Partial<Record<Name, string>>;
  readonly flags: ReadonlySet<string>;
  readonly words: string[];
}

/**
 * @throws CommandError for an unknown option, an option without its value, and for more words than
 *   `maxWords`
 */
export function parseArguments<Name extends string = never>(
  args: string[],
  { usage, options = [], flags = [], maxWords = 0 }: ArgumentRules<Name>,
): ParsedArguments<Name> {
  const withValue = options.map((name) => [name, { type: 'string' as const }]);
  const withoutValue = flags.map((name) => [name, { type: 'boolean' as const }]);
  try {
    const { values, positionals } = parseArgs({
      args,
      options: Object.fromEntries([...withValue, ...withoutValue]),
      allowPositionals: maxWords > 0,
    });
    if (positionals.length > maxWords) {
      throw new Error(`Unexpected argument '${positionals[maxWords]}'`);
    }
    return {
      options: values as Partial<Record<Name, string>>,
      flags: new Set(flags.filter((name) => Object.hasOwn(values, name))),
      words: positionals,
    };
  } catch (error) {
    // Node's messages go on with hints about `--`, which no command here needs.
    const [firstSentence = ''] = (error as Error).message.split(/\. |\n/);
    const [call] = usage.split('\n');
    throw new CommandError(`${firstSentence.replace(/\.$/, '')} (usage: ${call})`, 2);
  }
}

/**
 * An option's value as a whole number.
 * @returns `byDefault` when the option is absent
 * @throws CommandError when the text is not a whole number from `min` to `max`
 */
export function parseWholeNumber(
  option: string,
  text: string | undefined,
  { min, max, byDefault }: { min: number; max: number; byDefault: number },
): number {
  if (text === undefined) return byDefault;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  const isInRange = value >= min && value <= max;
  if (isInRange) return value;
  throw new CommandError(
    `--${option} must be a whole number from ${min} to ${max}, not "${text}"`,
    2,
  );
}
