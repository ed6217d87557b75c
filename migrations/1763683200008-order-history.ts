/**
 * The event log only grows, whatever a session sets: the trigger fires with every
 * `session_replication_role`, and the owner of the table loses the rights to change rows. A role
 * that owns nothing (deploy/roles.sql) can restore neither.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

export class OrderHistory1763683200008 implements MigrationInterface {
  readonly name = 'OrderHistory1763683200008';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE order_events ENABLE ALWAYS TRIGGER order_events_append_only`);
    await runner.query(`REVOKE UPDATE, DELETE, TRUNCATE ON order_events FROM PUBLIC, CURRENT_USER`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`GRANT UPDATE, DELETE, TRUNCATE ON order_events TO CURRENT_USER`);
    await runner.query(`ALTER TABLE order_events ENABLE TRIGGER order_events_append_only`);
  }
}
