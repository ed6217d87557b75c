/** Runs of tests and programs leave no folder and no process behind, however they end. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { isProcessRunning } from '../../scripts/process-table.mjs';
import { spawnBound } from './child-process.js';
import { eventually } from './eventually.js';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGKILL'] as const;

/** Makes a folder of its own, starts a process that uses it, prints both and waits. */
const OWNER = `
  import { spawn } from 'node:child_process';
  const { createRunFolder } = await import(process.argv[1]);
  const { path } = createRunFolder('leftovers');
  const waiting = 'setInterval(() => undefined, 1000)';
  const user = spawn(process.execPath, ['-e', waiting, path], { detached: true, stdio: 'ignore' });
  console.log(JSON.stringify({ path, pid: user.pid }));
  setInterval(() => undefined, 1000);
`;
const RUN_FOLDER_MODULE = pathToFileURL('scripts/run-folder.mjs').href;

/** The temporary folder of the programs of one test. */
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-leftovers-'));
});

function start(...args: string[]): ChildProcess {
  // The folder of the test's own run would otherwise contain the folders of these runs.
  const env = { ...process.env, TMPDIR: folder };
  return spawnBound(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'ignore'] });
}

async function firstOutput(child: ChildProcess): Promise<string> {
  const [output] = (await once(child.stdout as NonNullable<ChildProcess['stdout']>, 'data')) as [
    Buffer,
  ];
  return output.toString();
}

describe('a run folder', () => {
  it.each(SIGNALS)('whose owner gets %s → goes with the processes that use it', async (signal) => {
    const owner = start('--input-type=module', '-e', OWNER, RUN_FOLDER_MODULE);
    const { path, pid } = JSON.parse(await firstOutput(owner)) as { path: string; pid: number };
    expect([existsSync(path), isProcessRunning(pid)]).toEqual([true, true]);

    owner.kill(signal);

    await eventually('the folder is gone', () => !existsSync(path));
    expect(isProcessRunning(pid)).toBe(false);
  });
});

describe('scripts/run.mjs', () => {
  const runProgram = (...args: string[]): ChildProcess => start('scripts/run.mjs', ...args);
  const WAITING_PROGRAM = 'test/support/fixtures/waiting-program.ts';

  it('passes the exit code of the program on and removes its folder', async () => {
    const program = runProgram('test/bench/run.ts', 'no-such-benchmark');

    const [code] = (await once(program, 'exit')) as [number];

    expect(code).toBe(2);
    expect(readdirSync(folder)).toEqual([]);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('gets %s → ends with %i and removes its folder', async (signal, expected) => {
    const program = runProgram(WAITING_PROGRAM);
    await firstOutput(program);

    program.kill(signal);
    const [code] = (await once(program, 'exit')) as [number];

    expect(code).toBe(expected);
    expect(readdirSync(folder)).toEqual([]);
  });

  it('runs twice at once, each run in a folder of its own', async () => {
    const programs = [runProgram(WAITING_PROGRAM), runProgram(WAITING_PROGRAM)];
    const [first, second] = await Promise.all(programs.map(firstOutput));
    for (const program of programs) program.kill('SIGTERM');
    await Promise.all(programs.map((program) => once(program, 'exit')));

    expect(first).not.toBe(second);
    expect(readdirSync(folder)).toEqual([]);
  });
});
