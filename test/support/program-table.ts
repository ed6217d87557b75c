/** Programs that an npm script runs by name: `npm run bench -- <name>`, `npm run verify -- …`. */
import { parseArguments, parseWholeNumber } from '../../src/cli/arguments.js';
import { reportFailure } from '../../src/cli/command.js';

export interface Program {
  /** One line for the list of names. */
  readonly description: string;
  readonly load: () => Promise<ProgramModule>;
}

interface ProgramModule {
  /** The call and its options, for `--help`. */
  readonly USAGE?: string;
  /** @returns the exit code */
  readonly run: (argv: string[]) => Promise<number>;
}

export interface ProgramTable {
  /** As a person calls it, e.g. `npm run bench --`. */
  readonly command: string;
  readonly programs: Readonly<Record<string, Program>>;
  /** The program that runs when no name is given; without it the names are listed. */
  readonly byDefault?: string;
}

const isHelp = (argument: string | undefined): boolean =>
  argument === '--help' || argument === '-h';

/**
 * Runs the program that `argv` names.
 * @returns its exit code; 2 when there is no such program
 */
export async function runProgram(table: ProgramTable, argv: string[]): Promise<number> {
  if (isHelp(argv[0])) {
    process.stdout.write(listOf(table));
    return 0;
  }
  const hasName = argv[0] !== undefined && !argv[0].startsWith('-');
  const name = hasName ? argv[0] : table.byDefault;
  const args = hasName ? argv.slice(1) : argv;
  const program = Object.hasOwn(table.programs, name ?? '')
    ? table.programs[name ?? '']
    : undefined;
  if (name === undefined || program === undefined) {
    const problem = name === undefined ? 'Name a program.' : `There is no program "${name}".`;
    process.stderr.write(`${problem}\n${listOf(table)}`);
    return 2;
  }
  const { USAGE, run } = await program.load();
  if (args.some(isHelp)) {
    process.stdout.write(`usage: ${USAGE ?? `${table.command} ${name}`}\n`);
    return 0;
  }
  try {
    return await run(args);
  } catch (error) {
    return reportFailure(`${table.command} ${name}`, error);
  }
}

function listOf({ command, programs, byDefault }: ProgramTable): string {
  const width = Math.max(...Object.keys(programs).map((name) => name.length));
  const lines = Object.entries(programs).map(([name, { description }]) => {
    const suffix = name === byDefault ? ' (the default)' : '';
    return `  ${name.padEnd(width)}  ${description}${suffix}`;
  });
  return [`usage: ${command} <name> [options]`, '', ...lines, ''].join('\n');
}

const MAX_OPTION = 1_000_000_000;

/**
 * Options that are whole numbers of at least 1.
 * @param defaults each option with the value that it has when it is absent
 * @throws CommandError for an unknown option and for a value that is not such a number
 */
export function parseNumbers<Name extends string>(
  argv: string[],
  usage: string,
  defaults: Readonly<Record<Name, number>>,
): Record<Name, number> {
  const names = Object.keys(defaults) as Name[];
  const { options } = parseArguments<Name>(argv, { usage, options: names });
  const entries = names.map((name) => {
    const range = { min: 1, max: MAX_OPTION, byDefault: defaults[name] };
    return [name, parseWholeNumber(name, options[name], range)] as const;
  });
  return Object.fromEntries(entries) as Record<Name, number>;
}

/** The call with its options and their defaults, e.g. `npm run bench -- reads [--seconds 5]`. */
export function usageOf(call: string, defaults: Readonly<Record<string, number>>): string {
  const options = Object.entries(defaults).map(([name, value]) => `[--${name} ${value}]`);
  return [call, ...options].join(' ');
}

/** The call with these options, to be repeated by a reader of the results. */
export function callOf(call: string, options: Readonly<Record<string, number | string>>): string {
  const parts = Object.entries(options).map(([name, value]) => `--${name} ${value}`);
  return [call, ...parts].join(' ');
}

/** A seed that differs from run to run. It is printed, so that a run can be repeated. */
export const newSeed = (): number => 1 + (Date.now() % 1_000_000);
