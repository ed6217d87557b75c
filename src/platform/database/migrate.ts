/**
 * Migrations: run by one node at a time, under a session lock of PostgreSQL, each in a transaction of its own. Nodes that
 * start together queue behind the lock and find nothing left to do.
 */
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { dataSourceOptions, MIGRATIONS } from './data-source.js';

/** The advisory lock that every node of the service takes to migrate: the first eight bytes of "holdfast". */
const LOCK = '7525352680829580148';

/** A migration may take as long as it needs; the bounds of requests are not its. */
const unbounded = {
  statement_timeout: 0,
  lock_timeout: 0,
  idle_in_transaction_session_timeout: 0,
  query_timeout: 0,
};

/**
 * Brings the database at `url` up to date, or back by one migration.
 * @returns the names of the migrations that were run (or reverted)
 * @throws whatever PostgreSQL refuses; what ran before stays
 */
export async function migrateDatabase(
  url: string,
  direction: 'up' | 'down' = 'up',
): Promise<string[]> {
  const lock = new Client({
    connectionString: url,
    connectionTimeoutMillis: 5_000,
    application_name: 'holdfast-migrate',
  });
  await lock.connect();
  try {
    await lock.query('SELECT pg_advisory_lock($1)', [LOCK]);
    const dataSource = new DataSource({ ...dataSourceOptions(url, 2), extra: unbounded });
    await dataSource.initialize();
    try {
      if (direction === 'up') return (await dataSource.runMigrations()).map(({ name }) => name);
      const [last] = await appliedMigrations(dataSource);
      if (last === undefined) return [];
      await dataSource.undoLastMigration();
      return [last];
    } finally {
      await dataSource.destroy();
    }
  } finally {
    await lock.end();
  }
}

/** Whatever sends SQL and gives the rows: a data source, or a pool of its own. */
export interface Queries {
  query(sql: string): Promise<unknown>;
}

/** Newest first; none in a database that no migration has seen. */
async function appliedMigrations(database: Queries): Promise<string[]> {
  const [{ present }] = (await database.query(
    `SELECT to_regclass('migrations') IS NOT NULL AS present`,
  )) as [{ present: boolean }];
  if (!present) return [];
  const rows = (await database.query('SELECT name FROM migrations ORDER BY id DESC')) as {
    name: string;
  }[];
  return rows.map(({ name }) => name);
}

/** The names of this release's migrations that the database has not seen. */
export async function pendingMigrations(database: Queries): Promise<string[]> {
  const applied = new Set(await appliedMigrations(database));
  return MIGRATIONS.map(({ name }) => name).filter((name) => !applied.has(name));
}
