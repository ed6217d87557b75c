/**
 * Steps of migrations that lock tables which requests use (docs/adr/0025-online-migrations.md).
 * Invariants: a lock that keeps requests out is waited for briefly, in one order, and held without
 * reading rows. Every function may be repeated: what is done already is skipped.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { QueryFailedError, type QueryRunner } from 'typeorm';

/**
 * How long a migration waits for the locks of one step. Requests queue behind a lock that is waited
 * for. Shorter than `deadlock_timeout` (1 s): of a migration and a request that wait for each other,
 * the migration gives up first.
 */
export const MAX_LOCK_WAIT_MS = 200;
/** Requests that queued must get through before the next attempt. */
const MAX_PAUSE_MS = 2_000;
/** About ten minutes. */
const MAX_ATTEMPTS = 300;

/** The order in which requests come to the tables (an order is placed), and migrations lock them. */
const LOCK_ORDER = [
  'sessions',
  'idempotency_keys',
  'users',
  'credentials',
  'known_devices',
  'failed_logins',
  'device_key',
  'bootstrap_admins',
  'orders',
  'order_events',
  'outbox',
  'event_consumers',
  'inbox',
  'inbox_dead_letters',
  'order_figures',
  'cache_invalidations',
  'cache_epoch',
  'cache_readers',
] as const;

export type LockedTable = (typeof LOCK_ORDER)[number];

const LOCK_NOT_AVAILABLE = '55P03';
const DEADLOCK_DETECTED = '40P01';
const SERIALIZATION_FAILURE = '40001';
const RETRYABLE = [LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED, SERIALIZATION_FAILURE];

/**
 * Runs statements in one transaction that keeps writers out of these tables: new triggers and
 * foreign keys. In a migration with a transaction the locks last until its end.
 * @param statements must be quick: they may not read rows of these tables
 * @throws Error after ten minutes in which other transactions kept a table locked
 */
export function blockWrites(
  runner: QueryRunner,
  tables: readonly LockedTable[],
  statements: readonly string[],
  maxAttempts = MAX_ATTEMPTS,
): Promise<void> {
  return runWithLocks(runner, 'SHARE ROW EXCLUSIVE', tables, statements, maxAttempts);
}

/** {@link blockWrites} for statements that keep readers out too, as most ALTER TABLE and DROP do. */
export function blockAccess(
  runner: QueryRunner,
  tables: readonly LockedTable[],
  statements: readonly string[],
  maxAttempts = MAX_ATTEMPTS,
): Promise<void> {
  return runWithLocks(runner, 'ACCESS EXCLUSIVE', tables, statements, maxAttempts);
}

async function runWithLocks(
  runner: QueryRunner,
  mode: string,
  tables: readonly LockedTable[],
  statements: readonly string[],
  maxAttempts: number,
): Promise<void> {
  const inOrder = LOCK_ORDER.filter((table) => tables.includes(table));
  const present = await filterPresent(runner, inOrder);
  // A single table is locked by the statements. LOCK needs rights that the owner may not have.
  const locks = present.length > 1 ? present : [];
  const lockTables = locks.map((table) => `LOCK TABLE ${table} IN ${mode} MODE`);
  const attempt = (): Promise<void> =>
    inTransaction(runner, Math.max(present.length, 1), async () => {
      for (const sql of [...lockTables, ...statements]) await runner.query(sql);
    });
  await retry(runner, inOrder, attempt, maxAttempts);
}

/**
 * Runs statements in one REPEATABLE READ transaction. It sees one moment, and no request waits for
 * it. Runs again when a row that it changes was changed since that moment.
 * @param writtenTable a table that only this migration and background work write: locked meanwhile
 */
export async function runInSnapshot(
  runner: QueryRunner,
  writtenTable: LockedTable,
  statements: readonly string[],
): Promise<void> {
  await retry(runner, [writtenTable], () =>
    inTransaction(
      runner,
      1,
      async () => {
        // LOCK takes no snapshot: the moment is that of the first statement behind it.
        await runner.query(`LOCK TABLE ${writtenTable} IN SHARE ROW EXCLUSIVE MODE`);
        for (const sql of statements) await runner.query(sql);
      },
      'REPEATABLE READ',
    ),
  );
}

