/**
 * One temporary folder for all that a run of tests or of a program leaves on the disk. TMPDIR
 * points to it, so that every `mkdtemp` of the run and of its children lands in it. Invariant: the
 * folder and the processes that use it end with the run, even when it is killed (janitor.mjs).
 */
import { spawn } from 'node:child_process';
import { accessSync, chmodSync, constants, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const JANITOR = fileURLToPath(new URL('./janitor.mjs', import.meta.url));

/** Linux's file system in memory (tmpfs(5)). */
const MEMORY_FOLDER = '/dev/shm';
/** The tests use less than 1 GiB of it; a container often has 64 MiB. */
const MIN_FREE_BYTES = 3 * 1024 ** 3;

/**
 * Creates the folder and sets TMPDIR.
 * @param {string} name part of the folder's name
 * @param {{ inMemory?: boolean }} [options] `inMemory`: in memory where the machine has enough of
 *   it and TMPDIR is not set; on the disk elsewhere
 * @returns {{ path: string, remove(): void }} `remove` deletes the folder and restores TMPDIR
 */
export function createRunFolder(name, { inMemory = false } = {}) {
  const previous = process.env.TMPDIR;
  const isInMemory = inMemory && previous === undefined && hasMemoryFolder();
  const parent = isInMemory ? MEMORY_FOLDER : tmpdir();
  const path = mkdtempSync(join(parent, `holdfast-${name}-`));
  // PostgreSQL refuses to run as root: its own user must be able to enter the folder.
  chmodSync(path, 0o755);
  startJanitor(path);
  process.env.TMPDIR = path;
  return {
    path,
    remove() {
      if (previous === undefined) delete process.env.TMPDIR;
      else process.env.TMPDIR = previous;
      try {
        rmSync(path, { recursive: true, force: true });
      } catch {
        // A server that is still ending writes into it: the janitor removes the rest.
      }
    },
  };
}

function hasMemoryFolder() {
  try {
    accessSync(MEMORY_FOLDER, constants.W_OK);
    const { bavail, bsize } = statfsSync(MEMORY_FOLDER);
    return Math.min(bavail * bsize, process.availableMemory()) >= MIN_FREE_BYTES;
  } catch {
    return false;
  }
}

/** The janitor acts when the pipe to it closes: the kernel closes it however this process ends. */
function startJanitor(path) {
  const janitor = spawn(process.execPath, [JANITOR, path], {
    detached: true, // Ctrl-C in a terminal must not reach it.
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  janitor.unref();
  janitor.stdin.on('error', () => undefined);
  janitor.stdin.unref();
}
