/**
 * The event log only grows, whatever a session sets: the trigger fires with every
 * `session_replication_role`, and the owner of the table loses the rights to change rows. A role
 * that owns nothing (deploy/roles.sql) can restore neither.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockWrites } from './online/locks.js';

export class OrderHistory1763683200008 implements MigrationInterface {
  readonly name = 'OrderHistory1763683200008';

  async up(runner: QueryRunner): Promise<void> {
    await blockWrites(
      runner,
      ['order_events'],
      [
        `ALTER TABLE order_events ENABLE ALWAYS TRIGGER order_events_append_only`,
        `REVOKE UPDATE, DELETE, TRUNCATE ON order_events FROM PUBLIC, CURRENT_USER`,
      ],
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockWrites(
      runner,
      ['order_events'],
      [
        `GRANT UPDATE, DELETE, TRUNCATE ON order_events TO CURRENT_USER`,
        `ALTER TABLE order_events ENABLE TRIGGER order_events_append_only`,
      ],
    );
  }
}
