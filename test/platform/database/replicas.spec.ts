/**
 * Reads on a real streaming replica: only reads that may be old use it, nothing is written there,
 * and the primary answers while it is gone.
 */
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  it,
  jest,
} from '@jest/globals';
import { Logger } from '@nestjs/common';
import pg from 'pg';
import { DataSource, type EntityManager } from 'typeorm';
import type { Config } from '../../../src/config.js';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { Replicas } from '../../../src/platform/database/replicas.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
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
/** A summary of a range that no cache has. */
function summarize(headers = {}): Promise<Reply> {
  summaryDays++;
  const day = (daysAgo: number): string =>
    new Date(Date.now() - daysAgo * DAY_MS).toISOString().slice(0, 10);
  const path = `/v1/orders/summary?from=${day(summaryDays)}&to=${day(0)}`;
  return app.call('GET', path, { token: adminToken, headers });
}
/** The number of orders in the summary. */
async function summarizedOrders(headers = {}): Promise<number> {
  const { body } = await summarize(headers);
  const totals = body.data as { count: number }[];
  return totals.reduce((sum, { count }) => sum + count, 0);
}

/** After {@link TestPostgres.replicate}, which restarts the primary. */
async function reconnectPrimary(): Promise<void> {
  await onPrimary.end();
  onPrimary = await connect(primary.url);
  await eventually('the node has its database again', async () => {
    const { status } = await app.call('GET', '/v1/orders', { token: user.token });
    return status === 200;
  });
  await eventually('the replica follows again', async () => {
    await awaitReplication();
    return true;
  });
}

