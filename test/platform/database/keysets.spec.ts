/**
 * A page of a list costs the same however many rows there are and however deep the page is. The
 * statements that the service sends are explained by PostgreSQL over 60 000 orders: one index, no
 * sort, and a number of rows and pages that does not depend on the size of the table.
 */
import { get } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { MAX_EXPORT_BATCH } from '../../../src/orders/order-export.service.js';
import { MAX_ROWS_PER_READ } from '../../../src/platform/http/bounds/bounds.js';
import { createToken } from '../../../src/auth/sessions/token.js';
import { encodeCursor } from '../../../src/platform/http/pagination.js';
import { CURSOR_SCOPE } from '../../../src/users/users.service.js';
import { startApp, type TestApp } from '../../support/app.js';
import { logInAsAdmin, registerUser, type TestUser } from '../../support/factories.js';
import { type Cost, explain, type Statement, StatementRecorder } from './query-plans.js';

const ORDERS = 60_000;
const PAGE_SIZE = 100;
const DAY_MS = 86_400_000;

/** One in ten is deleted. */
const INSERT_USERS = `
  INSERT INTO users (id, username, email, created_at, deleted_at)
  SELECT uuidv7(),
         CASE WHEN n % 10 > 0 THEN 'bulk-' || n END,
         CASE WHEN n % 10 > 0 THEN n || '@example.com' END,
         now() - n * interval '1 minute',
         CASE WHEN n % 10 = 0 THEN now() END
    FROM generate_series(1, 20000) AS n`;

/**
 * Orders as they come in practice, where a plan that reads all orders by time and filters looks
 * cheap and is not. $1: a user with many orders, none of them new. $2: the number of orders.
 */
const INSERT_ORDERS = `
  WITH
  crowd AS (
    SELECT array_agg(id) AS ids
      FROM (SELECT id FROM users WHERE username LIKE 'bulk-%' ORDER BY id LIMIT 1000) AS bulk),
  -- The newest tenth is in progress; the others are finished.
  numbered AS (
    SELECT n, n > $2 * 0.9 AS is_new, hashint4(n) AS by_user, hashint4(n + 1) AS by_status
      FROM generate_series(1, $2::int) AS n)
  INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
  SELECT uuidv7(),
         -- Of the old orders, one in four is the user's. One in twenty is another user's.
         CASE WHEN NOT is_new AND by_user % 4 = 0 THEN $1::uuid
              WHEN by_user % 20 = 1 THEN ids[1]
              ELSE ids[2 + n % 999] END,
         -- Of the old orders, one in ten is cancelled and one in a thousand refunded.
         CASE WHEN is_new THEN (ARRAY['placed', 'paid', 'shipped'])[1 + n % 3]
              WHEN by_status % 1000 = 1 THEN 'refunded'
              WHEN by_status % 10 = 0 THEN 'cancelled'
              ELSE 'delivered' END,
         'EUR',
         jsonb_build_array(
           jsonb_build_object('sku', 'A', 'name', 'a', 'quantity', 1, 'unitPrice', n)),
         n,
         -- Five orders in the same millisecond, every eight seconds.
         date_trunc('milliseconds', now()) - ($2 - n) / 5 * interval '8 seconds'
    FROM numbered, crowd`;

/** One in 200 is a session of user $1. */
const INSERT_SESSIONS = `
  INSERT INTO sessions (id, user_id, token_hash, last_seen_at, expires_at, created_at)
  SELECT uuidv7(),
         CASE WHEN n % 200 = 0 THEN $1 ELSE uuidv7() END,
         encode(sha256(n::text::bytea), 'hex'),
         now(),
         now() + interval '1 day',
         now() - n * interval '1 second'
    FROM generate_series(1, 20000) AS n`;

/** After user $1, the user with the most orders and the next one, who has few. */
const OTHER_USERS = `
  SELECT user_id FROM orders WHERE user_id <> $1
   GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 2`;

let app: TestApp;
let owner: TestUser;
let adminToken: string;
let psql: Client;
let userWithMany: string;
let userWithFew: string;
const recorder = new StatementRecorder();

