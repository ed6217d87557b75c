/**
 * Partitions of the outbox, each relayed by one node at a time, and blocked events (`held`). The
 * first blocked event of a subject, which the broker rejected, has `retry_at`; infinity means: not
 * before an operator asks. Blocked events are not in the index of their partition, so a batch reads
 * as many rows as without them.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { dropIndex, ensureIndex, type IndexSpec } from './online/indexes.js';
import { blockAccess } from './online/locks.js';

const INDEXES: readonly IndexSpec[] = [
  {
    table: 'outbox',
    name: 'outbox_lane',
    definition: '((hashtext(subject) & 15), position) WHERE published_at IS NULL AND NOT held',
  },
  {
    table: 'outbox',
    name: 'outbox_held',
    definition: '(subject, position) WHERE published_at IS NULL AND held',
  },
  {
    table: 'outbox',
    name: 'outbox_retry',
    definition:
      '((hashtext(subject) & 15), retry_at) WHERE published_at IS NULL AND retry_at IS NOT NULL',
  },
];
const REPLACED_INDEX: IndexSpec = {
  table: 'outbox',
  name: 'outbox_waiting_of_subject',
  definition: '(subject, position) WHERE published_at IS NULL',
};

export class OutboxLanes1763683200007 implements MigrationInterface {
  readonly name = 'OutboxLanes1763683200007';
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await blockAccess(
      runner,
      ['outbox'],
      [
        `ALTER TABLE outbox
           ADD COLUMN IF NOT EXISTS held boolean NOT NULL DEFAULT false,
           ADD COLUMN IF NOT EXISTS retry_at timestamptz(3)`,
      ],
    );
    for (const index of INDEXES) await ensureIndex(runner, index);
    await dropIndex(runner, REPLACED_INDEX.name);
  }

  async down(runner: QueryRunner): Promise<void> {
    await ensureIndex(runner, REPLACED_INDEX);
    for (const { name } of INDEXES) await dropIndex(runner, name);
    await blockAccess(
      runner,
      ['outbox'],
      [`ALTER TABLE outbox DROP COLUMN IF EXISTS held, DROP COLUMN IF EXISTS retry_at`],
    );
  }
}
