/**
 * Lists cost what a page costs, however many rows there are and however deep the page: the very statements that the service
 * sends are caught on their way and explained by PostgreSQL over 60 000 orders. No sequential scan, no sort, and a number of
 * rows and pages that the table's size has no part in. The orders are as they come in life, where a plan that walks all of them by
 * time and leaves some out looks cheap and is not: the states of the newest are not those of most, and who ordered most has stopped.
 */
import { get } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { DataSource, type Logger } from 'typeorm';
import { Idempotency } from '../../src/http/idempotency.js';
import { BATCH, BUSY_LANES, LANES, SETTLE, TAKE } from '../../src/outbox/outbox.lanes.js';
import { HELD, OLDEST } from '../../src/outbox/outbox.metrics.js';
import { PURGE } from '../../src/outbox/outbox.relay.js';
import { startApp, type TestApp } from '../support/app.js';
import { adminToken, person, type Person } from '../support/factories.js';

const ORDERS = 60_000;
const PAGE = 100;

interface Statement {
  readonly sql: string;
  readonly parameters: unknown[];
}

/** What of EXPLAIN's answer is looked at. */
interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Index Name'?: string;
  readonly 'Relation Name'?: string;
  readonly 'Actual Rows': number;
  readonly 'Actual Loops': number;
  readonly 'Rows Removed by Filter'?: number;
  readonly 'Shared Hit Blocks': number;
  readonly 'Shared Read Blocks': number;
  readonly Plans?: readonly PlanNode[];
}

interface Cost {
  readonly nodes: string[];
  readonly indexes: string[];
  /** Rows that were read from tables, kept or not. */
  readonly rows: number;
  /** The most rows that one sort was given. */
  readonly sorted: number;
  /** Pages of 8 KiB that were touched. */
  readonly pages: number;
}

let app: TestApp;
let owner: Person;
/** One with many orders besides the owner, and one with few. */
let another: string;
let few: string;
let admin: string;
let psql: Client;
let sent: Statement[] = [];

const catcher: Logger = {
  logQuery: (sql, parameters) =>
    void sent.push({ sql, parameters: (parameters as unknown[] | undefined) ?? [] }),
  logQueryError: () => undefined,
  logQuerySlow: () => undefined,
  logSchemaBuild: () => undefined,
  logMigration: () => undefined,
  log: () => undefined,
};

/** The one statement that `action` sends which `pattern` takes. */
async function caught(pattern: RegExp, action: () => Promise<unknown>): Promise<Statement> {
  sent = [];
  await action();
  const found = sent.filter(({ sql }) => pattern.test(sql));
  if (found.length !== 1)
    throw new Error(`${found.length} of ${sent.length}: ${sent.map(({ sql }) => sql).join('\n')}`);
  return found[0] as Statement;
}

