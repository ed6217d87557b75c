/**
 * Which cache may be used (`cache_epoch`), and which nodes answer from it (`cache_readers`). The
 * trigger compares what a transaction fenced, and in which epoch, with what it should have fenced
 * in the epoch of its COMMIT: whatever differs is enqueued (docs/design/cache-protocol.md).
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess } from './online/locks.js';

/**
 * A COMMIT and a registration hold this advisory lock shared until they end. So the epoch, which
 * moves under the exclusive lock, moves only between them.
 */
const CACHE_EPOCH_LOCK = 0x686f6c65;

/** No id comes twice, also after a failover that loses the current one. */
const RANDOM_EPOCH = `left(replace(gen_random_uuid()::text, '-', ''), 16)`;

/** The keys of the old and of the new value; a value that is NULL has no key. */
const KEYS_BEFORE_AND_AFTER =
  "array_remove(ARRAY[entity || ':' || part[1] || ':' || had, " +
  "entity || ':' || part[1] || ':' || has], NULL)";

const enqueueTouchedKeys = `IF TG_OP <> 'INSERT' THEN before := to_jsonb(OLD); END IF;
        IF TG_OP <> 'DELETE' THEN after := to_jsonb(NEW); END IF;
        touched := ARRAY[entity || ':id:' || coalesce(before ->> 'id', after ->> 'id')];
        FOR i IN 1 .. TG_NARGS - 1 LOOP
          part := string_to_array(TG_ARGV[i], ',');
          had := before ->> part[2];
          has := after ->> part[2];
          IF part[3] = 'lower' THEN
            had := lower(had);
            has := lower(has);
          END IF;
          IF had IS DISTINCT FROM has THEN
            touched := touched || ${KEYS_BEFORE_AND_AFTER};
          END IF;
        END LOOP;
        INSERT INTO cache_invalidations (keys) VALUES (touched);
        PERFORM pg_notify('holdfast_cache_invalidations', '');
        RETURN NULL;`;

export class CacheEpochs1763683200013 implements MigrationInterface {
  readonly name = 'CacheEpochs1763683200013';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE cache_epoch (
        only_row boolean NOT NULL DEFAULT true,
        epoch text NOT NULL DEFAULT ${RANDOM_EPOCH},
        cache text,
        server text,
        CONSTRAINT cache_epoch_pkey PRIMARY KEY (only_row),
        CONSTRAINT cache_epoch_is_one CHECK (only_row)
      )`);
    await runner.query(`INSERT INTO cache_epoch DEFAULT VALUES`);
    await runner.query(`
      CREATE TABLE cache_readers (
        registration uuid NOT NULL,
        epoch text NOT NULL,
        beat bigint NOT NULL DEFAULT 0,
        CONSTRAINT cache_readers_pkey PRIMARY KEY (registration)
      )`);
    await runner.query(`
      CREATE FUNCTION register_cache_reader(reader uuid, expected_epoch text) RETURNS boolean
      LANGUAGE plpgsql AS $$
      BEGIN
        PERFORM pg_advisory_xact_lock_shared(${CACHE_EPOCH_LOCK});
        IF NOT EXISTS (SELECT FROM cache_epoch WHERE epoch = expected_epoch) THEN
          RETURN false;
        END IF;
        INSERT INTO cache_readers (registration, epoch) VALUES (reader, expected_epoch);
        RETURN true;
      END $$`);
    // A COMMIT that hangs holds the lock: the move fails then, and is tried again.
    await runner.query(`
      CREATE FUNCTION move_cache_epoch(expected_epoch text, new_cache text, new_server text)
      RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
      BEGIN
        PERFORM pg_advisory_xact_lock(${CACHE_EPOCH_LOCK});
        IF EXISTS (SELECT FROM cache_readers) THEN
          RETURN false;
        END IF;
        UPDATE cache_epoch SET epoch = ${RANDOM_EPOCH}, cache = new_cache, server = new_server
         WHERE epoch = expected_epoch;
        IF NOT FOUND THEN
          RETURN false;
        END IF;
        PERFORM pg_notify('holdfast_cache_invalidations', '');
        RETURN true;
      END $$`);
    // A release before the epochs opens its gate only when it finds this table empty, and takes
    // rows from position 1 on. So this row keeps it from its cache, which the newer nodes do not fence.
    await runner.query(`
      INSERT INTO cache_invalidations (position, keys) OVERRIDING SYSTEM VALUE VALUES (0, '{}')`);
    // A transaction says what it fenced: <epoch>|<arguments of a trigger>|<of another>|…
    // Only READ COMMITTED sees here which epoch it is; another isolation level counts as unfenced.
    await runner.query(`
      CREATE OR REPLACE FUNCTION note_cache_invalidation() RETURNS trigger LANGUAGE plpgsql AS $$
      DECLARE
        declared text := coalesce(current_setting('holdfast.fenced', true), '');
        entity text := TG_ARGV[0];
        before jsonb;
        after jsonb;
        touched text[];
        part text[];
        had text;
        has text;
      BEGIN
        PERFORM pg_advisory_xact_lock_shared(${CACHE_EPOCH_LOCK});
        IF position('|' || array_to_string(TG_ARGV, ';') || '|' IN declared) > 0
           AND current_setting('transaction_isolation') = 'read committed'
           AND EXISTS (SELECT FROM cache_epoch WHERE epoch = split_part(declared, '|', 1)) THEN
          RAISE INFO 'fenced' USING ERRCODE = 'HF001';
          RETURN NULL;
        END IF;
        IF declared = 'on' AND EXISTS (SELECT FROM cache_readers) THEN
          RAISE EXCEPTION 'A node of an older release may not write while newer ones use the cache'
            USING ERRCODE = 'serialization_failure';
        END IF;
        ${enqueueTouchedKeys}
      END $$`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE OR REPLACE FUNCTION note_cache_invalidation() RETURNS trigger LANGUAGE plpgsql AS $$
      DECLARE
        entity text := TG_ARGV[0];
        before jsonb;
        after jsonb;
        touched text[];
        part text[];
        had text;
        has text;
      BEGIN
        IF current_setting('holdfast.fenced', true) = 'on' THEN
          RETURN NULL;
        END IF;
        ${enqueueTouchedKeys}
      END $$`);
    await runner.query(`DELETE FROM cache_invalidations WHERE position = 0`);
    await runner.query(`DROP FUNCTION move_cache_epoch(text, text, text)`);
    await runner.query(`DROP FUNCTION register_cache_reader(uuid, text)`);
    await blockAccess(
      runner,
      ['cache_epoch', 'cache_readers'],
      [`DROP TABLE cache_epoch, cache_readers`],
    );
  }
}
