/**
 * Clients that are generated from the OpenAPI document compile under `--strict` and work: the
 * programs in clients/ use them as an application would.
 */
import { cpSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { generateOpenApi } from '../../../../scripts/docs/openapi.js';
import { ADMIN, startApp, type TestApp } from '../../../support/app.js';
import { spawnBound } from '../../../support/child-process.js';
import { REPOSITORY } from '../../../support/repository.js';

const PROGRAMS = new URL('test/platform/http/openapi/clients/', REPOSITORY);

let folder: string;

/** Runs a program of Node in the folder to its end. @returns its exit code and all it printed */
async function runNode(...args: string[]): Promise<{ exitCode: number | null; output: string }> {
  const child = spawnBound(process.execPath, args, { cwd: folder, stdio: 'pipe' });
  let output = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (output += text));
  const exitCode = await new Promise<number | null>((resolve, reject) =>
    child.once('error', reject).once('close', resolve),
  );
  return { exitCode, output };
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-clients-'));
  cpSync(PROGRAMS, folder, { recursive: true });
  symlinkSync(join(process.cwd(), 'node_modules'), join(folder, 'node_modules'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  writeFileSync(join(folder, 'openapi.json'), await generateOpenApi());
  const generated = await runNode('generate.mjs', 'openapi.json');
  expect(generated).toMatchObject({ exitCode: 0 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('generated clients', () => {
  let app: TestApp;
  let compiled: Awaited<ReturnType<typeof runNode>>;

  beforeAll(async () => {
    app = await startApp();
    compiled = await runNode('node_modules/typescript/bin/tsc', '-p', '.');
  });
  afterAll(() => app.close());

  it('compile under --strict, with the programs that use them', () => {
    expect(compiled).toEqual({ exitCode: 0, output: '' });
  });

  it.each(['with-openapi-typescript', 'with-hey-api'])('run the happy path: %s', async (name) => {
    const program = `dist/${name}.js`;
    const { output } = await runNode(program, app.url, ADMIN.username, ADMIN.password);
    expect(output).toBe('The happy path ends.\n');
  });
});
