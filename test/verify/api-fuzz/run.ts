/**
 * `npm run verify -- api-fuzz`: requests made from the OpenAPI document, and broken bytes, against
 * one process of the service. Writes docs/benchmarks/api-fuzz.md.
 */
import { fileURLToPath } from 'node:url';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { describeHardware } from '../../bench/machine.js';
import { writePage } from '../../bench/page.js';
import { startTestPostgres } from '../../support/postgres.js';
import { callOf, newSeed, parseNumbers, usageOf } from '../../support/program-table.js';
import { textOf } from './checks.js';
import { renderPage } from './page.js';
import { runPhases } from './phases.js';

const CALL = 'npm run verify -- api-fuzz';
const DEFAULTS = { requests: 100_000, workers: 4 } as const;
export const USAGE = usageOf(`${CALL} [--seed <seed>]`, DEFAULTS);

/** The root of the compiled copy in which this file runs. */
const COMPILED_FOLDER = fileURLToPath(new URL('../../../', import.meta.url));
/** One raw connection with random damage for so many requests. */
const REQUESTS_OF_EACH_DAMAGED = 100;
const MAX_SHOWN = 20;

/** @returns 1 when there is a finding */
export async function run(argv: string[]): Promise<number> {
  const seed = Number(process.env.HOLDFAST_SEED ?? newSeed());
  const options = parseNumbers(argv, USAGE, { ...DEFAULTS, seed });
  console.log(`seed ${options.seed}`);
  let shown = 0;
  const postgres = await startTestPostgres();
  try {
    await migrateDatabase(postgres.url);
    const result = await runPhases({
      ...options,
      folder: COMPILED_FOLDER,
      databaseUrl: postgres.url,
      damaged: Math.ceil(options.requests / REQUESTS_OF_EACH_DAMAGED),
      onRound: ({ requests, findings }) => {
        console.log(`${requests} of ${options.requests} requests, ${findings.length} findings`);
        for (const finding of findings.slice(shown, MAX_SHOWN)) {
          console.error(`${textOf(finding)}\n    seed ${options.seed}`);
        }
        shown = findings.length;
      },
    });
    const { findings } = result.tally;
    for (const finding of findings.slice(shown, MAX_SHOWN)) {
      console.error(`${textOf(finding)}\n    seed ${options.seed}`);
    }
    const page = renderPage({ call: callOf(CALL, options), machine: describeHardware(), result });
    await writePage('api-fuzz', page);
    return findings.length === 0 ? 0 : 1;
  } finally {
    await postgres.stop();
  }
}
