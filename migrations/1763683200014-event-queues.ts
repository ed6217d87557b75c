/**
 * The inbox gets what the outbox has: events that queue behind a failed one are marked (`held`), so
 * that no batch reads them again, and retries have an index. Events that failed for the last time
 * are listed in `inbox_dead_letters`; their rows stay in `inbox` with `retry_at` = infinity, which
 * blocks their subject. Tables with many dead rows are vacuumed early.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { changeInBatches } from './online/batches.js';
import { dropIndex, ensureIndex } from './online/indexes.js';
import { blockAccess, blockWrites } from './online/locks.js';

/** By default, a fifth of a table must be dead before autovacuum begins. */
const QUEUES = ['outbox', 'inbox', 'idempotency_keys', 'cache_invalidations'] as const;

const AUTOVACUUM = {
  autovacuum_vacuum_threshold: 1000,
  autovacuum_vacuum_scale_factor: 0.01,
  autovacuum_vacuum_insert_scale_factor: 0.05,
  autovacuum_analyze_scale_factor: 0.02,
  autovacuum_vacuum_cost_delay: 1,
};

const INBOX_KEY = ['consumer', 'event_id'];

export class EventQueues1763683200014 implements MigrationInterface {
  readonly name = 'EventQueues1763683200014';
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await blockAccess(
      runner,
      ['inbox'],
      [
        `ALTER TABLE inbox ADD COLUMN IF NOT EXISTS held boolean NOT NULL DEFAULT false`,
        // Room for the update that counts an attempt: it then changes no index.
        `ALTER TABLE inbox SET (fillfactor = 80)`,
      ],
    );
    await changeInBatches(runner, {
      table: 'inbox',
      key: INBOX_KEY,
      where: 'handled_at IS NULL AND retry_at IS NOT NULL AND NOT held',
      change: { set: 'held = true' },
    });
    await ensureIndex(runner, {
      table: 'inbox',
      name: 'inbox_held',
      definition: '(consumer, subject, position) WHERE handled_at IS NULL AND held',
    });
    await ensureIndex(runner, {
      table: 'inbox',
      name: 'inbox_retry',
      definition: '(consumer, retry_at) WHERE handled_at IS NULL AND retry_at IS NOT NULL',
    });
    await runner.query(`
      CREATE TABLE IF NOT EXISTS inbox_dead_letters (
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
      await blockWrites(runner, [table], [`ALTER TABLE ${table} SET (${settings.join(', ')})`]);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    const settings = Object.keys(AUTOVACUUM).join(', ');
    for (const table of QUEUES) {
      await blockWrites(runner, [table], [`ALTER TABLE ${table} RESET (${settings})`]);
    }
    await blockAccess(runner, ['inbox_dead_letters'], [`DROP TABLE IF EXISTS inbox_dead_letters`]);
    // The release before knows no dead letters: it tries these events again.
    await changeInBatches(runner, {
      table: 'inbox',
      key: INBOX_KEY,
      where: `handled_at IS NULL AND retry_at = 'infinity'`,
      change: { set: 'retry_at = now()' },
    });
    await dropIndex(runner, 'inbox_held');
    await dropIndex(runner, 'inbox_retry');
    await blockAccess(
      runner,
      ['inbox'],
      [`ALTER TABLE inbox RESET (fillfactor)`, `ALTER TABLE inbox DROP COLUMN IF EXISTS held`],
    );
  }
}
