/** The purge of the outbox: what it removes, and what it must keep. */
import { afterAll, afterEach, beforeAll, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { OutboxPurge } from '../../../src/platform/outbox/outbox-purge.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';

let database: TestDatabase;
let dataSource: DataSource;

beforeAll(async () => {
  database = await createTestDatabase();
  dataSource = await new DataSource(dataSourceOptions(database.url, 2)).initialize();
});

afterEach(() => dataSource.query('TRUNCATE outbox'));

afterAll(async () => {
  await dataSource?.destroy();
  await database?.drop();
});

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
  const purge = new OutboxPurge(dataSource);

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

  await new OutboxPurge(dataSource).removeBatch();

  expect(await countEvents('test.kept')).toBe(1);
});
