/** One node of the service in a process of its own, with the fail-points loaded before it. */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { withDeadline } from '../../../src/platform/timing/deadline.js';
import { hasEnded, killProcess, spawnBound } from '../../support/child-process.js';
import type { Command, Defect, Step } from './steps.js';

const START_TIMEOUT_MS = 120_000;
const MAX_OUTPUT_CHARACTERS = 4_000;

export class CrashNode {
  private child: ChildProcess | undefined;
  private defect: Defect | undefined;
  private listeningUrl: string | undefined;

  /** @param folder the compiled service (scripts/compile.mjs) */
  constructor(
    private readonly folder: string,
    private readonly env: Readonly<Record<string, string>>,
  ) {}

  /** Undefined while the node is down. */
  get url(): string | undefined {
    return this.listeningUrl;
  }

  /** Resolves when the node serves requests. */
  async start(): Promise<void> {
    const preload = join(this.folder, 'test/verify/crash/fail-points.js');
    const child = spawnBound(
      process.execPath,
      ['--import', preload, join(this.folder, 'test/verify/service-process.js')],
      {
        env: {
          PATH: process.env.PATH,
          MIGRATIONS: 'manual',
          PORT: '0',
          LOG_FORMAT: 'json',
          RATE_LIMIT_PER_MINUTE: '0',
          ...this.env,
        },
        stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      },
    );
    this.child = child;
    child.on('exit', () => {
      this.listeningUrl = undefined;
    });
    this.listeningUrl = await withDeadline(START_TIMEOUT_MS, 'The start of a node', urlOf(child));
    if (this.defect) this.inject(this.defect);
  }

  /** Makes the node break a guard, also after it is started again. */
  inject(defect: Defect): void {
    this.defect = defect;
    this.send({ kind: 'inject', defect });
  }

  /**
   * Makes the node kill itself at a step.
   * @param passes how often the step is passed before
   * @returns false when the node is still alive after `timeoutMs`
   */
  async dieAt(step: Step, passes: number, timeoutMs: number): Promise<boolean> {
    const { child } = this;
    if (!child) return false;
    const hasDied = new Promise<boolean>((resolve) => child.once('exit', () => resolve(true)));
    this.send({ kind: 'die', step, passes });
    return withDeadline(timeoutMs, step, hasDied).catch(() => false);
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    if (this.child) await killProcess(this.child);
  }

  private send(command: Command): void {
    const { child } = this;
    // A node may die at any moment: a command that it does not get needs no answer.
    if (child && !hasEnded(child) && child.connected) child.send(command, () => undefined);
  }
}

/** The URL that the node prints. @throws Error with its output when it ends before */
function urlOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = '';
    const onOutput = (text: string): void => {
      output = (output + text).slice(-MAX_OUTPUT_CHARACTERS);
      const url = /API (http:\S+)\/v1/.exec(output)?.[1];
      if (url !== undefined) resolve(url);
    };
    child.stdout?.setEncoding('utf8').on('data', onOutput);
    child.stderr?.setEncoding('utf8').on('data', onOutput);
    child.once('exit', () => reject(new Error(`A node ended while it started: ${output}`)));
  });
}
