/**
 * `npm run bench -- attacks`: what one caller or address can do to the others. Each attack meets a
 * fresh service; bystanders with another address read at a fixed rate, without it and beside it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { loadavg, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArguments, parseWholeNumber } from '../../../src/cli/arguments.js';
import { CommandError } from '../../../src/cli/command.js';
import {
  hasEnded,
  killProcess,
  type RunningProgram,
  spawnBound,
  startProgram,
} from '../../support/child-process.js';
import { percentile } from '../../support/percentile.js';
import { describeMachine } from '../machine.js';
import { markdownTable, writePage } from '../page.js';
import type { Order, Report } from './attacker.js';
import { type Attack, ATTACKS, type Outcome, registerAttacker } from './attacks.js';

const CALL = 'npm run bench -- attacks';
export const USAGE = `${CALL} [--seconds 8] [--before <folder>] [--only <text>]
--seconds  of each measurement. Needs the build: npm run build.
--before   the folder of another build of the service, to be measured beside this one
--only     attacks whose name has this text`;

const ATTACKER = fileURLToPath(new URL('./attacker.js', import.meta.url));
const BYSTANDERS = 10;
/** Each stays below the limit of a user. */
const READS_PER_SECOND = 8;
/** Bystanders have another address than the attacker. */
const BYSTANDER_ADDRESS = '127.0.0.2';
/** A read that takes longer has failed. */
const READ_TIMEOUT_MS = 10_000;
const WARM_UP_MS = 2_000;

interface Reads {
  /** Milliseconds of each answered read. */
  readonly took: number[];
  failed: number;
}

interface Result {
  readonly alone: Reads;
  readonly beside: Reads;
  readonly outcome: Outcome;
  readonly mibBefore: number;
  readonly maxMib: number;
  readonly survived: boolean;
}

interface Build {
  readonly name: string;
  readonly folder: string;
}

export async function run(argv: string[]): Promise<number> {
  const { options } = parseArguments(argv, {
    usage: USAGE,
    options: ['seconds', 'before', 'only'],
  });
  const seconds = parseWholeNumber('seconds', options.seconds, { min: 1, max: 600, byDefault: 8 });
  const builds: Build[] = [{ name: 'now', folder: '.' }];
  if (options.before !== undefined) builds.unshift({ name: 'before', folder: options.before });
  const where = await describeMachine();
  const rows: string[][] = [];
  for (const [index, attack] of ATTACKS.entries()) {
    if (!attack.name.includes(options.only ?? '')) continue;
    for (const build of builds) {
      const result = await measure(build, index, attack, seconds);
      rows.push(rowOf(attack, build, result));
      console.log(rows.at(-1)?.join(' | '));
    }
  }
  if (options.only === undefined) await writePage('attacks', pageOf(rows, seconds, where));
  return 0;
}

