/**
 * Indexes for the filtered lists of orders, all in one direction: a page is then one range of an
 * index (src/platform/http/pagination.ts). In the index by status and user, the status comes first,
 * so that the planner cannot read the index of the user and filter. The old release reads the new
 * indexes backwards.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { ensureIndex } from './online/indexes.js';

const INDEXES = [
  ['orders_of_user', '(user_id, created_at DESC, id DESC)', '(user_id, created_at, id)'],
  ['orders_by_status', '(status, created_at DESC, id DESC)', '(status, created_at, id)'],
  [
    'orders_of_user_by_status',
    '(user_id, status, created_at DESC, id DESC)',
    '(status, user_id, created_at, id)',
  ],
] as const;

export class OrderLists1763683200012 implements MigrationInterface {
  readonly name = 'OrderLists1763683200012';
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    for (const [name, , definition] of INDEXES) {
      await ensureIndex(runner, { table: 'orders', name, definition });
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const [name, definition] of INDEXES) {
      await ensureIndex(runner, { table: 'orders', name, definition });
    }
  }
}