beforeAll(async () => {
  app = await startApp();
  [owner, adminToken] = await Promise.all([registerUser(app), logInAsAdmin(app)]);
  psql = new Client({ connectionString: app.databaseUrl });
  await psql.connect();
  // Without triggers and foreign keys: other tests check those, and they take time.
  await psql.query('SET session_replication_role = replica');
  await psql.query(INSERT_USERS);
  await psql.query(INSERT_ORDERS, [owner.id, ORDERS]);
  await psql.query(INSERT_SESSIONS, [owner.id]);
  await psql.query('SET session_replication_role = origin');
  for (const table of ['users', 'orders', 'sessions']) await psql.query(`VACUUM ANALYZE ${table}`);
  const { rows } = await psql.query<{ user_id: string }>(OTHER_USERS, [owner.id]);
  [userWithMany, userWithFew] = rows.map(({ user_id }) => user_id) as [string, string];
  app.app.get(DataSource).logger = recorder;
}, 120_000);
afterAll(async () => {
  await psql?.end();
  await app?.close();
});

/** Expects that the statement reads one page along this index, and nothing else. */
function expectKeyset({ nodes, indexes, readRows, pages }: Cost, index: string): void {
  const others = nodes.filter((node) => /Seq Scan|Sort|Bitmap|Hash|Materialize/.test(node));
  expect(others).toEqual([]);
  expect(indexes).toEqual([index]);
  expect(readRows).toBeLessThanOrEqual(PAGE_SIZE + 1);
  // Each row may be in a page of its own. Beside them: the way down the index and along its leaves.
  expect(pages).toBeLessThanOrEqual(PAGE_SIZE + 1 + 15);
}

/** A cursor behind this row, for a list with these filters. */
const cursorBehind = (row: { id: string; created_at: Date }, filters: unknown): string =>
  encodeCursor({ createdAt: row.created_at, id: row.id }, filters);

