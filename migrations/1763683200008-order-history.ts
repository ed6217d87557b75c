/**
 * The history of orders only grows, whatever a session says of itself: the trigger fires under every
 * `session_replication_role`, and not even the table's owner has the rights that it would refuse. A role of the service that
 * owns nothing (deploy/roles.sql) can take neither of them away.
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
