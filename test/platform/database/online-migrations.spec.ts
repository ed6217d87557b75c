/**
 * Migrations while requests use the tables: which locks they take and for how long, what happens
 * when they die at a statement, and what they do about other sessions. A schema must come out
 * that is the same in every case.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Client } from 'pg';
import { MIGRATIONS } from '#migrations';
import { changeInBatches } from '../../../migrations/online/batches.js';
import { dropIndex } from '../../../migrations/online/indexes.js';
import { blockAccess, blockWrites, MAX_LOCK_WAIT_MS } from '../../../migrations/online/locks.js';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { eventually } from '../../support/eventually.js';
import { applyOnly, findPending, revertFrom } from '../../support/migrations.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { compilePreviousRelease, hasPreviousRelease } from '../../support/previous-release.js';
import { newSeed } from '../../support/program-table.js';
import { Random } from '../../support/random.js';
import { schemaOf } from '../../support/schema.js';
import { fill, pickSubjects, UNCOUNTED_ORDERS, WRITES } from '../../verify/migrations/rows.js';
import { RecordingRunner } from './recording-runner.js';

const ORDERS = 50;

/** pg_locks shows those of other databases too. */
const OF_THIS_DATABASE = `database =
  (SELECT oid FROM pg_database WHERE datname = current_database())`;

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanups.splice(0).reverse()) await cleanUp();
});

async function createDatabase(): Promise<TestDatabase> {
  const database = await createTestDatabase();
  cleanups.push(() => database.drop());
  return database;
}

async function connect(url: string, name = 'test'): Promise<Client> {
  const client = new Client({ connectionString: url, application_name: name });
  // A test may end its session.
  client.on('error', () => undefined);
  await client.connect();
  cleanups.push(() => client.end());
  return client;
}

async function openRecorder(url: string): Promise<RecordingRunner> {
  const recorder = await RecordingRunner.open(url);
  cleanups.push(() => recorder.close());
  return recorder;
}

/** A database with rows in which the migration of this name and the later ones are pending. */
async function createBefore(name: string): Promise<{ url: string; client: Client }> {
  const { url } = await createDatabase();
  await revertFrom(url, 'OrderConstraints');
  const client = await connect(url);
  await fill(client, ORDERS);
  for (const pending of await findPending(url)) {
    if (pending.startsWith(name)) break;
    await applyOnly(url, pending);
  }
  return { url, client };
}

const SEED = Number(process.env.HOLDFAST_SEED ?? newSeed());
/** HOLDFAST_DEATHS=all: every statement of every migration, which takes minutes. */
const DIES_AT_ALL = process.env.HOLDFAST_DEATHS === 'all';
/** Of each migration, in each direction. */
const DEATHS = 1;

describe('the locks of migrations', () => {
  it('are waited for briefly and held without reading rows, up and down', async () => {
    const { url } = await createDatabase();
    const client = await connect(url);
    await client.query('DROP SCHEMA public CASCADE');
    await client.query('CREATE SCHEMA public');
    const recorder = await openRecorder(url);

    for (const Migration of MIGRATIONS) {
      if (Migration.name.startsWith('OrderConstraints')) await fill(client, ORDERS);
      await recorder.migrate(new Migration(), 'up');
    }
    for (const Migration of [...MIGRATIONS].reverse()) {
      await recorder.migrate(new Migration(), 'down');
    }

    expect(recorder.statements.length).toBeGreaterThan(100);
    expect(recorder.violations).toEqual([]);
  });

  it.each([
    ['ALTER TABLE orders ADD COLUMN a int', 'AccessExclusiveLock on orders without lock_timeout'],
    [
      'ALTER TABLE orders ADD CONSTRAINT a CHECK (total >= 0)',
      `${ORDERS} rows of orders read in its AccessExclusiveLock`,
    ],
    ['CREATE INDEX a ON orders (note)', `${ORDERS} rows of orders read in its ShareLock`],
    [
      'CREATE TABLE a (id uuid REFERENCES users)',
      'ShareRowExclusiveLock on users without lock_timeout',
    ],
  ])('are found by these tests: %s', async (sql, violation) => {
    const { url } = await createBefore('OrderConstraints');
    const recorder = await openRecorder(url);

    await recorder.migrateWith([sql]);

    expect(recorder.violations).toContainEqual(expect.stringContaining(violation));
  });
});

