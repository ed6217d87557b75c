/**
 * The release before this one, from the repository's history, to run beside this one: both share
 * the packages that are installed now.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, renameSync, symlinkSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Options, transform } from '@swc/core';
import { SWC_OPTIONS } from '../../scripts/compile.mjs';
import { type RunningProgram, startProgram } from './child-process.js';
import { LONG_TIMEOUT_MS } from './timeouts.js';

/** The last commit before cache epochs. */
const COMMIT = 'f0b3d32';

/** How long it waits for PostgreSQL. On a busy machine, tests wait longer (timeouts.ts). */
const ITS_TIMEOUTS =
  'connect: 800, statement: 5_000, lock: 3_000, idleInTransaction: 5_000, query: 6_000';
const LONG_TIMEOUTS = ITS_TIMEOUTS.replaceAll(/\d+(_\d+)?/g, String(LONG_TIMEOUT_MS));

export interface PreviousRelease {
  /** @param env its environment, with at least DATABASE_URL */
  start(env: Readonly<Record<string, string>>): Promise<RunningProgram & { readonly url: string }>;
  remove(): Promise<void>;
}

/** Whether the history is here: a shallow clone and an archive lack it. */
export function hasPreviousRelease(): boolean {
  try {
    execFileSync('git', ['cat-file', '-e', `${COMMIT}^{commit}`], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** Compiles it into a temporary folder. */
export async function compilePreviousRelease(): Promise<PreviousRelease> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-previous-'));
  chmodSync(folder, 0o755);
  const archive = execFileSync('git', ['archive', COMMIT, 'src', 'migrations', 'package.json']);
  mkdirSync(join(folder, 'dist'));
  execFileSync('tar', ['-x', '-C', join(folder, 'dist')], { input: archive });
  renameSync(join(folder, 'dist/package.json'), join(folder, 'package.json'));
  symlinkSync(join(process.cwd(), 'node_modules'), join(folder, 'node_modules'));
  const names = readdirSync(join(folder, 'dist'), { recursive: true, encoding: 'utf8' });
  await Promise.all(
    names
      .filter((name) => name.endsWith('.ts'))
      .map(async (name) => {
        const path = join(folder, 'dist', name);
        const source = await readFile(path, 'utf8');
        const { code } = await transform(source.replace(ITS_TIMEOUTS, LONG_TIMEOUTS), {
          ...(SWC_OPTIONS as Options),
          filename: path,
        });
        await writeFile(path.replace(/\.ts$/, '.js'), code);
        await rm(path);
      }),
  );
  return {
    async start(env) {
      const program = await startProgram({
        command: process.execPath,
        args: [join(folder, 'dist/src/main.js')],
        env: { PORT: '0', LOG_FORMAT: 'json', MIGRATIONS: 'manual', ...env },
        readyPattern: /http:\/\/[\w.:[\]]+\d/,
      });
      return { ...program, url: program.ready[0] as string };
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}
