/** Runs some specs with jest in a process of their own, until the first test fails. */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { spawnBound } from '../../support/child-process.js';
import type { SpecSelection } from './mutant.js';

const REPORTER = '<rootDir>/test/verify/mutants/first-failure-reporter.mjs';
/** A test that hangs fails after two minutes, so only a process that hangs takes this long. */
const TIMEOUT_MS = 300_000;
/** How long a test waits for what a mutant prevents. The specs must also pass with it. */
const GIVE_UP_MS = 20_000;
const MAX_OUTPUT_CHARACTERS = 20_000;

export type SpecResult =
  /** A test failed, the first of the run. */
  | { readonly state: 'failed'; readonly test: string }
  | { readonly state: 'passed'; readonly tests: number }
  /** No test could begin. */
  | { readonly state: 'unloadable'; readonly reason: string };

/** @param folder the copy of the repository in which the specs run */
export async function runSpecs(
  folder: string,
  { specs, tests }: SpecSelection,
): Promise<SpecResult> {
  const resultFile = join(folder, 'spec-result.json');
  await rm(resultFile, { force: true });
  const output = await runJest(folder, resultFile, [
    ...specs,
    ...(tests === undefined ? [] : ['--testNamePattern', tests]),
  ]);
  const json = await readFile(resultFile, 'utf8').catch(() => undefined);
  return json === undefined
    ? { state: 'unloadable', reason: `jest did not finish: ${output}` }
    : (JSON.parse(json) as SpecResult);
}

/** @returns the end of what jest wrote */
async function runJest(
  folder: string,
  resultFile: string,
  args: readonly string[],
): Promise<string> {
  const jest = spawnBound(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      join(folder, 'node_modules/jest/bin/jest.js'),
      '--runInBand',
      '--cacheDirectory',
      join(folder, '.jest-cache'),
      '--reporters',
      REPORTER,
      '--runTestsByPath',
      ...args,
    ],
    {
      cwd: folder,
      env: {
        ...process.env,
        HOLDFAST_SPEC_RESULT: resultFile,
        HOLDFAST_GIVE_UP_MS: String(GIVE_UP_MS),
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let output = '';
  for (const stream of [jest.stdout, jest.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-MAX_OUTPUT_CHARACTERS);
    });
  }
  const timeout = setTimeout(() => jest.kill('SIGKILL'), TIMEOUT_MS);
  await new Promise((resolve) => jest.once('exit', resolve));
  clearTimeout(timeout);
  return output;
}
