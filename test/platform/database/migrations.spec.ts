/**
 * Migrations on a real PostgreSQL: up, down to nothing and up again, by many nodes at once, and by
 * hand. And what they make is what the entities say.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Client } from 'pg';
import { Column, DataSource, Entity, Index, PrimaryColumn } from 'typeorm';
import { MIGRATIONS } from '#migrations';
import { timestampOfInsert } from '../../../src/platform/database/columns.js';
import { migrateDatabase, pendingMigrations } from '../../../src/platform/database/migrate.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { logInAsAdmin } from '../../support/factories.js';
import { applyOnly } from '../../support/migrations.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { schemaOf } from '../../support/schema.js';
import { findDrift } from './schema-drift.js';

const ALL_NAMES = MIGRATIONS.map(({ name }) => name);

const databases: TestDatabase[] = [];
const clients: Client[] = [];

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end()));
  await Promise.all(databases.splice(0).map((database) => database.drop()));
});

async function createMigrated(): Promise<TestDatabase> {
  const database = await createTestDatabase();
  databases.push(database);
  return database;
}

/** A database in which no migration has run. */
async function createEmpty(): Promise<TestDatabase> {
  const database = await createMigrated();
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

/** TypeORM prints the SQL of a migration that fails. */
async function withoutConsole<T>(work: () => Promise<T>): Promise<T> {
  const log = jest.spyOn(console, 'log').mockReturnValue();
  try {
    return await work();
  } finally {
    log.mockRestore();
  }
}

describe('the list of migrations', () => {
  it('is in the order of their timestamps, without a repetition', () => {
    const timestampOf = (name: string): string => name.slice(-13);
    const sorted = [...ALL_NAMES].sort((a, b) => timestampOf(a).localeCompare(timestampOf(b)));
    expect(ALL_NAMES).toEqual(sorted);
    expect(new Set(ALL_NAMES).size).toBe(ALL_NAMES.length);
  });

  it.each(MIGRATIONS.map((migration) => [migration.name, migration] as const))(
    'has %s under the name that the database records',
    (name, Migration) => {
      expect(new Migration().name).toBe(name);
    },
  );
});

describe('migrations', () => {
  it('go up, down to nothing, and up to the same schema again', async () => {
    const database = await createEmpty();
    const client = await connect(database);

    expect(await migrateDatabase(database.url)).toEqual(ALL_NAMES);
    const schema = await schemaOf(client);
    const reverted: string[] = [];
    for (let step = 0; step < ALL_NAMES.length; step++) {
      reverted.push(...(await migrateDatabase(database.url, 'down')));
    }
    const schemaAtZero = await schemaOf(client);
    const applied = await migrateDatabase(database.url);

    expect(schema.length).toBeGreaterThan(100);
    expect(reverted).toEqual([...ALL_NAMES].reverse());
    expect(schemaAtZero).toEqual([]);
    expect(applied).toEqual(ALL_NAMES);
    expect(await schemaOf(client)).toEqual(schema);
  });

  it('revert exactly what they do, each of them', async () => {
    const database = await createMigrated();
    const client = await connect(database);
    /** The schema after so many migrations, on the way down. */
    const schemas = new Map([[ALL_NAMES.length, await schemaOf(client)]]);
    for (let count = ALL_NAMES.length - 1; count >= 0; count--) {
      await migrateDatabase(database.url, 'down');
      schemas.set(count, await schemaOf(client));
    }

    const different: string[] = [];
    for (const [index, name] of ALL_NAMES.entries()) {
      expect(await applyOnly(database.url, name)).toEqual([name]);
      const isEqual = `${await schemaOf(client)}` === `${schemas.get(index + 1)}`;
      if (!isEqual) different.push(name);
    }
    expect(different).toEqual([]);
  });

  it('have nothing to do in a database that is up to date', async () => {
    const { url } = await createMigrated();
    expect(await migrateDatabase(url)).toEqual([]);
  });

  it('have nothing to revert in an empty database', async () => {
    const { url } = await createEmpty();
    expect(await migrateDatabase(url, 'down')).toEqual([]);
  });

  it('keep the rows of a database when the newest is reverted and applied again', async () => {
    const database = await createMigrated();
    const client = await connect(database);
    await client.query(
      `INSERT INTO users (id, username, email)
       VALUES (gen_random_uuid(), 'keeper', 'keeper@example.com')`,
    );

    await migrateDatabase(database.url, 'down');
    await migrateDatabase(database.url);

    const { rows } = await client.query('SELECT username FROM users');
    expect(rows).toEqual([{ username: 'keeper' }]);
  });

  describe('of which one fails', () => {
    const failing = ALL_NAMES.findIndex((name) => name.startsWith('Orders'));
    let database: TestDatabase;
    let client: Client;

    /** The migration that creates order_events finds another table of that name. */
    async function migrateWithObstacle(): Promise<void> {
      database = await createEmpty();
      client = await connect(database);
      await client.query('CREATE TABLE order_events (obstacle integer)');
      const migrating = withoutConsole(() => migrateDatabase(database.url));
      await expect(migrating).rejects.toThrow(/order_events/);
    }

    it('leave those before it applied and the others pending', async () => {
      await migrateWithObstacle();
      const queries = { query: async (sql: string) => (await client.query(sql)).rows as unknown };
      expect(await pendingMigrations(queries)).toEqual(ALL_NAMES.slice(failing));
    });

    it('leave nothing of the one that failed', async () => {
      await migrateWithObstacle();
      const { rows } = await client.query(`SELECT to_regclass('orders') AS orders`);
      expect(rows).toEqual([{ orders: null }]);
    });

    it('continue with it once the obstacle is gone', async () => {
      await migrateWithObstacle();
      await client.query('DROP TABLE order_events');
      expect(await migrateDatabase(database.url)).toEqual(ALL_NAMES.slice(failing));
    });
  });
});

describe('nodes that start together', () => {
  it('let one of them migrate, and the others find nothing to do', async () => {
    const { url } = await createEmpty();

    const applied = await Promise.all([1, 2, 3, 4].map(() => migrateDatabase(url)));

    expect(applied).toHaveLength(4);
    expect(applied.filter((names) => names.length > 0)).toEqual([ALL_NAMES]);
  });

  it('wait for the one that migrates, however long it takes', async () => {
    const database = await createEmpty();
    const slowNode = await connect(database);
    const observer = await connect(database);
    await slowNode.query(
      `SELECT pg_advisory_lock(('x' || encode('holdfast', 'hex'))::bit(64)::bigint)`,
    );
    let isDone = false;
    const migrating = migrateDatabase(database.url).then((names) => {
      isDone = true;
      return names;
    });
    await eventually('the second node has asked for the lock', async () => {
      const { rowCount } = await observer.query(
        `SELECT FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'holdfast-migrate'
            AND state = 'idle' AND query LIKE '%pg_try_advisory_lock%'`,
      );
      return rowCount;
    });
    expect(isDone).toBe(false);

    await slowNode.query('SELECT pg_advisory_unlock_all()');

    expect(await migrating).toEqual(ALL_NAMES);
  });
});

describe('the variable MIGRATIONS', () => {
  let app: TestApp | undefined;
  afterEach(async () => {
    await app?.close();
    app = undefined;
  });

  // Waiting: a check that takes longer than 80 ms, as on a busy machine, counts as failed.
  const awaitReady = (node: TestApp): Promise<unknown> =>
    eventually('the process is ready', async () => {
      const { status, body } = await node.call('GET', '/health/ready');
      return status === 200 && body.checks.migrations.status === 'up';
    });
  const awaitPending = (node: TestApp, names: readonly string[]): Promise<unknown> =>
    eventually(`${names.length} migrations are reported as pending`, async () => {
      const { body } = await node.call('GET', '/health/ready');
      const { migrations, postgres } = body.checks;
      return postgres.status === 'up' && `${migrations.pending}` === `${names}`;
    });

  const WITHOUT_ADMIN = { ADMIN_USERNAME: '', ADMIN_PASSWORD: '' };

  it('is auto → the database is up to date before the first request', async () => {
    const { url } = await createEmpty();
    const node = await startApp({ MIGRATIONS: 'auto' }, url);
    app = node;

    expect((await node.call('GET', '/v1/users', { token: await logInAsAdmin(node) })).status).toBe(
      200,
    );
    await awaitReady(node);
  });

  it('is manual → the process lives, is not ready, and names the pending migrations', async () => {
    const { url } = await createEmpty();
    app = await startApp({ MIGRATIONS: 'manual', ...WITHOUT_ADMIN }, url);

    expect(await app.call('GET', '/health/live')).toMatchObject({ status: 200 });
    expect(await app.call('GET', '/health/ready')).toMatchObject({
      status: 503,
      body: { code: 'not-ready' },
    });
    await awaitPending(app, ALL_NAMES);
  });

  it('is manual → the process is ready as soon as the last migration was run', async () => {
    const { url } = await createEmpty();
    app = await startApp({ MIGRATIONS: 'manual', ...WITHOUT_ADMIN }, url);
    await migrateDatabase(url);
    await migrateDatabase(url, 'down');
    await awaitPending(app, ALL_NAMES.slice(-1));

    await migrateDatabase(url);

    await awaitReady(app);
  });
});

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

/** Changes by hand, and the drift that they cause. */
const MANUAL_CHANGES: readonly (readonly [sql: string, drift: RegExp])[] = [
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
  ['ALTER TABLE sessions ALTER COLUMN last_seen_at TYPE timestamptz(6)', /"last_seen_at"/],
  ['ALTER TABLE orders DROP CONSTRAINT orders_items_count', /ADD CONSTRAINT "orders_items_count"/],
  [
    `ALTER TABLE orders DROP CONSTRAINT orders_total_range,
       ADD CONSTRAINT orders_total_range CHECK (total >= 0)`,
    /orders_total_range: CHECK/,
  ],
  [
    `ALTER TABLE orders DROP CONSTRAINT orders_items_form,
       ADD CONSTRAINT orders_items_form
         CHECK (NOT jsonb_path_exists(items, '$[*] ? (@.quantity < 1)'))`,
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

describe('the schema that the migrations make', () => {
  let app: TestApp;
  let entities: readonly unknown[];

  beforeAll(async () => {
    app = await startApp();
    entities = app.app.get(DataSource).entityMetadatas.map(({ target }) => target);
  });
  afterAll(() => app.close());

  it('is the one that the entities declare', async () => {
    expect(entities.length).toBeGreaterThanOrEqual(7);
    expect(await findDrift(await createMigrated(), entities)).toEqual([]);
  });

  it('has times with time zone and milliseconds, and text as text', async () => {
    const client = await connect(await createMigrated());
    const { rows } = await client.query(
      `SELECT table_name, column_name, data_type FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> 'migrations'
          AND data_type LIKE 'timestamp%'
          AND (data_type <> 'timestamp with time zone' OR datetime_precision <> 3)
       UNION ALL
       SELECT table_name, column_name, data_type FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> 'migrations'
          AND data_type IN ('character varying', 'character', 'json',
                            'real', 'double precision', 'numeric', 'money')
          AND (table_name, column_name) <> ('order_figures', 'total')`,
    );
    expect(rows).toEqual([]);
  });

  it('drifts with each change by hand, and the comparison finds all of them', async () => {
    const database = await createMigrated();
    const client = await connect(database);
    for (const [sql] of MANUAL_CHANGES) await client.query(sql);

    const drift = (await findDrift(database, entities)).join('\n');

    const missed = MANUAL_CHANGES.filter(([, expected]) => !expected.test(drift));
    expect(missed).toEqual([]);
  });

  it.each([
    ['that lacks a column', CredentialWithoutHash, /"credentials" DROP COLUMN "password_hash"/],
    ['with an index that no migration makes', CredentialWithIndex, /no index credentials_newest/],
  ])('drifts from an entity %s', async (_, entity, expected) => {
    const drift = await findDrift(await createMigrated(), [entity]);
    expect(drift.join('\n')).toMatch(expected);
  });
});
