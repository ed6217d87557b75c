/**
 * /v1/orders/export of many orders: complete, as slow as its client, and without a trace when the
 * client disconnects or stops reading.
 */
import { once } from 'node:events';
import http from 'node:http';
import type { Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { MAX_EXPORT_BATCH, OrderExportService } from '../../src/orders/order-export.service.js';
import { Replicas } from '../../src/platform/database/replicas.js';
import { BOUND_OVERRIDES, BOUNDS, type Bounds } from '../../src/platform/http/bounds/bounds.js';
import { startApp, type TestApp } from '../support/app.js';
import { eventually } from '../support/eventually.js';
import {
  logInAsAdmin,
  ORDER,
  registerSupportUser,
  registerUser,
  type TestUser,
} from '../support/factories.js';
import { expectProblem } from '../support/problem.js';

/** 18 MB in all: more than the buffers of a connection that nobody reads. */
const ROWS = 15_000;
const NOTE_CHARACTERS = 900;
/** Polls without a further batch after which the export counts as stalled. */
const STALLED_POLLS = 50;

const INSERT_ORDERS = `
  INSERT INTO orders (id, user_id, status, currency, items, total, note, created_at)
  SELECT gen_random_uuid(), $1, 'placed', 'EUR', $2, 9998, repeat('n', ${NOTE_CHARACTERS}),
         now() - number / 3 * interval '1 second'
    FROM generate_series(1, ${ROWS}) AS number`;
const ACTIVE_CONNECTIONS = `
  SELECT state, query FROM pg_stat_activity
   WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'`;
const COUNT_CONNECTIONS = `
  SELECT count(*)::int AS count FROM pg_stat_activity WHERE datname = current_database()`;

let app: TestApp;
let owner: TestUser;
let support: TestUser;
let adminToken: string;
let database: pg.Client;

beforeAll(async () => {
  app = await startApp();
  owner = await registerUser(app);
  support = await registerSupportUser(app);
  adminToken = await logInAsAdmin(app);
  database = new pg.Client({ connectionString: app.databaseUrl });
  await database.connect();
  // Without triggers, which would take as long for each row as for a single write.
  await database.query('SET session_replication_role = replica');
  await database.query(INSERT_ORDERS, [owner.id, JSON.stringify(ORDER.items)]);
  await database.query('SET session_replication_role = origin');
});
afterAll(async () => {
  await database?.end();
  await app?.close();
});

/** What the export of a node has read and what waits in its process. */
interface Observation {
  batches: number;
  rowsOfLargestBatch: number;
  bytesOfLargestBatch: number;
  /** The most bytes that waited in the process when a batch was read. */
  maxBufferedBytes: number;
  isReleased: boolean;
}

const restores: (() => void)[] = [];
afterEach(() => {
  for (const restore of restores.splice(0)) restore();
});

/** Observes the next export of a node. */
function observeExport(node: TestApp): Observation {
  const observation: Observation = {
    batches: 0,
    rowsOfLargestBatch: 0,
    bytesOfLargestBatch: 0,
    maxBufferedBytes: 0,
    isReleased: false,
  };
  const sockets = new Set<Socket>();
  const server = node.app.getHttpServer() as http.Server;
  const addSocket = (socket: Socket): void => void sockets.add(socket);
  server.on('connection', addSocket);
  const service = node.app.get(OrderExportService);
  const original = service.export.bind(service);
  service.export = async function* () {
    try {
      for await (const batch of original()) {
        const buffered = [...sockets].reduce((sum, { writableLength }) => sum + writableLength, 0);
        observation.batches++;
        observation.maxBufferedBytes = Math.max(observation.maxBufferedBytes, buffered);
        observation.bytesOfLargestBatch = Math.max(observation.bytesOfLargestBatch, batch.length);
        observation.rowsOfLargestBatch = Math.max(
          observation.rowsOfLargestBatch,
          batch.split('\n').length - 1,
        );
        yield batch;
      }
    } finally {
      observation.isReleased = true;
    }
  };
  restores.push(() => {
    server.off('connection', addSocket);
    service.export = original;
  });
  return observation;
}

/** Begins an export on a connection of its own. */
function openExport(node: TestApp, fields: object = {}): Promise<http.IncomingMessage> {
  const headers = { Authorization: `Bearer ${adminToken}`, ...fields };
  return new Promise((resolve, reject) => {
    http
      .get(`${node.url}/v1/orders/export`, { headers, agent: false }, resolve)
      .on('error', reject);
  });
}

/** Resolves when the export no longer reads batches, because its client reads nothing. */
async function awaitStall(observation: Observation): Promise<void> {
  let lastBatches = 0;
  let unchangedPolls = 0;
  await eventually('the export stalled', () => {
    unchangedPolls = observation.batches === lastBatches ? unchangedPolls + 1 : 0;
    lastBatches = observation.batches;
    return lastBatches > 0 && unchangedPolls === STALLED_POLLS;
  });
}

describe(`an export of ${ROWS} orders`, () => {
  it('has each order once, newest first, one JSON object a line', async () => {
    const { rows } = await database.query<{ count: number }>(
      'SELECT count(*)::int AS count FROM orders',
    );
    const reply = await app.call('GET', '/v1/orders/export', { token: support.token });
    expect([
      reply.status,
      reply.headers.get('content-type'),
      reply.headers.get('cache-control'),
    ]).toEqual([200, 'application/x-ndjson', 'no-store']);
    expect(reply.text.endsWith('}\n')).toBe(true);
    const orders = reply.text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { id: string; createdAt: string });
    const times = orders.map(({ createdAt }) => createdAt);
    expect(orders).toHaveLength(rows[0]?.count ?? 0);
    expect(new Set(orders.map(({ id }) => id)).size).toBe(orders.length);
    expect(times).toEqual([...times].sort().reverse());
    const first = await app.call('GET', `/v1/orders/${orders[0]?.id}`, { token: support.token });
    expect(first.body).toEqual(orders[0]);
  });

  it('to a client that pauses → waits for it, with a few batches in memory', async () => {
    const observation = observeExport(app);
    const response = await openExport(app);
    response.pause();
    await awaitStall(observation);
    expect(observation.isReleased).toBe(false);
    // The rest of what was read is in the operating system's buffers.
    expect(observation.batches).toBeLessThan(ROWS / MAX_EXPORT_BATCH.rows);

    let lines = 0;
    for await (const chunk of response) {
      lines += (chunk as Buffer).toString().split('\n').length - 1;
    }
    expect(lines).toBe(ROWS);
    expect(observation.rowsOfLargestBatch).toBe(MAX_EXPORT_BATCH.rows);
    expect(observation.maxBufferedBytes).toBeLessThan(3 * observation.bytesOfLargestBatch);
  });

  it('to a client that reads nothing → is cut when the node stops', async () => {
    const connection = { ...BOUNDS.connection, stallMs: 600_000 };
    const useValue = { connection } satisfies Partial<Bounds>;
    const node = await startApp({}, app.databaseUrl, undefined, [
      { provide: BOUND_OVERRIDES, useValue },
    ]);
    const observation = observeExport(node);
    const response = await openExport(node);
    const failed = once(response, 'error');
    response.pause();
    await awaitStall(observation);
    const closing = node.close();
    try {
      await eventually('the export was released', () => observation.isReleased);
    } catch (error) {
      response.destroy();
      throw error;
    }
    await closing;
    response.resume();
    await failed;
    expect(response.complete).toBe(false);
  });

  it('to clients that disconnect → leaves no transaction and no connection behind', async () => {
    const disconnectEarly = async (): Promise<void> => {
      const response = await openExport(app);
      response.once('error', () => undefined);
      await once(response, 'data');
      response.destroy();
    };
    await Promise.all(Array.from({ length: 15 }, disconnectEarly));
    await eventually('no connection was active', async () => {
      const { rows } = await database.query(ACTIVE_CONNECTIONS);
      return rows.length === 0;
    });
    const replies = await Promise.all(
      Array.from({ length: 12 }, () => app.call('GET', '/v1/users?limit=1', { token: adminToken })),
    );
    expect(replies.map(({ status }) => status)).toEqual(Array(12).fill(200));
    const { rows } = await database.query<{ count: number }>(COUNT_CONNECTIONS);
    expect(rows[0]?.count).toBeLessThanOrEqual(app.config.databasePool + 5);
  });

  it.each(['identity', 'gzip'])('as %s → ends with the number of its lines', async (encoding) => {
    const response = await openExport(app, { 'Accept-Encoding': encoding });
    response.resume();
    await once(response, 'end');
    expect(response.complete).toBe(true);
    expect(response.headers.trailer).toBe('x-total-count');
    expect(response.trailers).toEqual({ 'x-total-count': String(ROWS) });
  });

  it.each(['identity', 'gzip'])(
    'as %s, whose third batch fails → is incomplete and has no number of lines',
    async (encoding) => {
      const replicas = app.app.get(Replicas);
      const original = replicas.repeatedReads.bind(replicas);
      restores.push(() => (replicas.repeatedReads = original));
      replicas.repeatedReads = () => {
        const reads = original();
        let batches = 0;
        return {
          read: (work) => {
            batches++;
            return batches === 3 ? Promise.reject(new Error('no answer')) : reads.read(work);
          },
        };
      };
      const response = await openExport(app, { 'Accept-Encoding': encoding });
      const failed = once(response, 'error');
      response.resume();
      await failed;
      expect([response.statusCode, response.complete, response.trailers]).toEqual([200, false, {}]);
    },
  );

  it('over HTTP/1.0 → has no chunks, and so no trailer', async () => {
    const received = await app.sendRaw(
      `GET /v1/orders/export HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer ${adminToken}\r\n\r\n`,
    );
    const [head = '', body = ''] = received.split('\r\n\r\n');
    expect(head).not.toMatch(/^(transfer-encoding|trailer):/im);
    expect(body.trimEnd().split('\n')).toHaveLength(ROWS);
  });

  it('by HEAD → reads no orders', async () => {
    const observation = observeExport(app);
    const reply = await app.call('HEAD', '/v1/orders/export', { token: support.token });
    expect([reply.status, reply.text, reply.headers.get('content-type')]).toEqual([
      200,
      '',
      'application/x-ndjson',
    ]);
    expect(observation.batches).toBe(0);
  });

  it('for a user without a role → 403', async () => {
    const reply = await app.call('GET', '/v1/orders/export', { token: owner.token });
    expectProblem(reply, 403, 'forbidden');
  });
});