describe(`a list of orders among ${ORDERS}`, () => {
  const LIST = /FROM "orders" .*ORDER BY/s;
  const daysAgo = (days: number): string => new Date(Date.now() - days * DAY_MS).toISOString();

  interface Filter {
    readonly userId?: string | undefined;
    readonly status?: string | undefined;
    readonly createdFrom?: string;
    readonly createdTo?: string;
  }
  interface OrderRow {
    readonly id: string;
    readonly created_at: Date;
  }

  /** $1 to $4: the filter. $5, $6: the row before the page. $7, $8: LIMIT and OFFSET. */
  const EXPECTED_ROWS = `
    SELECT id, created_at FROM orders
     WHERE ($1::uuid IS NULL OR user_id = $1)
       AND ($2::text IS NULL OR status = $2)
       AND ($3::timestamptz IS NULL OR created_at >= $3)
       AND ($4::timestamptz IS NULL OR created_at < $4)
       AND ($5::timestamptz IS NULL OR (created_at, id) < ($5, $6::uuid))
     ORDER BY created_at DESC, id DESC LIMIT $7 OFFSET $8`;

  async function expectedRows(
    filter: Filter,
    { after, limit = PAGE_SIZE, offset = 0 }: { after?: OrderRow; limit?: number; offset?: number },
  ): Promise<OrderRow[]> {
    const { userId, status, createdFrom, createdTo } = filter;
    const conditions = [userId, status, createdFrom, createdTo, after?.created_at, after?.id];
    const parameters = [...conditions.map((value) => value ?? null), limit, offset];
    const { rows } = await psql.query<OrderRow>(EXPECTED_ROWS, parameters);
    return rows;
  }

  interface Page {
    readonly ids: string[];
    readonly next: string | null;
  }

  async function fetchPage(filter: Filter, { limit = PAGE_SIZE, cursor = '' } = {}): Promise<Page> {
    const isOwner = filter.userId === owner.id;
    const query = new URLSearchParams({ limit: String(limit) });
    for (const [name, value] of Object.entries(filter)) if (value) query.set(name, value);
    if (isOwner) query.delete('userId');
    if (cursor) query.set('cursor', cursor);
    const { body } = await app.call('GET', `/v1/orders?${query.toString()}`, {
      token: isOwner ? owner.token : adminToken,
      // The cache would answer the newest orders of a user.
      headers: { 'Cache-Control': 'no-cache' },
    });
    const { data, next } = body as { data: { id: string }[]; next: string | null };
    return { ids: data.map(({ id }) => id), next };
  }

  /** The page, and what the first of its statements costs: a long page is read in several steps. */
  async function explainPage(filter: Filter, cursor = ''): Promise<{ page: Page; cost: Cost }> {
    let page: Page | undefined;
    const statement = await recorder.firstDuring(LIST, async () => {
      page = await fetchPage(filter, { cursor });
    });
    return { page: page!, cost: await explain(psql, statement) };
  }

  function expectPageCost(cost: Cost, filter: Filter): void {
    // Fewer orders are refunded than fit on a page. To read all of them and to sort those of a user
    // costs no more than a page.
    const readsAllRefunded =
      filter.status === 'refunded' && cost.indexes.includes('orders_by_status');
    if (readsAllRefunded) {
      expect(cost.nodes).not.toContain('Seq Scan');
      expect(cost.readRows).toBeLessThanOrEqual(PAGE_SIZE + 1);
      return;
    }
    const ofUser = filter.status ? 'orders_of_user_by_status' : 'orders_of_user';
    const ofAll = filter.status ? 'orders_by_status' : 'orders_newest';
    expectKeyset(cost, filter.userId ? ofUser : ofAll);
  }

  const USERS = [
    ['of everybody', () => undefined],
    ['of the caller', () => owner.id],
    ['of a user with many', () => userWithMany],
    ['of a user with few', () => userWithFew],
  ] as const;
  const STATUSES = [undefined, 'delivered', 'cancelled', 'refunded', 'placed', 'paid', 'shipped'];
  const [from, to] = [daysAgo(0.9), daysAgo(0.3)];
  const TIMES = [
    ['at any time', {}],
    ['from a time on', { createdFrom: from }],
    ['until a time', { createdTo: to }],
    ['between two times', { createdFrom: from, createdTo: to }],
  ] as const;
  const LISTS = USERS.flatMap(([ofUser, userId]) =>
    STATUSES.flatMap((status) =>
      TIMES.map(([atTime, times]) => {
        const filter = (): Filter => ({ userId: userId(), status, ...times });
        return [ofUser, status ?? 'any status', atTime, filter] as const;
      }),
    ),
  );

  it.each(LISTS)(
    '%s, %s, %s → the first page reads one index and has the right orders',
    async (_user, _status, _time, filter) => {
      const { page, cost } = await explainPage(filter());

      const expected = await expectedRows(filter(), {});
      expect(page.ids).toEqual(expected.map(({ id }) => id));
      expectPageCost(cost, filter());
    },
  );

  it.each(LISTS)(
    '%s, %s, %s → a page in the middle reads one index and has the right orders',
    async (_user, _status, _time, filter) => {
      const rows = await expectedRows(filter(), { limit: ORDERS });
      const { next } = await fetchPage(filter(), { limit: 1 });
      // A list of one order or none has no next page.
      expect(next === null).toBe(rows.length <= 1);
      if (next === null) return;
      const { userId, status, createdFrom, createdTo } = filter();
      const filters = [userId, status, createdFrom, createdTo].map((value) => value ?? null);
      const middle = rows[Math.floor(rows.length / 2)] as OrderRow;

      const { page, cost } = await explainPage(filter(), cursorBehind(middle, filters));

      const expected = await expectedRows(filter(), { after: middle });
      expect(page.ids).toEqual(expected.map(({ id }) => id));
      expectPageCost(cost, filter());
      expect(cost.readRows).toBeGreaterThanOrEqual(Math.min(page.ids.length, MAX_ROWS_PER_READ));
    },
  );

  it('of a user, for the cache, reads ids from the index only', async () => {
    const statement = await recorder.oneDuring(LIST, () =>
      app.call('GET', `/v1/orders?userId=${userWithMany}`, { token: adminToken }),
    );

    const { nodes, indexes } = await explain(psql, statement);

    expect(nodes).toEqual(['Limit', 'Index Only Scan']);
    expect(indexes).toEqual(['orders_of_user']);
  });

  it('in the export is read in batches along one index', async () => {
    const batches = await recorder.during(LIST, () => exportBytes(1_000_000));

    expect(batches.length).toBeGreaterThan(2);
    const cost = await explain(psql, batches.at(-1) as Statement);
    expect(cost.nodes).not.toContain('Seq Scan');
    expect(cost.indexes).toEqual(['orders_newest', 'orders_pkey']);
    const { rows } = MAX_EXPORT_BATCH;
    expect(cost.sortedRows).toBeLessThanOrEqual(rows);
    // Each order in the index, the one before it, in the page, and by its id.
    expect(cost.readRows).toBeLessThanOrEqual(4 * rows);
  });

  /** Reads the beginning of the export, then disconnects. */
  async function exportBytes(wanted: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const headers = { Authorization: `Bearer ${adminToken}` };
      const request = get(`${app.url}/v1/orders/export`, { headers, agent: false }, (response) => {
        let received = 0;
        response.on('data', (chunk: Buffer) => {
          received += chunk.length;
          if (received > wanted) request.destroy();
        });
        response.on('close', resolve);
        response.on('error', () => undefined);
      });
      request.on('error', reject);
    });
  }
});

