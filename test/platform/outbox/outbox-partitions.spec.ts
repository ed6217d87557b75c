/** What the relay and `holdfast outbox skip` do in PostgreSQL, without a broker. */
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, expect, it } from '@jest/globals';
import { Client } from 'pg';
import {
  OutboxPartitions,
  type Settlement,
} from '../../../src/platform/outbox/outbox-partitions.js';
import { MAX_DATA_BYTES } from '../../../src/platform/outbox/outbox-statements.js';
import { eventually } from '../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';

const NOTHING: Settlement = { published: [], rejected: [], blocked: [] };

let database: TestDatabase;
let psql: Client;
let partitions: OutboxPartitions;

beforeEach(async () => {
  database = await createTestDatabase();
  psql = new Client({ connectionString: database.url });
  await psql.connect();
  partitions = new OutboxPartitions(database.url);
  await partitions.open();
});

afterEach(async () => {
  await partitions.close();
  await psql.end();
  await database.drop();
});

async function append(data: object = {}): Promise<{ id: string; position: string }> {
  const { rows } = await psql.query<{ id: string; position: string }>(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'test.made', 'tests/1', $2)
     RETURNING id, position`,
    [randomUUID(), data],
  );
  return rows[0] as { id: string; position: string };
}

async function onlyBusyPartition(): Promise<number> {
  const busy = await partitions.findBusy();
  expect(busy).toHaveLength(1);
  return busy[0] as number;
}

/** Appends two events, the first of which the broker rejected for good. */
async function appendRejected(): Promise<{ rejectedId: string; nextId: string }> {
  const rejected = await append();
  const next = await append();
  await partitions.settle({
    ...NOTHING,
    rejected: [{ position: rejected.position, retrySeconds: null, error: 'too large' }],
    blocked: [{ position: next.position, isDue: false }],
  });
  return { rejectedId: rejected.id, nextId: next.id };
}

it('a batch leaves data above the bound in PostgreSQL and reports its size', async () => {
  await append({ text: 'x'.repeat(MAX_DATA_BYTES) });

  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(batch?.events).toHaveLength(1);
  expect(batch?.events[0]?.data).toBeNull();
  expect(batch?.events[0]?.dataBytes).toBeGreaterThan(MAX_DATA_BYTES);
});

it('a batch has the events of a subject in the order in which they were appended', async () => {
  const appended = [await append(), await append(), await append()];

  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(batch).toMatchObject({ state: 'free', events: appended, queued: [] });
});

it('a batch with a retry has its subject in order, with what came meanwhile', async () => {
  const { rejectedId, nextId } = await appendRejected();
  const { id: laterId } = await append();
  await psql.query('UPDATE outbox SET retry_at = now() WHERE id = $1', [rejectedId]);

  const [batch] = await partitions.take(await onlyBusyPartition());

  const ids = [{ id: rejectedId }, { id: nextId }, { id: laterId }];
  expect(batch).toMatchObject({ state: 'retrying', events: ids, queued: [] });
});

it('a batch publishes no new event of a subject whose retry is not due', async () => {
  await appendRejected();
  const later = await append();

  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(batch).toMatchObject({ state: 'blocked', events: [], queued: [{ id: later.id }] });
});

it('a settlement records confirms, rejections and the events behind them', async () => {
  const [published, retried, parked, queued, due, untouched] = [
    await append(),
    await append(),
    await append(),
    await append(),
    await append(),
    await append(),
  ];

  await partitions.settle({
    published: [published.position],
    rejected: [
      { position: retried.position, retrySeconds: 3_600, error: 'full' },
      { position: parked.position, retrySeconds: null, error: 'too large' },
    ],
    blocked: [
      { position: queued.position, isDue: false },
      { position: due.position, isDue: true },
    ],
  });

  const { rows } = await psql.query(
    `SELECT id, published_at IS NOT NULL AS published, held, attempts, last_error AS error,
            CASE WHEN retry_at = 'infinity' THEN 'never' WHEN retry_at <= now() THEN 'now'
                 WHEN retry_at <= now() + interval '1 hour' THEN 'within an hour' END AS retry
       FROM outbox ORDER BY position`,
  );
  const plain = { published: false, attempts: 0, error: null, retry: null };
  expect(rows).toEqual([
    { ...plain, id: published.id, published: true, held: false, attempts: 1 },
    { ...plain, id: retried.id, held: true, attempts: 1, error: 'full', retry: 'within an hour' },
    { ...plain, id: parked.id, held: true, attempts: 1, error: 'too large', retry: 'never' },
    { ...plain, id: queued.id, held: true },
    { ...plain, id: due.id, held: true, retry: 'now' },
    { ...plain, id: untouched.id, held: false },
  ]);
});

it('a locked partition is refused to other connections until it is unlocked', async () => {
  const otherPartitions = new OutboxPartitions(database.url);
  await otherPartitions.open();
  let hasRunMeanwhile: boolean | undefined;

  await partitions.lock(3, async () => {
    hasRunMeanwhile = await otherPartitions.lock(3, async () => undefined);
  });
  const hasRunAfterwards = await otherPartitions.lock(3, async () => undefined);
  await otherPartitions.close();

  expect([hasRunMeanwhile, hasRunAfterwards]).toEqual([false, true]);
});

it('skip gives up a rejected event and makes the next one of its subject due', async () => {
  const { rejectedId, nextId } = await appendRejected();

  const isSkipped = await partitions.skip(rejectedId);
  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(isSkipped).toBe(true);
  expect(batch).toMatchObject({ state: 'retrying', events: [{ id: nextId }], queued: [] });
});

it('skip does nothing to an event that the broker did not reject', async () => {
  const { nextId } = await appendRejected();

  expect(await partitions.skip(nextId)).toBe(false);
  expect(await partitions.skip(randomUUID())).toBe(false);
});

it('skip waits until the relay that has locked the partition unlocks it', async () => {
  const { rejectedId } = await appendRejected();
  const { rows } = await psql.query<{ partition: number }>(
    'SELECT hashtext(subject) & 15 AS partition FROM outbox LIMIT 1',
  );
  const relayPartitions = new OutboxPartitions(database.url);
  await relayPartitions.open();
  let skipping: Promise<boolean> | undefined;

  await relayPartitions.lock(rows[0]?.partition as number, async () => {
    skipping = partitions.skip(rejectedId);
    await eventually('skip waits for the lock', async () => {
      const { rowCount } = await psql.query(
        `SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
          WHERE NOT granted AND datname = current_database()`,
      );
      return rowCount === 1;
    });
  });
  const isSkipped = await skipping;
  await relayPartitions.close();

  expect(isSkipped).toBe(true);
});
