/** Changes of many rows that requests use (docs/adr/0025-online-migrations.md). */
import type { QueryRunner } from 'typeorm';
import { inTransaction, type LockedTable, requireNoTransaction, retry } from './locks.js';

const BATCH_ROWS = 1_000;

export interface BatchedChange {
  readonly table: LockedTable;
  /** The columns of the primary key. */
  readonly key: readonly string[];
  /** Which rows; unqualified column names. */
  readonly where: string;
  /** `delete`, or what UPDATE sets, e.g. `held = true`. */
  readonly change: 'delete' | { readonly set: string };
}

/**
 * Changes or deletes many rows, 1 000 in a transaction, in the order of their key. A request that
 * needs one of these rows waits for one batch at most.
 */
export async function changeInBatches(runner: QueryRunner, spec: BatchedChange): Promise<void> {
  requireNoTransaction(runner);
  let last: readonly string[] | undefined;
  do {
    last = await retry(runner, [spec.table], () =>
      inTransaction(runner, 1, () => changeBatch(runner, spec, last)),
    );
  } while (last !== undefined);
}

/** @returns the key of the last row of the batch; undefined when no row was left */
async function changeBatch(
  runner: QueryRunner,
  { table, key, where, change }: BatchedChange,
  after: readonly string[] | undefined,
): Promise<readonly string[] | undefined> {
  const columns = key.join(', ');
  const values = key.map((_, index) => `$${index + 1}`).join(', ');
  const isLater = after === undefined ? 'true' : `(${columns}) > (${values})`;
  const isInBatch = key.map((column) => `${table}.${column} = batch.${column}`).join(' AND ');
  const changeRows =
    change === 'delete'
      ? `DELETE FROM ${table} USING batch`
      : `UPDATE ${table} SET ${change.set} FROM batch`;
  const [last] = (await runner.query(
    `WITH batch AS (
       SELECT ${columns} FROM ${table} WHERE ${isLater} AND (${where})
        ORDER BY ${columns} LIMIT ${BATCH_ROWS} FOR UPDATE),
     changed AS (${changeRows} WHERE ${isInBatch})
     SELECT ARRAY[${key.map((column) => `${column}::text`).join(', ')}] AS key
       FROM batch ORDER BY ${key.map((column) => `${column} DESC`).join(', ')} LIMIT 1`,
    [...(after ?? [])],
  )) as { key: string[] }[];
  return last?.key;
}
