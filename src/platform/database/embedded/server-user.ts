/**
 * The operating system user that the embedded server runs as. PostgreSQL refuses to run as root, so
 * a root process starts it as another user.
 */
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { EmbeddedPostgresError } from './embedded-postgres.errors.js';

/**
 * The whole environment of the server and of initdb: nothing of the caller's PG* variables, and
 * messages in English, which embedded-postgres.errors.ts matches.
 */
export const SERVER_ENVIRONMENT = {
  PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin',
  LC_ALL: 'C',
  TZ: 'UTC',
};

/** The id that Linux systems give to `nobody`. */
const NOBODY_ID = 65_534;

export interface ServerUser {
  readonly uid: number;
  readonly gid: number;
  /** A command that runs another one as this user; empty when spawn() itself can do that. */
  readonly commandPrefix: readonly string[];
}

/**
 * @param folder the server's folder, whose owner is preferred; it need not exist
 * @param programs files that the user must be able to read
 * @returns undefined when the server can run as the caller
 * @throws EmbeddedPostgresError when no user can reach the folder and the programs
 */
export async function chooseServerUser(
  folder: string,
  programs: readonly string[],
): Promise<ServerUser | undefined> {
  const isRoot = process.geteuid?.() === 0;
  if (!isRoot) return undefined;
  const { uid, gid } = (await ownerOf(folder)) ?? (await unprivilegedUser());
  const closedPath = await findClosedPath([dirname(folder), ...programs], uid);
  if (closedPath === undefined) return { uid, gid, commandPrefix: [] };
  return { uid, gid, commandPrefix: await commandThatPasses(closedPath, uid, gid) };
}

/** undefined when the folder does not exist or belongs to root. */
async function ownerOf(folder: string): Promise<{ uid: number; gid: number } | undefined> {
  const owner = await fs.stat(folder).catch(() => undefined);
  return owner && owner.uid !== 0 ? owner : undefined;
}

async function unprivilegedUser(): Promise<{ uid: number; gid: number }> {
  const passwd = await fs.readFile('/etc/passwd', 'utf8').catch(() => '');
  const users = passwd.split('\n').map((line) => line.split(':'));
  const named = (wanted: string): string[] | undefined => users.find(([name]) => name === wanted);
  const [, , uid, gid] = named('postgres') ?? named('nobody') ?? [];
  return { uid: Number(uid ?? NOBODY_ID), gid: Number(gid ?? NOBODY_ID) };
}

/**
 * The first of `paths` and of the folders above them that this user may not read or enter, along
 * symbolic links as well as along their targets.
 */
async function findClosedPath(paths: readonly string[], uid: number): Promise<string | undefined> {
  const checked = new Set<string>();
  for (const path of paths) {
    for (const start of [path, await fs.realpath(path)]) {
      for (const step of withParents(start)) {
        // Everything above it was checked together with it.
        if (checked.has(step)) break;
        checked.add(step);
        if (!(await isOpenTo(uid, step))) return step;
      }
    }
  }
  return undefined;
}

function withParents(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [path] : [path, ...withParents(parent)];
}

async function isOpenTo(uid: number, path: string): Promise<boolean> {
  const entry = await fs.stat(path);
  const bitOfOthers = entry.isDirectory() ? 0o001 : 0o004;
  const bit = entry.uid === uid ? bitOfOthers << 6 : bitOfOthers;
  return (entry.mode & bit) !== 0;
}

/**
 * For a clone or DATA_DIR below /root or a folder of `mktemp -d` (mode 0700): the server keeps one
 * capability of root, which lets it enter them.
 */
async function commandThatPasses(closedPath: string, uid: number, gid: number): Promise<string[]> {
  const setpriv = await findSetpriv();
  if (setpriv === undefined) {
    throw new EmbeddedPostgresError(
      `PostgreSQL does not run as root, and user ${uid}, which it would use, may not enter ` +
        `${closedPath}: open or move that folder, install setpriv, or set DATABASE_URL`,
    );
  }
  return [
    setpriv,
    `--reuid=${uid}`,
    `--regid=${gid}`,
    '--clear-groups',
    '--inh-caps=+dac_override',
    '--ambient-caps=+dac_override',
    // initdb finds its own files with access(2), which ignores the capability without this bit.
    '--securebits=+no_setuid_fixup',
    '--',
  ];
}

/** @returns the path of util-linux's setpriv; undefined where it is not installed */
export async function findSetpriv(): Promise<string | undefined> {
  if (process.platform !== 'linux') return undefined;
  for (const folder of SERVER_ENVIRONMENT.PATH.split(':')) {
    const path = join(folder, 'setpriv');
    if (await isFullSetpriv(path)) return path;
  }
  return undefined;
}

async function isFullSetpriv(path: string): Promise<boolean> {
  try {
    await fs.access(path, constants.X_OK);
    // BusyBox installs a smaller program under the same name, as a link to itself.
    return basename(await fs.realpath(path)) === 'setpriv';
  } catch {
    return false;
  }
}

/** Arguments for spawn() that run a command as `user`, in `/` with {@link SERVER_ENVIRONMENT}. */
export function commandAs(
  user: ServerUser | undefined,
  command: string,
  args: readonly string[],
): { command: string; args: string[]; options: object } {
  const [program, ...rest] = [...(user?.commandPrefix ?? []), command, ...args] as [
    string,
    ...string[],
  ];
  const isChangedBySpawn = user !== undefined && user.commandPrefix.length === 0;
  const identity = isChangedBySpawn ? { uid: user.uid, gid: user.gid } : {};
  return {
    command: program,
    args: rest,
    options: { cwd: '/', env: SERVER_ENVIRONMENT, ...identity },
  };
}
