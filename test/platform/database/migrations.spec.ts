/**
 * Migrations on a real PostgreSQL: up, down to nothing and up again; by many nodes at once; by hand. And the drift: what the
 * migrations make is what the entities say, to the last default, check and index.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Client } from 'pg';
import { Column, DataSource, Entity, Index, PrimaryColumn } from 'typeorm';
import { timestampOfInsert } from '../../src/database/columns.js';
import { dataSourceOptions, MIGRATIONS } from '../../src/database/data-source.js';
import { migrateDatabase, pendingMigrations } from '../../src/database/migrate.js';
import { startApp, type TestApp } from '../support/app.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

const ALL = MIGRATIONS.map(({ name }) => name);
/** Foreign keys between modules live in SQL only: an entity knows another module's rows by their ids (architecture, rule 2). */
const FOREIGN_KEYS = [
  'credentials_user_id_fkey',
  'idempotency_keys_user_id_fkey',
  'known_devices_user_id_fkey',
  'order_events_actor_id_fkey',
  'order_events_order_id_fkey',
  'orders_user_id_fkey',
  'sessions_user_id_fkey',
];
/** Tables of the database's own, which no entity reads. */
const WITHOUT_ENTITY = ['cache_invalidations', 'migrations'];

const databases: TestDatabase[] = [];
const clients: Client[] = [];

async function migrated(): Promise<TestDatabase> {
  const database = await createTestDatabase();
  databases.push(database);
  return database;
}

/** A database in which nothing was ever made. */
async function empty(): Promise<TestDatabase> {
  const database = await migrated();
  const client = await connect(database);
  await client.query('DROP SCHEMA public CASCADE');
  await client.query('CREATE SCHEMA public');
  return database;
}

async function connect({ url }: TestDatabase): Promise<Client> {
  const client = new Client({ connectionString: url });
  await client.connect();
  clients.push(client);
  return client;
}

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end()));
  await Promise.all(databases.splice(0).map((database) => database.drop()));
});

/** Everything in the schema but the list of migrations, as text that two equal schemas share. */
async function schemaOf(client: Client): Promise<string[]> {
  const { rows } = await client.query(`
    WITH mine AS (SELECT oid, relname, relkind FROM pg_class
                   WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'migrations%' AND relname NOT LIKE 'PK\\_%')
    SELECT format('relation %s %s', relkind, relname) AS part FROM mine
    UNION ALL SELECT format('column %s.%s %s %s %s %s', relname, attname, format_type(atttypid, atttypmod), attnotnull,
                            attidentity, pg_get_expr(adbin, adrelid))
      FROM mine JOIN pg_attribute ON attrelid = mine.oid AND attnum > 0 AND NOT attisdropped
      LEFT JOIN pg_attrdef ON adrelid = mine.oid AND adnum = attnum WHERE relkind = 'r'
    UNION ALL SELECT format('constraint %s %s %s', relname, conname, pg_get_constraintdef(pg_constraint.oid))
      FROM mine JOIN pg_constraint ON conrelid = mine.oid
    UNION ALL SELECT 'index ' || pg_get_indexdef(mine.oid) FROM mine WHERE relkind = 'i'
    UNION ALL SELECT 'trigger ' || pg_get_triggerdef(pg_trigger.oid) FROM mine JOIN pg_trigger ON tgrelid = mine.oid AND NOT tgisinternal
    UNION ALL SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'sequence ' || to_jsonb(pg_sequences)::text FROM pg_sequences WHERE schemaname = 'public' AND sequencename NOT LIKE 'migrations%'
    ORDER BY 1`);
  return (rows as { part: string }[]).map(({ part }) => part);
}