/** Runs the statement under EXPLAIN and takes back what it did. */
async function explain({ sql, parameters }: Statement): Promise<Cost> {
  await psql.query('BEGIN');
  try {
    const { rows } = await psql.query(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${sql}`, parameters);
    const [{ Plan: root }] = (rows[0] as { 'QUERY PLAN': [{ Plan: PlanNode }] })['QUERY PLAN'];
    const all: PlanNode[] = [];
    const walk = (node: PlanNode): void => {
      all.push(node);
      node.Plans?.forEach(walk);
    };
    walk(root);
    const reads = all.filter(
      (node) => /Scan/.test(node['Node Type']) && !/Bitmap Index/.test(node['Node Type']),
    );
    return {
      nodes: all.map((node) => node['Node Type']),
      indexes: [...new Set(all.flatMap((node) => node['Index Name'] ?? []))].sort(),
      rows: reads.reduce(
        (sum, node) =>
          sum +
          (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0)) * node['Actual Loops'],
        0,
      ),
      sorted: Math.max(
        0,
        ...all
          .filter((node) => /Sort/.test(node['Node Type']))
          .flatMap((node) => node.Plans ?? [])
          .map((input) => input['Actual Rows']),
      ),
      pages: root['Shared Hit Blocks'] + root['Shared Read Blocks'],
    };
  } finally {
    await psql.query('ROLLBACK');
  }
}

/** That it walks this index and nothing else, for as many rows as a page has. */
function expectKeyset(cost: Cost, index: string): void {
  expect(cost.nodes.filter((node) => /Seq Scan|Sort|Bitmap|Hash|Materialize/.test(node))).toEqual(
    [],
  );
  expect(cost.indexes).toEqual([index]);
  expect(cost.rows).toBeLessThanOrEqual(PAGE + 1);
  // Each row may lie in a page of its own; beside them, the way down the index and along its leaves.
  expect(cost.pages).toBeLessThanOrEqual(PAGE + 1 + 15);
}

/** The cursor of a page as deep as `share` of all orders (or users), made of one that the service gave out. */
async function cursorAt(
  cursor: string,
  table: string,
  share: number,
  where = 'true',
): Promise<string> {
  const { rows } = await psql.query(
    `SELECT id, created_at FROM ${table} WHERE ${where} ORDER BY created_at DESC, id DESC
      OFFSET (SELECT floor(count(*) * $1::float8)::bigint FROM ${table} WHERE ${where}) LIMIT 1`,
    [share],
  );
  const [row] = rows as { id: string; created_at: Date }[];
  const [, , digest] = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as [
    number,
    string,
    string,
  ];
  return Buffer.from(JSON.stringify([row?.created_at.getTime(), row?.id, digest])).toString(
    'base64url',
  );
}

beforeAll(async () => {
  app = await startApp();
  [owner, admin] = await Promise.all([person(app), adminToken(app)]);
  psql = new Client({ connectionString: app.databaseUrl });
  await psql.connect();
  // Triggers and foreign keys have tests of their own: only the rows count here.
  await psql.query('SET session_replication_role = replica');
  await psql.query(
    `INSERT INTO users (id, username, email, created_at, deleted_at)
     SELECT uuidv7(), CASE WHEN n % 10 > 0 THEN 'bulk-' || n END, CASE WHEN n % 10 > 0 THEN n || '@example.com' END,
            now() - n * interval '1 minute', CASE WHEN n % 10 = 0 THEN now() END
       FROM generate_series(1, 20000) AS n`,
  );
  // Newer rows lie behind older ones. Of the older nine tenths one in four is the owner's and one in twenty another's, one in ten is
  // cancelled, one in a thousand refunded; the newest tenth is still on its way, and the owner has none of it.
  await psql.query(
    `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
     SELECT uuidv7(), CASE WHEN n <= $2 * 0.9 AND hashint4(n) % 4 = 0 THEN $1::uuid WHEN hashint4(n) % 20 = 1 THEN people[1] ELSE people[2 + n % 999] END,
            CASE WHEN n > $2 * 0.9 THEN (ARRAY['placed', 'paid', 'shipped'])[1 + n % 3] WHEN hashint4(n + 1) % 1000 = 1 THEN 'refunded'
                 WHEN hashint4(n + 1) % 10 = 0 THEN 'cancelled' ELSE 'delivered' END, 'EUR',
            jsonb_build_array(jsonb_build_object('sku', 'A', 'name', 'a', 'quantity', 1, 'unitPrice', n)), n, date_trunc('milliseconds', now()) - ($2 - n) / 5 * interval '8 seconds'
       FROM (SELECT array_agg(id) AS people FROM (SELECT id FROM users WHERE username LIKE 'bulk-%' ORDER BY id LIMIT 1000) AS others) AS crowd,
            generate_series(1, $2::int) AS n`,
    [owner.id, ORDERS],
  );
  const { rows } = await psql.query(
    'SELECT user_id FROM orders WHERE user_id <> $1 GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 2',
    [owner.id],
  );
  [another, few] = (rows as { user_id: string }[]).map((row) => row.user_id) as [string, string];
  await psql.query(
    `INSERT INTO sessions (id, user_id, token_hash, last_seen_at, expires_at, created_at)
     SELECT uuidv7(), CASE WHEN n % 200 = 0 THEN $1 ELSE uuidv7() END, encode(sha256(n::text::bytea), 'hex'),
            now(), now() + interval '1 day', now() - n * interval '1 second'
       FROM generate_series(1, 20000) AS n`,
    [owner.id],
  );
  await psql.query(
    `INSERT INTO outbox (id, type, subject, data, published_at)
     SELECT uuidv7(), 'order.placed', 'orders/' || n % 2000, '{}', CASE WHEN n <= 20000 THEN now() - n * interval '10 seconds' END
       FROM generate_series(1, 30000) AS n`,
  );
  await psql.query(
    `INSERT INTO idempotency_keys (user_id, key, fingerprint, status, headers, body, cache_keys, created_at)
     SELECT $1, 'bulk-' || n, 'f', 201, '{}', '{}', '{}', now() - n * interval '5 seconds' FROM generate_series(1, 30000) AS n`,
    [owner.id],
  );
  await psql.query('SET session_replication_role = origin');
  for (const table of ['users', 'orders', 'sessions', 'outbox', 'idempotency_keys'])
    await psql.query(`VACUUM ANALYZE ${table}`);
  app.app.get(DataSource).logger = catcher;
}, 60_000);

afterAll(async () => {
  await psql?.end();
  await app?.close();
});

describe(`orders, ${ORDERS} of them`, () => {
  const LIST = /FROM "orders" .*ORDER BY/s;
  const day = (ago: number): string => new Date(Date.now() - ago * 86_400_000).toISOString();
  const from = day(0.9);
  const to = day(0.3);

  const scopes: readonly [scope: string, as: 'owner' | 'admin', user: () => string | undefined][] =
    [
      ['all', 'admin', () => undefined],
      ['my own', 'owner', () => owner.id],
      [`one user's`, 'admin', () => another],
      [`one user's, who has few`, 'admin', () => few],
    ];
  const statuses = [
    'of any state',
    'delivered',
    'cancelled',
    'refunded',
    'placed',
    'paid',
    'shipped',
  ] as const;
  const times: readonly [name: string, time: { createdFrom?: string; createdTo?: string }][] = [
    ['of any time', {}],
    ['from a time on', { createdFrom: from }],
    ['up to a time', { createdTo: to }],
    ['between two times', { createdFrom: from, createdTo: to }],
  ];
  const lists = scopes.flatMap(([scope, as, user]) =>
    statuses.flatMap((state) =>
      times.map(([name, time]) => [scope, state, name, as, user, time] as const),
    ),
  );

  it.each(lists)(
    '%s, %s, %s: the first page and a deep one walk one index and are those that are asked for',
    async (...[, state, , as, user, time]) => {
      const status = state === 'of any state' ? undefined : state;
      const where = [
        ...(user() ? [`user_id = '${user()}'`] : []),
        ...(status ? [`status = '${status}'`] : []),
        ...(time.createdFrom ? [`created_at >= '${time.createdFrom}'`] : []),
        ...(time.createdTo ? [`created_at < '${time.createdTo}'`] : []),
      ];
      const index = [
        ['orders_newest', 'orders_by_status'],
        ['orders_of_user', 'orders_of_user_by_status'],
      ][user() ? 1 : 0]?.[status ? 1 : 0] as string;
      const asked = {
        ...time,
        ...(status && { status }),
        ...(as === 'admin' && user() && { userId: user() as string }),
      };
      const page = async (
        more: Record<string, string>,
      ): Promise<{ ids: string[]; next: string | null }> => {
        const token = as === 'owner' ? owner.token : admin;
        // Past the cache, which would answer the newest of a user.
        const headers = { 'Cache-Control': 'no-cache' };
        const path = `/v1/orders?${new URLSearchParams({ limit: String(PAGE), ...asked, ...more }).toString()}`;
        const { body } = await app.call('GET', path, { token, headers });
        const { data, next } = body as { data: { id: string }[]; next: string | null };
        return { ids: data.map(({ id }) => id), next };
      };
      const expected = async (after: string): Promise<string[]> => {
        const { rows } = await psql.query(
          `SELECT id FROM orders WHERE ${[...where, after].join(' AND ')} ORDER BY created_at DESC, id DESC LIMIT ${PAGE}`,
        );
        return (rows as { id: string }[]).map(({ id }) => id);
      };
      const check = async (more: Record<string, string>, after: string): Promise<void> => {
        let ids: string[] = [];
        const statement = await caught(LIST, async () => ({ ids } = await page(more)));
        expect(ids).toEqual(await expected(after));
        const cost = await explain(statement);
        // Fewer orders than a page are refunded, whoever's: to read all of these and sort a user's costs no more than a page.
        if (status === 'refunded' && cost.indexes.includes('orders_by_status')) {
          expect(cost.nodes.filter((node) => /Seq Scan/.test(node))).toEqual([]);
          expect(cost.rows).toBeLessThanOrEqual(PAGE + 1);
        } else expectKeyset(cost, index);
        expect(cost.rows).toBeGreaterThanOrEqual(ids.length);
      };

      await check({}, 'true');
      const { next } = await page({ limit: '1' });
      if (next === null) return;
      const cursor = await cursorAt(next, 'orders', 0.5, where.join(' AND ') || 'true');
      const [at, id] = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as [number, string];
      await check({ cursor }, `(created_at, id) < ('${new Date(at).toISOString()}', '${id}')`);
    },
  );

  it('the newest of a user, for the cache, read ids alone', async () => {
    const call = (): Promise<unknown> =>
      app.call('GET', `/v1/orders?userId=${owner.id}`, { token: admin });
    const cost = await explain(await caught(LIST, call));
    expect([cost.nodes, cost.indexes]).toEqual([['Limit', 'Index Only Scan'], ['orders_of_user']]);
  });

  it('the export reads batch after batch by the same index', async () => {
    sent = [];
    await new Promise<void>((resolve, reject) => {
      const headers = { Authorization: `Bearer ${admin}` };
      const request = get(`${app.url}/v1/orders/export`, { headers, agent: false }, (response) => {
        let bytes = 0;
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > 1_000_000) request.destroy();
        });
        response.on('close', resolve);
        response.on('error', () => undefined);
      });
      request.on('error', reject);
    });
    const batches = sent.filter(({ sql }) => LIST.test(sql));
    expect(batches.length).toBeGreaterThan(2);
    const cost = await explain(batches.at(-1) as Statement);
    expect([cost.nodes, cost.indexes]).toEqual([['Limit', 'Index Scan'], ['orders_newest']]);
    expect(cost.rows).toBeLessThanOrEqual(500);
  });

  it('a plan that reads the table is told from one that walks an index', async () => {
    const cost = await explain({
      sql: 'SELECT * FROM orders ORDER BY total DESC LIMIT 10',
      parameters: [],
    });
    expect(() => expectKeyset(cost, 'orders_newest')).toThrow();
    const offset = await explain({
      sql: 'SELECT * FROM orders ORDER BY created_at DESC, id DESC LIMIT 10 OFFSET 5000',
      parameters: [],
    });
    expect(() => expectKeyset(offset, 'orders_newest')).toThrow();
    for (const said of [`status = 'delivered'`, `user_id = '${owner.id}'`]) {
      const equal = await explain({
        sql: `SELECT * FROM orders WHERE ${said} ORDER BY created_at DESC, id DESC LIMIT ${PAGE + 1}`,
        parameters: [],
      });
      expect(equal.indexes).toEqual(['orders_newest']);
      expect(equal.rows).toBeGreaterThan(ORDERS * 0.1);
    }
  });
});

