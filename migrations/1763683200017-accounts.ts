/**
 * Idempotency keys of callers without a session: the owner of a key need not be a user. The users
 * that ADMIN_USERNAME created, by their ids. And the data of a deleted user in other tables: a
 * trigger removes it with the names in `users`, also when a node of an older release deletes.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { changeInBatches } from './online/batches.js';
import { addForeignKey } from './online/constraints.js';
import { dropIndex, ensureIndex } from './online/indexes.js';
import { blockAccess, blockWrites } from './online/locks.js';

/** Tables with events, and their keys. */
const EVENTS = [
  ['outbox', ['position']],
  ['inbox', ['consumer', 'event_id']],
] as const;

const ERASE_DELETED_USER = `
  CREATE OR REPLACE FUNCTION erase_deleted_user() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    UPDATE outbox SET data = jsonb_build_object('version', data -> 'version')
     WHERE subject = 'users/' || NEW.id AND starts_with(subject, 'users/');
    UPDATE inbox SET data = jsonb_build_object('version', data -> 'version')
     WHERE subject = 'users/' || NEW.id AND starts_with(subject, 'users/');
    DELETE FROM bootstrap_admins WHERE user_id = NEW.id;
    DELETE FROM idempotency_keys WHERE user_id = NEW.id;
    DELETE FROM idempotency_keys WHERE subject_id = NEW.id;
    RETURN NULL;
  END $$`;

/** Events of users that were deleted before there was a trigger. */
const IS_OF_DELETED_USER = `
  data <> jsonb_build_object('version', data -> 'version')
  AND EXISTS (
    SELECT FROM users
     WHERE deleted_at IS NOT NULL
       AND users.id = CASE WHEN starts_with(subject, 'users/') THEN substr(subject, 7)::uuid END)`;

export class Accounts1763683200017 implements MigrationInterface {
  readonly name = 'Accounts1763683200017';
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    // The foreign key never fired: rows of users stay.
    await blockAccess(
      runner,
      ['users', 'idempotency_keys'],
      [
        `ALTER TABLE idempotency_keys
           DROP CONSTRAINT IF EXISTS idempotency_keys_user_id_fkey,
           ADD COLUMN IF NOT EXISTS subject_id uuid`,
      ],
    );
    await ensureIndex(runner, {
      table: 'idempotency_keys',
      name: 'idempotency_keys_subject',
      definition: '(subject_id) WHERE subject_id IS NOT NULL',
    });
    await blockWrites(
      runner,
      ['users'],
      [
        `CREATE TABLE IF NOT EXISTS bootstrap_admins (
           username text NOT NULL,
           user_id uuid NOT NULL,
           CONSTRAINT bootstrap_admins_pkey PRIMARY KEY (username),
           CONSTRAINT bootstrap_admins_user_id_key UNIQUE (user_id),
           CONSTRAINT bootstrap_admins_user_id_fkey
             FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
         )`,
      ],
    );
    // Partial: the writes of orders and sessions keep no index for it.
    for (const [table] of EVENTS) {
      await ensureIndex(runner, {
        table,
        name: `${table}_of_user`,
        definition: `(subject) WHERE starts_with(subject, 'users/')`,
      });
    }
    await runner.query(ERASE_DELETED_USER);
    await blockWrites(
      runner,
      ['users'],
      [
        `CREATE OR REPLACE TRIGGER users_erasure AFTER UPDATE OF deleted_at ON users FOR EACH ROW
           WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL)
           EXECUTE FUNCTION erase_deleted_user()`,
      ],
    );
    for (const [table, key] of EVENTS) {
      const change = { set: `data = jsonb_build_object('version', data -> 'version')` };
      await changeInBatches(runner, { table, key, where: IS_OF_DELETED_USER, change });
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(runner, ['users'], [`DROP TRIGGER IF EXISTS users_erasure ON users`]);
    await runner.query(`DROP FUNCTION IF EXISTS erase_deleted_user()`);
    for (const [table] of EVENTS) await dropIndex(runner, `${table}_of_user`);
    await blockAccess(
      runner,
      ['users', 'bootstrap_admins'],
      [`DROP TABLE IF EXISTS bootstrap_admins`],
    );
    await changeInBatches(runner, {
      table: 'idempotency_keys',
      key: ['user_id', 'key'],
      where: 'NOT EXISTS (SELECT FROM users WHERE users.id = user_id)',
      change: 'delete',
    });
    await dropIndex(runner, 'idempotency_keys_subject');
    await blockAccess(
      runner,
      ['idempotency_keys'],
      [`ALTER TABLE idempotency_keys DROP COLUMN IF EXISTS subject_id`],
    );
    await addForeignKey(runner, {
      name: 'idempotency_keys_user_id_fkey',
      table: 'idempotency_keys',
      column: 'user_id',
      references: 'users',
      onDelete: 'CASCADE',
    });
  }
}
