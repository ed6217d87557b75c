/**
 * The embedded PostgreSQL as a start without DATABASE_URL uses it: what survives a restart, which
 * folders it refuses, and that no server outlives its owner.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { compile } from '../../../../scripts/compile.mjs';
import { isProcessRunning } from '../../../../scripts/process-table.mjs';
import {
  type EmbeddedPostgres,
  startEmbeddedPostgres,
} from '../../../../src/platform/database/embedded/embedded-postgres.js';
import { eventually } from '../../../support/eventually.js';
import { makeTestFolder } from '../../../support/postgres.js';

const FLAGS = ['fsync=off', 'shared_buffers=16MB', 'dynamic_shared_memory_type=mmap'];

describe('the embedded PostgreSQL', () => {
  let root: string;
  /** Shared by the tests: to create a cluster takes most of a second. */
  let dataDir: string;
  let compiled: Awaited<ReturnType<typeof compile>>;
  const started: EmbeddedPostgres[] = [];

  async function start(folder = dataDir, log?: (line: string) => void): Promise<EmbeddedPostgres> {
    const server = await startEmbeddedPostgres({
      dataDir: folder,
      flags: FLAGS,
      ...(log ? { log } : {}),
    });
    started.push(server);
    return server;
  }

  /** A cluster in a folder of its own, for a test that changes its files. */
  async function copyOfCluster(name: string): Promise<string> {
    const folder = join(root, name);
    await fs.cp(dataDir, folder, { recursive: true });
    return folder;
  }

  /**
   * Another process that owns a server. It prints the server's process id, and then runs
   * `afterStart`.
   */
  async function startOwner(
    afterStart: string,
  ): Promise<{ owner: ChildProcessByStdio<null, Readable, null>; pid: number }> {
    const module = join(compiled.folder, 'src/platform/database/embedded/embedded-postgres.js');
    const script = `
      const { startEmbeddedPostgres } = await import(${JSON.stringify(pathToFileURL(module).href)});
      const { pid } = await startEmbeddedPostgres(${JSON.stringify({ dataDir, flags: FLAGS })});
      console.log(pid);
      ${afterStart}`;
    const owner = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [output] = (await once(owner.stdout, 'data')) as [Buffer];
    return { owner, pid: Number(String(output)) };
  }

  beforeAll(async () => {
    root = await makeTestFolder();
    dataDir = join(root, 'data');
    compiled = await compile();
    await (await start()).stop();
  });
  afterEach(() => Promise.all(started.splice(0).map((server) => server.stop())));
  afterAll(async () => {
    await compiled.remove();
    await fs.rm(root, { recursive: true, force: true });
  });

  it('keeps its rows and its password across restarts', async () => {
    const first = await start();
    await query(first.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
    await first.stop();

    const second = await start();

    expect(await query(second.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
    expect(new URL(second.url).password).toBe(new URL(first.url).password);
  });

  it('stores its password in a file that only its owner may read', async () => {
    await start();

    const { mode } = await fs.stat(join(dataDir, 'postgres.password'));

    expect(mode & 0o777).toBe(0o600);
  });

  it('stores any text, folds case beyond ASCII, and checks its pages', async () => {
    const { url } = await start();

    const [row] = await query(
      url,
      `SELECT current_setting('server_encoding') AS encoding,
              lower('ÄÑ') AS folded,
              current_setting('data_checksums') AS checksums`,
    );

    expect(row).toEqual({ encoding: 'UTF8', folded: 'äñ', checksums: 'on' });
  });

  it('listens on the loopback interface only', async () => {
    const { url } = await start();

    const [row] = await query(
      url,
      `SELECT current_setting('listen_addresses') AS addresses,
              current_setting('unix_socket_directories') AS sockets`,
    );

    expect(row).toEqual({ addresses: '127.0.0.1', sockets: '' });
  });

  it('refuses a second start on the same folder, naming the folder and the process', async () => {
    const first = await start();

    await expect(start()).rejects.toMatchObject({
      name: 'EmbeddedPostgresError',
      message:
        `${join(dataDir, 'postgres')} is in use by a running PostgreSQL (pid ${first.pid}): ` +
        'stop the service that started it, or set another DATA_DIR',
    });
    expect(await query(first.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('lets one of two simultaneous first starts use the folder, and leaves no drafts', async () => {
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

  it('reports that its server crashed, and recovers at the next start', async () => {
    const lines: string[] = [];
    const crashed = await start(dataDir, (line) => lines.push(line));
    await query(crashed.url, 'CREATE TABLE survivor AS SELECT 7 AS luck');
    process.kill(crashed.pid, 'SIGKILL');

    const reason = `The embedded PostgreSQL in ${join(dataDir, 'postgres')} ended: SIGKILL`;
    expect(await crashed.exited).toBe(reason);
    expect(lines).toContain(reason);

    const recovered = await start();
    expect(await query(recovered.url, 'SELECT luck FROM survivor')).toEqual([{ luck: 7 }]);
  });

  it('starts after a crash when another process has the old process id now', async () => {
    const crashed = await start();
    process.kill(crashed.pid, 'SIGKILL');
    await crashed.exited;
    const lockFile = join(dataDir, 'postgres/postmaster.pid');
    const lock = await fs.readFile(lockFile, 'utf8');
    await fs.writeFile(lockFile, lock.replace(/^\d+/, String(process.pid)));

    const recovered = await start();

    expect(await query(recovered.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('does not outlive an owner that was SIGKILLed: the next owner gets the folder', async () => {
    const { owner, pid } = await startOwner('setInterval(() => undefined, 1000);');
    expect(isProcessRunning(pid)).toBe(true);

    owner.kill('SIGKILL');
    // On a busy machine, the server may need longer to notice than a start waits for it.
    const successor = await eventually('the next owner gets the folder', () => start());

    expect(isProcessRunning(pid)).toBe(false);
    expect(successor.pid).not.toBe(pid);
  });

  it('does not keep the process of its owner alive', async () => {
    const { owner, pid } = await startOwner('');

    const [exitCode] = (await once(owner, 'exit')) as [number];

    expect(exitCode).toBe(0);
    await eventually('the server has ended with its owner', () => !isProcessRunning(pid));
  });

  it('refuses files of another major version and leaves them unchanged', async () => {
    const folder = await copyOfCluster('old');
    const versionFile = join(folder, 'postgres/PG_VERSION');
    await fs.writeFile(versionFile, '17\n');

    await expect(start(folder)).rejects.toThrow(
      /old\/postgres was created by PostgreSQL 17, but this is 18\.\d+: /,
    );
    expect(await fs.readFile(versionFile, 'utf8')).toBe('17\n');
  });

  it('refuses a folder that holds other files', async () => {
    const folder = join(root, 'foreign');
    await fs.mkdir(join(folder, 'postgres'), { recursive: true });
    await fs.writeFile(join(folder, 'postgres/thesis.txt'), '');

    await expect(start(folder)).rejects.toThrow(
      /foreign\/postgres is not empty and does not hold a PostgreSQL cluster/,
    );
  });

  it('refuses a cluster whose password file is missing', async () => {
    const folder = await copyOfCluster('locked-out');
    await fs.rm(join(folder, 'postgres.password'));

    await expect(start(folder)).rejects.toThrow(/postgres\.password is missing.* restore the file/);
  });

  it('says which folder it cannot create, and what to set', async () => {
    const file = join(root, 'file');
    await fs.writeFile(file, '');

    await expect(start(file)).rejects.toThrow(/cannot use .*file \(EEXIST.*set DATA_DIR/);
  });

  it('removes the drafts of a first start that was killed', async () => {
    const killed = spawn(process.execPath, ['-e', '']);
    await once(killed, 'exit');
    const draft = join(dataDir, `postgres.new-${killed.pid}-abcd`);
    await fs.mkdir(join(draft, 'base'), { recursive: true });

    await start();

    await expect(fs.stat(draft)).rejects.toThrow('ENOENT');
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
