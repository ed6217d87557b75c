/**
 * The indexes of the filtered lists of orders, each in one direction, so that a page is a range of one index, as a comparison of
 * rows says it (src/http/pagination.ts). By state and user the state comes first: a user's own index has then no part of the order.
 * Built before the old ones go: lists are read meanwhile, orders wait. The old release's lists walk the new ones backwards.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

const INDEXES: readonly (readonly [name: string, before: string, now: string])[] = [
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
    await replace(
      runner,
      INDEXES.map(([name, , now]) => [name, now]),
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await replace(
      runner,
      INDEXES.map(([name, before]) => [name, before]),
    );
  }
}

async function replace(
  runner: QueryRunner,
  indexes: readonly (readonly [string, string])[],
): Promise<void> {
  for (const [name, columns] of indexes)
    await runner.query(`CREATE INDEX ${name}_next ON orders (${columns})`);
  // Last and together: from here on readers wait as well.
  for (const [name] of indexes) {
    await runner.query(`DROP INDEX ${name}`);
    await runner.query(`ALTER INDEX ${name}_next RENAME TO ${name}`);
  }
}
