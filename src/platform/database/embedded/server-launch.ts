/**
 * Starts the embedded server, again while the obstacle is passing: a port that another process took
 * first, or the last moments of a predecessor. Invariant: at most one server uses a folder; only
 * PostgreSQL's own lock (postmaster.pid and shared memory) decides which one.
 */
import * as fs from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive } from './data-folder.js';
import { EmbeddedPostgresError, explainOutput } from './embedded-postgres.errors.js';
import { freePort } from './free-port.js';
import { type RunningServer, type ServerSettings, startServerProcess } from './server-process.js';

/** A predecessor that shuts down may write much to the disk. */
const MAX_SHUTDOWN_MS = 30_000;
/** A predecessor whose owner has just died says within this time that it shuts down. */
const MAX_UNDECIDED_MS = 700;
const LOCK_POLL_INTERVAL_MS = 25;
const MAX_PORT_ATTEMPTS = 10;
const FIXED_PORT_RETRY_MS = 200;
const SHARED_MEMORY_RETRY_MS = 100;

// What the server prints when it cannot start.
const LOCKED_BY = /lock file "postmaster\.pid" already exists[^]*PID (\d+)/;
const PORT_TAKEN = /Address already in use/;
const MEMORY_IN_USE = /pre-existing shared memory block/;

/**
 * @param fixedPort absent: a free port
 * @throws EmbeddedPostgresError when another server keeps the folder, or the start fails
 */
export async function launchServer(
  settings: ServerSettings,
  fixedPort: number | undefined,
): Promise<RunningServer> {
  const { folder } = settings;
  const deadline = Date.now() + MAX_SHUTDOWN_MS;
  let stalePid: number | undefined;
  let portAttempts = 1;
  for (;;) {
    const port = fixedPort ?? (await freePort());
    const result = await startServerProcess(settings, port, stalePid);
    if ('server' in result) return result.server;

    const output = result.lines.join('\n');
    const lockPid = Number(LOCKED_BY.exec(output)?.[1]);
    if (lockPid) {
      if (await isServerOf(lockPid, folder)) await waitForShutdown(lockPid, folder);
      // The number is from before a reboot or from another container: another process has it now.
      else stalePid = lockPid;
      if (Date.now() < deadline) continue;
    }
    if (PORT_TAKEN.test(output) && portAttempts < MAX_PORT_ATTEMPTS) {
      portAttempts++;
      if (fixedPort !== undefined) await sleep(FIXED_PORT_RETRY_MS);
      continue;
    }
    // The other processes of a server that was killed end within moments.
    if (MEMORY_IN_USE.test(output) && Date.now() < deadline) {
      await sleep(SHARED_MEMORY_RETRY_MS);
      continue;
    }
    throw explainOutput(folder, result.lines);
  }
}

/** Whether the process is the server of this folder; true where that cannot be found out. */
async function isServerOf(pid: number, folder: string): Promise<boolean> {
  const commandLine = await fs.readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  if (commandLine === undefined) return isAlive(pid);
  const [program = '', ...args] = commandLine.split('\0');
  if (!/postgres|postmaster/.test(basename(program))) return false;
  const option = args.indexOf('-D');
  const serverFolder = option === -1 ? undefined : args[option + 1];
  return serverFolder ? isSameFolder(serverFolder, folder) : true;
}

async function isSameFolder(serverFolder: string, folder: string): Promise<boolean> {
  const theirs = await fs.stat(serverFolder).catch(() => undefined);
  if (theirs === undefined) return true;
  const ours = await fs.stat(folder);
  return theirs.ino === ours.ino && theirs.dev === ours.dev;
}

/**
 * Resolves when the server that uses the folder is gone.
 * @throws EmbeddedPostgresError when it does not shut down
 */
async function waitForShutdown(pid: number, folder: string): Promise<void> {
  const startedAt = Date.now();
  let maxWaitMs = MAX_UNDECIDED_MS;
  while (Date.now() - startedAt < maxWaitMs) {
    const lock = await readLockFile(folder);
    const isGone = lock.pid !== pid || !isAlive(pid);
    if (isGone) return;
    if (lock.isStopping) maxWaitMs = MAX_SHUTDOWN_MS;
    await sleep(LOCK_POLL_INTERVAL_MS);
  }
  throw new EmbeddedPostgresError(
    `${folder} is in use by a running PostgreSQL (pid ${pid}): stop the service that started it, ` +
      'or set another DATA_DIR',
  );
}

/** postmaster.pid: the process id in its first line, the status in its eighth. */
async function readLockFile(folder: string): Promise<{ pid: number; isStopping: boolean }> {
  const text = await fs.readFile(join(folder, 'postmaster.pid'), 'utf8').catch(() => '');
  const lines = text.split('\n');
  return { pid: Number(lines[0]), isStopping: lines[7]?.trim() === 'stopping' };
}
