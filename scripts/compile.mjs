/**
 * Compiles the service, its tests and its programs to plain JavaScript, into a folder of its own:
 * `npm run build` compiles only what is shipped.
 */
import {
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { transform } from '@swc/core';
import { sharedBundles } from './bundle-packages.mjs';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const FOLDERS = ['src', 'migrations', 'scripts', 'test'];

export const SWC_OPTIONS = {
  jsc: {
    target: 'es2022',
    parser: { syntax: 'typescript', decorators: true },
    transform: { legacyDecorator: true, decoratorMetadata: true, useDefineForClassFields: false },
  },
  module: { type: 'es6' },
  sourceMaps: 'inline',
};

/**
 * Under jest all callers share the copy that global-setup.mjs has made.
 * @returns {Promise<{ folder: string, remove(): Promise<void> }>}
 */
export async function compile() {
  const shared = process.env.HOLDFAST_COMPILED_FOLDER;
  if (shared) return { folder: shared, remove: async () => undefined };

  const outerFolder = await mkdtemp(join(tmpdir(), 'compiled-'));
  await chmod(outerFolder, 0o755); // PostgreSQL's supervisor runs from it as another user.
  const folder = join(outerFolder, 'code');
  await mkdir(folder);
  // Node finds the bundles first, and what is not bundled behind them.
  await symlink(await sharedBundles(), join(folder, 'node_modules'));
  await symlink(join(ROOT, 'node_modules'), join(outerFolder, 'node_modules'));
  const manifest = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'));
  manifest.imports['#migrations'] = './migrations/migrations.js';
  await writeFile(join(folder, 'package.json'), JSON.stringify(manifest));
  const sources = (await Promise.all(FOLDERS.map(listFiles))).flat();
  await Promise.all([...sources.map((source) => emit(source, folder)), emitTestGlobals(folder)]);
  return { folder, remove: () => rm(outerFolder, { recursive: true, force: true }) };
}

/** @returns {Promise<string[]>} paths relative to the project */
async function listFiles(name) {
  const entries = await readdir(join(ROOT, name), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
}

/** Tests find it before the package of that name. */
async function emitTestGlobals(folder) {
  const target = join(folder, 'test/node_modules/@jest/globals');
  await mkdir(target, { recursive: true });
  await cp(join(ROOT, 'test/support/jest/globals.mjs'), join(target, 'index.js'));
  const manifest = { name: '@jest/globals', type: 'module', exports: './index.js' };
  await writeFile(join(target, 'package.json'), JSON.stringify(manifest));
}

async function emit(path, folder) {
  const isTypeScript = path.endsWith('.ts') && !path.endsWith('.d.ts');
  if (!isTypeScript && !path.endsWith('.mjs')) return;

  const [source, target] = [join(ROOT, path), join(folder, path)];
  await mkdir(dirname(target), { recursive: true });
  if (!isTypeScript) {
    await cp(source, target);
    return;
  }
  const text = await readFile(source, 'utf8');
  const { code } = await transform(text, {
    ...SWC_OPTIONS,
    filename: source,
    sourceFileName: source,
  });
  await writeFile(target.replace(/\.ts$/, '.js'), code);
}
