/**
 * PostgreSQL for tests. One server serves the whole run (global-setup.ts); each test file takes a database of its own,
 * copied from the migrated template, so that no test sees another's rows. A test that hurts its server starts a private
 * one. Nothing survives: not the processes when jest is SIGKILLed, nor the folders, which the next run sweeps away.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import {
  startEmbeddedPostgres,
  type EmbeddedPostgres,
} from '../../src/database/embedded-postgres.js';

/** The database that `createTestDatabase()` copies; nobody may be connected to it. */
export const TEMPLATE = 'holdfast_template';

/** Durability is not under test, speed is wanted; a test that asks what survives a crash passes `fsync=on`. */
const FAST = [
  'fsync=off',
  'synchronous_commit=off',
  'full_page_writes=off',
  'max_connections=200',
  'shared_buffers=64MB',
];

export interface TestDatabase {
  readonly url: string;
  readonly name: string;
  /** Also with connections open: they are cut. */
  drop(): Promise<void>;
}

/** A database of the caller's own, with every migration applied and no rows. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const admin = process.env.TEST_POSTGRES_URL;
  if (!admin)
    throw new Error(
      'TEST_POSTGRES_URL is not set: run under jest, whose globalSetup starts PostgreSQL',
    );
  const name = `test_${process.pid}_${randomBytes(6).toString('hex')}`;
  await retryWhileInUse(() => execute(admin, `CREATE DATABASE ${name} TEMPLATE ${TEMPLATE}`));
  const url = new URL(admin);
  url.pathname = `/${name}`;
  return {
    url: url.href,
    name,
    drop: () => execute(admin, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`),
  };
}

async function retryWhileInUse(action: () => Promise<void>): Promise<void> {
  for (const deadline = Date.now() + 10_000; ; await sleep(50)) {
    try {
      return await action();
    } catch (error) {
      if ((error as { code?: string }).code !== '55006' || Date.now() > deadline) throw error;
    }
  }
}

async function execute(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

/** The server of the whole run, with the template prepared by `migrate`. @returns the url that creates databases. */
export async function startSharedPostgres(
  migrate: (url: string) => Promise<unknown>,
): Promise<{ url: string; stop(): Promise<void> }> {
  const dataDir = await makeTestFolder();
  const server = await startEmbeddedPostgres({ dataDir, flags: FAST, database: TEMPLATE });
  const stop = async () => {
    await server.stop();
    await fs.rm(dataDir, { recursive: true, force: true });
  };
  try {
    await migrate(server.url);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url: server.url.replace(TEMPLATE, 'postgres'), stop };
}

/** A server of the test's own, to be stopped, killed and frozen; url and port stay the same across `restart()`. */
export interface TestPostgres {
  readonly url: string;
  readonly port: number;
  /** The postmaster's; another one after `restart()`. */
  readonly pid: number;
  /** Shuts down in order, in whatever state it is, and removes the files. */
  stop(): Promise<void>;
  /** SIGKILL to the postmaster; resolves when its other processes are gone too. */
  kill(): Promise<void>;
  /** SIGSTOP to every process: connections hang, new ones are accepted by the kernel and get no answer. */
  pause(): void;
  resume(): void;
  /** A streaming replica of its own port, made of a copy while this server is down for a moment; it answers when this resolves. */
  replicate(): Promise<TestPostgres>;
  /** Shuts down when running, then starts on the same files and port, after `kill()` with crash recovery. */
  restart(): Promise<void>;
}

/**
 * Starts a private server with an empty database `holdfast`.
 * @param flags settings as `name=value`, over the fast ones
 */
export async function startTestPostgres(flags: string[] = []): Promise<TestPostgres> {
  return serverIn(await makeTestFolder(), flags);
}

async function serverIn(dataDir: string, flags: string[]): Promise<TestPostgres> {
  const start = (port?: number) =>
    startEmbeddedPostgres({ dataDir, flags: [...FAST, ...flags], port });
  let server: EmbeddedPostgres = await start();
  let running = true;

  const signal = (name: NodeJS.Signals, pids: number[]) => pids.forEach((pid) => send(pid, name));
  const resume = () => signal('SIGCONT', [...childrenOf(server.pid), server.pid]);
  const shutDown = async () => {
    if (!running) return;
    resume();
    await server.stop();
    running = false;
  };
  return {
    url: server.url,
    port: server.port,
    get pid() {
      return server.pid;
    },
    async stop() {
      await shutDown();
      await fs.rm(dataDir, { recursive: true, force: true });
    },
    async kill() {
      if (!running) return;
      const children = childrenOf(server.pid);
      send(server.pid, 'SIGKILL');
      signal('SIGCONT', children);
      await server.exited;
      running = false;
      for (const begun = Date.now(); children.some(isRunning); await sleep(10)) {
        if (Date.now() - begun > 2_000) signal('SIGKILL', children);
      }
    },
    pause() {
      // The postmaster first, so that it does not take its silent children for crashed ones.
      signal('SIGSTOP', [server.pid]);
      signal('SIGSTOP', childrenOf(server.pid));
    },
    resume,
    async replicate() {
      await shutDown();
      const copy = await makeTestFolder();
      await fs.cp(dataDir, copy, { recursive: true, preserveTimestamps: true });
      await fs.writeFile(join(copy, 'postgres', 'standby.signal'), '');
      server = await start(server.port);
      running = true;
      const { username, password, port } = new URL(server.url);
      const primary = `host=127.0.0.1 port=${port} user=${username} password=${password}`;
      return serverIn(copy, [...flags, `primary_conninfo=${primary}`]);
    },
    async restart() {
      await shutDown();
      server = await start(server.port);
      running = true;
    },
  };
}

/** @returns whether the process exists. */
function send(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch {
    return false;
  }
}

/** Every process as [pid, parent, state]. */
function processes(): [number, number, string][] {
  if (!existsSync('/proc/self/stat')) {
    const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,state='], { encoding: 'utf8' });
    const rows = table.split('\n').map((row) => row.trim().split(/\s+/));
    return rows.map(([pid, parent, state = '']) => [Number(pid), Number(parent), state]);
  }
  return readdirSync('/proc').flatMap((pid): [number, number, string][] => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      // The name, in parentheses, may hold anything; after it come the state and the parent.
      const [state = '', parent] =
        readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
      return [[Number(pid), Number(parent), state]];
    } catch {
      return []; // ended meanwhile
    }
  });
}

function childrenOf(pid: number): number[] {
  return processes().flatMap(([child, parent]) => (parent === pid ? [child] : []));
}

/** A zombie, which waits for a lazy init to take note of it, does not run. */
export function isRunning(pid: number): boolean {
  return processes().some(([other, , state]) => other === pid && !state.startsWith('Z'));
}

/** A folder that carries its owner's pid; those of killed owners are removed first. */
export async function makeTestFolder(): Promise<string> {
  for (const name of await fs.readdir(tmpdir())) {
    const owner = Number(/^holdfast-test-(\d+)-/.exec(name)?.[1]);
    if (!owner || send(owner, 0)) continue;
    // Another user's, or being removed by another run: not ours to insist.
    await fs.rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => undefined);
  }
  const folder = await fs.mkdtemp(join(tmpdir(), `holdfast-test-${process.pid}-`));
  await fs.chmod(folder, 0o755); // the server does not run as root
  return folder;
}
