import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { transformFileSync } from '@swc/core';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import pg from 'pg';
import {
  type EmbeddedPostgres,
  EmbeddedPostgresError,
  startEmbeddedPostgres,
} from '../../src/database/embedded-postgres.js';
import { isRunning, makeTestFolder } from '../support/postgres.js';

const flags = ['fsync=off', 'shared_buffers=16MB'];

describe('the embedded PostgreSQL', () => {
  let root: string;
  /** Made by the first test that starts a server, then kept: making one takes most of a second. */
  let dataDir: string;
  const started: EmbeddedPostgres[] = [];

  const start = async (folder = dataDir, log?: (line: string) => void) => {
    const server = await startEmbeddedPostgres({ dataDir: folder, flags, log });
    started.push(server);
    return server;
  };

  beforeAll(async () => {
    root = await makeTestFolder();
    dataDir = join(root, 'data');
  });
  afterEach(() => Promise.all(started.splice(0).map((server) => server.stop())));
  afterAll(() => fs.rm(root, { recursive: true, force: true }));

  it('keeps its rows and its password across restarts', async () => {
    const first = await start();
    await query(first.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
    await first.stop();
    const second = await start();

    expect(await query(second.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
    expect(new URL(second.url).password).toBe(new URL(first.url).password);
    expect((await fs.stat(join(dataDir, 'postgres.password'))).mode & 0o777).toBe(0o600);
  });

  it('stores any text, folds case beyond ASCII, checks its pages, and listens on the loopback alone', async () => {
    const { url } = await start();

    const [row] = await query(
      url,
      `SELECT current_setting('server_encoding') encoding, lower('ÄÑ') folded, current_setting('data_checksums') checksums,
              current_setting('listen_addresses') addresses, current_setting('unix_socket_directories') sockets`,
    );
    expect(row).toEqual({
      encoding: 'UTF8',
      folded: 'äñ',
      checksums: 'on',
      addresses: '127.0.0.1',
      sockets: '',
    });
  });

  it('refuses a second start on the same folder, naming the folder and the process', async () => {
    const first = await start();

    await expect(start()).rejects.toThrow(
      new EmbeddedPostgresError(
        `${join(dataDir, 'postgres')} is in use by a running PostgreSQL (pid ${first.pid}): ` +
          'stop the service that started it, or set another DATA_DIR',
      ),
    );
    expect(await query(first.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('lets one of two simultaneous first starts have the folder, and leaves no drafts', async () => {
    const folder = join(root, 'contended');

    const results = await Promise.allSettled([start(folder), start(folder)]);

    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(results).toContainEqual({
      status: 'rejected',
      reason: expect.objectContaining({ message: expect.stringContaining('in use') }),
    });
    expect((await fs.readdir(folder)).sort()).toEqual(['postgres', 'postgres.password']);
    expect(await query(started[0]!.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('tells when its server crashes, and recovers on the next start, whoever has the old process number now', async () => {
    const lines: string[] = [];
    const crashed = await start(dataDir, (line) => lines.push(line));
    await query(crashed.url, 'CREATE TABLE survivor AS SELECT 7 AS luck');
    process.kill(crashed.pid, 'SIGKILL');

    const said = `the embedded PostgreSQL in ${join(dataDir, 'postgres')} ended: SIGKILL`;
    expect(await crashed.exited).toBe(said);
    expect(lines).toContain(said);

    const lock = join(dataDir, 'postgres/postmaster.pid');
    await fs.writeFile(
      lock,
      (await fs.readFile(lock, 'utf8')).replace(/^\d+/, String(process.pid)),
    );
    const recovered = await start();
    expect(await query(recovered.url, 'SELECT luck FROM survivor')).toEqual([{ luck: 7 }]);
  });

  it('does not outlive an owner that is SIGKILLed, and the owner’s successor gets the folder at once', async () => {
    const program = await compile(root);
    const script = `
      const { startEmbeddedPostgres } = await import(${JSON.stringify(program)});
      const { pid } = await startEmbeddedPostgres(${JSON.stringify({ dataDir, flags })});
      console.log(pid);
      setInterval(() => undefined, 1000);`;
    const owner = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [output] = (await once(owner.stdout, 'data')) as [Buffer];
    const pid = Number(String(output));
    expect(isRunning(pid)).toBe(true);

    owner.kill('SIGKILL');
    const successor = await start();

    expect(isRunning(pid)).toBe(false);
    expect(successor.pid).not.toBe(pid);
  });

  it('does not keep its owner’s process alive', async () => {
    const program = await compile(root);
    const script = `
      const { startEmbeddedPostgres } = await import(${JSON.stringify(program)});
      console.log((await startEmbeddedPostgres(${JSON.stringify({ dataDir, flags })})).pid);`;
    const owner = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [[output], [code]] = (await Promise.all([
      once(owner.stdout, 'data'),
      once(owner, 'exit'),
    ])) as [[Buffer], [number]];

    expect(code).toBe(0);
    for (const pid = Number(String(output)); isRunning(pid);) await sleep(20);
  });

  it('refuses files of another major version, and leaves them as they are', async () => {
    const folder = join(root, 'old');
    await fs.cp(dataDir, folder, { recursive: true });
    await fs.writeFile(join(folder, 'postgres/PG_VERSION'), '17\n');

    await expect(start(folder)).rejects.toThrow(
      /old\/postgres was made by PostgreSQL 17, this is 18\.\d+: /,
    );
    expect(await fs.readFile(join(folder, 'postgres/PG_VERSION'), 'utf8')).toBe('17\n');
  });

  it('refuses a folder that holds something else, and one that cannot be made', async () => {
    const foreign = join(root, 'foreign');
    await fs.mkdir(join(foreign, 'postgres'), { recursive: true });
    await fs.writeFile(join(foreign, 'postgres/thesis.txt'), '');
    await fs.writeFile(join(root, 'file'), '');

    await expect(start(foreign)).rejects.toThrow(
      /foreign\/postgres is not empty, and is not a PostgreSQL folder/,
    );
    await expect(start(join(root, 'file'))).rejects.toThrow(
      /cannot use .*file \(EEXIST.*set DATA_DIR/,
    );
  });

  it('clears away the half-made files of a first start that was killed', async () => {
    const dead = spawn(process.execPath, ['-e', '']);
    await once(dead, 'exit');
    const leftover = join(dataDir, `postgres.new-${dead.pid}-abcd`);
    await fs.mkdir(join(leftover, 'base'), { recursive: true });

    await start();

    await expect(fs.stat(leftover)).rejects.toThrow('ENOENT');
  });
});

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

/** The module, and what it imports, as plain node runs it. @returns its file: URL. */
async function compile(folder: string): Promise<string> {
  const sources = resolve('src/database');
  for (const name of ['embedded-postgres', 'embedded-postgres.folder']) {
    const { code } = transformFileSync(join(sources, `${name}.ts`), {
      jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
      module: { type: 'es6' },
      swcrc: false,
    });
    await fs.writeFile(join(folder, `${name}.js`), code);
  }
  await fs.writeFile(join(folder, 'package.json'), '{ "type": "module" }');
  await fs.copyFile(
    join(sources, 'embedded-postgres.child.mjs'),
    join(folder, 'embedded-postgres.child.mjs'),
  );
  await fs.symlink(resolve('node_modules'), join(folder, 'node_modules')).catch(() => undefined);
  return pathToFileURL(join(folder, 'embedded-postgres.js')).href;
}
