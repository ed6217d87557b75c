/**
 * A session that ends during one of its requests. Either the request writes after the end is
 * acknowledged: it must fail and leave nothing. Or it has begun to write: the end must wait for it.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { LastUsesService } from '../../../src/auth/sessions/last-uses.service.js';
import { SessionsService } from '../../../src/auth/sessions/sessions.service.js';
import { ADMIN, startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import {
  logIn,
  ORDER,
  PASSWORD,
  placeOrder,
  registerUser,
  uniqueUsername,
} from '../../support/factories.js';
import { Gate } from '../../support/gate.js';
import type { Reply, RequestOptions } from '../../support/http-client.js';
import { expectProblem } from '../../support/problem.js';
import { TestClock } from '../../support/test-clock.js';

/** The ids that the paths of requests need. */
interface Ids {
  readonly user: string;
  readonly otherUser: string;
  readonly order: string;
  /** Another session of the caller. */
  readonly session: string;
}

/** A request that writes. */
interface WritingRequest {
  readonly caller: 'user' | 'admin';
  readonly path: (ids: Ids) => string;
  readonly options?: () => RequestOptions;
}

const orderAction = (name: string, caller: WritingRequest['caller']): WritingRequest => ({
  caller,
  path: ({ order }) => `/v1/orders/${order}/${name}`,
  options: () => ({ body: {} }),
});

/** Every route that writes and needs a session. */
const WRITING_REQUESTS: Readonly<Record<string, WritingRequest>> = {
  'post /v1/orders': {
    caller: 'user',
    path: () => '/v1/orders',
    options: () => ({ body: ORDER, headers: { 'Idempotency-Key': randomUUID() } }),
  },
  'patch /v1/orders/{id}': {
    caller: 'user',
    path: ({ order }) => `/v1/orders/${order}`,
    options: () => ({ body: { note: 'too late' }, headers: { 'If-Match': '"1"' } }),
  },
  'post /v1/orders/{id}/cancel': orderAction('cancel', 'user'),
  'post /v1/orders/{id}/pay': orderAction('pay', 'user'),
  'post /v1/orders/{id}/ship': orderAction('ship', 'admin'),
  'post /v1/orders/{id}/deliver': orderAction('deliver', 'admin'),
  'post /v1/orders/{id}/refund': orderAction('refund', 'admin'),
  'patch /v1/users/{id}': {
    caller: 'user',
    path: ({ user }) => `/v1/users/${user}`,
    options: () => ({
      body: { email: `${randomUUID()}@example.com` },
      headers: { 'If-Match': '"1"' },
    }),
  },
  'put /v1/users/{id}/password': {
    caller: 'user',
    path: ({ user }) => `/v1/users/${user}/password`,
    options: () => ({
      body: { currentPassword: PASSWORD, newPassword: 'eleven tall ships at anchor' },
    }),
  },
  'put /v1/users/{id}/roles': {
    caller: 'admin',
    path: ({ otherUser }) => `/v1/users/${otherUser}/roles`,
    options: () => ({ body: { roles: ['user', 'support'] } }),
  },
  'delete /v1/users/{id}': { caller: 'user', path: ({ user }) => `/v1/users/${user}` },
  'delete /v1/sessions': { caller: 'user', path: () => '/v1/sessions' },
  'delete /v1/sessions/current': { caller: 'user', path: () => '/v1/sessions/current' },
  'delete /v1/sessions/{id}': {
    caller: 'user',
    path: ({ session }) => `/v1/sessions/${session}`,
  },
};

