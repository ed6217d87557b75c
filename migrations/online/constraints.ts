/**
 * Constraints of tables that requests use. Invariant: rows are read only without a lock that
 * keeps requests out (docs/adr/0025-online-migrations.md).
 */
import type { QueryRunner } from 'typeorm';
import {
  blockAccess,
  blockWrites,
  type LockedTable,
  requireNoTransaction,
  retry,
} from './locks.js';

/**
 * Adds constraints: at first for new and changed rows only, then the existing rows are checked while
 * requests go on.
 * @param constraints name → expression
 */
export async function addChecks(
  runner: QueryRunner,
  table: LockedTable,
  constraints: Readonly<Record<string, string>>,
): Promise<void> {
  requireNoTransaction(runner);
  const names = Object.keys(constraints);
  const present = await findConstraints(runner, table);
  const missing = names.filter((name) => !present.has(name));
  const additions = missing.map(
    (name) => `ADD CONSTRAINT ${name} CHECK (${constraints[name]}) NOT VALID`,
  );
  if (additions.length > 0) {
    await blockAccess(runner, [table], [`ALTER TABLE ${table} ${additions.join(', ')}`]);
  }
  await validate(runner, table, names);
}

/** {@link addChecks} for a foreign key to the column `id` of another table. */
export async function addForeignKey(
  runner: QueryRunner,
  key: {
    readonly name: string;
    readonly table: LockedTable;
    readonly column: string;
    readonly references: LockedTable;
    readonly onDelete?: 'CASCADE';
  },
): Promise<void> {
  requireNoTransaction(runner);
  const { name, table, column, references, onDelete } = key;
  const action = onDelete ? ` ON DELETE ${onDelete}` : '';
  const present = await findConstraints(runner, table);
  if (!present.has(name)) {
    await blockWrites(
      runner,
      [table, references],
      [
        `ALTER TABLE ${table} ADD CONSTRAINT ${name}
           FOREIGN KEY (${column}) REFERENCES ${references} (id)${action} NOT VALID`,
      ],
    );
  }
  await validate(runner, table, [name]);
}

/** @param references the table that a foreign key among them refers to */
export async function dropConstraints(
  runner: QueryRunner,
  table: LockedTable,
  names: readonly string[],
  references: readonly LockedTable[] = [],
): Promise<void> {
  const removals = names.map((name) => `DROP CONSTRAINT IF EXISTS ${name}`);
  const sql = `ALTER TABLE ${table} ${removals.join(', ')}`;
  await blockAccess(runner, [table, ...references], [sql]);
}

/** In one statement: the rows are read once. Requests neither wait for it nor behind it. */
async function validate(
  runner: QueryRunner,
  table: LockedTable,
  names: readonly string[],
): Promise<void> {
  const present = await findConstraints(runner, table);
  const pending = names.filter((name) => present.get(name) === false);
  if (pending.length === 0) return;
  const validations = pending.map((name) => `VALIDATE CONSTRAINT ${name}`);
  await retry(runner, [table], () =>
    runner.query(`ALTER TABLE ${table} ${validations.join(', ')}`),
  );
}

/** Name → whether the existing rows are checked. */
async function findConstraints(
  runner: QueryRunner,
  table: LockedTable,
): Promise<Map<string, boolean>> {
  const rows = (await runner.query(
    `SELECT conname AS name, convalidated AS "isValid" FROM pg_constraint
      WHERE conrelid = to_regclass($1)`,
    [table],
  )) as { name: string; isValid: boolean }[];
  return new Map(rows.map(({ name, isValid }) => [name, isValid]));
}
