/**
 * What the service does in the background reads a bounded number of rows by index, however much was
 * published, waits or is blocked. PostgreSQL explains the statements over thousands of rows.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { IdempotencyService } from '../../../src/platform/idempotency/idempotency.service.js';
import { BLOCKED } from '../../../src/platform/outbox/outbox-metrics.js';
import { PURGE } from '../../../src/platform/outbox/outbox-purge.js';
import {
  ALL_PARTITIONS,
  FIND_BUSY,
  MAX_BATCH,
  PARTITIONS,
  SETTLE,
  TAKE,
} from '../../../src/platform/outbox/outbox-statements.js';
import { startApp, type TestApp } from '../../support/app.js';
import { registerUser } from '../../support/factories.js';
import { type Cost, expectNoScanOrSort, explain, StatementRecorder } from './query-plans.js';

/** More positions than the tables of these tests have. */
const WINDOW = 1_000_000;
const noFloors = ALL_PARTITIONS.map(() => 0);

/** Rows that one batch of a purge removes. It reads them to choose, to lock and to delete them. */
const PURGE_BATCH_ROWS = 1_000;
const READS_OF_A_PURGE = 3;

let app: TestApp;
let psql: Client;

beforeAll(async () => {
  app = await startApp();
  psql = new Client({ connectionString: app.databaseUrl });
  await psql.connect();
  // Without triggers and foreign keys: other tests check those, and they take time.
  await psql.query('SET session_replication_role = replica');
}, 60_000);
afterAll(async () => {
  await psql?.end();
  await app?.close();
});

describe('the outbox with published, waiting and blocked events', () => {
  const { events, subjects, blocked } = MAX_BATCH;
  /** The partition of the busy subject, and of a blocked one. */
  let partition: number;

  /** 20 000 events that were published, and 10 000 of many subjects that wait. */
  const INSERT_EVENTS = `
    INSERT INTO outbox (id, type, subject, data, published_at)
    SELECT uuidv7(), 'order.placed', 'orders/' || n % 2000, '{}',
           CASE WHEN n <= 20000 THEN now() - n * interval '10 seconds' END
      FROM generate_series(1, 30000) AS n`;

  /** The partition of the subject orders/busy, and a number n: orders/blocked-n is in it too. */
  const BLOCKED_SUBJECT = `
    SELECT hashtext('orders/busy') & $1 AS partition, min(n) AS number
      FROM generate_series(1, 1000) AS n
     WHERE hashtext('orders/blocked-' || n) & $1 = hashtext('orders/busy') & $1`;

  /** 10 000 events of one subject that wait, and 10 000 of subject $1 that are blocked. */
  const INSERT_BACKLOG = `
    INSERT INTO outbox (id, type, subject, data, held, retry_at)
    SELECT uuidv7(), 'order.placed',
           CASE WHEN n % 2 = 0 THEN 'orders/busy' ELSE $1::text END,
           '{}', n % 2 = 1,
           CASE WHEN n = 1 THEN now() END
      FROM generate_series(1, 20000) AS n`;

  beforeAll(async () => {
    await psql.query(INSERT_EVENTS);
    const { rows } = await psql.query<{ partition: number; number: number }>(BLOCKED_SUBJECT, [
      PARTITIONS - 1,
    ]);
    partition = rows[0]!.partition;
    await psql.query(INSERT_BACKLOG, [`orders/blocked-${rows[0]!.number}`]);
    await psql.query('VACUUM ANALYZE outbox');
  }, 60_000);

  const costOf = (sql: string, parameters: readonly unknown[] = []): Promise<Cost> =>
    explain(psql, { sql, parameters });

  it('→ the busy partitions are found with two rows of each', async () => {
    const cost = await costOf(FIND_BUSY, [ALL_PARTITIONS, noFloors, WINDOW]);

    expectNoScanOrSort(cost);
    expect(cost.indexes).toEqual(['outbox_lane', 'outbox_retry']);
    // Beside them, the numbers of the partitions themselves.
    expect(cost.readRows).toBeLessThanOrEqual(2 * PARTITIONS + PARTITIONS);
    expect(cost.pages).toBeLessThan(8 * PARTITIONS);
  });

  it('→ a batch is taken by index, and only its own events are sorted', async () => {
    const cost = await costOf(TAKE, [partition, 0]);

    expect(cost.nodes).not.toContain('Seq Scan');
    // The planner may choose to sort the batch.
    expect(cost.sortedRows).toBeLessThanOrEqual(events);
    expect(cost.indexes).toEqual(['outbox_held', 'outbox_lane', 'outbox_retry']);
    // For each event of the batch, one look for a blocked event before it.
    expect(cost.readRows).toBeLessThanOrEqual(2 * events + subjects * (blocked + 1));
    expect(cost.readRows).toBeGreaterThan(events);
    expect(cost.pages).toBeLessThan(10 * (events + subjects));
  });

  it('→ a batch is settled by primary key', async () => {
    const { rows } = await psql.query<{ position: string }>(
      'SELECT position FROM outbox WHERE published_at IS NULL LIMIT $1',
      [events],
    );
    const published = rows.map(({ position }) => position);

    const cost = await costOf(SETTLE, [published, [], [], [], [], []]);

    expectNoScanOrSort(cost);
    expect(cost.indexes).toEqual(['outbox_pkey']);
  });

  it('→ the purge reads one batch of published events by index', async () => {
    const cost = await costOf(PURGE, ['-infinity']);

    expectNoScanOrSort(cost);
    expect(cost.indexes).toContain('outbox_published');
    expect(cost.readRows).toBeLessThanOrEqual(READS_OF_A_PURGE * PURGE_BATCH_ROWS);
  });

  it('→ blocked subjects are counted by index', async () => {
    const cost = await costOf(BLOCKED);

    expectNoScanOrSort(cost);
    expect(cost.indexes).toEqual(['outbox_retry']);
  });
});

