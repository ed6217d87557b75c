/**
 * A copy of the working tree in a temporary folder, for sources that must not be edited in place.
 * One copy serves all mutants: each file is restored after its mutant.
 */
import { execFile } from 'node:child_process';
import { chmod, cp, mkdtemp, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { type Mutant, mutate } from './mutant.js';

/** Git's own list, with files that are new and not ignored. */
const LIST_FILES = ['ls-files', '-z', '--cached', '--others', '--exclude-standard'];
const MAX_LIST_BYTES = 16 * 1024 * 1024;

export class ScratchCopy {
  private constructor(readonly folder: string) {}

  /** @param root the repository's root */
  static async create(root: string): Promise<ScratchCopy> {
    const folder = await mkdtemp(join(tmpdir(), 'mutants-'));
    // The specs' PostgreSQL runs as another user, from programs below this folder.
    await chmod(folder, 0o755);
    const options = { cwd: root, maxBuffer: MAX_LIST_BYTES };
    const { stdout } = await promisify(execFile)('git', LIST_FILES, options);
    const paths = stdout.split('\0').filter((path) => path !== '' && path !== 'node_modules');
    await Promise.all(paths.map((path) => copyIfPresent(root, folder, path)));
    await symlink(await realpath(resolve(root, 'node_modules')), join(folder, 'node_modules'));
    return new ScratchCopy(folder);
  }

  /**
   * Runs `work` while the mutant's file is mutated.
   * @throws MutantTextError
   */
  async withMutant<T>(mutant: Mutant, work: () => Promise<T>): Promise<T> {
    const path = join(this.folder, mutant.file);
    const source = await readFile(path, 'utf8');
    await writeFile(path, mutate(source, mutant));
    try {
      return await work();
    } finally {
      await writeFile(path, source);
    }
  }

  async remove(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** A file may be deleted in the working tree and still be in Git's index. */
async function copyIfPresent(root: string, folder: string, path: string): Promise<void> {
  try {
    await cp(join(root, path), join(folder, path), { verbatimSymlinks: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
