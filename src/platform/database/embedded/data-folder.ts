/**
 * The embedded server's files: `postgres.password`, and the cluster in `postgres/`. Invariant: a
 * folder named `postgres` holds a complete cluster. It is created under another name and renamed,
 * so a start that is killed leaves nothing incomplete under that name.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EmbeddedPostgresError, explainOutput } from './embedded-postgres.errors.js';
import { commandAs, type ServerUser } from './server-user.js';

const PASSWORD_BYTES = 24;
/** A draft's name ends with the id of the process that writes it. */
const DRAFT_NAME = /^postgres.*\.new-(\d+)-/;

/** Drafts that this process is writing now: they are not leftovers. */
const ownDrafts = new Set<string>();

export interface DataFolder {
  /** Contains the cluster and the password file. */
  readonly dataDir: string;
  /** The cluster's folder, `<dataDir>/postgres`. */
  readonly cluster: string;
  /** Owns the files; undefined: the caller. */
  readonly user: ServerUser | undefined;
}

/**
 * Completes the folder: password, cluster, owner. Several processes may do so at the same time.
 * @param initdb path of PostgreSQL's initdb
 * @returns the password of the user `postgres`
 * @throws EmbeddedPostgresError when the folder holds other files, or its password is missing
 */
export async function prepareDataFolder(
  { dataDir, cluster, user }: DataFolder,
  initdb: string,
  { fsync }: { readonly fsync: boolean },
): Promise<string> {
  const isComplete = await isCluster(cluster);
  const password = await readOrCreatePassword(`${cluster}.password`, user, isComplete);
  await removeLeftovers(dataDir);
  if (!isComplete) await createCluster(initdb, cluster, user, fsync);
  await takeOwnership(cluster, user);
  return password;
}

/**
 * @returns false for a folder that is empty or missing
 * @throws EmbeddedPostgresError for a folder with other files
 */
async function isCluster(folder: string): Promise<boolean> {
  const entries = await fs.readdir(folder).catch(ifMissing<string[]>([]));
  if (entries.length === 0) return false;
  const control = await fs.stat(join(folder, 'global/pg_control')).catch(() => undefined);
  if (entries.includes('PG_VERSION') && control) return true;
  throw new EmbeddedPostgresError(
    `${folder} is not empty and does not hold a PostgreSQL cluster: move it away, or set another ` +
      'DATA_DIR',
  );
}

async function readOrCreatePassword(
  file: string,
  user: ServerUser | undefined,
  clusterExists: boolean,
): Promise<string> {
  const existing = await readPassword(file);
  if (existing) {
    // initdb reads the file as this user.
    if (user) await fs.chown(file, user.uid, user.gid);
    return existing;
  }
  if (clusterExists) {
    throw new EmbeddedPostgresError(
      `${file} is missing, and the server beside it cannot be opened without it: restore the file`,
    );
  }
  await createPassword(file, user);
  return readPassword(file);
}

async function readPassword(file: string): Promise<string> {
  const text = await fs.readFile(file, 'utf8').catch(ifMissing(''));
  return text.trim();
}

async function createPassword(file: string, user: ServerUser | undefined): Promise<void> {
  const draft = draftOf(file);
  const password = randomBytes(PASSWORD_BYTES).toString('base64url');
  try {
    await fs.writeFile(draft, `${password}\n`, { mode: 0o600, flush: true });
    if (user) await fs.chown(draft, user.uid, user.gid);
    // A link, unlike a rename, never replaces the password that another process has just created.
    await fs.link(draft, file).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  } finally {
    await removeDraft(draft);
  }
}

/** A name beside `path` that no other process uses. */
function draftOf(path: string): string {
  const draft = `${path}.new-${process.pid}-${randomBytes(4).toString('hex')}`;
  ownDrafts.add(draft);
  return draft;
}

async function removeDraft(draft: string): Promise<void> {
  await fs.rm(draft, { recursive: true, force: true });
  ownDrafts.delete(draft);
}

/** Removes the drafts of processes that were killed. */
async function removeLeftovers(dataDir: string): Promise<void> {
  for (const name of await fs.readdir(dataDir)) {
    const path = join(dataDir, name);
    const writer = Number(DRAFT_NAME.exec(name)?.[1]);
    if (!writer || ownDrafts.has(path)) continue;
    const isInUse = writer !== process.pid && isAlive(writer);
    if (!isInUse) await fs.rm(path, { recursive: true, force: true });
  }
}

async function createCluster(
  initdb: string,
  folder: string,
  user: ServerUser | undefined,
  fsync: boolean,
): Promise<void> {
  const draft = draftOf(folder);
  try {
    await fs.mkdir(draft, { mode: 0o700 });
    if (user) await fs.chown(draft, user.uid, user.gid);
    await runInitdb(initdb, draft, folder, user, fsync);
    await fs.rename(draft, folder).catch(async (error: unknown) => {
      // Another process was first; PostgreSQL's own lock decides which of the two runs a server.
      if (!(await isCluster(folder))) throw error;
    });
    await syncFolder(dirname(folder));
  } finally {
    await removeDraft(draft);
  }
}

async function runInitdb(
  initdb: string,
  draft: string,
  folder: string,
  user: ServerUser | undefined,
  fsync: boolean,
): Promise<void> {
  const { command, args, options } = commandAs(user, initdb, [
    `--pgdata=${draft}`,
    '--username=postgres',
    `--pwfile=${folder}.password`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    // PostgreSQL's own C.UTF-8 needs no locale of the machine and sorts the same on all of them.
    '--locale=C',
    '--locale-provider=builtin',
    '--builtin-locale=C.UTF-8',
    ...(fsync ? [] : ['--no-sync']),
  ]);
  const child = spawn(command, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
  let output = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const [exitCode] = (await once(child, 'close')) as [number | null];
  if (exitCode !== 0) throw explainOutput(folder, output.split('\n'));
}

/** A rename survives a power loss only after its folder is synced. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await fs.open(folder, 'r');
  await handle.sync().finally(() => handle.close());
}

/** Sets owner and mode as PostgreSQL demands them: a copy of DATA_DIR (cp -r) loses both. */
async function takeOwnership(folder: string, user: ServerUser | undefined): Promise<void> {
  const { uid, mode } = await fs.stat(folder);
  if (user && uid !== user.uid) {
    for (const name of ['', ...(await fs.readdir(folder, { recursive: true }))]) {
      await fs.lchown(join(folder, name), user.uid, user.gid).catch(ifMissing(undefined));
    }
  }
  const isTooOpen = (mode & 0o027) !== 0;
  if (isTooOpen) await fs.chmod(folder, 0o700);
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function ifMissing<T>(value: T): (error: NodeJS.ErrnoException) => T {
  return (error) => {
    if (error.code === 'ENOENT') return value;
    throw error;
  };
}