describe('a migration without a transaction', () => {
  const withoutTransaction = MIGRATIONS.filter(
    (Migration) => (new Migration() as { transaction?: boolean }).transaction === false,
  );
  const migrations = withoutTransaction.map((Migration) => [Migration.name, Migration] as const);

  /** Statements behind which the database is another one. */
  const CHANGES = /^\s*(CREATE|ALTER|DROP|COMMIT|INSERT|DELETE|UPDATE)\b/;

  it.each(migrations)(
    `%s that dies at a statement is finished by the next run (seed ${SEED})`,
    async (name, Migration) => {
      const { url, client } = await createBefore(name);
      /** Resolves to the number of statements that change something, up to its death. */
      const run = async (toward: 'up' | 'down', dieAt = Infinity): Promise<number> => {
        const recorder = await RecordingRunner.open(url);
        let changes = 0;
        recorder.beforeStatement = (sql) => {
          if (CHANGES.test(sql)) changes++;
          // Nothing is sent after its death, no ROLLBACK either.
          if (changes >= dieAt) throw new Error('dead');
        };
        try {
          await recorder.migrate(new Migration(), toward);
        } catch (error) {
          if ((error as Error).message !== 'dead') throw error;
        } finally {
          await recorder.close();
        }
        return changes;
      };
      /** Deaths after which the next run did not lead to the same schema. */
      const different: string[] = [];
      for (const direction of ['up', 'down'] as const) {
        const opposite = direction === 'up' ? 'down' : 'up';
        const changes = await run(direction);
        expect(changes).toBeGreaterThan(2);
        const expected = await schemaOf(client);
        const stride = DIES_AT_ALL ? 1 : Math.ceil(changes / DEATHS);
        for (let dieAt = 1 + (SEED % stride); dieAt <= changes; dieAt += stride) {
          await run(opposite);
          await run(direction, dieAt);
          await run(direction);
          if (`${await schemaOf(client)}` !== `${expected}`) {
            different.push(`${direction} ${dieAt}`);
          }
        }
      }

      expect(different).toEqual([]);
    },
  );
});

describe('the daily totals', () => {
  it('count an order once that is placed after the trigger and before the snapshot', async () => {
    const { url, client } = await createBefore('Inbox');
    const recorder = await openRecorder(url);
    recorder.beforeStatement = (sql) => {
      if (sql.includes('LOCK TABLE order_figures')) throw new Error('dead');
    };
    const [Inbox] = MIGRATIONS.filter(({ name }) => name.startsWith('Inbox'));
    const dying = recorder.migrate(new (Inbox as (typeof MIGRATIONS)[number])(), 'up');
    await expect(dying).rejects.toThrow('dead');
    const placeOrder = WRITES[0]?.statements(pickSubjects(new Random(1), ORDERS)) ?? [];
    for (const sql of placeOrder) await client.query(sql);

    await migrateDatabase(url);

    expect((await client.query(UNCOUNTED_ORDERS)).rows).toEqual([{ difference: '0' }]);
  });
});

describe('an index that is replaced', () => {
  const INVALIDATE = `UPDATE pg_index SET indisvalid = false
                       WHERE indexrelid = 'orders_of_user_next'::regclass`;

  it.each([
    ['an aborted build', ['CREATE INDEX orders_of_user_next ON orders (note)', INVALIDATE]],
    [
      'an aborted build of its own',
      ['CREATE INDEX orders_of_user_next ON orders (user_id, created_at, id)', INVALIDATE],
    ],
    ['another index', ['CREATE INDEX orders_of_user_next ON orders (note)']],
    [
      'the new index beside no old one',
      [
        'CREATE INDEX orders_of_user_next ON orders (user_id, created_at, id)',
        'DROP INDEX orders_of_user',
      ],
    ],
  ])('finds %s and comes out the same', async (_, leftovers) => {
    const { url, client } = await createBefore('OrderLists');
    await applyOnly(url, 'OrderLists1763683200012');
    const expected = await schemaOf(client);
    await migrateDatabase(url, 'down');
    for (const sql of leftovers) await client.query(sql);

    await applyOnly(url, 'OrderLists1763683200012');

    expect(await schemaOf(client)).toEqual(expected);
  });
});

