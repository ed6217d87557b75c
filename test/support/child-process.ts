/**
 * Child processes of tests and benchmarks. Invariant: none outlives the process that started it,
 * not even when that process is killed with SIGKILL.
 */
import { type ChildProcess, spawn, type SpawnOptions } from 'node:child_process';
import { withDeadline } from '../../src/platform/timing/deadline.js';
import { findProgram } from './programs.js';

const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 15_000;
/** Kept of what a program prints, for the message when it does not start. */
const MAX_OUTPUT_CHARACTERS = 4_000;

/** Ends the second process when the first has ended: `sh -c … sh <owner's pid> <child's pid>`. */
const WATCH_OWNER =
  '(while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -9 "$2") 2>/dev/null';

/**
 * Starts a process that ends with this one. On Linux the kernel ends it (prctl(2),
 * PR_SET_PDEATHSIG); elsewhere a shell watches both processes.
 */
export function spawnBound(
  command: string,
  args: readonly string[],
  options: SpawnOptions = {},
): ChildProcess {
  const setpriv = findProgram('setpriv');
  if (setpriv) return spawn(setpriv, ['--pdeathsig', 'KILL', command, ...args], options);

  const child = spawn(command, args, options);
  const watchdogArgs = ['-c', WATCH_OWNER, 'sh', String(process.pid), String(child.pid)];
  spawn('sh', watchdogArgs, { stdio: 'ignore', detached: true }).unref();
  return child;
}

export const hasEnded = (child: ChildProcess): boolean =>
  child.exitCode !== null || child.signalCode !== null;

/** Sends SIGKILL and resolves when the process has ended. */
export async function killProcess(child: ChildProcess): Promise<void> {
  if (hasEnded(child) || child.pid === undefined) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.ref();
  child.kill('SIGKILL');
  await ended;
}

/** A program that has printed that it is ready. */
export interface RunningProgram {
  readonly child: ChildProcess;
  /** The match of `readyPattern` in what it printed. */
  readonly ready: RegExpExecArray;
  /** SIGTERM, and SIGKILL after 15 s. */
  stop(): Promise<void>;
}

export interface ProgramOptions {
  readonly command: string;
  readonly args: readonly string[];
  /** The whole environment besides PATH. */
  readonly env?: Readonly<Record<string, string>>;
  /** Looked for in standard output. */
  readonly readyPattern: RegExp;
}

/**
 * Starts a program and resolves when it has printed that it is ready.
 * @throws Error with its output when it ends before, or takes longer than 120 s
 */
export async function startProgram(options: ProgramOptions): Promise<RunningProgram> {
  const { command, args, env, readyPattern } = options;
  const child = spawnBound(command, args, {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const name = [command, ...args].join(' ');
  try {
    const ready = await withDeadline(START_TIMEOUT_MS, name, waitForOutput(child, readyPattern));
    return { child, ready, stop: () => stopProgram(child) };
  } catch (error) {
    await killProcess(child);
    throw error;
  }
}

function waitForOutput(child: ChildProcess, pattern: RegExp): Promise<RegExpExecArray> {
  return new Promise((resolve, reject) => {
    let output = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-MAX_OUTPUT_CHARACTERS);
      const match = pattern.exec(output);
      if (match) resolve(match);
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      const command = child.spawnargs.join(' ');
      reject(new Error(`${command} ended with ${code ?? signal} before it was ready: ${output}`));
    });
  });
}

async function stopProgram(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  try {
    await withDeadline(STOP_TIMEOUT_MS, child.spawnargs.join(' '), ended);
  } catch {
    await killProcess(child);
  }
}
