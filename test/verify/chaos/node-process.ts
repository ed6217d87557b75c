/** One node's process over its starts and deaths, as the cluster sees it. */
import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { killProcess, spawnBound } from '../../support/child-process.js';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import type { LinkName } from './faults.js';
import type { Command, EndedMessage, Message, MessageOf, Plan, Step } from './node-messages.js';
import type { CacheAccess } from './redis-site.js';

const PROGRAM = fileURLToPath(new URL('./node.js', import.meta.url));

// They only end what hangs: all are far longer than anything takes on a busy machine.
const START_TIMEOUT_MS = 120_000;
const END_TIMEOUT_MS = 120_000;
const READ_ALL_TIMEOUT_MS = 120_000;
/** How long a node may take to reach the step at which it is to die. */
const STEP_TIMEOUT_MS = 120_000;
const LEAVE_TIMEOUT_MS = 10_000;
const MAX_OUTPUT_CHARACTERS = 2_000;

/** Counts the processes of all nodes: the stamps of their writes begin with it. */
let processCount = 0;

interface Waiter {
  readonly type: Message['type'];
  readonly resolve: (message: Message | undefined) => void;
}

export class NodeProcess {
  onMessage: (message: Message) => void = () => undefined;
  private child: ChildProcess | undefined;
  /** Of the round in progress: a node that starts again joins it. */
  private plan: Plan | undefined;
  private waiters: Waiter[] = [];

  constructor(
    private readonly env: NodeJS.ProcessEnv,
    readonly links: Readonly<Partial<Record<LinkName, TcpProxy>>>,
    /** The value of REDIS_URL with which it uses another cache. */
    readonly otherUrls: CacheAccess['otherUrls'],
  ) {}

  get isAlive(): boolean {
    return this.child !== undefined;
  }

  /**
   * Resolves when the node serves.
   * @param env replaces variables
   * @throws Error with its output when it does not start in time
   */
  async start(env: NodeJS.ProcessEnv = {}): Promise<void> {
    processCount++;
    const child = spawnBound(process.execPath, [PROGRAM], {
      env: { ...this.env, ...env, CHAOS_PROCESS_NUMBER: String(processCount) },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    this.child = child;
    let output = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-MAX_OUTPUT_CHARACTERS);
    });
    child.on('error', (error) => (output += String(error)));
    child.on('message', (message: Message) => this.receive(message));
    child.once('close', () => this.forget(child));
    if (!(await this.next('ready', START_TIMEOUT_MS))) {
      await this.kill();
      throw new Error(`A node did not start within ${START_TIMEOUT_MS} ms: ${output}`);
    }
    if (this.plan) this.send({ do: 'begin', plan: this.plan });
  }

  begin(plan: Plan): void {
    this.plan = plan;
    this.send({ do: 'begin', plan });
  }

  /** @returns undefined when the node does not answer */
  async end(): Promise<EndedMessage | undefined> {
    this.plan = undefined;
    this.send({ do: 'end' });
    return this.next('ended', END_TIMEOUT_MS);
  }

  /** @returns undefined when the node does not answer */
  async readAll(): Promise<readonly number[] | undefined> {
    this.send({ do: 'readAll' });
    return (await this.next('versions', READ_ALL_TIMEOUT_MS))?.versions;
  }

  /**
   * The node kills itself when one of its writes reaches this step.
   * @returns whether it died in time
   */
  async dieAt(step: Step): Promise<boolean> {
    const { child } = this;
    if (!child) return false;
    const died = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), STEP_TIMEOUT_MS);
      child.once('close', () => {
        clearTimeout(timer);
        resolve(true);
      });
    });
    this.send({ do: 'die', step });
    return died;
  }

  /** Makes its wall clock wrong by `ms`. */
  jumpClock(ms: number): void {
    this.send({ do: 'jump', ms });
  }

  /** Ends in order, or by SIGKILL when that takes too long. */
  async leave(): Promise<void> {
    const { child } = this;
    if (!child) return;
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    this.send({ do: 'leave' });
    await Promise.race([closed, sleep(LEAVE_TIMEOUT_MS)]);
    await this.kill();
  }

  signal(name: NodeJS.Signals): void {
    this.child?.kill(name);
  }

  /** Resolves when the process is gone and all that it had sent was received. */
  async kill(): Promise<void> {
    const { child } = this;
    if (!child) return;
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    await killProcess(child);
    await closed;
  }

  private forget(child: ChildProcess): void {
    if (this.child !== child) return;
    this.child = undefined;
    for (const { resolve } of this.waiters.splice(0)) resolve(undefined);
  }

  private send(command: Command): void {
    // The node may die meanwhile.
    if (this.child?.connected) this.child.send(command, () => undefined);
  }

  private receive(message: Message): void {
    this.onMessage(message);
    const index = this.waiters.findIndex(({ type }) => type === message.type);
    if (index >= 0) this.waiters.splice(index, 1)[0]?.resolve(message);
  }

  /** @returns undefined when the node ends, or does not send such a message in time */
  private next<T extends Message['type']>(
    type: T,
    timeoutMs: number,
  ): Promise<MessageOf<T> | undefined> {
    return new Promise((resolve) => {
      if (!this.child) {
        resolve(undefined);
        return;
      }
      const timer = setTimeout(() => resolve(undefined), timeoutMs);
      const settle = (message: Message | undefined): void => {
        clearTimeout(timer);
        resolve(message as MessageOf<T> | undefined);
      };
      this.waiters.push({ type, resolve: settle });
    });
  }
}