describe('other lists', () => {
  it('users, the deleted left out by the index', async () => {
    const page = (more = ''): Promise<{ body: { data: unknown[]; next: string } }> =>
      app.call('GET', `/v1/users?limit=${PAGE}${more}`, { token: admin });
    const { body } = await page();
    for (const share of [0.01, 0.9]) {
      const cursor = await cursorAt(body.next, 'users', share, 'deleted_at IS NULL');
      const statement = await caught(/FROM "users" .*ORDER BY/s, () => page(`&cursor=${cursor}`));
      expectKeyset(await explain(statement), 'users_newest');
    }
  });

  it('the sessions of a user', async () => {
    const call = (): Promise<unknown> => app.call('GET', '/v1/sessions', { token: owner.token });
    expectKeyset(
      await explain(await caught(/FROM "sessions" .*ORDER BY/s, call)),
      'sessions_of_user',
    );
  });

  it('the events of an order', async () => {
    const [order] = (await app.call('GET', '/v1/orders', { token: owner.token })).body.data as {
      id: string;
    }[];
    const call = (): Promise<unknown> =>
      app.call('GET', `/v1/orders/${order?.id}/events`, { token: owner.token });
    expectKeyset(await explain(await caught(/FROM "order_events"/, call)), 'order_events_pkey');
  });
});

