/** The gauges of the outbox, over PostgreSQL. */
import { afterAll, beforeAll, beforeEach, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { OutboxMetrics } from '../../../src/platform/outbox/outbox-metrics.js';
import { RelayProgress } from '../../../src/platform/outbox/relay-progress.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { LONG_TIMEOUT_MS } from '../../support/timeouts.js';

const DAY_SECONDS = 86_400;

let database: TestDatabase;
let dataSource: DataSource;

beforeAll(async () => {
  database = await createTestDatabase();
  const timeouts = { connect: LONG_TIMEOUT_MS };
  dataSource = await new DataSource(dataSourceOptions(database.url, 2, { timeouts })).initialize();
});

beforeEach(() => dataSource.query('TRUNCATE outbox'));

afterAll(async () => {
  await dataSource?.destroy();
  await database?.drop();
});

/** @param state published_at, held and retry_at as SQL */
const insertEvent = (subject: string, state: string): Promise<unknown> =>
  dataSource.query(
    `INSERT INTO outbox (id, type, subject, data, occurred_at, published_at, held, retry_at)
     VALUES (gen_random_uuid(), 'test.made', $1, '{}', now() - interval '9 days', ${state})`,
    [subject],
  );

async function gaugeValue(name: string, source = dataSource): Promise<number> {
  const registry = new Registry();
  new OutboxMetrics(registry, source);
  const text = await registry.metrics();
  return Number(new RegExp(`^${name} (.+)$`, 'm').exec(text)?.[1]);
}

it.each([
  ['that waits', 'null, false, null'],
  ['that the broker rejected', `null, true, 'infinity'`],
])('holdfast_outbox_oldest_seconds is the age of an event %s', async (_, state) => {
  await insertEvent('tests/1', state);

  const age = await gaugeValue('holdfast_outbox_oldest_seconds');

  expect(Math.floor(age / DAY_SECONDS)).toBe(9);
});

it('holdfast_outbox_oldest_seconds is 0 when every event is published', async () => {
  await insertEvent('tests/1', 'now(), false, null');

  expect(await gaugeValue('holdfast_outbox_oldest_seconds')).toBe(0);
});

it('holdfast_outbox_held_subjects counts blocked subjects, not the events behind', async () => {
  await insertEvent('tests/1', `null, true, 'infinity'`);
  await insertEvent('tests/1', 'null, true, null');
  await insertEvent('tests/2', 'null, true, now()');
  await insertEvent('tests/3', 'null, false, null');

  expect(await gaugeValue('holdfast_outbox_held_subjects')).toBe(2);
});

it('the gauges are NaN when PostgreSQL does not answer', async () => {
  const disconnected = new DataSource(dataSourceOptions(database.url, 1));

  expect(await gaugeValue('holdfast_outbox_oldest_seconds', disconnected)).toBeNaN();
});

it('the gauges of the relay are those of the relay of this process', async () => {
  let now = 0;
  const progress = new RelayProgress(() => now);
  progress.recordFirst(3, 17);
  now += 90_000;
  const registry = new Registry();
  new OutboxMetrics(registry, dataSource).watchRelay(progress);

  const text = await registry.metrics();

  expect(text).toContain('holdfast_outbox_stalled_partitions 1');
  expect(text).toContain('holdfast_outbox_relay_pass_age_seconds 90');
});