describe('while another session', () => {
  const MIGRATOR = `FROM pg_stat_activity WHERE application_name = 'holdfast-migrate'
                     AND datname = current_database()`;

  async function beginReading(url: string): Promise<Client> {
    const reader = await connect(url, 'reader');
    await reader.query('BEGIN');
    await reader.query('SELECT FROM outbox LIMIT 1');
    return reader;
  }

  /** A lock request of the migration is in the queue of `outbox`. */
  const awaitLockRequest = (observer: Client): Promise<unknown> =>
    eventually('the migration waits for a lock', async () => {
      const { rowCount } = await observer.query(
        `SELECT FROM pg_locks WHERE ${OF_THIS_DATABASE} AND relation = 'outbox'::regclass
            AND NOT granted AND mode = 'AccessExclusiveLock'`,
      );
      return rowCount;
    });

  it('reads a table, requests pass the migration that waits for its lock', async () => {
    const { url, client } = await createBefore('OutboxLanes');
    const reader = await beginReading(url);
    const migrating = migrateDatabase(url);
    await awaitLockRequest(client);

    // It queues behind the migration, and the reader goes on.
    const request = await client.query('SELECT count(*)::int AS count FROM outbox');

    expect(request.rows).toEqual([{ count: ORDERS }]);
    await reader.query('ROLLBACK');
    expect((await migrating)[0]).toBe('OutboxLanes1763683200007');
  });

  it('of an earlier release waits for the migrations lock, indexes are built', async () => {
    const { url, client } = await createBefore('OutboxLanes');
    const reader = await beginReading(url);
    const migrating = migrateDatabase(url);
    await awaitLockRequest(client);
    const olderNode = await connect(url, 'older node');
    // PostgreSQL cancels whoever finds the deadlock: not this session.
    await olderNode.query(`SET deadlock_timeout = '1h'`);
    const waiting = olderNode
      .query(`SELECT pg_advisory_lock(('x' || encode('holdfast', 'hex'))::bit(64)::bigint)`)
      .catch((error: { code?: string }) => error.code);
    await eventually('the older node waits', async () => {
      const { rowCount } = await client.query(
        `SELECT FROM pg_locks
          WHERE ${OF_THIS_DATABASE} AND locktype = 'advisory' AND NOT granted`,
      );
      return rowCount;
    });

    await reader.query('ROLLBACK');

    expect((await migrating)[0]).toBe('OutboxLanes1763683200007');
    expect(await waiting).toBe('57014');
  });

  it('waits for the migrations lock, it has no snapshot that an index would wait for', async () => {
    const { url } = await createBefore('OutboxLanes');

    const applied = await Promise.all([migrateDatabase(url), migrateDatabase(url)]);

    const [first] = applied.filter((names) => names.length > 0);
    expect(first?.[0]).toBe('OutboxLanes1763683200007');
    expect(applied.flat()).toEqual(first);
  });

  it('ends that of the migration, another node may finish it', async () => {
    const { url, client } = await createBefore('OutboxLanes');
    const reader = await beginReading(url);
    const log = jest.spyOn(console, 'log').mockReturnValue();
    const migrating = migrateDatabase(url).catch((error: Error) => error);
    await awaitLockRequest(client);

    await client.query(`SELECT pg_terminate_backend(pid) ${MIGRATOR}`);

    expect(await migrating).toBeInstanceOf(Error);
    log.mockRestore();
    await reader.query('ROLLBACK');
    expect((await migrateDatabase(url))[0]).toBe('OutboxLanes1763683200007');
  });
});

