/**
 * Indexes of tables that requests use. Invariant: a build or a DROP waits for transactions and lets
 * none wait (docs/adr/0025-online-migrations.md).
 */
import type { QueryRunner } from 'typeorm';
import { type LockedTable, requireNoTransaction, retry } from './locks.js';

export interface IndexSpec {
  readonly table: LockedTable;
  readonly name: string;
  /** What follows the table's name, e.g. `(user_id, created_at) WHERE deleted_at IS NULL`. */
  readonly definition: string;
}

/**
 * Builds the index while requests go on, and replaces another one of that name. Whatever an aborted
 * build left is dropped.
 */
export async function ensureIndex(runner: QueryRunner, spec: IndexSpec): Promise<void> {
  const { table, name, definition } = spec;
  requireNoTransaction(runner);
  const expected = await printDefinition(runner, spec);
  const next = `${name}_next`;
  const hasIndex = async (index: string): Promise<boolean> =>
    (await findDefinition(runner, index)) === expected;
  if (!(await hasIndex(name))) {
    if (!(await hasIndex(next))) {
      await retry(runner, [table], async () => {
        await dropIndex(runner, next);
        await runner.query(`CREATE INDEX CONCURRENTLY ${next} ON ${table} ${definition}`);
      });
    }
    await dropIndex(runner, name);
    await runner.query(`ALTER INDEX ${next} RENAME TO ${name}`);
  }
  await dropIndex(runner, next);
}

/** Drops an index that may be gone already, when no request uses it any more. */
export async function dropIndex(runner: QueryRunner, name: string): Promise<void> {
  requireNoTransaction(runner);
  await retry(runner, [], () => runner.query(`DROP INDEX CONCURRENTLY IF EXISTS ${name}`));
}

/**
 * How PostgreSQL prints the definition: an index is current when it prints the same. Taken from an
 * empty table with the same columns, which is rolled back.
 */
async function printDefinition(
  runner: QueryRunner,
  { table, definition }: IndexSpec,
): Promise<string | undefined> {
  await runner.startTransaction();
  try {
    await runner.query(`CREATE TABLE index_form (LIKE ${table})`);
    await runner.query(`CREATE INDEX index_form_index ON index_form ${definition}`);
    return await findDefinition(runner, 'index_form_index');
  } finally {
    await runner.rollbackTransaction().catch(() => undefined);
  }
}

/** @returns undefined when there is no such index, or an aborted build of it */
async function findDefinition(runner: QueryRunner, name: string): Promise<string | undefined> {
  const [index] = (await runner.query(
    `SELECT substring(pg_get_indexdef(indexrelid) FROM ' USING .*$') AS definition
       FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid`,
    [name],
  )) as { definition: string }[];
  return index?.definition;
}
