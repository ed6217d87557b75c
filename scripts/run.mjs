/**
 * Runs a TypeScript program of this repository without a build:
 * `node scripts/run.mjs <file.ts> [arguments]`. A program that exports `run(args)` is called, and
 * its result is the exit code; another one does its work when it is imported. What the run leaves
 * on the disk ends with it (run-folder.mjs).
 */
import { constants } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { compile } from './compile.mjs';
import { createRunFolder } from './run-folder.mjs';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const [, , file, ...args] = process.argv;
if (!file?.endsWith('.ts')) {
  process.stderr.write('Usage: node scripts/run.mjs <file.ts> [arguments]\n');
  process.exit(2);
}

const runFolder = createRunFolder('run');
process.once('exit', () => runFolder.remove());
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    // A program that listens for the signal ends by itself.
    if (process.listenerCount(signal) === 1) process.exit(128 + constants.signals[signal]);
  });
}

process.setSourceMapsEnabled(true);
const { folder } = await compile();
const path = relative(ROOT, resolve(ROOT, file)).replace(/\.ts$/, '.js');
const program = join(folder, path);
process.argv = [process.execPath, program, ...args];
const { run } = await import(pathToFileURL(program).href);
if (run) process.exit(await run(args));
