/**
 * Reads on a real streaming replica: only reads that may be old use it, nothing is written there,
 * and the primary answers while it is gone.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DataSource } from 'typeorm';
import type { Config } from '../../../src/config.js';
import { Replicas } from '../../../src/platform/database/replicas.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { logInAsAdmin, placeOrder, registerUser, type TestUser } from '../../support/factories.js';
import { startTestPostgres, type TestPostgres } from '../../support/postgres.js';

const DAY_MS = 86_400_000;
const UNCACHED = { 'Cache-Control': 'no-cache' };

let primary: TestPostgres;
let replica: TestPostgres;
let onPrimary: pg.Client;
let onReplica: pg.Client;
let app: TestApp;
let adminToken: string;
let user: TestUser;

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  // A server that is killed breaks the connection.
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

beforeAll(async () => {
  primary = await startTestPostgres();
  replica = await primary.replicate();
  [onPrimary, onReplica] = await Promise.all([connect(primary.url), connect(replica.url)]);
  const env = { DATABASE_REPLICA_URLS: replica.url };
  app = await startApp(env, primary.url);
  adminToken = await logInAsAdmin(app);
  user = await registerUser(app);
  await placeOrder(app, user.token);
});
afterAll(async () => {
  await app?.close();
  await onPrimary?.end();
  await onReplica?.end();
  await replica?.stop();
  await primary?.stop();
});

/** The ids of all orders, newest first, from the replica. */
async function exportedIds(): Promise<string[]> {
  const { status, text } = await app.call('GET', '/v1/orders/export', { token: adminToken });
  expect(status).toBe(200);
  const lines = text.split('\n').filter(Boolean);
  return lines.map((line) => (JSON.parse(line) as { id: string }).id);
}

let summaryDays = 1;
/** The number of orders in the summary, of a range that no cache has. */
async function summarizedOrders(headers = {}): Promise<number> {
  summaryDays++;
  const day = (daysAgo: number): string =>
    new Date(Date.now() - daysAgo * DAY_MS).toISOString().slice(0, 10);
  const path = `/v1/orders/summary?from=${day(summaryDays)}&to=${day(0)}`;
  const { body } = await app.call('GET', path, { token: adminToken, headers });
  const totals = body.data as { count: number }[];
  return totals.reduce((sum, { count }) => sum + count, 0);
}

/** Resolves when the replica has everything that the primary has written so far. */
async function awaitReplication(): Promise<void> {
  const { rows } = await onPrimary.query<{ position: string }>(
    'SELECT pg_current_wal_insert_lsn()::text AS position',
  );
  await eventually('the replica has caught up', async () => {
    const replayed = await onReplica.query<{ is_done: boolean }>(
      'SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS is_done',
      [rows[0]?.position],
    );
    return replayed.rows[0]?.is_done;
  });
}

const pauseReplay = (): Promise<unknown> => onReplica.query('SELECT pg_wal_replay_pause()');
const resumeReplay = (): Promise<unknown> => onReplica.query('SELECT pg_wal_replay_resume()');

describe('a replica that lags behind', () => {
  let idsBefore: string[];
  /** Placed after the replica has stopped to follow. */
  let orderId: string;

  beforeAll(async () => {
    await awaitReplication();
    idsBefore = await exportedIds();
    await pauseReplay();
    orderId = (await placeOrder(app, user.token)).id as string;
  });
  afterAll(resumeReplay);

  it('answers the export', async () => {
    expect(await exportedIds()).toEqual(idsBefore);
  });

  it('answers the summary', async () => {
    expect(await summarizedOrders()).toBe(idsBefore.length);
  });

  it('does not answer a summary with Cache-Control: no-cache', async () => {
    expect(await summarizedOrders(UNCACHED)).toBe(idsBefore.length + 1);
  });

  it.each([
    ['the list of a user', () => '/v1/orders', () => user.token],
    ['the list of an administrator', () => '/v1/orders', () => adminToken],
    ['a read of the order', () => `/v1/orders/${orderId}`, () => user.token],
  ])('does not answer %s, which has the newest order', async (_, path, token) => {
    const { status, text } = await app.call('GET', path(), { token: token() });
    expect(status).toBe(200);
    expect(text).toContain(orderId);
  });
});

describe('a replica that has caught up', () => {
  it('answers with the newest order', async () => {
    const { id } = await placeOrder(app, user.token);
    await awaitReplication();

    const [newest] = await exportedIds();

    expect(newest).toBe(id);
  });
});

describe('a URL of a replica that leads to a primary', () => {
  it('is not written to', async () => {
    const config = { databaseReplicaUrls: [primary.url] } as unknown as Config;
    const replicas = new Replicas(app.app.get(DataSource), config);
    const servers: string[] = [];

    const read = replicas.read(async (manager) => {
      servers.push(servers.length === 0 ? 'replica' : 'primary');
      if (servers.length === 1) await manager.query('CREATE TABLE written ()');
      return 'read on the primary';
    });

    expect(await read).toBe('read on the primary');
    expect(servers).toEqual(['replica', 'primary']);
    const { rows } = await onPrimary.query(`SELECT to_regclass('written') AS written`);
    expect(rows).toEqual([{ written: null }]);
    await replicas.onApplicationShutdown();
  });
});

describe('a replica that was killed', () => {
  afterEach(resumeReplay);

  async function restartReplica(): Promise<void> {
    await replica.restart();
    await onReplica.end();
    onReplica = await connect(replica.url);
    await awaitReplication();
  }

  it('is replaced by the primary, and used again when it is back', async () => {
    await awaitReplication();
    const idsBefore = await exportedIds();
    await replica.kill();
    const { id } = await placeOrder(app, user.token);
    expect(await exportedIds()).toEqual([id, ...idsBefore]);
    expect(await summarizedOrders()).toBe(idsBefore.length + 1);

    await restartReplica();
    await pauseReplay();
    const { id: unreplicated } = await placeOrder(app, user.token);

    await eventually('the export comes from the replica', async () => {
      const ids = await exportedIds();
      return !ids.includes(unreplicated as string);
    });
  });
});