/** Whether the table has a trigger of that name; the step that creates it has committed then. */
export async function hasTrigger(
  runner: QueryRunner,
  table: LockedTable,
  name: string,
): Promise<boolean> {
  const rows = (await runner.query(
    'SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = $2',
    [table, name],
  )) as unknown[];
  return rows.length > 0;
}

async function filterPresent(
  runner: QueryRunner,
  tables: readonly LockedTable[],
): Promise<LockedTable[]> {
  const rows = (await runner.query(
    `SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS part (name, position)
      WHERE to_regclass(name) IS NOT NULL ORDER BY position`,
    [tables],
  )) as { name: LockedTable }[];
  return rows.map(({ name }) => name);
}

/**
 * A transaction, or a savepoint in the migration's own: its rollback releases its locks.
 * @param locks how many locks share the wait
 */
export async function inTransaction<T>(
  runner: QueryRunner,
  locks: number,
  work: () => Promise<T>,
  isolation?: 'REPEATABLE READ',
): Promise<T> {
  await runner.startTransaction(isolation);
  try {
    const waitMs = Math.floor(MAX_LOCK_WAIT_MS / locks);
    await runner.query(`SET LOCAL lock_timeout = '${waitMs}ms'`);
    const result = await work();
    await runner.commitTransaction();
    return result;
  } catch (error) {
    // Without a connection there is nothing to roll back.
    await runner.rollbackTransaction().catch(() => undefined);
    throw error;
  }
}

/**
 * Repeats what a lock, a deadlock or another transaction's change prevented, after a pause.
 * @param tables for the message when it gives up
 */
export async function retry<T>(
  runner: QueryRunner,
  tables: readonly LockedTable[],
  attempt: () => Promise<T>,
  maxAttempts = MAX_ATTEMPTS,
): Promise<T> {
  for (let count = 1; ; count++) {
    try {
      return await attempt();
    } catch (error) {
      const code = sqlStateOf(error);
      if (code === undefined || !RETRYABLE.includes(code)) throw error;
      if (count >= maxAttempts) throw await explainBlockers(runner, tables, count, error);
      if (code === DEADLOCK_DETECTED) await cancelWaitingMigrations(runner);
    }
    const pauseMs = Math.min(MAX_LOCK_WAIT_MS * 2 ** count, MAX_PAUSE_MS);
    await sleep(pauseMs * (0.5 + Math.random() / 2));
  }
}

/**
 * A node of an earlier release waits for the migrations' advisory lock in a statement, and an index
 * that is built concurrently waits for that statement: a deadlock that would come back with every
 * attempt. That node fails to start; when it is started again, it waits again.
 */
async function cancelWaitingMigrations(runner: QueryRunner): Promise<void> {
  await runner.query(`
    SELECT pg_cancel_backend(waiting.pid)
      FROM pg_locks AS held
      JOIN pg_locks AS waiting USING (locktype, database, classid, objid, objsubid)
     WHERE locktype = 'advisory' AND held.pid = pg_backend_pid()
       AND held.granted AND NOT waiting.granted`);
}

async function explainBlockers(
  runner: QueryRunner,
  tables: readonly LockedTable[],
  attempts: number,
  cause: unknown,
): Promise<Error> {
  const sessions = (await runner.query(
    `SELECT DISTINCT format('%s (%s, since %s)', pid, application_name, xact_start) AS session
       FROM pg_locks JOIN pg_stat_activity USING (pid)
      WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND relation::regclass::text = ANY($1) AND granted AND pid <> pg_backend_pid()`,
    [tables],
  )) as { session: string }[];
  const blockers = sessions.map(({ session }) => session).join(', ') || 'none now';
  return new Error(
    `Could not lock ${tables.join(', ')} in ${attempts} attempts. End the transactions that ` +
      `use it, and migrate again. Sessions that use it: ${blockers}`,
    { cause },
  );
}

/** @throws Error in a transaction: what follows needs several, or none */
export function requireNoTransaction(runner: QueryRunner): void {
  if (runner.isTransactionActive) {
    throw new Error('This migration builds without a transaction: declare `transaction = false`');
  }
}

const sqlStateOf = (error: unknown): string | undefined =>
  error instanceof QueryFailedError
    ? (error.driverError as { readonly code?: string }).code
    : undefined;
