/**
 * Users and their credentials, and two trigger functions for every table with a version or a time
 * of change. The row of a deleted user stays without its names: orders refer to its id.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess } from './online/locks.js';

export class Users1763683200000 implements MigrationInterface {
  readonly name = 'Users1763683200000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE FUNCTION move_version() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        NEW.version := OLD.version + 1;
        RETURN NEW;
      END $$`);
    await runner.query(`
      CREATE FUNCTION move_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        NEW.updated_at := greatest(OLD.updated_at, date_trunc('milliseconds', clock_timestamp()));
        RETURN NEW;
      END $$`);
    await runner.query(`
      CREATE TABLE users (
        id uuid NOT NULL,
        username text,
        email text,
        roles text[] NOT NULL DEFAULT '{user}',
        version bigint NOT NULL DEFAULT 1,
        created_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        updated_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        deleted_at timestamptz(3),
        CONSTRAINT users_pkey PRIMARY KEY (id),
        CONSTRAINT users_username_form CHECK (username ~ '^[a-z0-9_.-]{3,32}$'),
        CONSTRAINT users_email_form CHECK (length(email) BETWEEN 3 AND 254 AND email LIKE '%_@_%'),
        CONSTRAINT users_roles_known CHECK (
          roles <@ '{user,support,admin}' AND cardinality(roles) BETWEEN 1 AND 3),
        CONSTRAINT users_deleted_is_empty CHECK (
          (deleted_at IS NULL) = (username IS NOT NULL) AND (username IS NULL) = (email IS NULL))
      )`);
    await runner.query(`CREATE UNIQUE INDEX users_username_key ON users (username)`);
    await runner.query(`CREATE UNIQUE INDEX users_email_key ON users (lower(email))`);
    await runner.query(
      `CREATE INDEX users_newest ON users (created_at DESC, id DESC) WHERE deleted_at IS NULL`,
    );
    await runner.query(
      `CREATE TRIGGER users_version BEFORE UPDATE ON users
         FOR EACH ROW EXECUTE FUNCTION move_version()`,
    );
    await runner.query(
      `CREATE TRIGGER users_updated_at BEFORE UPDATE ON users
         FOR EACH ROW EXECUTE FUNCTION move_updated_at()`,
    );
    await runner.query(`
      CREATE TABLE credentials (
        user_id uuid NOT NULL,
        password_hash text NOT NULL,
        updated_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        CONSTRAINT credentials_pkey PRIMARY KEY (user_id),
        CONSTRAINT credentials_user_id_fkey
          FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
      )`);
    await runner.query(
      `CREATE TRIGGER credentials_updated_at BEFORE UPDATE ON credentials
         FOR EACH ROW EXECUTE FUNCTION move_updated_at()`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(
      runner,
      ['users', 'credentials'],
      [
        `DROP TABLE credentials, users`,
        `DROP FUNCTION move_updated_at()`,
        `DROP FUNCTION move_version()`,
      ],
    );
  }
}
