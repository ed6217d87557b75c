/**
 * Failed logins, counted where nothing is evicted, and the key of the device tokens
 * (docs/adr/0020-known-devices.md). `known_devices` is no longer used. It stays, empty, for nodes
 * of the previous release; a later migration drops it.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { changeInBatches } from './online/batches.js';
import { blockAccess } from './online/locks.js';

/**
 * Each key has two leaky buckets. A failure adds its interval to `…_drained_at`, the time at which
 * the bucket will be empty. A bucket is full when it would need more than `burst` intervals.
 */
const COUNT_FAILED_LOGIN = `
  CREATE OR REPLACE FUNCTION count_failed_login(
    attempt_keys bytea[], short_bursts int[], short_intervals interval[],
    long_bursts int[], long_intervals interval[]
  ) RETURNS double precision LANGUAGE plpgsql AS $$
  DECLARE
    at timestamptz;
    free_at timestamptz;
  BEGIN
    -- In the order of the keys, here and below: attempts that share keys do not deadlock.
    SELECT max(greatest(
        locked.short_drained_at - short_intervals[locked.i] * (short_bursts[locked.i] - 1),
        locked.long_drained_at - long_intervals[locked.i] * (long_bursts[locked.i] - 1)))
      INTO free_at
      FROM (
        SELECT attempt.i, counted.short_drained_at, counted.long_drained_at
          FROM unnest(attempt_keys) WITH ORDINALITY AS attempt (key, i)
          JOIN failed_logins AS counted ON counted.key = attempt.key
         ORDER BY counted.key FOR UPDATE OF counted
      ) AS locked;
    -- Now, not at the start: others may have counted while this attempt waited for their locks.
    at := date_trunc('milliseconds', clock_timestamp());
    IF free_at > at THEN
      RETURN extract(epoch FROM free_at - at);
    END IF;
    -- A row that another attempt inserts meanwhile was not locked above.
    INSERT INTO failed_logins AS counted (key, short_drained_at, long_drained_at)
    SELECT attempt.key, at + short_intervals[attempt.i], at + long_intervals[attempt.i]
      FROM unnest(attempt_keys) WITH ORDINALITY AS attempt (key, i)
     ORDER BY attempt.key
    ON CONFLICT (key) DO UPDATE
       SET short_drained_at = greatest(counted.short_drained_at, at)
                            + (excluded.short_drained_at - at),
           long_drained_at = greatest(counted.long_drained_at, at)
                           + (excluded.long_drained_at - at);
    SELECT max(greatest(
        counted.short_drained_at - short_intervals[attempt.i] * short_bursts[attempt.i],
        counted.long_drained_at - long_intervals[attempt.i] * long_bursts[attempt.i]))
      INTO free_at
      FROM unnest(attempt_keys) WITH ORDINALITY AS attempt (key, i)
      JOIN failed_logins AS counted ON counted.key = attempt.key;
    at := clock_timestamp();
    IF free_at > at THEN
      UPDATE failed_logins AS counted
         SET short_drained_at = counted.short_drained_at - short_intervals[attempt.i],
             long_drained_at = counted.long_drained_at - long_intervals[attempt.i]
        FROM unnest(attempt_keys) WITH ORDINALITY AS attempt (key, i)
       WHERE counted.key = attempt.key;
      RETURN extract(epoch FROM free_at - at);
    END IF;
    RETURN 0;
  END $$`;

export class FailedLogins1763683200015 implements MigrationInterface {
  readonly name = 'FailedLogins1763683200015';
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    // Its rows live for hours at most: vacuum must come often, and has little to do.
    await runner.query(`
      CREATE TABLE IF NOT EXISTS failed_logins (
        key bytea NOT NULL,
        short_drained_at timestamptz(3) NOT NULL,
        long_drained_at timestamptz(3) NOT NULL,
        CONSTRAINT failed_logins_pkey PRIMARY KEY (key),
        CONSTRAINT failed_logins_key_length CHECK (length(key) = 16)
      ) WITH (autovacuum_vacuum_scale_factor = 0.02)`);
    await runner.query(
      `CREATE INDEX IF NOT EXISTS failed_logins_drained ON failed_logins (long_drained_at)`,
    );
    await runner.query(COUNT_FAILED_LOGIN);
    await runner.query(`
      CREATE TABLE IF NOT EXISTS device_key (
        only_row boolean NOT NULL DEFAULT true,
        key bytea NOT NULL DEFAULT
          decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
        CONSTRAINT device_key_pkey PRIMARY KEY (only_row),
        CONSTRAINT device_key_is_one CHECK (only_row),
        CONSTRAINT device_key_length CHECK (length(key) = 32)
      )`);
    await runner.query(`INSERT INTO device_key DEFAULT VALUES ON CONFLICT DO NOTHING`);
    await changeInBatches(runner, {
      table: 'known_devices',
      key: ['user_id', 'device_hash'],
      where: 'true',
      change: 'delete',
    });
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(runner, ['device_key'], [`DROP TABLE IF EXISTS device_key`]);
    await runner.query(
      `DROP FUNCTION IF EXISTS count_failed_login(bytea[], int[], interval[], int[], interval[])`,
    );
    await blockAccess(runner, ['failed_logins'], [`DROP TABLE IF EXISTS failed_logins`]);
  }
}
