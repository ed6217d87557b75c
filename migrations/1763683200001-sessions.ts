/**
 * Sessions. Their rows are deleted, and a cache may remember the version of a deleted row. So an
 * insert takes a version above every version of an earlier row: the sequence leaves 2^16 versions
 * to each row, and a session uses at most one a minute.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess, blockWrites } from './online/locks.js';

export class Sessions1763683200001 implements MigrationInterface {
  readonly name = 'Sessions1763683200001';

  async up(runner: QueryRunner): Promise<void> {
    await blockWrites(
      runner,
      ['users'],
      [
        `CREATE SEQUENCE session_versions AS bigint INCREMENT BY 65536 START WITH 65536`,
        `
      CREATE TABLE sessions (
        id uuid NOT NULL,
        user_id uuid NOT NULL,
        token_hash text NOT NULL,
        user_agent text,
        ip text,
        version bigint NOT NULL DEFAULT nextval('session_versions'),
        created_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        last_seen_at timestamptz(3) NOT NULL,
        expires_at timestamptz(3) NOT NULL,
        CONSTRAINT sessions_pkey PRIMARY KEY (id),
        CONSTRAINT sessions_user_id_fkey
          FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
        CONSTRAINT sessions_token_hash_form CHECK (token_hash ~ '^[0-9a-f]{64}$')
      )`,
        `ALTER SEQUENCE session_versions OWNED BY sessions.version`,
        `CREATE UNIQUE INDEX sessions_token_hash_key ON sessions (token_hash)`,
        `CREATE INDEX sessions_of_user ON sessions (user_id, created_at DESC, id DESC)`,
        `CREATE INDEX sessions_expiring ON sessions (expires_at)`,
        `CREATE TRIGGER sessions_version BEFORE UPDATE ON sessions
         FOR EACH ROW EXECUTE FUNCTION move_version()`,
      ],
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(runner, ['users', 'sessions'], [`DROP TABLE sessions`]);
  }
}
