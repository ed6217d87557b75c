/**
 * `npm run verify -- chaos`. Exit code: 0 when every promise was kept, 1 when one was broken, 2
 * when the run itself failed, 3 when it did not end in time.
 */
import { writeFile } from 'node:fs/promises';
import { parseArguments, parseWholeNumber } from '../../../src/cli/arguments.js';
import { CommandError } from '../../../src/cli/command.js';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { DeadlineExceededError, withDeadline } from '../../../src/platform/timing/deadline.js';
import { writePage } from '../../bench/page.js';
import { startSharedPostgres } from '../../support/postgres.js';
import { callOf, newSeed } from '../../support/program-table.js';
import { type ChaosOptions, type ChaosReport, runChaos } from './chaos.js';
import { pageOf, summaryOf } from './report.js';

const CALL = 'npm run verify -- chaos';
const DEFAULT_READS = 10_000_000;

const OPTIONS =
  '[--form short|long] [--reads <number>] [--seed <number>] [--near <entities>] [--report <file>]';

export const USAGE = `${CALL} ${OPTIONS}
--form short inflicts every kind of fault in about a minute. --form long, the default, has a round
of every scenario, checks ${DEFAULT_READS} reads, or --reads, and writes docs/benchmarks/chaos.md,
or with --near docs/benchmarks/chaos-near.md.
--near is the value of CACHE_NEAR, e.g. session,user,order; none by default. --report writes the
counts as JSON.`;

const FAILURES_FOLDER = '.data/chaos';
/** Besides the time for the reads: at least 1000 of them are checked in a second. */
const BASE_TIMEOUT_MS = 600_000;

export async function run(argv: string[]): Promise<number> {
  const { reportFile, ...options } = parseOptions(argv);
  const timeoutMs = BASE_TIMEOUT_MS + (options.form === 'long' ? options.reads : 0);
  console.log(`chaos: ${options.form} form, seed ${options.seed}`);
  try {
    const report = await withDeadline(timeoutMs, CALL, runOnOwnPostgres(options));
    console.log(summaryOf(report));
    if (reportFile) await writeFile(reportFile, JSON.stringify(report));
    if (options.form === 'long') {
      const { reads, seed, near } = options;
      const call = callOf(CALL, { reads, seed, ...(near !== '' && { near }) });
      await writePage(near === '' ? 'chaos' : 'chaos-near', pageOf(report, call));
    }
    return report.files.length === 0 ? 0 : 1;
  } catch (error) {
    console.error(error);
    return error instanceof DeadlineExceededError ? 3 : 2;
  }
}

function parseOptions(argv: string[]): ChaosOptions & { readonly reportFile?: string } {
  const { options } = parseArguments(argv, {
    usage: USAGE,
    options: ['form', 'reads', 'seed', 'near', 'report'],
  });
  const { form = 'long' } = options;
  if (form !== 'short' && form !== 'long') {
    throw new CommandError(`--form is short or long, not "${form}"`, 2);
  }
  const range = { min: 1, max: 1_000_000_000 };
  return {
    form,
    seed: parseWholeNumber('seed', options.seed, { ...range, byDefault: newSeed() }),
    reads: parseWholeNumber('reads', options.reads, { ...range, byDefault: DEFAULT_READS }),
    near: options.near ?? '',
    failuresFolder: FAILURES_FOLDER,
    log: (line) => console.log(line),
    ...(options.report !== undefined && { reportFile: options.report }),
  };
}

/** Under jest the run uses the server of the tests. */
async function runOnOwnPostgres(options: ChaosOptions): Promise<ChaosReport> {
  if (process.env.TEST_POSTGRES_URL) return runChaos(options);
  const server = await startSharedPostgres(migrateDatabase);
  process.env.TEST_POSTGRES_URL = server.url;
  try {
    return await runChaos(options);
  } finally {
    await server.stop();
  }
}