describe('the migrations', () => {
  it('are listed in order, each under the name of its class', () => {
    expect(ALL).toEqual([...ALL].sort((a, b) => a.slice(-13).localeCompare(b.slice(-13))));
    expect(new Set(ALL).size).toBe(ALL.length);
    for (const migration of MIGRATIONS) expect(new migration().name).toBe(migration.name);
  });

  it('go up, down to nothing, and up to the same again', async () => {
    const database = await empty();
    const client = await connect(database);
    expect(await migrateDatabase(database.url)).toEqual(ALL);
    const schema = await schemaOf(client);
    expect(schema.length).toBeGreaterThan(100);
    for (const name of [...ALL].reverse())
      expect(await migrateDatabase(database.url, 'down')).toEqual([name]);
    expect(await schemaOf(client)).toEqual([]);
    expect(await migrateDatabase(database.url, 'down')).toEqual([]);
    expect(await migrateDatabase(database.url)).toEqual(ALL);
    expect(await schemaOf(client)).toEqual(schema);
  });

  it('each undo exactly what they do', async () => {
    const database = await migrated();
    const client = await connect(database);
    const before = await schemaOf(client);
    const schemas: string[][] = [];
    for (let step = 0; step < ALL.length; step++) {
      await migrateDatabase(database.url, 'down');
      schemas.push(await schemaOf(client));
    }
    // One at a time, up: TypeORM runs whatever is pending, so the later ones are called done.
    for (const [step, name] of ALL.entries()) {
      const later = ALL.slice(step + 1);
      await client.query(
        'INSERT INTO migrations (timestamp, name) SELECT right(name, 13)::bigint, name FROM unnest($1::text[]) AS name',
        [later],
      );
      expect(await migrateDatabase(database.url)).toEqual([name]);
      await client.query('DELETE FROM migrations WHERE name = ANY($1)', [later]);
      expect(await schemaOf(client)).toEqual(
        step + 1 === ALL.length ? before : schemas[ALL.length - step - 2],
      );
    }
  });

  it('have nothing to do, or to undo, the second time', async () => {
    const done = await migrated();
    expect(await migrateDatabase(done.url)).toEqual([]);
    expect(await migrateDatabase((await empty()).url, 'down')).toEqual([]);
  });

  it('keep the rows that are there', async () => {
    const database = await migrated();
    const client = await connect(database);
    await client.query(
      `INSERT INTO users (id, username, email) VALUES (gen_random_uuid(), 'keeper', 'keeper@example.com')`,
    );
    await migrateDatabase(database.url, 'down');
    await migrateDatabase(database.url);
    expect((await client.query('SELECT username FROM users')).rows).toEqual([
      { username: 'keeper' },
    ]);
  });

  it('that fail leave those before them done, those after them pending, and nothing of their own', async () => {
    const database = await empty();
    const client = await connect(database);
    await client.query('CREATE TABLE order_events (in_the_way integer)');
    const told = jest.spyOn(console, 'log').mockReturnValue();
    await expect(migrateDatabase(database.url)).rejects.toThrow(/order_events/);
    told.mockRestore();
    const failed = ALL.findIndex((name) => name.startsWith('Orders'));
    const pending = await pendingMigrations({
      query: async (sql) => (await client.query(sql)).rows,
    });
    expect(pending).toEqual(ALL.slice(failed));
    expect((await client.query(`SELECT to_regclass('orders') AS orders`)).rows).toEqual([
      { orders: null },
    ]);
    await client.query('DROP TABLE order_events');
    expect(await migrateDatabase(database.url)).toEqual(ALL.slice(failed));
  });
});

describe('nodes that start together', () => {
  it('let one migrate; the others find nothing to do', async () => {
    const { url } = await empty();
    const done = await Promise.all([1, 2, 3, 4].map(() => migrateDatabase(url)));
    expect(done.filter((names) => names.length > 0)).toEqual([ALL]);
    expect(done).toHaveLength(4);
  });

  it('wait for one that takes long', async () => {
    const database = await empty();
    const slow = await connect(database);
    await slow.query(
      `SELECT pg_advisory_lock(('x' || encode('holdfast', 'hex'))::bit(64)::bigint)`,
    );
    let done = false;
    const migrating = migrateDatabase(database.url).then((names) => ((done = true), names));
    await sleep(300);
    expect(done).toBe(false);
    await slow.query('SELECT pg_advisory_unlock_all()');
    expect(await migrating).toEqual(ALL);
  });
});