describe('the purge of idempotency keys', () => {
  /** 30 000 keys of user $1, the older half of which has expired. */
  const INSERT_KEYS = `
    INSERT INTO idempotency_keys
           (user_id, key, fingerprint, status, headers, body, cache_keys, created_at)
    SELECT $1, 'bulk-' || n, 'f', 201, '{}', '{}', '{}', now() - n * interval '5 seconds'
      FROM generate_series(1, 30000) AS n`;

  beforeAll(async () => {
    const { id } = await registerUser(app);
    await psql.query(INSERT_KEYS, [id]);
    await psql.query('VACUUM ANALYZE idempotency_keys');
  }, 60_000);

  it('reads one batch of expired keys by index', async () => {
    const recorder = new StatementRecorder();
    app.app.get(DataSource).logger = recorder;
    const statement = await recorder.oneDuring(/DELETE FROM idempotency_keys/, () =>
      app.app.get(IdempotencyService).removeExpired(),
    );

    const cost = await explain(psql, statement);

    expectNoScanOrSort(cost);
    expect(cost.indexes).toEqual(['idempotency_keys_expiring']);
    expect(cost.readRows).toBeLessThanOrEqual(READS_OF_A_PURGE * PURGE_BATCH_ROWS);
  });
});

describe('the erasure of a deleted user', () => {
  /** 20 000 keys of others, of which every tenth has a subject. */
  const INSERT_KEYS = `
    INSERT INTO idempotency_keys
           (user_id, key, fingerprint, status, headers, body, cache_keys, subject_id)
    SELECT uuidv7(), 'other-' || n, 'f', 201, '{}', '{}', '{}',
           CASE WHEN n % 10 = 0 THEN uuidv7() END
      FROM generate_series(1, 20000) AS n`;

  /** The statements of the trigger, with the deleted user as $1. */
  async function statementsOfTrigger(): Promise<string[]> {
    const { rows } = await psql.query<{ source: string }>(
      `SELECT prosrc AS source FROM pg_proc WHERE proname = 'erase_deleted_user'`,
    );
    const statements = rows[0]?.source.match(/(?:DELETE|UPDATE)[^;]+/g) ?? [];
    return statements.map((sql) => sql.replaceAll('NEW.id', '$1::uuid'));
  }

  /** 20 000 events of other users, and as many of orders. */
  const INSERT_EVENTS = `
    INSERT INTO outbox (id, type, subject, data)
    SELECT uuidv7(), 'a.b', CASE WHEN n % 2 = 0 THEN 'users/' ELSE 'orders/' END || uuidv7(), '{}'
      FROM generate_series(1, 40000) AS n`;
  const INSERT_DELIVERIES = `
    INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at)
    SELECT 'none', id, position, type, subject, data, occurred_at FROM outbox`;
  const INSERT_ADMINS = `
    INSERT INTO bootstrap_admins (username, user_id)
    SELECT 'admin-' || n, uuidv7() FROM generate_series(1, 20000) AS n`;

  beforeAll(async () => {
    await psql.query(INSERT_KEYS);
    await psql.query(INSERT_ADMINS);
    await psql.query(INSERT_EVENTS);
    await psql.query(INSERT_DELIVERIES);
    await psql.query('VACUUM ANALYZE idempotency_keys, bootstrap_admins, outbox, inbox');
  }, 60_000);

  it('reads only rows of that user, by index', async () => {
    const { id } = await registerUser(app);
    const statements = await statementsOfTrigger();
    expect(statements.length).toBeGreaterThan(0);
    for (const sql of statements) {
      const cost = await explain(psql, { sql, parameters: [id] });
      expectNoScanOrSort(cost);
      expect(cost.readRows).toBeLessThanOrEqual(2);
    }
  });
});
