/**
 * Indexes for the filtered lists of orders, all in one direction: a page is then one range of an
 * index (src/platform/http/pagination.ts). In the index by status and user, the status comes first,
 * so that the planner cannot read the index of the user and filter. The old release reads the new
 * indexes backwards.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

const INDEXES: readonly (readonly [name: string, oldColumns: string, newColumns: string])[] = [
  ['orders_of_user', 'user_id, created_at DESC, id DESC', 'user_id, created_at, id'],
  ['orders_by_status', 'status, created_at DESC, id DESC', 'status, created_at, id'],
  [
    'orders_of_user_by_status',
    'user_id, status, created_at DESC, id DESC',
    'status, user_id, created_at, id',
  ],
];

export class OrderLists1763683200012 implements MigrationInterface {
  readonly name = 'OrderLists1763683200012';

  async up(runner: QueryRunner): Promise<void> {
    await replaceIndexes(
      runner,
      INDEXES.map(([name, , newColumns]) => [name, newColumns]),
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await replaceIndexes(
      runner,
      INDEXES.map(([name, oldColumns]) => [name, oldColumns]),
    );
  }
}

/** CREATE INDEX lets others read the table meanwhile; writes wait. */
async function replaceIndexes(
  runner: QueryRunner,
  indexes: readonly (readonly [string, string])[],
): Promise<void> {
  for (const [name, columns] of indexes) {
    await runner.query(`CREATE INDEX ${name}_next ON orders (${columns})`);
  }
  // At the end, because DROP INDEX makes reads wait as well.
  for (const [name] of indexes) {
    await runner.query(`DROP INDEX ${name}`);
    await runner.query(`ALTER INDEX ${name}_next RENAME TO ${name}`);
  }
}
