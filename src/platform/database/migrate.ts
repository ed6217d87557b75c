/**
 * Runs migrations. Invariant: one node at a time, under an advisory lock of PostgreSQL. The session
 * that migrates holds the lock: while one of its statements may still run, no other node begins,
 * whatever happens to the connection. Nodes that start together wait, and find nothing to do.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { DataSource, MigrationExecutor, type QueryRunner } from 'typeorm';
import { MIGRATIONS } from '#migrations';
import { dataSourceOptions } from './data-source.js';

/** Key of the advisory lock, the same in every release: the eight bytes of "holdfast". */
const MIGRATION_LOCK_KEY = '7525352680829580148';
/** No request waits for a migration, and a process that starts may be slow. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Between two attempts to get the lock. */
const LOCK_POLL_MS = 250;

/**
 * Replaces the timeouts of requests: a migration may take as long as it needs. Keepalives, because
 * a statement may be silent for longer than the network remembers its connection.
 */
const SESSION_SETTINGS = {
  statement_timeout: 0,
  lock_timeout: 0,
  idle_in_transaction_session_timeout: 0,
  query_timeout: 0,
  keepAlive: true,
  keepAliveInitialDelayMillis: 10_000,
};

/**
 * Brings the database at `url` up to date, or back by one migration.
 * @returns the names of the migrations that ran or were reverted
 * @throws the driver's error when a migration fails; the migrations before it stay applied. One
 *   without a transaction may be half done: the next call finishes it
 */
export async function migrateDatabase(
  url: string,
  direction: 'up' | 'down' = 'up',
): Promise<string[]> {
  // One connection: TypeORM cannot take another one, which would not hold the lock.
  const options = dataSourceOptions(url, 1, { timeouts: { connect: CONNECT_TIMEOUT_MS } });
  const dataSource = new DataSource({
    ...options,
    applicationName: 'holdfast-migrate',
    extra: SESSION_SETTINGS,
  });
  await dataSource.initialize();
  const session = dataSource.createQueryRunner();
  try {
    await awaitMigrationLock(session);
    return await (direction === 'up' ? applyPending(session) : revertLast(session));
  } finally {
    // PostgreSQL releases the lock when its session ends.
    await session.release();
    await dataSource.destroy();
  }
}

/**
 * Asks again and again: a statement that waits keeps its snapshot, and CREATE INDEX CONCURRENTLY of
 * the node that has the lock would wait for that snapshot.
 */
async function awaitMigrationLock(session: QueryRunner): Promise<void> {
  while (!(await tryMigrationLock(session))) await sleep(LOCK_POLL_MS);
}

async function tryMigrationLock(session: QueryRunner): Promise<boolean> {
  const [row] = (await session.query('SELECT pg_try_advisory_lock($1) AS "isLocked"', [
    MIGRATION_LOCK_KEY,
  ])) as [{ isLocked: boolean }];
  return row.isLocked;
}

async function applyPending(session: QueryRunner): Promise<string[]> {
  const executor = new MigrationExecutor(session.dataSource, session);
  executor.transaction = 'each';
  const applied = await executor.executePendingMigrations();
  return applied.map(({ name }) => name);
}

async function revertLast(session: QueryRunner): Promise<string[]> {
  const [last] = await appliedMigrations(session);
  if (last === undefined) return [];
  const executor = new MigrationExecutor(session.dataSource, session);
  // TypeORM reads a migration's own `transaction` only on the way up.
  const migration = session.dataSource.migrations.find(({ name }) => name === last);
  executor.transaction = migration?.transaction === false ? 'none' : 'each';
  await executor.undoLastMigration();
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
