/** The purge of the outbox: what it removes, and what it must keep. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import type { Config } from '../../../src/config.js';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { OutboxPurge } from '../../../src/platform/outbox/outbox-purge.js';
import { StatementRecorder } from '../database/query-plans.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { LONG_TIMEOUT_MS } from '../../support/timeouts.js';

let database: TestDatabase;
let dataSource: DataSource;

beforeAll(async () => {
  database = await createTestDatabase();
  const timeouts = {
    connect: LONG_TIMEOUT_MS,
    statement: LONG_TIMEOUT_MS,
    query: LONG_TIMEOUT_MS,
  };
  dataSource = await new DataSource(dataSourceOptions(database.url, 2, { timeouts })).initialize();
});

afterEach(() => dataSource.query('TRUNCATE outbox'));

afterAll(async () => {
  await dataSource?.destroy();
  await database?.drop();
});

/** With a broker, unless the settings say otherwise. */
const createPurge = (settings: Partial<Config> = {}): OutboxPurge => {
  const config = { rabbitmqUrl: 'amqp://broker', outboxRetentionDays: 30, ...settings };
  return new OutboxPurge(dataSource, config as Config);
};

async function countEvents(type: string): Promise<number> {
  const rows = await dataSource.query<[{ count: number }]>(
    'SELECT count(*)::int AS count FROM outbox WHERE type = $1',
    [type],
  );
  return rows[0].count;
}

it('the purge removes events published more than a day ago, at most 1000 at once', async () => {
  await dataSource.query(
    `INSERT INTO outbox (id, type, subject, data, published_at)
     SELECT gen_random_uuid(), 'test.old', 'tests/1', '{}', now() - interval '25 hours'
       FROM generate_series(1, 1010)`,
  );
  const purge = createPurge();

  const hasMoreAfterFirst = await purge.removeBatch();
  const eventsAfterFirst = await countEvents('test.old');
  const hasMoreAfterSecond = await purge.removeBatch();

  expect([hasMoreAfterFirst, eventsAfterFirst]).toEqual([true, 10]);
  expect([hasMoreAfterSecond, await countEvents('test.old')]).toEqual([false, 0]);
});

it.each([
  ['published less than a day ago', `now() - interval '23 hours', false, null`],
  ['that waits, however old', `null, false, null`],
  ['that the broker rejected', `null, true, 'infinity'`],
  ['that is queued behind a rejected one', `null, true, null`],
])('the purge keeps an event %s', async (_, state) => {
  await dataSource.query(
    `INSERT INTO outbox (id, type, subject, data, occurred_at, published_at, held, retry_at)
     VALUES (gen_random_uuid(), 'test.kept', 'tests/1', '{}', now() - interval '9 days', ${state})`,
  );

  await createPurge().removeBatch();

  expect(await countEvents('test.kept')).toBe(1);
});

describe('without a broker', () => {
  const withoutBroker = { rabbitmqUrl: undefined, outboxRetentionDays: 7 };

  const insertWaiting = (days: number, type = 'test.waiting', state = 'null, false, null') =>
    dataSource.query(
      `INSERT INTO outbox (id, type, subject, data, occurred_at, published_at, held, retry_at)
       SELECT gen_random_uuid(), $2, 'tests/1', '{}', now() - make_interval(days => $1), ${state}
         FROM generate_series(1, 3)`,
      [days, type],
    );

  it('the purge removes events older than OUTBOX_RETENTION_DAYS, and no younger ones', async () => {
    await insertWaiting(8, 'test.old');
    await insertWaiting(6, 'test.young');

    await createPurge(withoutBroker).removeBatch();

    expect(await countEvents('test.old')).toBe(0);
    expect(await countEvents('test.young')).toBe(3);
  });

  it.each([
    ['OUTBOX_RETENTION_DAYS is 0', { ...withoutBroker, outboxRetentionDays: 0 }],
    ['this node has a broker', { ...withoutBroker, rabbitmqUrl: 'amqp://broker' }],
  ])('the purge keeps every event that waits when %s', async (_, settings) => {
    await insertWaiting(4_000);

    await createPurge(settings).removeBatch();

    expect(await countEvents('test.waiting')).toBe(3);
  });

  it('the purge keeps every event that waits while another node publishes', async () => {
    await insertWaiting(8);
    await insertWaiting(0, 'test.published', 'now(), false, null');

    await createPurge(withoutBroker).removeBatch();

    expect(await countEvents('test.waiting')).toBe(3);
  });
});

it('the purge of one interval removes more than a node can publish meanwhile', async () => {
  await dataSource.query('ALTER TABLE outbox DISABLE TRIGGER USER');
  await dataSource.query(
    `INSERT INTO outbox (id, type, subject, data, published_at)
     SELECT gen_random_uuid(), 'test.old', 'tests/1', '{}', now() - interval '25 hours'
       FROM generate_series(1, 20500)`,
  );
  await dataSource.query('ALTER TABLE outbox ENABLE TRIGGER USER');

  await createPurge().purge();

  expect(await countEvents('test.old')).toBe(0);
});

it('a batch of the purge begins where the last one ended', async () => {
  await dataSource.query(
    `INSERT INTO outbox (id, type, subject, data, published_at)
     SELECT gen_random_uuid(), 'test.old', 'tests/1', '{}', now() - n * interval '1 day'
       FROM generate_series(2, 5) AS n`,
  );
  const purge = createPurge();
  await purge.removeBatch();
  const statement = new StatementRecorder();
  dataSource.logger = statement;

  const { parameters } = await statement.oneDuring(/DELETE FROM outbox/, () => purge.removeBatch());

  const [{ isLater }] = await dataSource.query<[{ isLater: boolean }]>(
    `SELECT $1::timestamptz > now() - interval '3 days' AS "isLater"`,
    [parameters[0]],
  );
  expect(isLater).toBe(true);
});