async function measure(
  { folder }: Build,
  index: number,
  { env }: Attack,
  seconds: number,
): Promise<Result> {
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-bench-'));
  const service = await startService(folder, { DATA_DIR: dataDir, ...env });
  const url = service.ready[1] as string;
  // Whoever looks at the log shares a process with the bystanders.
  service.child.stdout?.removeAllListeners('data').resume();
  const memory = new MemoryWatch(service.child.pid as number);
  let attacker: Attacker | undefined;
  try {
    const tokens: string[] = [];
    for (let user = 0; user < BYSTANDERS; user++) tokens.push(await registerAttacker(url));
    attacker = await Attacker.start(index, url);
    await readAtRate(url, tokens, WARM_UP_MS);
    const alone = await readAtRate(url, tokens, seconds * 1_000);
    const mibBefore = memory.reset();
    attacker.tell('begin');
    const beside = await readAtRate(url, tokens, seconds * 1_000);
    const survived = !hasEnded(service.child);
    const outcome = await attacker.end();
    return { alone, beside, outcome, mibBefore, maxMib: memory.maxMib, survived };
  } finally {
    memory.stop();
    await attacker?.stop();
    await service.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
}

function startService(
  folder: string,
  env: Readonly<Record<string, string>>,
): Promise<RunningProgram> {
  const entry = join(resolve(folder), 'dist/main.js');
  if (!existsSync(entry)) {
    throw new CommandError(`${entry} is missing. Run \`npm run build\` there`);
  }
  return startProgram({
    command: process.execPath,
    args: ['--enable-source-maps', entry],
    env: { PORT: '0', LOG_FORMAT: 'json', ...env },
    readyPattern: /API (http:\S+)\/v1/,
  });
}

/** The attacker's process. */
class Attacker {
  private constructor(private readonly child: ReturnType<typeof spawnBound>) {}

  static async start(index: number, url: string): Promise<Attacker> {
    const child = spawnBound(process.execPath, [ATTACKER, String(index), url], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    const attacker = new Attacker(child);
    await attacker.next();
    return attacker;
  }

  tell(order: Order): void {
    this.child.send(order);
  }

  async end(): Promise<Outcome> {
    this.tell('end');
    const report = await this.next();
    return 'outcome' in report ? report.outcome : {};
  }

  stop(): Promise<void> {
    return killProcess(this.child);
  }

  private next(): Promise<Report> {
    return new Promise((resolve, reject) => {
      this.child.once('message', (report) => resolve(report as Report));
      this.child.once('exit', (code) => reject(new Error(`The attacker ended with ${code}`)));
    });
  }
}

/** The greatest resident size of a process, looked at often. */
class MemoryWatch {
  maxMib = 0;
  private readonly timer: NodeJS.Timeout;

  constructor(private readonly pid: number) {
    this.timer = setInterval(() => (this.maxMib = Math.max(this.maxMib, this.read())), 50);
  }

  /** @returns MiB now */
  reset(): number {
    this.maxMib = this.read();
    return this.maxMib;
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private read(): number {
    try {
      const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
      return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1_024;
    } catch {
      return 0; // It has ended.
    }
  }
}

/** Sends reads on time, whether or not earlier ones were answered. */
async function readAtRate(url: string, tokens: readonly string[], ms: number): Promise<Reads> {
  const reads: Reads = { took: [], failed: 0 };
  const agent = new http.Agent({ keepAlive: true, localAddress: BYSTANDER_ADDRESS });
  const sent: Promise<void>[] = [];
  const intervalMs = 1_000 / (READS_PER_SECOND * tokens.length);
  const began = performance.now();
  for (let index = 0; index * intervalMs < ms; index++) {
    const waitMs = began + index * intervalMs - performance.now();
    if (waitMs > 0) await sleep(waitMs);
    const token = tokens[index % tokens.length] as string;
    sent.push(readOnce(url, token, agent, reads));
  }
  await Promise.all(sent);
  agent.destroy();
  return reads;
}

function readOnce(url: string, token: string, agent: http.Agent, reads: Reads): Promise<void> {
  const sentAt = performance.now();
  return new Promise((resolve) => {
    const fail = (): void => {
      reads.failed++;
      resolve();
    };
    const headers = { Authorization: `Bearer ${token}` };
    const request = http.get(`${url}/v1/users/me`, { agent, headers, timeout: READ_TIMEOUT_MS });
    request.on('timeout', () => request.destroy(new Error('timeout'))).on('error', fail);
    request.on('response', (response) => {
      response
        .resume()
        .on('error', fail)
        .on('end', () => {
          if (response.statusCode !== 200) return fail();
          reads.took.push(performance.now() - sentAt);
          resolve();
        });
    });
  });
}

const msOf = ({ took }: Reads, share: number): string =>
  took.length === 0 ? '–' : percentile(took, share).toFixed(1);

function rowOf({ name }: Attack, build: Build, result: Result): string[] {
  const { alone, beside, outcome, mibBefore, maxMib, survived } = result;
  const ratio = percentile(beside.took, 0.99) / percentile(alone.took, 0.99);
  const seen = Object.entries(outcome).map(([what, times]) => `${times} × ${what}`);
  return [
    name,
    build.name,
    `${msOf(alone, 0.5)}, ${msOf(alone, 0.99)}`,
    `${msOf(beside, 0.5)}, ${msOf(beside, 0.99)}`,
    Number.isFinite(ratio) ? ratio.toFixed(1) : '–',
    String(beside.failed),
    `${mibBefore.toFixed(0)} → ${maxMib.toFixed(0)}`,
    survived ? seen.join(', ') : 'the service died',
  ];
}

const pageOf = (rows: readonly string[][], seconds: number, where: string): string => `# Attacks

\`${CALL} --seconds ${seconds}\`, with \`--before <folder>\` for an earlier build.

${where}, ${loadavg()[0]?.toFixed(1)} at its end.

One caller or address attacks a fresh service, from a process of its own. ${BYSTANDERS}
bystanders with another address send ${BYSTANDERS * READS_PER_SECOND} cached reads a second, each
on time, without the attack and beside it. The clients, the service and PostgreSQL share two cores:
an attack that keeps a core busy also takes it from the bystanders.

${markdownTable(
  [
    'attack',
    'build',
    'alone: p50, p99 ms',
    'beside: p50, p99 ms',
    'p99 ratio',
    'failed reads',
    'MiB',
    'what the attacker saw',
  ],
  rows,
)}
`;