describe('a session that ends during one of its requests', () => {
  let clock: TestClock;
  let app: TestApp;
  let database: pg.Client;
  /** Tokens whose next request stops once the guard has authenticated it. */
  const stopsAfterGuard = new Map<string, { reached: Gate; leave: Gate }>();

  beforeAll(async () => {
    clock = new TestClock();
    app = await startApp({}, undefined, undefined, [clock.provider]);
    database = await connect();
    const sessions = app.app.get(SessionsService, { strict: false });
    const authenticate = sessions.authenticate.bind(sessions);
    sessions.authenticate = async (token) => {
      const actor = await authenticate(token);
      const stop = stopsAfterGuard.get(token);
      stopsAfterGuard.delete(token);
      stop?.reached.open();
      await stop?.leave.opened;
      return actor;
    };
  });
  afterAll(async () => {
    await database.end();
    await app.close();
  });

  async function connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    return client;
  }

  /** Sends a request and resolves when it stops after the guard. `finish` lets it go on. */
  async function stopAfterGuard(
    token: string,
    send: () => Promise<Reply>,
  ): Promise<{ finish: () => Promise<Reply> }> {
    const stop = { reached: new Gate(), leave: new Gate() };
    stopsAfterGuard.set(token, stop);
    const reply = send();
    await stop.reached.opened;
    return {
      finish: () => {
        stop.leave.open();
        return reply;
      },
    };
  }

  /** All rows that a request may write, as text. */
  async function readAllRows(): Promise<string> {
    const tables = ['users', 'credentials', 'orders', 'order_events', 'idempotency_keys', 'outbox'];
    const columns = tables.map(
      (table) => `(SELECT json_agg(row ORDER BY row::text) FROM ${table} AS row) AS ${table}`,
    );
    const { rows } = await database.query(
      `SELECT ${columns.join()}, (SELECT count(*) FROM sessions) AS sessions`,
    );
    return JSON.stringify(rows);
  }

  const sessionIdOf = async (token: string): Promise<string> =>
    (await app.call('GET', '/v1/sessions/current', { token })).body.id as string;

  const untilLocksAreAwaited = (connections: number): Promise<boolean> =>
    eventually(`${connections} connections wait for a lock`, async () => {
      const { rows } = await database.query<{ waiting: number }>(
        `SELECT count(*)::int AS waiting FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return (rows[0]?.waiting ?? 0) >= connections;
    });

  /** Locks rows until `release`. */
  async function lockRow(
    table: 'orders' | 'users' | 'sessions',
    ...ids: string[]
  ): Promise<{ release: () => Promise<void> }> {
    const blocker = await connect();
    await blocker.query('BEGIN');
    await blocker.query(`SELECT FROM ${table} WHERE id = ANY ($1) FOR UPDATE`, [ids]);
    return {
      release: async () => {
        await blocker.query('COMMIT');
        await blocker.end();
      },
    };
  }

  it('is tested with every route that writes and needs a session', async () => {
    const { body } = await app.call('GET', '/docs/openapi.json');
    const paths = body.paths as Record<string, Record<string, { security?: object[] }>>;
    const reading = ['get', 'head', 'options', 'parameters'];
    const routes = Object.entries(paths).flatMap(([path, operations]) =>
      Object.entries(operations)
        .filter(([method, { security }]) => !reading.includes(method) && security?.length)
        .map(([method]) => `${method} ${path}`),
    );
    expect(Object.keys(WRITING_REQUESTS).sort()).toEqual(routes.sort());
  });

  it.each(Object.entries(WRITING_REQUESTS))(
    'ends before the write → %s answers 401 and writes nothing',
    async (route, { caller, path, options = () => ({}) }) => {
      const [user, otherUser] = [await registerUser(app), await registerUser(app)];
      const order = await placeOrder(app, user.token);
      const [username, password] =
        caller === 'admin' ? [ADMIN.username, ADMIN.password] : [user.username, PASSWORD];
      const token = await logIn(app, username, password);
      const otherToken = await logIn(app, username, password);
      const session = await sessionIdOf(otherToken);
      const ownSession = await sessionIdOf(token);
      const target = path({
        user: user.id,
        otherUser: otherUser.id,
        order: order.id as string,
        session,
      });
      const [method = ''] = route.toUpperCase().split(' ');
      const request = await stopAfterGuard(token, () =>
        app.call(method, target, { ...options(), token }),
      );

      const ended = await app.call('DELETE', `/v1/sessions/${ownSession}`, { token: otherToken });
      expect(ended.status).toBe(204);
      const before = await readAllRows();
      expectProblem(await request.finish(), 401, 'unauthenticated');
      expect(await readAllRows()).toBe(before);
      const other = await app.call('GET', '/v1/sessions/current', { token: otherToken });
      expect(other.status).toBe(200);
    },
  );

  it.each([
    ['orders', { note: 'in time' }],
    ['users', { username: uniqueUsername() }],
  ] as const)(
    'its request has begun to change a row of %s → the end is acknowledged after the commit',
    async (table, change) => {
      const user = await registerUser(app);
      const otherToken = await logIn(app, user.username);
      const order = await placeOrder(app, user.token);
      const id = table === 'orders' ? (order.id as string) : user.id;
      const readVersion = async (): Promise<string> => {
        const sql = `SELECT version FROM ${table} WHERE id = $1`;
        const { rows } = await database.query<{ version: string }>(sql, [id]);
        return rows[0]?.version as string;
      };
      const lock = await lockRow(table, id);
      const write = app.call('PATCH', `/v1/${table}/${id}`, {
        token: user.token,
        body: change,
        headers: { 'If-Match': '"1"' },
      });
      await untilLocksAreAwaited(1);
      let isAnswered = false;
      const ending = app
        .call('DELETE', '/v1/sessions?keep=current', { token: otherToken })
        .then(async ({ status }) => {
          isAnswered = true;
          return { status, version: await readVersion() };
        });
      await untilLocksAreAwaited(2);
      expect([isAnswered, await readVersion()]).toEqual([false, '1']);
      await lock.release();
      expect(await ending).toEqual({ status: 204, version: '2' });
      expect((await write).status).toBe(200);
      const late = await app.call('GET', '/v1/users/me', { token: user.token });
      expectProblem(late, 401, 'unauthenticated');
    },
  );

  it.each([
    ['by id', (otherId: string) => `/v1/sessions/${otherId}`],
    ['as all others', () => '/v1/sessions?keep=current'],
  ])('two sessions end each other %s → one succeeds, the other has ended', async (_, path) => {
    const { username, token } = await registerUser(app);
    const tokens = [token, await logIn(app, username)] as const;
    const ids = [await sessionIdOf(tokens[0]), await sessionIdOf(tokens[1])] as const;
    const lock = await lockRow('sessions', ...ids);
    const endings = [
      app.call('DELETE', path(ids[1]), { token: tokens[0] }),
      app.call('DELETE', path(ids[0]), { token: tokens[1] }),
    ];
    await untilLocksAreAwaited(2);
    await lock.release();
    const statuses = (await Promise.all(endings)).map(({ status }) => status);
    expect(statuses.sort()).toEqual([204, 401]);
    const { rowCount } = await database.query('SELECT FROM sessions WHERE id = ANY ($1)', [ids]);
    expect(rowCount).toBe(1);
  });

  it('a writing request does not block the last use of its session', async () => {
    const user = await registerUser(app);
    const order = await placeOrder(app, user.token);
    const id = order.id as string;
    clock.advance(600_000);
    const lock = await lockRow('orders', id);
    const write = app.call('PATCH', `/v1/orders/${id}`, {
      token: user.token,
      body: { note: 'waits for the lock' },
      headers: { 'If-Match': '"1"' },
    });
    await untilLocksAreAwaited(1);
    await app.app.get(LastUsesService, { strict: false }).flush();
    const sql = 'SELECT last_seen_at FROM sessions WHERE user_id = $1';
    const { rows } = await database.query<{ last_seen_at: Date }>(sql, [user.id]);
    expect(rows[0]?.last_seen_at).toEqual(clock.now);
    await lock.release();
    expect((await write).status).toBe(200);
  });
});
