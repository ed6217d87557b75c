/** One node of the service as an operator starts it, with the fail-points before it, over its life, deaths and returns included. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Breakage, Command, Step } from './steps.js';

const START_MS = 30_000;
const MOST_STARTS = 10;

export class Node {
  private child: ChildProcess | undefined;
  private breakage: Breakage | undefined;
  /** Where it listens; undefined while it is down. */
  url: string | undefined;

  /** @param folder the compiled service (test/campaign/compile.mjs) */
  constructor(
    private readonly folder: string,
    private readonly env: Readonly<Record<string, string>>,
  ) {}

  /** Resolves when it serves. On a busy machine a start may find no time to connect: then it is another start. */
  async start(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.startOnce();
      } catch (error) {
        await this.kill();
        if (attempt === MOST_STARTS) throw error;
      }
    }
  }

  private async startOnce(): Promise<void> {
    const preload = join(this.folder, 'test/orders/crash/fail-points.js');
    const program = ['--import', preload, join(this.folder, 'src/main.js')];
    const setpriv = existsSync('/usr/bin/setpriv')
      ? ['/usr/bin/setpriv', '--pdeathsig', 'KILL']
      : [];
    const [command, ...args] = [...setpriv, process.execPath, ...program] as [string, ...string[]];
    const child = spawn(command, args, {
      env: {
        PATH: process.env.PATH,
        PORT: '0',
        LOG_FORMAT: 'json',
        RATE_LIMIT_PER_MINUTE: '0',
        ...this.env,
      },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    this.child = child;
    let said = '';
    child.on('exit', () => (this.url = undefined));
    this.url = await new Promise<string>((resolve, reject) => {
      const hear = (text: string): void => {
        said = (said + text).slice(-4_000);
        const url = /is ready: API (http\S+)\/v1/.exec(said)?.[1];
        if (url) resolve(url);
      };
      for (const stream of [child.stdout, child.stderr])
        stream?.setEncoding('utf8').on('data', hear);
      child.once('exit', () => reject(new Error(`a node ended while it started: ${said}`)));
      setTimeout(() => reject(new Error(`a node does not start: ${said}`)), START_MS).unref();
    });
    if (this.breakage) this.tell({ kind: 'break', breakage: this.breakage });
  }

  /** It will die at this step, `passes` writes from now. Resolves true when it has, false when it had not within `ms`. */
  async dieAt(step: Step, passes: number, ms: number): Promise<boolean> {
    const { child } = this;
    if (!child) return false;
    const dead = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), ms);
      child.once('exit', () => {
        clearTimeout(timer);
        resolve(true);
      });
    });
    this.tell({ kind: 'die', step, passes });
    return dead;
  }

  /** For this life and those after it. */
  break(breakage: Breakage): void {
    this.breakage = breakage;
    this.tell({ kind: 'break', breakage });
  }

  async kill(): Promise<void> {
    const { child } = this;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    await new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      child.kill('SIGKILL');
    });
  }

  private tell(command: Command): void {
    if (this.child?.connected) this.child.send(command, () => undefined);
  }
}
