/**
 * Cache invalidation through the database, for a transaction that changes a cached row without
 * fencing its keys: psql, another program, a node without a connection to the cache. A trigger
 * enqueues the keys at COMMIT, so that the transaction can say before whether it fenced them
 * (`holdfast.fenced`). 1763683200013-cache-epochs.ts changes what it says.
 */
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { blockAccess, blockWrites, type LockedTable } from './online/locks.js';

/**
 * Table, entity, and each alias or collection of its `@Cached` as `<name>,<column>[,lower]`. These
 * are the arguments of the trigger.
 */
const CACHED_TABLES: readonly [table: LockedTable, entity: string, ...keys: string[]][] = [
  ['users', 'user', 'username,username', 'email,email,lower'],
  ['sessions', 'session', 'tokenHash,token_hash'],
  ['orders', 'order', 'ofUser,user_id'],
];

const TABLES = CACHED_TABLES.map(([table]) => table);

/** The keys of the old and of the new value; a value that is NULL has no key. */
const KEYS_BEFORE_AND_AFTER =
  "array_remove(ARRAY[entity || ':' || part[1] || ':' || had, " +
  "entity || ':' || part[1] || ':' || has], NULL)";

export class CacheInvalidations1763683200005 implements MigrationInterface {
  readonly name = 'CacheInvalidations1763683200005';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE cache_invalidations (
        position bigint GENERATED ALWAYS AS IDENTITY,
        keys text[] NOT NULL,
        created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT cache_invalidations_pkey PRIMARY KEY (position)
      )`);
    await runner.query(`
      CREATE FUNCTION note_cache_invalidation() RETURNS trigger LANGUAGE plpgsql AS $$
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
        IF TG_OP <> 'INSERT' THEN before := to_jsonb(OLD); END IF;
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
        RETURN NULL;
      END $$`);
    await blockWrites(
      runner,
      TABLES,
      CACHED_TABLES.map(([table, ...args]) => {
        const quoted = args.map((arg) => `'${arg}'`).join(', ');
        return `
          CREATE CONSTRAINT TRIGGER ${table}_cache_invalidation
            AFTER INSERT OR UPDATE OR DELETE ON ${table}
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            EXECUTE FUNCTION note_cache_invalidation(${quoted})`;
      }),
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await blockAccess(runner, TABLES, [
      ...CACHED_TABLES.map(([table]) => `DROP TRIGGER ${table}_cache_invalidation ON ${table}`),
      `DROP FUNCTION note_cache_invalidation()`,
    ]);
    await blockAccess(runner, ['cache_invalidations'], [`DROP TABLE cache_invalidations`]);
  }
}