describe('one row', () => {
  it.each([
    [
      'a user by username',
      () => `/v1/users?username=bulk-77`,
      /FROM "users" .*"username" = ANY/s,
      'users_username_key',
    ],
    ['a user by id', () => `/v1/users/${owner.id}`, /FROM "users" .*"id" = ANY/s, 'users_pkey'],
  ])('%s', async (_, path, pattern, index) => {
    const fresh = { token: admin, headers: { 'Cache-Control': 'no-cache' } };
    // The caller's own row may be read as well.
    sent = [];
    await app.call('GET', path(), fresh);
    const statement = sent.find(({ sql }) => pattern.test(sql));
    const cost = await explain(statement as Statement);
    expect(cost.indexes).toEqual([index]);
    expect(cost.pages).toBeLessThan(10);
  });

  it('a user by email, whatever its case, and a session by its token', async () => {
    const login = {
      body: { username: 'BULK@example.com'.replace('BULK', '78'), password: 'wrong wrong wrong' },
    };
    const byEmail = await caught(/lower\(/, () => app.call('POST', '/v1/sessions', login));
    expect((await explain(byEmail)).indexes).toEqual(['users_email_key']);
    const byToken = await caught(/"token_hash" = ANY/, () =>
      app.call('GET', '/v1/sessions/current', { token: 'hf_unknown' }),
    );
    expect((await explain(byToken)).indexes).toEqual(['sessions_token_hash_key']);
  });
});

describe('what runs by itself', () => {
  const nothingWhole = (cost: Cost): void =>
    expect(cost.nodes.filter((node) => /Seq Scan|Sort/.test(node))).toEqual([]);

  describe('the outbox relay, over what was published, a backlog of one subject, and held ones', () => {
    const { events, subjects, held } = BATCH;
    let lane: number;

    beforeAll(async () => {
      const { rows } = await psql.query(
        `SELECT hashtext('orders/busy') & 15 AS lane, (SELECT min(n) FROM generate_series(1, 1000) AS n
           WHERE hashtext('orders/held-' || n) & 15 = hashtext('orders/busy') & 15) AS n`,
      );
      const [found] = rows as { lane: number; n: number }[];
      lane = found!.lane;
      await psql.query(
        `INSERT INTO outbox (id, type, subject, data, held, retry_at)
         SELECT uuidv7(), 'order.placed', CASE WHEN n % 2 = 0 THEN 'orders/busy' ELSE 'orders/held-' || $1::int END, '{}', n % 2 = 1,
                CASE WHEN n = 1 THEN now() END FROM generate_series(1, 20000) AS n`,
        [found!.n],
      );
      await psql.query('VACUUM ANALYZE outbox');
    });

    it('finds the lanes by a look at each', async () => {
      const cost = await explain({ sql: BUSY_LANES, parameters: [] });
      nothingWhole(cost);
      expect(cost.indexes).toEqual(['outbox_lane', 'outbox_retry']);
      expect(cost.rows).toBeLessThanOrEqual(2 * LANES + LANES);
      expect(cost.pages).toBeLessThan(8 * LANES);
    });

    it('takes a batch by index', async () => {
      const cost = await explain({ sql: TAKE, parameters: [lane] });
      // Seldom the planner sorts, within the batch: never what waits behind it.
      expect(cost.nodes.filter((node) => /Seq Scan/.test(node))).toEqual([]);
      expect(cost.sorted).toBeLessThanOrEqual(events);
      expect(cost.indexes).toEqual(['outbox_held', 'outbox_lane', 'outbox_retry']);
      // Each event of the batch asks once for what is held before it.
      expect(cost.rows).toBeLessThanOrEqual(2 * events + subjects * (held + 1));
      expect(cost.rows).toBeGreaterThan(events);
      expect(cost.pages).toBeLessThan(10 * (events + subjects));
    });

    it('marks by key', async () => {
      const { rows } = await psql.query(
        'SELECT position FROM outbox WHERE published_at IS NULL LIMIT $1',
        [events],
      );
      const positions = (rows as { position: string }[]).map(({ position }) => position);
      const all = <T>(value: T): T[] => positions.map(() => value);
      const cost = await explain({
        sql: SETTLE,
        parameters: [positions, all(true), all(null), all(true), all(null)],
      });
      nothingWhole(cost);
      expect(cost.indexes).toEqual(['outbox_pkey']);
    });

    it('removes what is old by index, a bounded number', async () => {
      const cost = await explain({ sql: PURGE, parameters: [] });
      nothingWhole(cost);
      expect(cost.indexes).toContain('outbox_published');
      expect(cost.rows).toBeLessThanOrEqual(3 * 1_000);
    });

    it('looks at the oldest by reading one, and counts what is held up to a bound', async () => {
      const oldest = await explain({ sql: OLDEST, parameters: [] });
      expect([oldest.indexes, oldest.rows]).toEqual([['outbox_waiting'], 1]);
      const count = await explain({ sql: HELD, parameters: [] });
      nothingWhole(count);
      expect(count.indexes).toEqual(['outbox_retry']);
    });
  });

  it('the purge of idempotency keys touches what has expired, a bounded number', async () => {
    const idempotency = app.app.get(Idempotency);
    const cost = await explain(
      await caught(/DELETE FROM idempotency_keys/, () => idempotency.purge()),
    );
    nothingWhole(cost);
    expect(cost.indexes).toEqual(['idempotency_keys_expiring']);
    expect(cost.rows).toBeLessThanOrEqual(3 * 1_000);
  });
});
