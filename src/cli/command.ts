/**
 * What the commands of this folder share: arguments, how a failure is told, the database that the environment names, and a
 * progress bar. A failure that a person can act on is one line on stderr (exit code 1; 2 when the arguments are wrong); a
 * stack appears only for what nobody expected.
 */
import { existsSync, realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Config, ConfigError } from '../src/config.js';
import { startEmbeddedPostgres } from '../src/database/embedded-postgres.js';

/** A failure whose message is one line that says what to do. */
export class CommandError extends Error {
  constructor(
    message: string,
    readonly exitCode = 1,
  ) {
    super(message);
  }
}

const usageError = (message: string, usage: string): CommandError =>
  new CommandError(`${message} (usage: ${usage.split('\n')[0]})`, 2);

/** Runs `main` and makes its end the process's: what it returns is the exit code, what it throws is told. */
export async function command(name: string, main: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await main();
  } catch (error) {
    process.stderr.write(`${name}: ${explain(error)}\n`);
    process.exitCode = error instanceof CommandError ? error.exitCode : 1;
  }
}

/** Whether this module is what was started, and not imported by another. */
export function isStarted(moduleUrl: string): boolean {
  const [, script] = process.argv;
  return (
    script !== undefined && existsSync(script) && realpathSync(script) === fileURLToPath(moduleUrl)
  );
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const isPlain = error instanceof CommandError || error instanceof ConfigError;
  if (isPlain || error.name === 'EmbeddedPostgresError') return error.message;
  if (/^[0-9A-Z]{5}$/.test(codeOf(error)))
    return `PostgreSQL refuses: ${error.message} (SQLSTATE ${codeOf(error)})`;
  return error.stack ?? error.message;
}

/** The code of a driver's or a socket's error; of the first, when several addresses were tried. */
function codeOf(error: Error): string {
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  const { code, driverError } = first as { code?: unknown; driverError?: { code?: unknown } };
  const found = code ?? driverError?.code;
  return typeof found === 'string' ? found : '';
}

/**
 * The options given, each with a value as text, and the words without an option. `--help` prints `usage` and ends.
 * @throws CommandError for an option that is unknown or lacks its value, and for more words than `words`
 */
export function readArguments<Name extends string>(
  usage: string,
  names: readonly Name[],
  words = 0,
): { options: Partial<Record<Name, string>>; words: string[] } {
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' as const }]));
  try {
    const { values, positionals } = parseArgs({
      options: { ...options, help: { type: 'boolean', short: 'h' } },
      allowPositionals: words > 0,
    });
    if (values.help) {
      process.stdout.write(`usage: ${usage}\n`);
      process.exit(0);
    }
    if (positionals.length > words) throw new Error(`Unexpected argument '${positionals[words]}'`);
    return { options: values as Partial<Record<Name, string>>, words: positionals };
  } catch (error) {
    const [line = ''] = (error as Error).message.split(/\. |\n/);
    throw usageError(line.replace(/\.$/, ''), usage);
  }
}

/** A whole number given as text. @throws CommandError when it is none, or out of bounds */
export function wholeNumber(
  name: string,
  text: string | undefined,
  { least, most, otherwise }: { least: number; most: number; otherwise: number },
): number {
  if (text === undefined) return otherwise;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  if (value >= least && value <= most) return value;
  throw new CommandError(
    `--${name} must be a whole number from ${least} to ${most}, not "${text}"`,
    2,
  );
}

/**
 * Works on the database that the configuration names; the embedded one runs only as long as `work`.
 * @throws EmbeddedPostgresError, among others when a running service has it open; CommandError when nothing answers
 */
export async function withDatabase<T>(
  config: Config,
  work: (url: string) => Promise<T>,
): Promise<T> {
  const embedded = config.databaseUrl
    ? undefined
    : await startEmbeddedPostgres({ dataDir: config.dataDir });
  const url = config.databaseUrl ?? (embedded?.url as string);
  try {
    return await work(url);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const isGone = /^(ECONN|ENOTFOUND|ENOENT|ETIMEDOUT|EHOST|EAI_|08...|57P0)/.test(codeOf(error));
    if (!isGone && !/timeout expired|Connection terminated/.test(error.message)) throw error;
    const { host, pathname } = new URL(url);
    throw new CommandError(
      `no PostgreSQL answers at ${host}${pathname} (${codeOf(error) || error.message}): start it, or correct DATABASE_URL`,
    );
  } finally {
    await embedded?.stop();
  }
}

export interface Progress {
  update(done: number, note?: string): void;
  stop(): void;
}

/** A progress bar on a terminal's stderr; anywhere else a plain line for each tenth. */
export async function startProgress(label: string, total: number, unit: string): Promise<Progress> {
  if (!process.stderr.isTTY) return plainProgress(label, total, unit);
  // Loaded only for a person who watches: a production install has no progress bar.
  const { default: cliProgress } = await import('cli-progress');
  const bar = new cliProgress.SingleBar({
    format: `${label} {bar} {percentage} % | {value} of {total} ${unit} | {note}`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
  });
  bar.start(total, 0, { note: '' });
  return {
    update: (done, note = '') => bar.update(Math.min(done, total), { note }),
    stop: () => bar.stop(),
  };
}

function plainProgress(label: string, total: number, unit: string): Progress {
  let told = 0;
  return {
    update(done, note = '') {
      const tenth = Math.floor((Math.min(done, total) / total) * 10);
      if (tenth <= told) return;
      told = tenth;
      process.stderr.write(
        `${label}: ${Math.min(done, total)} of ${total} ${unit}${note ? `, ${note}` : ''}\n`,
      );
    },
    stop: () => undefined,
  };
}
