/**
 * Partitions of the outbox, each relayed by one node at a time, and blocked events (`held`). The
 * first blocked event of a subject, which the broker rejected, has `retry_at`; infinity means: not
 * before an operator asks. Blocked events are not in the index of their partition, so a batch reads
 * as many rows as without them.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

export class OutboxLanes1763683200007 implements MigrationInterface {
  readonly name = 'OutboxLanes1763683200007';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(
      `ALTER TABLE outbox
         ADD COLUMN held boolean NOT NULL DEFAULT false,
         ADD COLUMN retry_at timestamptz(3)`,
    );
    await runner.query(
      `CREATE INDEX outbox_lane ON outbox ((hashtext(subject) & 15), position)
         WHERE published_at IS NULL AND NOT held`,
    );
    await runner.query(
      `CREATE INDEX outbox_held ON outbox (subject, position) WHERE published_at IS NULL AND held`,
    );
    await runner.query(
      `CREATE INDEX outbox_retry ON outbox ((hashtext(subject) & 15), retry_at)
         WHERE published_at IS NULL AND retry_at IS NOT NULL`,
    );
    await runner.query(`DROP INDEX outbox_waiting_of_subject`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP INDEX outbox_lane, outbox_held, outbox_retry`);
    await runner.query(`ALTER TABLE outbox DROP COLUMN held, DROP COLUMN retry_at`);
    await runner.query(
      `CREATE INDEX outbox_waiting_of_subject ON outbox (subject, position)
         WHERE published_at IS NULL`,
    );
  }
}
