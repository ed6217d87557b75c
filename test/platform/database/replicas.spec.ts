/** Reads that may lag, over a real streaming replica: it is used for these and for nothing else, and may go. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { Replicas } from '../../src/database/replicas.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { adminToken, person, type Person, placeOrder } from '../support/factories.js';
import { startTestPostgres, type TestPostgres } from '../support/postgres.js';

let primary: TestPostgres;
let replica: TestPostgres;
let onReplica: pg.Client;
let app: TestApp;
let admin: string;
let user: Person;

beforeAll(async () => {
  primary = await startTestPostgres();
  replica = await primary.replicate();
  onReplica = new pg.Client({ connectionString: replica.url });
  onReplica.on('error', () => undefined);
  await onReplica.connect();
  app = await startApp({ DATABASE_REPLICA_URLS: replica.url }, primary.url);
  admin = await adminToken(app);
  user = await person(app);
  await placeOrder(app, user.token);
}, 60_000);
afterAll(async () => {
  await app?.close();
  await onReplica?.end();
  await replica?.stop();
  await primary?.stop();
});

const exported = async (): Promise<string[]> => {
  const { status, text } = await app.call('GET', '/v1/orders/export', { token: admin });
  expect(status).toBe(200);
  return text
    .split('\n')
    .flatMap((line) => (line ? [(JSON.parse(line) as { id: string }).id] : []));
};
/** Of a range that nobody has asked for yet, so that no cache has it. */
let days = 1;
const summary = (headers = {}): Promise<Reply> => {
  const to = new Date().toISOString().slice(0, 10);
  const from = new Date(Date.now() - ++days * 86_400_000).toISOString().slice(0, 10);
  return app.call('GET', `/v1/orders/summary?from=${from}&to=${to}`, { token: admin, headers });
};
const counted = async (headers = {}): Promise<number> =>
  ((await summary(headers)).body.data as { count: number }[]).reduce(
    (sum, { count }) => sum + count,
    0,
  );

async function caughtUp(): Promise<void> {
  const client = new pg.Client({ connectionString: primary.url });
  await client.connect();
  const { rows } = await client.query<{ lsn: string }>(
    'SELECT pg_current_wal_insert_lsn()::text AS lsn',
  );
  await client.end();
  for (const end = Date.now() + 10_000; Date.now() < end; await sleep(10)) {
    const sql = 'SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS there';
    if ((await onReplica.query<{ there: boolean }>(sql, [rows[0]?.lsn])).rows[0]?.there) return;
  }
  throw new Error('the replica does not catch up');
}

describe('a replica that lags', () => {
  it('answers the export and the summary, and nothing that is strict', async () => {
    await caughtUp();
    const before = await exported();
    expect(before).toHaveLength(1);
    await onReplica.query('SELECT pg_wal_replay_pause()');
    const order = await placeOrder(app, user.token);
    expect(await exported()).toEqual(before);
    expect(await counted()).toBe(1);
    expect(await counted({ 'Cache-Control': 'no-cache' })).toBe(2);
    // Neither a list, nor a cold row, nor what fills the cache.
    expect((await app.call('GET', '/v1/orders', { token: user.token })).body.data).toHaveLength(2);
    expect((await app.call('GET', '/v1/orders', { token: admin })).body.data).toHaveLength(2);
    expect((await app.call('GET', `/v1/orders/${order.id}`, { token: user.token })).status).toBe(
      200,
    );
    await onReplica.query('SELECT pg_wal_replay_resume()');
    await caughtUp();
    expect(await exported()).toEqual([order.id, ...before]);
  });

  it('is not written to, even where the URL leads to a primary', async () => {
    const url = { databaseReplicaUrls: [primary.url] } as unknown as ConstructorParameters<
      typeof Replicas
    >[1];
    const replicas = new Replicas(app.app.get(DataSource), url);
    const sql = 'CREATE TABLE a_decision ()';
    let runs = 0;
    const failing = replicas.read((manager) =>
      ++runs === 1 ? manager.query(sql) : Promise.reject(new Error('primary')),
    );
    await expect(failing).rejects.toThrow('primary');
    await replicas.onApplicationShutdown();
  });
});

describe('a replica that is gone', () => {
  it('costs nobody an answer: the primary is read, and it is used again when it is back', async () => {
    const all = await exported();
    await replica.kill();
    expect(await exported()).toEqual(all);
    expect(await counted()).toBe(all.length);
    const order = await placeOrder(app, user.token);
    expect(await exported()).toEqual([order.id, ...all]);
    await replica.restart();
    onReplica = new pg.Client({ connectionString: replica.url });
    await onReplica.connect();
    await caughtUp();
    await sleep(2_100);
    await onReplica.query('SELECT pg_wal_replay_pause()');
    const latest = await placeOrder(app, user.token);
    expect(await exported()).not.toContain(latest.id);
    await onReplica.query('SELECT pg_wal_replay_resume()');
  }, 30_000);
});
