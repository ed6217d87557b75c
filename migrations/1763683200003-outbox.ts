/**
 * The outbox: domain events that commit together with the change that caused them, and then wait
 * for the broker.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess } from './online/locks.js';

export class Outbox1763683200003 implements MigrationInterface {
  readonly name = 'Outbox1763683200003';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE outbox (
        position bigint GENERATED ALWAYS AS IDENTITY,
        id uuid NOT NULL,
        type text NOT NULL,
        subject text NOT NULL,
        data jsonb NOT NULL,
        trace_parent text,
        occurred_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        published_at timestamptz(3),
        attempts integer NOT NULL DEFAULT 0,
        last_error text,
        CONSTRAINT outbox_pkey PRIMARY KEY (position),
        CONSTRAINT outbox_id_key UNIQUE (id)
      )`);
    await runner.query(
      `CREATE INDEX outbox_waiting ON outbox (position) WHERE published_at IS NULL`,
    );
    await runner.query(
      `CREATE INDEX outbox_waiting_of_subject ON outbox (subject, position)
         WHERE published_at IS NULL`,
    );
    await runner.query(
      `CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(runner, ['outbox'], [`DROP TABLE outbox`]);
  }
}
