/**
 * Runs a migration statement by statement and looks at the locks behind each of them: which tables
 * requests cannot use, for how long at most, and whether rows are read meanwhile.
 */
import { DataSource, type MigrationInterface, type QueryRunner } from 'typeorm';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';

/** Locks with which no request can write a table, or read it. */
const STRONG_LOCKS = `
  SELECT DISTINCT relation::regclass::text AS name, mode,
         current_setting('lock_timeout') = '0' AS "isUnbounded"
    FROM pg_locks
   WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation = ANY($1::oid[])
     AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   ORDER BY 1, 2`;
/** Rows that this session has read, by table. */
const ROWS_READ = `
  SELECT relname AS name, seq_tup_read AS rows FROM pg_stat_xact_user_tables`;
const TABLES = `
  SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`;

const CONTROL = /^\s*(START|BEGIN|SET|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b/;
/** Waits for others without a lock that keeps requests out; cannot run in a transaction. */
const CONCURRENT = /\bCONCURRENTLY\b/;

export class RecordingRunner {
  readonly violations: string[] = [];
  readonly statements: string[] = [];
  /** Called before each statement: a test may let the process die here. */
  beforeStatement: (sql: string) => void = () => undefined;
  private existing: number[] = [];
  private readonly send: QueryRunner['query'];

  private constructor(
    private readonly dataSource: DataSource,
    readonly runner: QueryRunner,
  ) {
    this.send = runner.query.bind(runner) as QueryRunner['query'];
    runner.query = ((sql: string, parameters?: unknown[]) =>
      this.run(sql, parameters)) as QueryRunner['query'];
  }

  static async open(url: string): Promise<RecordingRunner> {
    // As the session that migrates: without the timeouts of requests.
    const extra = { lock_timeout: 0, statement_timeout: 0 };
    const dataSource = new DataSource({ ...dataSourceOptions(url, 1), extra });
    await dataSource.initialize();
    return new RecordingRunner(dataSource, dataSource.createQueryRunner());
  }

  /** As TypeORM does: in a transaction unless the migration says otherwise. */
  async migrate(migration: MigrationInterface, direction: 'up' | 'down'): Promise<void> {
    const rows = (await this.send(TABLES)) as { oid: number }[];
    this.existing = rows.map(({ oid }) => oid);
    const hasTransaction = migration.transaction !== false;
    if (hasTransaction) await this.runner.startTransaction();
    await migration[direction](this.runner);
    if (hasTransaction) await this.runner.commitTransaction();
  }

  /** Runs SQL as a migration with a transaction does. */
  async migrateWith(statements: readonly string[]): Promise<void> {
    const up = async (runner: QueryRunner): Promise<void> => {
      for (const sql of statements) await runner.query(sql);
    };
    await this.migrate({ up, down: up }, 'up');
  }

  async close(): Promise<void> {
    await this.runner.release();
    await this.dataSource.destroy();
  }

  private async run(sql: string, parameters?: unknown[]): Promise<unknown> {
    this.beforeStatement(sql);
    this.statements.push(sql);
    if (CONTROL.test(sql) || CONCURRENT.test(sql)) return this.send(sql, parameters);
    // A statement without a transaction would have released its locks before they are seen.
    const needsTransaction = !this.runner.isTransactionActive;
    if (needsTransaction) await this.send('BEGIN');
    const before = await this.rowsRead();
    const result = await this.send(sql, parameters);
    await this.inspect(sql.replace(/\s+/g, ' ').trim(), before);
    if (needsTransaction) await this.send('COMMIT');
    return result;
  }

  private async inspect(sql: string, before: ReadonlyMap<string, number>): Promise<void> {
    const locks = (await this.send(STRONG_LOCKS, [this.existing])) as {
      name: string;
      mode: string;
      isUnbounded: boolean;
    }[];
    const after = await this.rowsRead();
    for (const { name, mode, isUnbounded } of locks) {
      if (isUnbounded) this.violations.push(`${mode} on ${name} without lock_timeout: ${sql}`);
      const rows = (after.get(name) ?? 0) - (before.get(name) ?? 0);
      if (rows > 0) this.violations.push(`${rows} rows of ${name} read in its ${mode}: ${sql}`);
    }
  }

  private async rowsRead(): Promise<Map<string, number>> {
    const rows = (await this.send(ROWS_READ)) as { name: string; rows: string }[];
    return new Map(rows.map(({ name, rows: count }) => [name, Number(count)]));
  }
}
