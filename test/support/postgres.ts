/**
 * PostgreSQL for tests. One server serves the whole run (global-setup.mjs); each test file takes a
 * database of its own, copied from a migrated template. A test that disturbs its server starts a
 * private one. Invariant: no server outlives the process that started it.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { childrenOf, isProcessRunning } from '../../scripts/process-table.mjs';
import {
  type EmbeddedPostgres,
  startEmbeddedPostgres,
} from '../../src/platform/database/embedded/embedded-postgres.js';
import { eventually } from './eventually.js';

/** What {@link createTestDatabase} copies. PostgreSQL refuses while somebody is connected to it. */
const TEMPLATES = {
  'no rows': 'holdfast_template',
  'the admin': 'holdfast_template_with_admin',
} as const;

/** What a new database contains: `the admin` is ADMIN of app.ts, ready made. */
export type InitialRows = keyof typeof TEMPLATES;

/** Tests need speed, not durability. A test of what survives a crash passes `fsync=on`. */
const FAST_FLAGS = [
  'fsync=off',
  'synchronous_commit=off',
  'full_page_writes=off',
  // It would read pages, change plans and use the template at times of its own.
  'autovacuum=off',
  // In the server's own folder: a server that is killed leaves nothing in /dev/shm.
  'dynamic_shared_memory_type=mmap',
  'max_connections=200',
  'shared_buffers=64MB',
];

/** SQLSTATE object_in_use: another CREATE DATABASE is copying the template. */
const OBJECT_IN_USE = '55006';

/** How long a killed server's backends get to notice that their postmaster is gone. */
const BACKEND_EXIT_MS = 2_000;

export interface TestDatabase {
  readonly url: string;
  readonly name: string;
  /** Also cuts connections that are still open. */
  drop(): Promise<void>;
}

/** A database of the caller's own, with every migration applied. */
export async function createTestDatabase(rows: InitialRows = 'no rows'): Promise<TestDatabase> {
  const adminUrl = process.env.TEST_POSTGRES_URL;
  if (!adminUrl) {
    throw new Error(
      'TEST_POSTGRES_URL is not set. Use `npm test`: it starts PostgreSQL and sets the variable.',
    );
  }
  const name = `test_${process.pid}_${randomBytes(6).toString('hex')}`;
  await eventually(`the template is free to be copied to ${name}`, () =>
    copyTemplate(adminUrl, TEMPLATES[rows], name),
  );
  const url = new URL(adminUrl);
  url.pathname = `/${name}`;
  return {
    url: url.href,
    name,
    drop: () => execute(adminUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`),
  };
}

/** @returns false while another session copies the template */
async function copyTemplate(adminUrl: string, template: string, name: string): Promise<boolean> {
  try {
    // Copying files takes a third of the time of copying pages through the log.
    const sql = `CREATE DATABASE ${name} TEMPLATE ${template} STRATEGY file_copy`;
    await execute(adminUrl, sql);
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === OBJECT_IN_USE) return false;
    throw error;
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

export interface SharedPostgres {
  /** A superuser's, for `CREATE DATABASE`. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Does something with the database at this URL, and leaves no connection open. */
type DatabaseStep = (url: string) => Promise<unknown>;

/**
 * Starts the server of a whole run and prepares its templates.
 * @param migrate brings an empty database up to date
 * @param createAdmin without it, each service that starts on a new database creates its admin
 */
export async function startSharedPostgres(
  migrate: DatabaseStep,
  createAdmin: DatabaseStep = async () => undefined,
): Promise<SharedPostgres> {
  const dataDir = await makeTestFolder();
  const { 'no rows': template, 'the admin': withAdmin } = TEMPLATES;
  const options = { dataDir, flags: FAST_FLAGS, database: template };
  const server = await startEmbeddedPostgres(options);
  const stop = async (): Promise<void> => {
    await server.stop();
    await fs.rm(dataDir, { recursive: true, force: true });
  };
  const url = server.url.replace(template, 'postgres');
  try {
    await migrate(server.url);
    await execute(url, `CREATE DATABASE ${withAdmin} TEMPLATE ${template}`);
    await createAdmin(server.url.replace(template, withAdmin));
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, stop };
}

/** A private server that a test may stop, kill and freeze. A restart keeps its URL and port. */
export interface TestPostgres {
  readonly url: string;
  readonly port: number;
  /** The postmaster's process id. It changes with {@link restart}. */
  readonly pid: number;
  /** Shuts down in order, whatever state the server is in, and removes its files. */
  stop(): Promise<void>;
  /** SIGKILL to the postmaster; resolves when its other processes are gone too. */
  kill(): Promise<void>;
  /** SIGSTOP to every process: the kernel still accepts connections, nothing answers. */
  pause(): void;
  resume(): void;
  /**
   * Shuts the server down, copies its files, starts it again, and starts a streaming replica on the
   * copy. Resolves when both answer.
   * @param port where the replica reaches this server, if not directly
   */
  replicate(port?: number): Promise<TestPostgres>;
  /** Shuts the server down if it runs, then starts it. After `kill()` it recovers from its log. */
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
  const start = (port?: number): Promise<EmbeddedPostgres> =>
    startEmbeddedPostgres({ dataDir, flags: [...FAST_FLAGS, ...flags], port });
  let server = await start();
  let isStarted = true;

  const resume = (): void => signalAll([...childrenOf(server.pid), server.pid], 'SIGCONT');
  const shutDown = async (): Promise<void> => {
    if (!isStarted) return;
    resume();
    await server.stop();
    isStarted = false;
  };
  const restart = async (): Promise<void> => {
    await shutDown();
    server = await start(server.port);
    isStarted = true;
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
      if (!isStarted) return;
      const backends = childrenOf(server.pid);
      signalAll([server.pid], 'SIGKILL');
      signalAll(backends, 'SIGCONT');
      await server.exited;
      isStarted = false;
      await awaitExit(backends);
    },
    pause() {
      // The postmaster first: it must not take its silent children for crashed ones.
      signalAll([server.pid], 'SIGSTOP');
      signalAll(childrenOf(server.pid), 'SIGSTOP');
    },
    resume,
    async replicate(viaPort?: number) {
      await shutDown();
      const copy = await makeTestFolder();
      await fs.cp(dataDir, copy, { recursive: true, preserveTimestamps: true });
      await fs.writeFile(join(copy, 'postgres', 'standby.signal'), '');
      await restart();
      const { username, password, port: ownPort } = new URL(server.url);
      const port = viaPort ?? ownPort;
      const primary = `host=127.0.0.1 port=${port} user=${username} password=${password}`;
      return serverIn(copy, [...flags, `primary_conninfo=${primary}`]);
    },
    restart,
  };
}

/** Processes that have ended meanwhile are skipped. */
function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // ESRCH
    }
  }
}

async function awaitExit(pids: readonly number[]): Promise<void> {
  const began = performance.now();
  await eventually('the processes of the killed server are gone', () => {
    const running = pids.filter(isProcessRunning);
    if (performance.now() - began > BACKEND_EXIT_MS) signalAll(running, 'SIGKILL');
    return running.length === 0;
  });
}

/** A new folder that PostgreSQL's own user may enter: the server does not run as root. */
export async function makeTestFolder(): Promise<string> {
  const folder = await fs.mkdtemp(join(tmpdir(), 'holdfast-postgres-'));
  await fs.chmod(folder, 0o755);
  return folder;
}