describe('MIGRATIONS', () => {
  let app: TestApp | undefined;
  afterEach(async () => {
    await app?.close();
    app = undefined;
  });

  it('"auto" brings the database up to date before the first request', async () => {
    const { url } = await empty();
    app = await startApp({ MIGRATIONS: 'auto' }, url);
    expect(await app.call('GET', '/health/ready')).toMatchObject({
      status: 200,
      body: { checks: { migrations: { status: 'up' } } },
    });
  });

  it('"manual" leaves them: not ready, naming them, until somebody has run them', async () => {
    const { url } = await empty();
    app = await startApp({ MIGRATIONS: 'manual', ADMIN_USERNAME: '', ADMIN_PASSWORD: '' }, url);
    expect(await app.call('GET', '/health/live')).toMatchObject({ status: 200 });
    expect(await app.call('GET', '/health/ready')).toMatchObject({
      status: 503,
      body: {
        code: 'not-ready',
        checks: { migrations: { status: 'down', pending: ALL }, postgres: { status: 'up' } },
      },
    });
    await migrateDatabase(url);
    await migrateDatabase(url, 'down');
    expect((await app.call('GET', '/health/ready')).body.checks.migrations.pending).toEqual(
      ALL.slice(-1),
    );
    await migrateDatabase(url);
    expect(await app.call('GET', '/health/ready')).toMatchObject({ status: 200 });
  });
});

describe('the schema', () => {
  let app: TestApp;
  let entities: readonly unknown[];

  beforeAll(async () => {
    app = await startApp();
    entities = app.app.get(DataSource).entityMetadatas.map(({ target }) => target);
  });
  afterAll(() => app.close());

  /** What would have to change for the database to be what the entities say, and the other way round. */
  async function drift(
    database: TestDatabase,
    of: readonly unknown[] = entities,
  ): Promise<string[]> {
    const dataSource = new DataSource({
      ...dataSourceOptions(database.url, 2),
      entities: of as never,
    });
    await dataSource.initialize();
    try {
      const wanted = (await dataSource.driver.createSchemaBuilder().log()).upQueries.map(
        ({ query }) => query,
      );
      const faults = wanted.filter(
        (sql) => !FOREIGN_KEYS.some((name) => sql.endsWith(`DROP CONSTRAINT "${name}"`)),
      );
      const runner = dataSource.createQueryRunner();
      const list = async (sql: string): Promise<string[]> =>
        ((await runner.query(sql)) as { name: string }[]).map(({ name }) => name);

      // TypeORM compares checks by name: here PostgreSQL itself says whether the text means the same.
      for (const { tableName, checks } of dataSource.entityMetadatas)
        for (const { name, expression } of checks) {
          const told = `SELECT pg_get_constraintdef(oid) AS name FROM pg_constraint WHERE conname = '${name}'`;
          const [is] = await list(told);
          await runner.startTransaction();
          await runner.query(`ALTER TABLE ${tableName} DROP CONSTRAINT IF EXISTS ${name}`);
          await runner.query(
            `ALTER TABLE ${tableName} ADD CONSTRAINT ${name} CHECK (${expression})`,
          );
          const [says] = await list(told);
          await runner.rollbackTransaction();
          if (is !== says) faults.push(`${name}: ${is} is not ${says}`);
        }

      // It leaves indexes alone that it cannot describe (DESC, partial, of expressions): by name, both ways.
      const named = dataSource.entityMetadatas.flatMap(({ indices, uniques }) =>
        [...indices, ...uniques].map(({ name }) => name),
      );
      const tables = dataSource.entityMetadatas.map(({ tableName }) => tableName);
      const made =
        await list(`SELECT indexname AS name FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%_pkey'
                                  AND tablename IN ('${tables.join("', '")}')`);
      faults.push(
        ...named.filter((name) => !made.includes(name)).map((name) => `no index ${name}`),
      );
      faults.push(
        ...made.filter((name) => !named.includes(name)).map((name) => `index ${name} of no entity`),
      );

      const all = await list(`SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'`);
      faults.push(
        ...all
          .filter((name) => !tables.includes(name) && !WITHOUT_ENTITY.includes(name))
          .map((name) => `table ${name} of no entity`),
      );
      const keys = await list(
        `SELECT conname AS name FROM pg_constraint WHERE contype = 'f' ORDER BY 1`,
      );
      if (keys.join() !== FOREIGN_KEYS.join()) faults.push(`foreign keys: ${keys.join()}`);
      return faults;
    } finally {
      await dataSource.destroy();
    }
  }

  it('is what the entities say', async () => {
    expect(entities.length).toBeGreaterThanOrEqual(7);
    expect(await drift(await migrated())).toEqual([]);
  });

  it('says nothing of times but to the millisecond, and of text but text', async () => {
    const client = await connect(await migrated());
    const { rows } = await client.query(
      `SELECT table_name || '.' || column_name || ' ' || data_type AS column FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> 'migrations'
          AND (data_type LIKE 'timestamp%' AND (data_type <> 'timestamp with time zone' OR datetime_precision <> 3)
               OR data_type IN ('character varying', 'character', 'json', 'real', 'double precision', 'numeric', 'money'))
          AND (table_name, column_name) <> ('order_figures', 'total')`,
    );
    expect(rows).toEqual([]);
  });

  it('is found to have drifted wherever somebody changed it by hand', async () => {
    const database = await migrated();
    const client = await connect(database);
    for (const [sql] of DRIFTS) await client.query(sql);
    const found = (await drift(database)).join('\n');
    expect(DRIFTS.filter(([, fault]) => !fault.test(found))).toEqual([]);
  });

  it('is found to have drifted by an entity that has lost a column', async () => {
    const database = await migrated();
    expect((await drift(database, [CredentialWithoutHash])).join('\n')).toMatch(
      /"credentials" DROP COLUMN "password_hash"/,
    );
  });

  it('is found to have drifted by an entity with an index that no migration made', async () => {
    const database = await migrated();
    expect((await drift(database, [CredentialWithIndex])).join('\n')).toMatch(
      /no index credentials_newest/,
    );
  });
});

