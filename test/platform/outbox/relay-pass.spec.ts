/**
 * One pass of the relay over PostgreSQL, with a broker of this test. How several relays keep the
 * order is in test/verify/relay/naive-relays.spec.ts.
 */
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { EventRejectedError } from '../../../src/platform/outbox/outbox-broker.js';
import { OutboxPartitions } from '../../../src/platform/outbox/outbox-partitions.js';
import { MAX_DATA_BYTES } from '../../../src/platform/outbox/outbox-statements.js';
import { RelayPass, type RelayPassOptions } from '../../../src/platform/outbox/relay-pass.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';

let database: TestDatabase;
let psql: Client;
let partitions: OutboxPartitions;
let arrivals: string[];

beforeEach(async () => {
  database = await createTestDatabase();
  psql = new Client({ connectionString: database.url });
  await psql.connect();
  partitions = new OutboxPartitions(database.url);
  await partitions.open();
  arrivals = [];
});

afterEach(async () => {
  await partitions.close();
  await psql.end();
  await database.drop();
});

const createPass = (options: Partial<RelayPassOptions> = {}): RelayPass =>
  new RelayPass({
    partitions,
    publish: async ({ id }) => {
      arrivals.push(id);
    },
    onPublished: () => undefined,
    onRejected: () => undefined,
    isStopping: () => false,
    ...options,
  });

async function append(data: object = {}): Promise<string> {
  const id = randomUUID();
  await psql.query(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'test.made', 'tests/1', $2)`,
    [id, data],
  );
  return id;
}

async function selectIds(where: string): Promise<string[]> {
  const { rows } = await psql.query<{ id: string }>(
    `SELECT id FROM outbox WHERE ${where} ORDER BY position`,
  );
  return rows.map(({ id }) => id);
}

it('a pass reports that it found nothing when every event is published', async () => {
  expect(await createPass().run()).toBe(false);
});

it('a pass that is stopped settles what was confirmed and leaves the rest as it is', async () => {
  const [first, second] = [await append(), await append()];
  const pass = createPass({ isStopping: () => arrivals.length > 0 });

  await pass.run();

  expect(arrivals).toEqual([first]);
  expect(await selectIds('published_at IS NOT NULL')).toEqual([first]);
  expect(await selectIds('published_at IS NULL AND NOT held AND retry_at IS NULL')).toEqual([
    second,
  ]);
});

it('a pass rejects an event above the bound without sending it', async () => {
  const tooLarge = await append({ text: 'x'.repeat(MAX_DATA_BYTES) });
  const next = await append();

  await createPass().run();

  expect(arrivals).toEqual([]);
  expect(await selectIds(`retry_at = 'infinity'`)).toEqual([tooLarge]);
  expect(await selectIds('held AND retry_at IS NULL')).toEqual([next]);
});

it('a pass doubles the seconds until the retry with each attempt, up to 300', async () => {
  await append();
  const delays: (number | null)[] = [];
  const pass = createPass({
    publish: () => Promise.reject(new EventRejectedError('full', { isPermanent: false })),
    onRejected: (_, { retrySeconds }) => delays.push(retrySeconds),
  });

  for (let attempt = 0; attempt < 10; attempt++) {
    await pass.run();
    // Not now(): the column has milliseconds, and rounding may put it into the future.
    await psql.query(`UPDATE outbox SET retry_at = now() - interval '1 minute'`);
  }

  // A quarter more or less, at random.
  const nominal = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300];
  const ratios = delays.map((delay, index) => (delay ?? 0) / (nominal[index] as number));
  expect(ratios).toHaveLength(10);
  expect(Math.min(...ratios)).toBeGreaterThanOrEqual(0.75);
  expect(Math.max(...ratios)).toBeLessThanOrEqual(1.25);
});
