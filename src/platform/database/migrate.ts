/**
 * Runs migrations. Invariant: one node at a time, under an advisory lock of PostgreSQL, each
 * migration in a transaction of its own. Nodes that start together wait for the lock and then find
 * nothing to do.
 */
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { MIGRATIONS } from '#migrations';
import { dataSourceOptions } from './data-source.js';

/** Key of the advisory lock, the same in every release: the eight bytes of "holdfast". */
const MIGRATION_LOCK_KEY = '7525352680829580148';
/** No request waits for a migration, and a process that starts may be slow. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Replaces the timeouts of requests: a migration may take as long as it needs. */
const WITHOUT_TIMEOUTS = {
  statement_timeout: 0,
  lock_timeout: 0,
  idle_in_transaction_session_timeout: 0,
  query_timeout: 0,
};

/**
 * Brings the database at `url` up to date, or back by one migration.
 * @returns the names of the migrations that ran or were reverted
 * @throws the driver's error when a migration fails; the migrations before it stay applied
 */
export async function migrateDatabase(
  url: string,
  direction: 'up' | 'down' = 'up',
): Promise<string[]> {
  return withMigrationLock(url, async () => {
    const options = dataSourceOptions(url, 2, { timeouts: { connect: CONNECT_TIMEOUT_MS } });
    const dataSource = new DataSource({ ...options, extra: WITHOUT_TIMEOUTS });
    await dataSource.initialize();
    try {
      return await (direction === 'up' ? applyPending(dataSource) : revertLast(dataSource));
    } finally {
      await dataSource.destroy();
    }
  });
}

async function withMigrationLock<T>(url: string, work: () => Promise<T>): Promise<T> {
  const client = new Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    application_name: 'holdfast-migrate',
  });
  await client.connect();
  try {
    await client.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK_KEY]);
    return await work();
  } finally {
    // PostgreSQL releases the lock when its session ends.
    await client.end();
  }
}

async function applyPending(dataSource: DataSource): Promise<string[]> {
  const applied = await dataSource.runMigrations();
  return applied.map(({ name }) => name);
}

async function revertLast(dataSource: DataSource): Promise<string[]> {
  const [last] = await appliedMigrations(dataSource);
  if (last === undefined) return [];
  await dataSource.undoLastMigration();
  return [last];
}

/** Sends SQL and returns the rows: a data source, or a wrapped pool. */
export interface Queryable {
  query(sql: string): Promise<unknown>;
}

/** Newest first; empty when no migration ever ran. */
async function appliedMigrations(database: Queryable): Promise<string[]> {
  const [{ exists }] = (await database.query(
    `SELECT to_regclass('migrations') IS NOT NULL AS exists`,
  )) as [{ exists: boolean }];
  if (!exists) return [];
  const rows = (await database.query('SELECT name FROM migrations ORDER BY id DESC')) as {
    name: string;
  }[];
  return rows.map(({ name }) => name);
}

/** The names of this release's migrations that have not run in the database, oldest first. */
export async function pendingMigrations(database: Queryable): Promise<string[]> {
  const applied = new Set(await appliedMigrations(database));
  return MIGRATIONS.map(({ name }) => name).filter((name) => !applied.has(name));
}
