/**
 * The embedded PostgreSQL's folder: its password, its cluster, whom they belong to, and what is said when they cannot be used.
 * Invariant: a folder named `postgres` is a whole cluster; it is made elsewhere and renamed, so that a start which is killed
 * leaves nothing half made.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** The embedded PostgreSQL cannot run; `message` is one line that says why and what to do. */
export class EmbeddedPostgresError extends Error {
  override readonly name = 'EmbeddedPostgresError';
}

/** A server's and initdb's whole environment: messages in English (they are matched below), none of the caller's PG*. */
export const ENVIRONMENT = {
  PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin',
  LC_ALL: 'C',
  TZ: 'UTC',
};
/** The drafts that this process is at, which are therefore no leftovers. */
const inTheMaking = new Set<string>();

/** Whom the server runs as when the caller is root, whom PostgreSQL refuses; undefined: the caller. */
export interface RunAs {
  uid: number;
  gid: number;
  /** What stands before a command that must pass folders closed to this user, or nothing. */
  prefix: string[];
}

export async function chooseUser(folder: string, programs: string[]): Promise<RunAs | undefined> {
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
  const capability = [
    '--inh-caps=+dac_override',
    '--ambient-caps=+dac_override',
    '--securebits=+no_setuid_fixup',
  ];
  return {
    uid,
    gid,
    prefix: [setpriv, `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', ...capability, '--'],
  };
}

async function unprivilegedUser(): Promise<{ uid: number; gid: number }> {
  const users = (await fs.readFile('/etc/passwd', 'utf8').catch(() => ''))
    .split('\n')
    .map((line) => line.split(':'));
  const user =
    users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody');
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

export async function findSetpriv(): Promise<string | undefined> {
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
export function as(
  runAs: RunAs | undefined,
  command: string,
  args: string[],
): [string, string[], object] {
  const [first, ...rest] = [...(runAs?.prefix ?? []), command, ...args] as [string, ...string[]];
  const identity = runAs && runAs.prefix.length === 0 ? { uid: runAs.uid, gid: runAs.gid } : {};
  return [first, rest, { cwd: '/', env: ENVIRONMENT, ...identity }];
}

/** Whether the folder holds a cluster; an empty or missing one does not, any other is refused. */
export async function isCluster(folder: string): Promise<boolean> {
  const entries = await fs.readdir(folder).catch(ifMissing<string[]>([]));
  if (entries.length === 0) return false;
  const control = await fs.stat(join(folder, 'global/pg_control')).catch(() => undefined);
  if (entries.includes('PG_VERSION') && control) return true;
  throw new EmbeddedPostgresError(
    `${folder} is not empty, and is not a PostgreSQL folder either: move it away, or set another DATA_DIR`,
  );
}

/** Made once: of two first starts at the same instant, both get what the first one wrote. */
export async function keepPassword(
  file: string,
  runAs: RunAs | undefined,
  clusterExists: boolean,
): Promise<string> {
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
    await fs.writeFile(draft, `${randomBytes(24).toString('base64url')}\n`, {
      mode: 0o600,
      flush: true,
    });
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
export async function removeLeftovers(dataDir: string): Promise<void> {
  for (const name of await fs.readdir(dataDir)) {
    const pid = Number(/^postgres.*\.new-(\d+)-/.exec(name)?.[1]);
    if (!pid || inTheMaking.has(join(dataDir, name)) || (pid !== process.pid && isAlive(pid)))
      continue;
    await fs.rm(join(dataDir, name), { recursive: true, force: true });
  }
}

export async function makeCluster(
  initdb: string,
  folder: string,
  runAs: RunAs | undefined,
  flags: string[],
): Promise<void> {
  const draft = draftOf(folder);
  try {
    await fs.mkdir(draft, { mode: 0o700 });
    if (runAs) await fs.chown(draft, runAs.uid, runAs.gid);
    const args = [
      `--pgdata=${draft}`,
      '--username=postgres',
      `--pwfile=${folder}.password`,
      '--auth=scram-sha-256',
    ];
    // PostgreSQL's own C.UTF-8 needs no locale of the machine's, and sorts the same on every one.
    args.push(
      '--encoding=UTF8',
      '--locale=C',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
    );
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
export async function own(folder: string, runAs: RunAs | undefined): Promise<void> {
  const { uid, mode } = await fs.stat(folder);
  if (runAs && uid !== runAs.uid) {
    for (const name of ['', ...(await fs.readdir(folder, { recursive: true }))]) {
      await fs.lchown(join(folder, name), runAs.uid, runAs.gid).catch(ifMissing(undefined));
    }
  }
  if (mode & 0o027) await fs.chmod(folder, 0o700);
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** What PostgreSQL said, as one line. */
export function failure(folder: string, lines: string[]): EmbeddedPostgresError {
  const text = lines.join('\n');
  const versions =
    /initialized by PostgreSQL version (\S+), which is not compatible with this version (\S+?)\.?\n/.exec(
      `${text}\n`,
    );
  if (versions) {
    return new EmbeddedPostgresError(
      `${folder} was made by PostgreSQL ${versions[1]}, this is ${versions[2]}: dump it with the old one and restore it ` +
        'here, or move it away',
    );
  }
  const spoken = lines.map((line) => line.trim()).filter(Boolean);
  const said =
    spoken.filter((line) => /FATAL|PANIC|ERROR|error|cannot/.test(line)).at(-1) ??
    spoken.at(-1) ??
    'no output';
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
  [
    /look up effective user/,
    'PostgreSQL needs a user with a name: add it to /etc/passwd, or set DATABASE_URL',
  ],
];

export function refusal(error: unknown, path: string): unknown {
  if (error instanceof EmbeddedPostgresError) return error;
  const { code, message, path: where } = error as NodeJS.ErrnoException;
  if (code === '28P01') {
    return new EmbeddedPostgresError(
      `the password in ${path}.password is not this server's: restore the file`,
    );
  }
  if (['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST', 'ENOSPC', 'ELOOP'].includes(code ?? '')) {
    return new EmbeddedPostgresError(
      `the embedded PostgreSQL cannot use ${where ?? path} (${message.split(',')[0]}): ` +
        'set DATA_DIR to a folder that this user may write, or set DATABASE_URL',
    );
  }
  return new EmbeddedPostgresError(
    `the embedded PostgreSQL in ${path} does not start: ${message.split('\n')[0]}`,
  );
}

export function ifMissing<T>(value: T): (error: NodeJS.ErrnoException) => T {
  return (error) => {
    if (error.code === 'ENOENT') return value;
    throw error;
  };
}
