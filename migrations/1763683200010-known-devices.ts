/**
 * Hashes of the devices that a user has logged in from. Failed logins of strangers must not lock
 * these devices out.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess, blockWrites } from './online/locks.js';

export class KnownDevices1763683200010 implements MigrationInterface {
  readonly name = 'KnownDevices1763683200010';

  async up(runner: QueryRunner): Promise<void> {
    await blockWrites(
      runner,
      ['users'],
      [
        `
      CREATE TABLE known_devices (
        user_id uuid NOT NULL,
        device_hash text NOT NULL,
        last_used_at timestamptz(3) NOT NULL
          DEFAULT date_trunc('milliseconds', statement_timestamp()),
        CONSTRAINT known_devices_pkey PRIMARY KEY (user_id, device_hash),
        CONSTRAINT known_devices_user_id_fkey
          FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
        CONSTRAINT known_devices_hash_form CHECK (device_hash ~ '^[0-9a-f]{64}$')
      )`,
        `CREATE INDEX known_devices_oldest ON known_devices (last_used_at)`,
      ],
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(runner, ['users', 'known_devices'], [`DROP TABLE known_devices`]);
  }
}
