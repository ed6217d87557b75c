/**
 * A session that ends while a request of its own is under way, in both orders: a write that had passed the guard when the end
 * was acknowledged is refused and leaves nothing behind; one that had begun to write is waited for by the end's answer.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { LastUses } from '../../src/auth/last-uses.js';
import { SessionsService } from '../../src/auth/sessions.service.js';
import { ADMIN, type Call, type Reply, startApp, type TestApp } from '../support/app.js';
import { logIn, ORDER, PASSWORD, person, placeOrder } from '../support/factories.js';
import { expectProblem } from '../support/problem.js';

/** What a caller whose session ends meanwhile may try: as whom, and the request, given ids of its own and of others. */
interface Ids {
  readonly user: string;
  readonly stranger: string;
  readonly order: string;
  readonly session: string;
}
interface Write {
  readonly as: 'user' | 'admin';
  readonly path: (ids: Ids) => string;
  readonly call?: () => Call;
}

const key = (): Call['headers'] => ({ 'Idempotency-Key': randomUUID() });
const action = (name: string, as: Write['as'] = 'admin'): [string, Write] => [
  `post /v1/orders/{id}/${name}`,
  { as, path: ({ order }) => `/v1/orders/${order}/${name}`, call: () => ({ body: {} }) },
];
const end = (path: string): Write => ({
  as: 'user',
  path: ({ session }) => path.replace('{id}', session),
});

/** Every route that changes something and needs a session. */
const WRITES: Readonly<Record<string, Write>> = {
  'post /v1/orders': {
    as: 'user',
    path: () => '/v1/orders',
    call: () => ({ body: ORDER, headers: key() }),
  },
  'patch /v1/orders/{id}': {
    as: 'user',
    path: ({ order }) => `/v1/orders/${order}`,
    call: () => ({ body: { note: 'too late' }, headers: { 'If-Match': '"1"' } }),
  },
  ...Object.fromEntries([
    action('cancel', 'user'),
    action('pay', 'user'),
    ...['ship', 'deliver', 'refund'].map((it) => action(it)),
  ]),
  'patch /v1/users/{id}': {
    as: 'user',
    path: ({ user }) => `/v1/users/${user}`,
    call: () => ({
      body: { email: `${randomUUID()}@example.com` },
      headers: { 'If-Match': '"1"' },
    }),
  },
  'put /v1/users/{id}/password': {
    as: 'user',
    path: ({ user }) => `/v1/users/${user}/password`,
    call: () => ({
      body: { currentPassword: PASSWORD, newPassword: 'eleven tall ships at anchor' },
    }),
  },
  'put /v1/users/{id}/roles': {
    as: 'admin',
    path: ({ stranger }) => `/v1/users/${stranger}/roles`,
    call: () => ({ body: { roles: ['user', 'support'] } }),
  },
  'delete /v1/users/{id}': { as: 'user', path: ({ user }) => `/v1/users/${user}` },
  'delete /v1/sessions': end('/v1/sessions'),
  'delete /v1/sessions/current': end('/v1/sessions/current'),
  'delete /v1/sessions/{id}': end('/v1/sessions/{id}'),
};

