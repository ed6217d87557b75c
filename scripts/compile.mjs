/**
 * The service and this campaign as plain JavaScript in a folder of their own, for processes that jest does not start. With
 * `timesDividedBy` the copy's long times (fence, lease, PostgreSQL's bounds) are that much shorter, so that a test of seconds
 * sees what else takes half a minute; a constant that is not found as written here is an error, never a silent no.
 */
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { transform } from '@swc/core';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FOLDERS = [
  'src',
  'migrations',
  'scripts',
  'test/support',
  'test/campaign',
  'test/outbox',
  'test/orders',
];

/** File → the numbers in it that are times: the name before, the digits. */
const TIMES = {
  'src/cache/invalidation.service.ts': [/(\bFENCE_MS = )([\d_]+)/],
  'src/cache/read-through.ts': [/(\bLEASE_MS = )([\d_]+)/],
  'src/database/data-source.ts': ['statement', 'lock', 'idleInTransaction', 'query'].map(
    (name) => new RegExp(`(\\b${name}: )([\\d_]+)`),
  ),
};

const SWC = {
  jsc: {
    target: 'es2022',
    parser: { syntax: 'typescript', decorators: true },
    transform: { legacyDecorator: true, decoratorMetadata: true, useDefineForClassFields: false },
  },
  module: { type: 'es6' },
  sourceMaps: 'inline',
};

/**
 * @param {{ timesDividedBy?: number }} [options]
 * @returns {Promise<{ folder: string, remove(): Promise<void> }>}
 */
export async function compile({ timesDividedBy = 1 } = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-campaign-'));
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  await copyFile(join(ROOT, 'package.json'), join(folder, 'package.json'));
  const lists = await Promise.all(
    FOLDERS.map(async (name) => {
      const entries = await readdir(join(ROOT, name), { recursive: true, withFileTypes: true });
      return entries
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name));
    }),
  );
  await Promise.all(
    lists.flat().map((path) => emit(path.slice(ROOT.length), folder, timesDividedBy)),
  );
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}

async function emit(path, folder, divisor) {
  const target = join(folder, path);
  await mkdir(dirname(target), { recursive: true });
  if (extname(path) === '.mjs') return copyFile(join(ROOT, path), target);
  if (extname(path) !== '.ts' || path.endsWith('.spec.ts')) return;
  let text = await readFile(join(ROOT, path), 'utf8');
  for (const time of TIMES[path] ?? []) {
    if (!time.test(text))
      throw new Error(`${path} has no ${time.source}: tell test/campaign/compile.mjs its new name`);
    text = text.replace(
      time,
      (_, name, ms) => name + Math.round(Number(ms.replaceAll('_', '')) / divisor),
    );
  }
  const { code } = await transform(text, {
    ...SWC,
    filename: join(ROOT, path),
    sourceFileName: join(ROOT, path),
  });
  await writeFile(target.replace(/\.ts$/, '.js'), code);
}
