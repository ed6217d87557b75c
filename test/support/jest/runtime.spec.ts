/** jest with this runtime reports what happens in a test file, and keeps files apart. */
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { beforeAll, describe, expect, it } from '@jest/globals';
import { spawnBound } from '../child-process.js';

interface Report {
  readonly numTotalTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly title: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

/** The settings of jest.config.js that matter here. The copy of this run is compiled already. */
const CONFIG = {
  rootDir: process.cwd(),
  testMatch: ['<rootDir>/test/support/jest/fixtures/*.sample.ts'],
  testEnvironment: '<rootDir>/test/support/jest/environment.mjs',
  runtime: '<rootDir>/test/support/jest/runtime.mjs',
  testSequencer: '<rootDir>/test/support/jest/fixtures/by-name-sequencer.mjs',
  transform: {},
};

let code: number;
let report: Report;
let output: string;

beforeAll(async () => {
  const args = ['node_modules/jest/bin/jest.js', '--json', '--runInBand', '--randomize'];
  const jest = spawnBound(process.execPath, [...args, '--config', JSON.stringify(CONFIG)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const outputs = Promise.all(
    [jest.stdout, jest.stderr].map((s) => text(s as NodeJS.ReadableStream)),
  );
  [code] = (await once(jest, 'exit')) as [number];
  const [json = '', stderr = ''] = await outputs;
  report = JSON.parse(json) as Report;
  output = stderr;
});

const file = (name: string) => {
  const found = report.testResults.find((result) => result.name.endsWith(`${name}.sample.ts`));
  if (!found) throw new Error(`No result of ${name}.sample.ts`);
  return found;
};
const resultOf = (title: string) =>
  file('first').assertionResults.find((result) => result.title === title);

describe('the report of a test file', () => {
  it('has each test once', () => {
    expect(report.numTotalTests).toBe(10);
    expect(code).toBe(1);
  });

  it.each([
    ['passes', 'passed', ''],
    ['fails', 'failed', 'Expected: "that"'],
    ['hangs', 'failed', 'Exceeded timeout of 50 ms'],
    ['leaves a rejection unhandled', 'failed', 'nobody handles this'],
  ])('a test that %s: %s %s', (title, status, message) => {
    const result = resultOf(title);
    expect(result?.status).toBe(status);
    expect(result?.failureMessages.join('\n')).toContain(message);
  });

  it('names the line of the source, not of its compiled copy', () => {
    const [message] = resultOf('fails')?.failureMessages ?? [];
    expect(message).toMatch(/jest\/fixtures\/first\.sample\.ts:16:\d+/);
  });

  it('names a file that cannot be loaded', () => {
    expect(file('unloadable').message).toContain('this file does not load');
  });
});

it('a test file gets nothing that another one has left', () => {
  const statuses = file('second').assertionResults.map(({ status }) => status);
  expect(statuses).toEqual(Array(5).fill('passed'));
  expect(output).toContain('printed by the second file');
});
