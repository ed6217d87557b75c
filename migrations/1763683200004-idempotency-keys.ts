/**
 * Idempotency keys: a fingerprint of the request that a user sent with the key, and its response,
 * kept for 24 hours.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess, blockWrites } from './online/locks.js';

export class IdempotencyKeys1763683200004 implements MigrationInterface {
  readonly name = 'IdempotencyKeys1763683200004';

  async up(runner: QueryRunner): Promise<void> {
    await blockWrites(
      runner,
      ['users'],
      [
        `
      CREATE TABLE idempotency_keys (
        user_id uuid NOT NULL,
        key text NOT NULL,
        fingerprint text NOT NULL,
        status smallint NOT NULL,
        headers jsonb NOT NULL,
        body text NOT NULL,
        cache_keys text[] NOT NULL,
        created_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, key),
        CONSTRAINT idempotency_keys_user_id_fkey
          FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
        CONSTRAINT idempotency_keys_key_length CHECK (length(key) BETWEEN 1 AND 255)
      )`,
        `CREATE INDEX idempotency_keys_expiring ON idempotency_keys (created_at)`,
      ],
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(runner, ['users', 'idempotency_keys'], [`DROP TABLE idempotency_keys`]);
  }
}