describe('rows that are changed in batches', () => {
  const ROWS = 2_500;

  async function createInbox(): Promise<{ recorder: RecordingRunner; client: Client }> {
    const { url } = await createDatabase();
    const client = await connect(url);
    await client.query(
      `INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at)
       SELECT 'c' || i % 2, gen_random_uuid(), i, 't', 's', '{}', now()
         FROM generate_series(1, ${ROWS + 500}) AS i`,
    );
    return { recorder: await openRecorder(url), client };
  }
  const batch = {
    table: 'inbox',
    key: ['consumer', 'event_id'],
    where: `position <= ${ROWS}`,
  } as const;

  it('are all changed, at most 1000 in a transaction', async () => {
    const { recorder, client } = await createInbox();
    const change = { set: 'attempts = attempts + 1' };

    await changeInBatches(recorder.runner, { ...batch, change });

    const { rows } = await client.query<{ attempts: number; rows: number; transactions: number }>(
      `SELECT attempts, count(*)::int AS rows, count(DISTINCT xmin::text)::int AS transactions
         FROM inbox GROUP BY attempts ORDER BY attempts`,
    );
    expect(rows).toEqual([
      { attempts: 0, rows: 500, transactions: 1 },
      { attempts: 1, rows: ROWS, transactions: 3 },
    ]);
  });

  it('are all deleted', async () => {
    const { recorder, client } = await createInbox();

    await changeInBatches(recorder.runner, { ...batch, change: 'delete' });

    const { rows } = await client.query('SELECT count(*)::int AS rows FROM inbox');
    expect(rows).toEqual([{ rows: 500 }]);
  });
});

describe('a step that locks tables', () => {
  it('locks them in the order of requests, and divides its time among them', async () => {
    const { url } = await createDatabase();
    const { runner, statements } = await openRecorder(url);

    await blockWrites(runner, ['outbox', 'orders'], []);

    expect(statements.filter((sql) => /^(SET|LOCK)/.test(sql))).toEqual([
      `SET LOCAL lock_timeout = '${MAX_LOCK_WAIT_MS / 2}ms'`,
      'LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE',
      'LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE',
    ]);
  });

  it('names the sessions that use a table when it gives up', async () => {
    const { url } = await createDatabase();
    const { runner } = await openRecorder(url);
    const reader = await connect(url, 'forgotten');
    await reader.query('BEGIN');
    await reader.query('SELECT FROM outbox');

    const locking = blockAccess(runner, ['outbox'], ['ALTER TABLE outbox ADD COLUMN a int'], 2);

    await expect(locking).rejects.toThrow(
      /^Could not lock outbox in 2 attempts\..*: \d+ \(forgotten, since/,
    );
  });
});

describe('a helper that cannot run in a transaction', () => {
  it('says what the migration must declare', async () => {
    const { url } = await createDatabase();
    const { runner } = await openRecorder(url);
    await runner.startTransaction();

    const dropping = dropIndex(runner, 'orders_newest');

    await expect(dropping).rejects.toThrow('declare `transaction = false`');
  });
});

const describeWithHistory = hasPreviousRelease() ? describe : describe.skip;

describeWithHistory('a database that the previous release migrated', () => {
  let previous: Awaited<ReturnType<typeof compilePreviousRelease>>;
  beforeAll(async () => {
    previous = await compilePreviousRelease();
  });
  afterAll(() => previous?.remove());

  it('has the same schema as one that this release brings that far', async () => {
    const migrated = await createDatabase();
    await revertFrom(migrated.url, 'CacheEpochs');
    const expected = await schemaOf(await connect(migrated.url));
    const { url } = await createDatabase();
    const client = await connect(url);
    await client.query('DROP SCHEMA public CASCADE');
    await client.query('CREATE SCHEMA public');

    const node = await previous.start({ DATABASE_URL: url, MIGRATIONS: 'auto' });
    await node.stop();

    expect(await schemaOf(client)).toEqual(expected);
    expect((await findPending(url))[0]).toMatch(/^CacheEpochs/);
  });
});
