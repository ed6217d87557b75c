/**
 * What the operator commands (main.ts) and the developer commands (scripts/) share: how a command
 * is described, how it ends, and how its failure is reported. A failure that a person can act on is
 * one line on stderr. A stack appears only for an error that nobody expected.
 */
import { ConfigError } from '../config.js';

/** What a command's file exports. */
export interface Command {
  /** What `--help` prints: the call on the first line, then one line for each argument. */
  readonly USAGE: string;
  /**
   * @param args the words after the command's name
   * @returns the exit code
   * @throws CommandError; anything else is reported with its stack
   */
  readonly run: (args: string[]) => Promise<number>;
}

/** A failure whose message is one line that says what to do. */
export class CommandError extends Error {
  override readonly name = 'CommandError';

  /** @param exitCode 2 when the arguments are wrong, else 1 */
  constructor(
    message: string,
    readonly exitCode: 1 | 2 = 1,
  ) {
    super(message);
  }
}

/**
 * Runs a command, or prints its usage for `--help`. What it throws is reported on stderr.
 * @param name as the person called it, e.g. `holdfast migrate`; begins every failure's line
 * @returns the exit code
 */
export async function runCommand(name: string, command: Command, args: string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(`usage: ${command.USAGE}\n`);
    return 0;
  }
  try {
    return await command.run(args);
  } catch (error) {
    return reportFailure(name, error);
  }
}

/** Writes the failure to stderr. @returns the exit code */
export function reportFailure(name: string, error: unknown): number {
  process.stderr.write(`${name}: ${explain(error)}\n`);
  return error instanceof CommandError ? error.exitCode : 1;
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const isMadeForPeople = error instanceof CommandError || error instanceof ConfigError;
  if (isMadeForPeople || error.name === 'EmbeddedPostgresError') return error.message;
  const code = errorCodeOf(error);
  const isSqlState = /^[0-9A-Z]{5}$/.test(code);
  if (isSqlState) return `PostgreSQL rejected a statement: ${error.message} (SQLSTATE ${code})`;
  return error.stack ?? error.message;
}

/**
 * The code of a driver's or a socket's error, e.g. `ECONNREFUSED` or `23505`. When several
 * addresses were tried, the code of the first.
 * @returns '' for an error without a code
 */
export function errorCodeOf(error: Error): string {
  const cause: unknown = error instanceof AggregateError ? error.errors[0] : error;
  const { code, driverError } = cause as { code?: unknown; driverError?: { code?: unknown } };
  const found = code ?? driverError?.code;
  return typeof found === 'string' ? found : '';
}
