/**
 * The inbox gets what the outbox has: events that queue behind a failed one are marked (`held`), so
 * that no batch reads them again, and retries have an index. Events that failed for the last time
 * are listed in `inbox_dead_letters`; their rows stay in `inbox` with `retry_at` = infinity, which
 * blocks their subject. Tables with many dead rows are vacuumed early.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

/** By default, a fifth of a table must be dead before autovacuum begins. */
const QUEUES = ['outbox', 'inbox', 'idempotency_keys', 'cache_invalidations'];

const AUTOVACUUM = {
  autovacuum_vacuum_threshold: 1000,
  autovacuum_vacuum_scale_factor: 0.01,
  autovacuum_vacuum_insert_scale_factor: 0.05,
  autovacuum_analyze_scale_factor: 0.02,
  autovacuum_vacuum_cost_delay: 1,
};

export class EventQueues1763683200014 implements MigrationInterface {
  readonly name = 'EventQueues1763683200014';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE inbox ADD COLUMN held boolean NOT NULL DEFAULT false`);
    await runner.query(
      `UPDATE inbox SET held = true WHERE handled_at IS NULL AND retry_at IS NOT NULL`,
    );
    await runner.query(
      `CREATE INDEX inbox_held ON inbox (consumer, subject, position)
         WHERE handled_at IS NULL AND held`,
    );
    await runner.query(
      `CREATE INDEX inbox_retry ON inbox (consumer, retry_at)
         WHERE handled_at IS NULL AND retry_at IS NOT NULL`,
    );
    await runner.query(`
      CREATE TABLE inbox_dead_letters (
        consumer text NOT NULL,
        event_id uuid NOT NULL,
        type text NOT NULL,
        subject text NOT NULL,
        occurred_at timestamptz(3) NOT NULL,
        attempts integer NOT NULL,
        last_error text NOT NULL,
        died_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        CONSTRAINT inbox_dead_letters_pkey PRIMARY KEY (consumer, event_id)
      )`);
    const settings = Object.entries(AUTOVACUUM).map(([name, value]) => `${name} = ${value}`);
    for (const table of QUEUES) {
      await runner.query(`ALTER TABLE ${table} SET (${settings.join(', ')})`);
    }
    // Room for the update that counts an attempt: it then changes no index.
    await runner.query(`ALTER TABLE inbox SET (fillfactor = 80)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE inbox RESET (fillfactor)`);
    for (const table of QUEUES) {
      await runner.query(`ALTER TABLE ${table} RESET (${Object.keys(AUTOVACUUM).join(', ')})`);
    }
    await runner.query(`DROP TABLE inbox_dead_letters`);
    // The release before knows no dead letters: it tries these events again.
    await runner.query(
      `UPDATE inbox SET retry_at = now() WHERE handled_at IS NULL AND retry_at = 'infinity'`,
    );
    await runner.query(`DROP INDEX inbox_held, inbox_retry`);
    await runner.query(`ALTER TABLE inbox DROP COLUMN held`);
  }
}
