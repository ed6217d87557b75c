/**
 * Runs once, before the first test: makes the folder of the run, compiles the programs that tests
 * start, and starts one PostgreSQL for all test files. jest loads this file without its transforms,
 * so it uses the compiled copy.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { compile } from '../../../scripts/compile.mjs';
import { createRunFolder } from '../../../scripts/run-folder.mjs';

export default async function globalSetup({ testPathPatterns }) {
  // The servers of the tests make some 50 000 files: on a disk, they cost a quarter of the run.
  const runFolder = createRunFolder('test', { inMemory: true });
  const { folder } = await compile();
  process.env.HOLDFAST_COMPILED_FOLDER = folder;
  const load = (path) => import(pathToFileURL(join(folder, path)).href);

  // A run of chosen files needs only the programs that these files start.
  const isWholeRun = testPathPatterns.patterns.length === 0;
  if (isWholeRun) checkPrograms(await load('test/support/programs.js'));

  const { startSharedPostgres } = await load('test/support/postgres.js');
  const { migrateDatabase } = await load('src/platform/database/migrate.js');
  const { createAdmin } = await load('test/support/app.js');
  const server = await startSharedPostgres(migrateDatabase, createAdmin);
  process.env.TEST_POSTGRES_URL = server.url;
  globalThis.endTestRun = async () => {
    await server.stop();
    runFolder.remove();
  };
}

/** Ends the run with one line that names every required program that is missing. */
function checkPrograms({ REQUIRED_PROGRAMS, installMissingPrograms }) {
  const missing = installMissingPrograms([...REQUIRED_PROGRAMS, 'rabbitmq-server']);
  const required = missing.filter((name) => REQUIRED_PROGRAMS.includes(name));
  if (required.length === 0) return;
  const names = required.join(' ');
  process.stderr.write(
    `The tests need these programs on PATH: ${names}. Install them, e.g. \`apt-get install ${names}\`.\n`,
  );
  process.exit(1);
}