describe('a session that ends under its own request', () => {
  let app: TestApp;
  let database: pg.Client;
  /** Tokens whose next request stops behind the guard, until `go`. */
  const held = new Map<string, { passed: () => void; go: Promise<void> }>();

  beforeAll(async () => {
    app = await startApp();
    database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
    const sessions = app.app.get(SessionsService, { strict: false });
    const authenticate = sessions.authenticate.bind(sessions);
    sessions.authenticate = async (token) => {
      const actor = await authenticate(token);
      const hold = held.get(token);
      if (!hold) return actor;
      held.delete(token);
      hold.passed();
      await hold.go;
      return actor;
    };
  });
  afterAll(async () => {
    await database.end();
    await app.close();
  });

  /** Sends a request that stops once the guard has let it pass. */
  async function behindTheGuard(
    token: string,
    send: () => Promise<Reply>,
  ): Promise<{ go: () => Promise<Reply> }> {
    let [passed, go] = [(): void => undefined, (): void => undefined];
    const reached = new Promise<void>((resolve) => (passed = resolve));
    held.set(token, { passed, go: new Promise<void>((resolve) => (go = resolve)) });
    const reply = send();
    await reached;
    return { go: () => (go(), reply) };
  }

  /** Everything that there is, as text. */
  async function everything(): Promise<string> {
    const tables = ['users', 'credentials', 'orders', 'order_events', 'idempotency_keys', 'outbox'];
    const columns = tables.map(
      (it) => `(SELECT json_agg(row ORDER BY row::text) FROM ${it} AS row) AS ${it}`,
    );
    const { rows } = await database.query(
      `SELECT ${columns.join()}, (SELECT count(*) FROM sessions) AS sessions`,
    );
    return JSON.stringify(rows);
  }

  it('is tried with every route that writes and needs a session', async () => {
    const { body } = await app.call('GET', '/docs/openapi.json');
    const routes = Object.entries(
      body.paths as Record<string, Record<string, { security?: object[] }>>,
    ).flatMap(([path, methods]) =>
      Object.entries(methods)
        .filter(
          ([method, { security }]) =>
            !['get', 'head', 'options', 'parameters'].includes(method) && security?.length,
        )
        .map(([method]) => `${method} ${path}`),
    );
    expect(Object.keys(WRITES).sort()).toEqual(routes.sort());
  });

  it.each(Object.keys(WRITES))(
    'refuses %s behind the answer, and nothing is written',
    async (route) => {
      const { as, path, call = () => ({}) } = WRITES[route] as Write;
      const [someone, stranger] = [await person(app), await person(app)];
      const { id: order } = await placeOrder(app, someone.token);
      const [name, password] =
        as === 'admin' ? [ADMIN.username, ADMIN.password] : [someone.username, PASSWORD];
      const [token, other] = [await logIn(app, name, password), await logIn(app, name, password)];
      const idOf = async (of: string): Promise<string> =>
        (await app.call('GET', '/v1/sessions/current', { token: of })).body.id as string;
      const [own, session] = [await idOf(token), await idOf(other)];

      const method = route.split(' ')[0]?.toUpperCase() as string;
      const target = path({ user: someone.id, stranger: stranger.id, order, session });
      const request = await behindTheGuard(token, () =>
        app.call(method, target, { ...call(), token }),
      );
      expect((await app.call('DELETE', `/v1/sessions/${own}`, { token: other })).status).toBe(204);
      const before = await everything();
      expectProblem(await request.go(), 401, 'unauthenticated');
      expect(await everything()).toBe(before);
      expect((await app.call('GET', '/v1/sessions/current', { token: other })).status).toBe(200);
    },
  );

  it.each([
    ['an order', 'orders', (ids: Ids) => `/v1/orders/${ids.order}`, { note: 'in time' }],
    [
      'a user',
      'users',
      (ids: Ids) => `/v1/users/${ids.user}`,
      { username: `in-time-${Date.now().toString(36)}` },
    ],
  ] as const)(
    'is answered only when the change of %s that had begun is committed',
    async (_, table, path, body) => {
      const someone = await person(app);
      const other = await logIn(app, someone.username);
      const { id: order } = await placeOrder(app, someone.token);
      const ids = { user: someone.id, order, stranger: '', session: '' };
      const row = table === 'orders' ? order : someone.id;
      const version = async (): Promise<string> =>
        (await database.query(`SELECT version FROM ${table} WHERE id = $1`, [row])).rows[0]
          .version as string;

      const blocker = new pg.Client({ connectionString: app.databaseUrl });
      await blocker.connect();
      await blocker.query('BEGIN');
      await blocker.query(`SELECT FROM ${table} WHERE id = $1 FOR UPDATE`, [row]);
      const write = app.call('PATCH', path(ids), {
        token: someone.token,
        body,
        headers: { 'If-Match': '"1"' },
      });
      await waiting(1);
      let answered = false;
      const ending = app
        .call('DELETE', '/v1/sessions?keep=current', { token: other })
        .then(async (reply) => {
          answered = true;
          return { reply, version: await version() };
        });
      await waiting(2);
      await sleep(50);
      expect([answered, await version()]).toEqual([false, '1']);
      await blocker.query('COMMIT');
      await blocker.end();
      expect(await ending).toMatchObject({ reply: { status: 204 }, version: '2' });
      expect((await write).status).toBe(200);
      expectProblem(
        await app.call('GET', '/v1/users/me', { token: someone.token }),
        401,
        'unauthenticated',
      );
    },
  );

  /** Until this many connections wait for a lock. */
  async function waiting(count: number): Promise<void> {
    for (const until = Date.now() + 5_000; ; await sleep(10)) {
      const { rows } = await database.query<{ waiting: string }>(
        `SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      if (Number(rows[0]?.waiting) >= count) return;
      if (Date.now() > until)
        throw new Error(`${rows[0]?.waiting} connections wait for a lock, not ${count}`);
    }
  }

  it('lets a noted use be written meanwhile: a write holds the session, not its row', async () => {
    const someone = await person(app);
    const { id: order } = await placeOrder(app, someone.token);
    const lastUses = app.app.get(LastUses, { strict: false });
    const seen = async (): Promise<string> =>
      (
        await database.query('SELECT last_seen_at::text AS at FROM sessions WHERE user_id = $1', [
          someone.id,
        ])
      ).rows[0].at;
    await database.query(
      `UPDATE sessions SET last_seen_at = now() - interval '10 minutes' WHERE user_id = $1`,
      [someone.id],
    );
    const blocker = new pg.Client({ connectionString: app.databaseUrl });
    await blocker.connect();
    await blocker.query('BEGIN');
    await blocker.query('SELECT FROM orders WHERE id = $1 FOR UPDATE', [order]);
    await sleep(1_200); // Both caches have taken the change by hand.
    const write = app.call('PATCH', `/v1/orders/${order}`, {
      token: someone.token,
      body: { note: 'held' },
      headers: { 'If-Match': '"1"' },
    });
    await waiting(1);
    const before = await seen();
    await lastUses.flush();
    expect(await seen()).not.toBe(before);
    await blocker.query('ROLLBACK');
    await blocker.end();
    expect((await write).status).toBe(200);
  });

  it('keeps a use that could not be written for the next time', async () => {
    const someone = await person(app);
    const lastUses = app.app.get(LastUses, { strict: false });
    await database.query(
      `UPDATE sessions SET last_seen_at = now() - interval '10 minutes' WHERE user_id = $1`,
      [someone.id],
    );
    await sleep(1_200);
    const blocker = new pg.Client({ connectionString: app.databaseUrl });
    await blocker.connect();
    await blocker.query('BEGIN');
    await blocker.query('SELECT FROM sessions WHERE user_id = $1 FOR UPDATE', [someone.id]);
    expect((await app.call('GET', '/v1/users/me', { token: someone.token })).status).toBe(200);
    const age = async (): Promise<number> =>
      Number(
        (
          await database.query(
            `SELECT extract(epoch FROM now() - last_seen_at) AS age FROM sessions WHERE user_id = $1`,
            [someone.id],
          )
        ).rows[0].age,
      );
    await lastUses.flush();
    expect(await age()).toBeGreaterThan(500);
    await blocker.query('ROLLBACK');
    await blocker.end();
    await lastUses.flush();
    expect(await age()).toBeLessThan(60);
  });
});