/** What somebody did, and what the drift must say of it. */
const DRIFTS: readonly (readonly [sql: string, fault: RegExp])[] = [
  ['ALTER TABLE sessions DROP COLUMN ip', /"sessions" ADD "ip" text/],
  ['ALTER TABLE credentials ADD COLUMN extra text', /"credentials" DROP COLUMN "extra"/],
  ['ALTER TABLE outbox ALTER COLUMN trace_parent SET NOT NULL', /"trace_parent" DROP NOT NULL/],
  ['ALTER TABLE sessions ALTER COLUMN user_id DROP NOT NULL', /"user_id" SET NOT NULL/],
  [`ALTER TABLE users ALTER COLUMN roles SET DEFAULT '{admin}'`, /"roles" SET DEFAULT '{user}'/],
  ['ALTER TABLE orders ALTER COLUMN version DROP DEFAULT', /"version" SET DEFAULT '1'/],
  [
    'ALTER TABLE idempotency_keys ALTER COLUMN status TYPE integer',
    /"idempotency_keys" ADD "status" smallint/,
  ],
  ['ALTER TABLE users ALTER COLUMN deleted_at TYPE timestamptz(6)', /"deleted_at"/],
  ['ALTER TABLE orders DROP CONSTRAINT orders_items_count', /ADD CONSTRAINT "orders_items_count"/],
  [
    'ALTER TABLE orders DROP CONSTRAINT orders_total_range, ADD CONSTRAINT orders_total_range CHECK (total >= 0)',
    /orders_total_range: CHECK/,
  ],
  [
    `ALTER TABLE orders DROP CONSTRAINT orders_items_form, ADD CONSTRAINT orders_items_form CHECK (NOT jsonb_path_exists(items, '$[*] ? (@.quantity < 1)'))`,
    /orders_items_form: CHECK/,
  ],
  [
    'ALTER TABLE credentials DROP CONSTRAINT credentials_password_hash_form',
    /ADD CONSTRAINT "credentials_password_hash_form"/,
  ],
  ['DROP INDEX sessions_token_hash_key', /CREATE UNIQUE INDEX "sessions_token_hash_key"/],
  ['ALTER TABLE outbox DROP CONSTRAINT outbox_id_key', /outbox_id_key/],
  ['DROP INDEX orders_newest', /no index orders_newest/],
  ['CREATE INDEX stray ON orders (currency)', /index stray of no entity/],
  ['CREATE TABLE strange ()', /table strange of no entity/],
  [
    'ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey',
    /foreign keys: (?!.*orders_user_id_fkey)/,
  ],
  ['ALTER TABLE credentials DROP CONSTRAINT credentials_pkey', /credentials_pkey/],
];

@Entity('credentials')
class CredentialWithoutHash {
  @PrimaryColumn('uuid', { name: 'user_id', primaryKeyConstraintName: 'credentials_pkey' })
  userId: string;

  @Column(timestampOfInsert('updated_at'))
  updatedAt: Date;
}

@Entity('credentials')
@Index('credentials_newest', { synchronize: false })
class CredentialWithIndex {
  @PrimaryColumn('uuid', { name: 'user_id', primaryKeyConstraintName: 'credentials_pkey' })
  userId: string;
}
