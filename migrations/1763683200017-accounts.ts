/**
 * Idempotency keys of callers without a session: the owner of a key need not be a user. The users
 * that ADMIN_USERNAME created, by their ids. And the data of a deleted user in other tables: a
 * trigger removes it with the names in `users`, also when a node of an older release deletes.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Accounts1763683200017 implements MigrationInterface {
  readonly name = 'Accounts1763683200017';

  async up(runner: QueryRunner): Promise<void> {
    // It never fired: rows of users stay.
    await runner.query(
      `ALTER TABLE idempotency_keys
         DROP CONSTRAINT idempotency_keys_user_id_fkey,
         ADD COLUMN subject_id uuid`,
    );
    await runner.query(
      `CREATE INDEX idempotency_keys_subject ON idempotency_keys (subject_id)
         WHERE subject_id IS NOT NULL`,
    );
    await runner.query(`
      CREATE TABLE bootstrap_admins (
        username text NOT NULL,
        user_id uuid NOT NULL,
        CONSTRAINT bootstrap_admins_pkey PRIMARY KEY (username),
        CONSTRAINT bootstrap_admins_user_id_key UNIQUE (user_id),
        CONSTRAINT bootstrap_admins_user_id_fkey
          FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
      )`);
    // Partial: the writes of orders and sessions keep no index for it.
    for (const table of ['outbox', 'inbox']) {
      await runner.query(
        `CREATE INDEX ${table}_of_user ON ${table} (subject) WHERE starts_with(subject, 'users/')`,
      );
    }
    await runner.query(`
      CREATE FUNCTION erase_deleted_user() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        UPDATE outbox SET data = jsonb_build_object('version', data -> 'version')
         WHERE subject = 'users/' || NEW.id AND starts_with(subject, 'users/');
        UPDATE inbox SET data = jsonb_build_object('version', data -> 'version')
         WHERE subject = 'users/' || NEW.id AND starts_with(subject, 'users/');
        DELETE FROM bootstrap_admins WHERE user_id = NEW.id;
        DELETE FROM idempotency_keys WHERE user_id = NEW.id;
        DELETE FROM idempotency_keys WHERE subject_id = NEW.id;
        RETURN NULL;
      END $$`);
    await runner.query(
      `CREATE TRIGGER users_erasure AFTER UPDATE OF deleted_at ON users FOR EACH ROW
         WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL)
         EXECUTE FUNCTION erase_deleted_user()`,
    );
    // The users that were deleted before.
    for (const table of ['outbox', 'inbox']) {
      await runner.query(
        `UPDATE ${table} SET data = jsonb_build_object('version', data -> 'version')
           FROM users
          WHERE deleted_at IS NOT NULL AND subject = 'users/' || users.id
            AND starts_with(subject, 'users/')`,
      );
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TRIGGER users_erasure ON users`);
    await runner.query(`DROP FUNCTION erase_deleted_user()`);
    await runner.query(`DROP INDEX outbox_of_user, inbox_of_user`);
    await runner.query(`DROP TABLE bootstrap_admins`);
    await runner.query(
      `DELETE FROM idempotency_keys
        WHERE NOT EXISTS (SELECT FROM users WHERE users.id = idempotency_keys.user_id)`,
    );
    await runner.query(`DROP INDEX idempotency_keys_subject`);
    await runner.query(
      `ALTER TABLE idempotency_keys
         DROP COLUMN subject_id,
         ADD CONSTRAINT idempotency_keys_user_id_fkey
           FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE`,
    );
  }
}