/** Resolves when a replica has everything that the primary has written so far. */
async function awaitReplication(client: pg.Client = onReplica): Promise<void> {
  const { rows } = await onPrimary.query<{ position: string }>(
    'SELECT pg_current_wal_insert_lsn()::text AS position',
  );
  await eventually('the replica has caught up', async () => {
    const replayed = await client.query<{ is_done: boolean }>(
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

/** Replicas of these servers, as a node has them. Lines of the log go to `lines`. */
function replicasOf(...urls: string[]): Replicas {
  const replicas = new Replicas(app.app.get(DataSource), {
    databaseReplicaUrls: urls,
  } as unknown as Config);
  openReplicas.push(replicas);
  return replicas;
}
const openReplicas: Replicas[] = [];
afterEach(async () => {
  for (const replicas of openReplicas.splice(0)) await replicas.onApplicationShutdown();
});

const portOf = async (manager: EntityManager): Promise<number> => {
  const [row] = await manager.query<{ port: number }[]>(
    `SELECT current_setting('port')::int AS port`,
  );
  return row?.port as number;
};

describe('a server that is not a replica of the primary', () => {
  let warnings: string[];
  beforeEach(() => {
    warnings = [];
    jest.spyOn(Logger.prototype, 'warn').mockImplementation((line: string) => {
      // A restart of the primary is reported by other parts of the node.
      if (line.startsWith('replica')) warnings.push(line);
    });
  });
  afterEach(() => {
    jest.restoreAllMocks();
  });

  async function expectUnused(url: string, reason: RegExp): Promise<void> {
    const replicas = replicasOf(url);
    const ports = [await replicas.read(portOf), await replicas.read(portOf)];
    expect(ports).toEqual([primary.port, primary.port]);
    expect(replicas.unusedCount).toBe(1);
    expect(warnings).toEqual([expect.stringMatching(reason)]);
  }

  it('because the URL leads to the primary → is not used, which is logged once', () =>
    expectUnused(primary.url, /is not a replica: it accepts writes/));

  it('because the URL leads to the primary → nothing can be written there', async () => {
    const replicas = replicasOf(primary.url);
    await replicas.read(portOf);
    const [server] = replicas['replicas'];
    await expect(server?.manager.query('CREATE TABLE by_mistake ()')).rejects.toThrow(/read-only/);
  });

  it('because it was promoted → is not used, which is logged once', async () => {
    const promoted = await primary.replicate();
    try {
      await reconnectPrimary();
      const client = await connect(promoted.url);
      await client.query('SELECT pg_promote()');
      await client.end();
      await expectUnused(promoted.url, /is not a replica: it accepts writes/);
    } finally {
      await promoted.stop();
    }
  });

  it('because it replicates another system → is not used, which is logged once', async () => {
    const otherPrimary = await startTestPostgres();
    const otherReplica = await otherPrimary.replicate();
    try {
      await expectUnused(otherReplica.url, /is a replica of another system/);
    } finally {
      await otherReplica.stop();
      await otherPrimary.stop();
    }
  });

  it('because the primary came from it, by a promotion → is not used', async () => {
    const newPrimary = await primary.replicate();
    try {
      await reconnectPrimary();
      const client = await connect(newPrimary.url);
      await client.query('SELECT pg_promote()');
      await client.query('CREATE TABLE after_promotion ()');
      await client.end();
      const node = new DataSource(dataSourceOptions(newPrimary.url, 1));
      await node.initialize();
      const replicas = new Replicas(node, {
        databaseReplicaUrls: [replica.url],
      } as unknown as Config);
      openReplicas.push(replicas);
      expect(await replicas.read(portOf)).toBe(newPrimary.port);
      expect(warnings).toEqual([expect.stringMatching(/follows timeline 1, the primary is on 2/)]);
      await node.destroy();
    } finally {
      await newPrimary.stop();
    }
  });

  it('and has replayed nothing → is not used, because nobody knows how old it is', async () => {
    const unreachablePort = 1;
    const silent = await primary.replicate(unreachablePort);
    try {
      await reconnectPrimary();
      await onPrimary.query('CREATE TABLE unreplicated ()');
      await expectUnused(silent.url, /has replayed no commit since its start/);
    } finally {
      await silent.stop();
    }
  });

  it('is reported by the readiness, without its address', async () => {
    const node = await startApp({ DATABASE_REPLICA_URLS: primary.url }, primary.url);
    try {
      await eventually('the replica is reported', async () => {
        const { status, body } = await node.call('GET', '/health/ready');
        expect(JSON.stringify(body)).not.toContain(String(primary.port));
        return status === 200 && body.checks.replicas?.status === 'degraded';
      });
    } finally {
      await node.close();
    }
  });
});

describe('with a role that has no rights of an administrator', () => {
  it('a replica is recognized and used', async () => {
    await onPrimary.query(`CREATE ROLE plain LOGIN PASSWORD 'plain'`);
    await awaitReplication();
    const urlOf = (server: TestPostgres): string => {
      const url = new URL(server.url);
      url.username = 'plain';
      url.password = 'plain';
      return url.href;
    };
    const node = await new DataSource(dataSourceOptions(urlOf(primary), 1)).initialize();
    const replicas = new Replicas(node, {
      databaseReplicaUrls: [urlOf(replica)],
    } as unknown as Config);
    openReplicas.push(replicas);
    expect(await replicas.read(portOf)).toBe(replica.port);
    await node.destroy();
  });
});

describe('a replica that lags by a known time', () => {
  afterEach(resumeReplay);

  it('answers with the moment whose commits it has, and the summary has that age', async () => {
    await placeOrder(app, user.token);
    await awaitReplication();
    await pauseReplay();
    const pausedAt = Date.now();
    await placeOrder(app, user.token);
    const asOf = await replicasOf(replica.url).read((_, time) => Promise.resolve(time));
    expect(asOf).toBeLessThanOrEqual(pausedAt);
    await eventually('the age is that of the last replayed commit', async () => {
      const { headers } = await summarize();
      const age = Number(headers.get('age'));
      return age >= (Date.now() - pausedAt) / 1000 && age >= 2;
    });
  });

  it('that has everything → answers with this moment, however long ago that was', async () => {
    await awaitReplication();
    const replicas = replicasOf(replica.url);
    // PostgreSQL also writes by itself, e.g. at a checkpoint: then something is to be replayed.
    await eventually('the replica answers with this moment', async () => {
      const before = Date.now();
      return (await replicas.read((_, time) => Promise.resolve(time))) >= before;
    });
  });
});

describe('the export from several replicas', () => {
  const NEW_ORDERS = 1_100;
  let second: TestPostgres;
  let onSecond: pg.Client;
  let node: TestApp;

  beforeAll(async () => {
    second = await primary.replicate();
    await reconnectPrimary();
    onSecond = await connect(second.url);
    const env = { DATABASE_REPLICA_URLS: `${replica.url},${second.url}` };
    node = await startApp(env, primary.url);
    adminToken = await logInAsAdmin(node);
    // Replays one commit, so that its age is known.
    await placeOrder(node, await logInAsAdmin(node));
    await awaitReplication(onSecond);
    await onSecond.query('SELECT pg_wal_replay_pause()');
    await onPrimary.query('SET session_replication_role = replica');
    await onPrimary.query(
      `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
       SELECT gen_random_uuid(), $1, 'placed', 'EUR', $2, 9998, now() - number * interval '1 second'
         FROM generate_series(1, ${NEW_ORDERS}) AS number`,
      [user.id, JSON.stringify(ORDER.items)],
    );
    await onPrimary.query('SET session_replication_role = origin');
    await awaitReplication();
  });
  afterAll(async () => {
    await onPrimary.query('SET session_replication_role = replica');
    await onPrimary.query('DELETE FROM orders WHERE id NOT IN (SELECT order_id FROM order_events)');
    await onPrimary.query('SET session_replication_role = origin');
    await node?.close();
    await onSecond?.end();
    await second?.stop();
  });

  it('has all orders of the server that answered first, whichever others lag', async () => {
    const { rows } = await onPrimary.query<{ count: number }>(
      'SELECT count(*)::int AS count FROM orders',
    );
    const total = rows[0]?.count as number;
    const counts: number[] = [];
    for (let exports = 0; exports < 6; exports++) {
      const { text } = await node.call('GET', '/v1/orders/export', { token: adminToken });
      counts.push(text.split('\n').length - 1);
    }
    // The second replica has the orders before its pause, and is used too.
    expect([...new Set(counts)].sort((a, b) => a - b)).toEqual([total - NEW_ORDERS, total]);
  });

  it('goes on with a server that has as much, when the first one fails', async () => {
    const replicas = replicasOf(replica.url, second.url);
    const reads = replicas.repeatedReads();
    const firstPort = await reads.read(portOf);
    // The first one must be the replica that is ahead.
    const ahead = firstPort === replica.port ? reads : replicas.repeatedReads();
    if (ahead !== reads) await ahead.read(portOf);
    const ports: number[] = [];
    const result = await ahead.read(async (manager) => {
      ports.push(await portOf(manager));
      if (ports.length === 1) throw new Error('the first server fails');
      return 'answered';
    });
    expect([result, ports]).toEqual(['answered', [replica.port, primary.port]]);
    expect(await ahead.read(portOf)).toBe(primary.port);
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