describe('a statement that reads more than a page', () => {
  it.each([
    ['sorts by another column', 'SELECT * FROM orders ORDER BY total DESC LIMIT 10'],
    [
      'pages by OFFSET',
      'SELECT * FROM orders ORDER BY created_at DESC, id DESC LIMIT 10 OFFSET 5000',
    ],
  ])('%s → the check of these tests fails', async (_, sql) => {
    const cost = await explain(psql, { sql, parameters: [] });
    expect(() => expectKeyset(cost, 'orders_newest')).toThrow();
  });

  it.each([
    ['status', () => 'delivered'],
    ['user_id', () => owner.id],
  ])(
    'filters by %s along the index of all orders → it reads more than a tenth of them',
    async (column, value) => {
      const { indexes, readRows } = await explain(psql, {
        sql: `SELECT * FROM orders WHERE ${column} = '${value()}'
               ORDER BY created_at DESC, id DESC LIMIT ${PAGE_SIZE + 1}`,
        parameters: [],
      });
      expect(indexes).toEqual(['orders_newest']);
      expect(readRows).toBeGreaterThan(ORDERS * 0.1);
    },
  );
});

describe('another list', () => {
  it.each([0.01, 0.9])(
    'of users, at %d of its depth, reads one index without the deleted users',
    async (depth) => {
      const path = `/v1/users?limit=${PAGE_SIZE}`;
      const { rows } = await psql.query<{ id: string; created_at: Date }>(
        `SELECT id, created_at FROM users WHERE deleted_at IS NULL
          ORDER BY created_at DESC, id DESC
         OFFSET (SELECT floor(count(*) * $1::float8)::bigint FROM users WHERE deleted_at IS NULL)
          LIMIT 1`,
        [depth],
      );
      const cursor = cursorBehind(rows[0]!, CURSOR_SCOPE);

      const statement = await recorder.oneDuring(/FROM "users" .*ORDER BY/s, () =>
        app.call('GET', `${path}&cursor=${cursor}`, { token: adminToken }),
      );

      expectKeyset(await explain(psql, statement), 'users_newest');
    },
  );

  it('of the sessions of a user reads one index', async () => {
    const statement = await recorder.oneDuring(/FROM "sessions" .*ORDER BY/s, () =>
      app.call('GET', '/v1/sessions', { token: owner.token }),
    );
    expectKeyset(await explain(psql, statement), 'sessions_of_user');
  });

  it('of the events of an order reads one index', async () => {
    const { body } = await app.call('GET', '/v1/orders', { token: owner.token });
    const [order] = body.data as { id: string }[];
    const statement = await recorder.oneDuring(/FROM "order_events"/, () =>
      app.call('GET', `/v1/orders/${order!.id}/events`, { token: owner.token }),
    );
    expectKeyset(await explain(psql, statement), 'order_events_pkey');
  });
});

describe('a single row', () => {
  it.each([
    ['by username', '/v1/users?username=bulk-77', /"username" = ANY/, 'users_username_key'],
    ['by id', () => `/v1/users/${owner.id}`, /FROM "users" .*"id" = ANY/s, 'users_pkey'],
  ] as const)('of a user %s is read by its index', async (_, path, pattern, index) => {
    const url = typeof path === 'string' ? path : path();
    const uncached = { token: adminToken, headers: { 'Cache-Control': 'no-cache' } };

    // The row of the caller may be read as well.
    const [statement] = await recorder.during(pattern, () => app.call('GET', url, uncached));

    const { indexes, pages } = await explain(psql, statement as Statement);
    expect(indexes).toEqual([index]);
    expect(pages).toBeLessThan(10);
  });

  it('of a user by email is read by its index, whatever the case', async () => {
    const body = { username: '78@EXAMPLE.com', password: 'wrong wrong wrong' };
    const statement = await recorder.oneDuring(/lower\(/, () =>
      app.call('POST', '/v1/sessions', { body }),
    );
    expect((await explain(psql, statement)).indexes).toEqual(['users_email_key']);
  });

  it('of a session by its token is read by its index', async () => {
    const statement = await recorder.oneDuring(/"token_hash" = ANY/, () =>
      app.call('GET', '/v1/sessions/current', { token: createToken() }),
    );
    expect((await explain(psql, statement)).indexes).toEqual(['sessions_token_hash_key']);
  });
});
