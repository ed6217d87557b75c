/**
 * Bundles the packages whose thousands of small files are half of what a start of the service
 * costs. The bundles lie in a `node_modules` beside the compiled code, where Node finds them before
 * the packages themselves. The service's own code stays as it is compiled.
 *
 * As a program: `node scripts/bundle-packages.mjs <folder of the compiled code>`.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const ROOT = fileURLToPath(new URL('../', import.meta.url));

/**
 * What the code imports of these packages. All of them are bundled in one go, so that a class is
 * the same one whoever imports it.
 */
const IMPORTS = [
  '@nestjs/cache-manager',
  '@nestjs/common',
  '@nestjs/common/constants.js',
  '@nestjs/common/enums/route-paramtypes.enum.js',
  '@nestjs/core',
  '@nestjs/platform-fastify',
  '@nestjs/swagger',
  '@nestjs/terminus',
  '@nestjs/typeorm',
  'class-transformer',
  'class-validator',
  'cockatiel',
  'envalid',
  'prom-client',
  'rate-limiter-flexible',
  'typeorm',
];
/** Tests import it, too, and it imports what is bundled. */
const TEST_IMPORTS = [...IMPORTS, '@nestjs/testing'];

/** Packages that stay as they are: they need their own files, or are optional and not installed. */
const EXTERNAL = [
  ...['fastify', '@fastify/*', 'pg', 'pg-*', 'pino', 'pino-*', 'redis', '@redis/*'],
  ...['reflect-metadata', 'swagger-ui-dist', 'cache-manager', 'keyv', 'file-type'],
  ...['@nestjs/microservices', '@nestjs/microservices/*', '@nestjs/websockets'],
  ...['@nestjs/websockets/*', '@nestjs/platform-express', '@nestjs/mongoose', '@nestjs/sequelize'],
  ...['@nestjs/axios', '@grpc/*', '@mikro-orm/*', 'mongoose', 'sequelize'],
];

/** Packages in CommonJS use these. */
const BANNER = [
  `import { createRequire as createRequireOfBundle } from 'node:module';`,
  `import { dirname as dirnameOfBundle } from 'node:path';`,
  `const require = createRequireOfBundle(import.meta.url);`,
  `const __filename = import.meta.filename;`,
  `const __dirname = dirnameOfBundle(__filename);`,
].join('\n');

/**
 * The bundles for tests and programs that run without a build, made once for each set of packages.
 * @returns {Promise<string>} a folder that takes the place of `node_modules`
 */
export async function sharedBundles() {
  const folder = sharedBundlesFolder();
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.${process.pid}`;
  await bundlePackages(unfinished, TEST_IMPORTS);
  await rename(unfinished, folder).catch(async (error) => {
    // Another process was faster.
    await rm(unfinished, { recursive: true, force: true });
    if (!existsSync(folder)) throw error;
  });
  return folder;
}

/** Where {@link sharedBundles} are: another folder for other packages or another way to bundle. */
export function sharedBundlesFolder() {
  const hash = createHash('sha256');
  for (const file of ['package-lock.json', 'scripts/bundle-packages.mjs']) {
    hash.update(readFileSync(join(ROOT, file)));
  }
  const name = hash.digest('hex').slice(0, 16);
  return join(ROOT, 'node_modules/.cache/holdfast', name, 'node_modules');
}

/** Bundled import → the file of its bundle. */
export const bundledFiles = (target) =>
  Object.fromEntries(TEST_IMPORTS.map((name) => [name, join(target, `${fileOf(name)}.js`)]));

/**
 * @param {string} target becomes the `node_modules` with the bundles
 * @param {readonly string[]} imports
 */
async function bundlePackages(target, imports) {
  await rm(target, { recursive: true, force: true });
  const entries = new Map();
  for (const name of imports) entries.set(name, await entryOf(name));
  await build({
    entryPoints: Object.fromEntries(imports.map((name) => [fileOf(name), `entry:${name}`])),
    plugins: [entryPlugin(entries)],
    external: EXTERNAL,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    keepNames: true,
    banner: { js: BANNER },
    sourcemap: true,
    outdir: target,
    logLevel: 'error',
  });
  await writeManifests(target, imports);
}

/** Where the bundle of an import lies in `node_modules`, without its extension. */
const fileOf = (name) => (name.endsWith('.js') ? name.replace(/\.js$/, '') : `${name}/index`);

const packageOf = (name) => /^(@[^/]+\/)?[^/]+/.exec(name)[0];

/** A module that exports what `name` exports. For a package in CommonJS, each name is listed. */
async function entryOf(name) {
  const exported = Object.keys(await import(name));
  const names = exported.filter((key) => /^[A-Za-z][\w$]*$/.test(key) && key !== 'default');
  return `export { ${names.join(', ')} } from '${name}';`;
}

const entryPlugin = (entries) => ({
  name: 'entries',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^entry:/ }, ({ path }) => ({
      path: path.slice('entry:'.length),
      namespace: 'entry',
    }));
    onLoad({ filter: /.*/, namespace: 'entry' }, ({ path }) => ({
      contents: entries.get(path),
      resolveDir: ROOT,
    }));
  },
});

async function writeManifests(target, imports) {
  for (const name of new Set(imports.map(packageOf))) {
    const own = imports.filter((imported) => packageOf(imported) === name);
    const exports = Object.fromEntries(
      own.map((imported) => [
        `.${imported.slice(name.length)}`,
        `./${fileOf(imported).slice(name.length + 1)}.js`,
      ]),
    );
    const folder = join(target, name);
    await mkdir(folder, { recursive: true });
    await writeFile(
      join(folder, 'package.json'),
      JSON.stringify({ name, type: 'module', exports }),
    );
  }
  await writeFile(join(target, 'package.json'), JSON.stringify({ type: 'module' }));
}

const isProgram = import.meta.url === pathToFileURL(process.argv[1] ?? '').href;
if (isProgram) await bundlePackages(join(ROOT, process.argv[2], 'node_modules'), IMPORTS);
