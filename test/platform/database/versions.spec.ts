/**
 * What the database holds by itself, whoever writes: versions move by one under the row's lock, times do not go back, events
 * only grow, and every constraint refuses. All by SQL, as psql would.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Pool } from 'pg';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

let database: TestDatabase;
let pool: Pool;
/** A user and one of their orders, which the tests of constraints leave alone. */
let userId: string;
let orderId: string;

type Row = Record<string, unknown>;

const sql = async (text: string, values: unknown[] = []): Promise<Row[]> =>
  (await pool.query<Row>(text, values)).rows;

async function insert(table: string, values: Row): Promise<Row> {
  const columns = Object.keys(values);
  const places = columns.map((_, index) => `$${index + 1}`);
  const [row] = await sql(
    `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${places.join(', ')}) RETURNING *`,
    Object.values(values),
  );
  return row as Row;
}

let serial = 0;
const user = (values: Row = {}): Row => {
  const username = `u-${serial++}`;
  return { id: randomUUID(), username, email: `${username}@example.com`, ...values };
};
const device = (change: Row = {}): Row => ({
  user_id: userId,
  device_hash: (serial++).toString(16).padStart(64, '0'),
  ...change,
});
const session = (values: Row = {}): Row => ({
  id: randomUUID(),
  user_id: userId,
  token_hash: (serial++).toString(16).padStart(64, '0'),
  last_seen_at: new Date(),
  expires_at: new Date(),
  ...values,
});
const ITEM = { sku: 'LAMP-01', name: 'Lamp', quantity: 1, unitPrice: 1 };
const itemsOf = (...changes: object[]): string =>
  JSON.stringify(changes.map((change) => ({ ...ITEM, ...change })));
const order = (values: Row = {}): Row => ({
  id: randomUUID(),
  user_id: userId,
  status: 'placed',
  currency: 'EUR',
  items: itemsOf({}),
  total: 1,
  ...values,
});
const event = (values: Row = {}): Row => ({
  order_id: orderId,
  version: 1000 + serial++,
  type: 'order.placed',
  schema: 1,
  data: '{}',
  actor_id: userId,
  occurred_at: new Date(),
  ...values,
});
/** Of no password: the form is right. */
const HASH = `$argon2id$v=19$m=19456,t=2,p=1$${'c2FsdA'.repeat(4)}$${'aGFzaA'.repeat(7)}`;
const credential = (values: Row = {}): Row => ({ user_id: userId, password_hash: HASH, ...values });
const outbox = (values: Row = {}): Row => ({
  id: randomUUID(),
  type: 'a.b',
  subject: 'a/1',
  data: '{}',
  ...values,
});
const kept = (values: Row = {}): Row => ({
  user_id: userId,
  key: `key-${serial++}`,
  fingerprint: 'f',
  status: 201,
  headers: '{}',
  body: '{}',
  cache_keys: [],
  ...values,
});

beforeAll(async () => {
  database = await createTestDatabase();
  pool = new Pool({ connectionString: database.url, max: 8 });
  userId = (await insert('users', user())).id as string;
  orderId = (await insert('orders', order())).id as string;
  await insert('credentials', credential());
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

describe('a version', () => {
  const TABLES = { users: user, orders: order, sessions: session } as const;
  const CHANGES = {
    users: `roles = '{admin}'`,
    orders: `note = 'changed'`,
    sessions: `ip = '::1'`,
  } as const;

  it.each(Object.keys(TABLES) as (keyof typeof TABLES)[])(
    'of %s moves by one at every update, by raw SQL too',
    async (table) => {
      const row = await insert(table, TABLES[table]());
      const first = Number(row.version);
      if (table !== 'sessions') expect(first).toBe(1);
      for (const change of [
        CHANGES[table],
        'id = id',
        `version = version`,
        'version = 7',
        'version = version + 100',
      ]) {
        const [before] = await sql(`SELECT version FROM ${table} WHERE id = $1`, [row.id]);
        const [after] = await sql(`UPDATE ${table} SET ${change} WHERE id = $1 RETURNING version`, [
          row.id,
        ]);
        expect([change, Number(after?.version)]).toEqual([change, Number(before?.version) + 1]);
      }
      const [last] = await sql(`SELECT version FROM ${table} WHERE id = $1`, [row.id]);
      expect(Number(last?.version)).toBe(first + 5);
    },
  );

  it('stands when its transaction is rolled back', async () => {
    const { id } = await insert('orders', order());
    await expect(sql(`UPDATE orders SET total = -1 WHERE id = '${String(id)}'`)).rejects.toThrow(
      /orders_total_range/,
    );
    expect(await sql('SELECT version::int FROM orders WHERE id = $1', [id])).toEqual([
      { version: 1 },
    ]);
  });

  it('is given once to each of many writers at once', async () => {
    const { id } = await insert('orders', order());
    const writes = Array.from({ length: 200 }, async (_, n) => {
      const [row] = await sql(`UPDATE orders SET note = $2 WHERE id = $1 RETURNING version::int`, [
        id,
        `n${n}`,
      ]);
      return row?.version as number;
    });
    const versions = await Promise.all(writes);
    expect(versions.sort((a, b) => a - b)).toEqual(Array.from({ length: 200 }, (_, n) => n + 2));
    expect(await sql('SELECT version::int FROM orders WHERE id = $1', [id])).toEqual([
      { version: 201 },
    ]);
  });

  it('moves also under ON CONFLICT and for many rows at once', async () => {
    const { id } = await insert('users', user());
    await sql(
      `INSERT INTO users (id, username, email) VALUES ($1, 'upserted', 'u@example.com') ON CONFLICT (id) DO UPDATE SET username = excluded.username`,
      [id],
    );
    expect(await sql('SELECT version::int FROM users WHERE id = $1', [id])).toEqual([
      { version: 2 },
    ]);
    const others = await Promise.all([insert('users', user()), insert('users', user())]);
    const ids = others.map((row) => row.id);
    const moved = await sql(
      'UPDATE users SET roles = roles WHERE id = ANY($1) RETURNING version::int',
      [ids],
    );
    expect(moved).toEqual([{ version: 2 }, { version: 2 }]);
  });

  it('of a session that was deleted and made again is above all that it had', async () => {
    const values = session();
    let highest = 0;
    for (let life = 0; life < 5; life++) {
      const born = Number((await insert('sessions', values)).version);
      expect(born).toBeGreaterThan(highest + 1);
      for (let n = 0; n < 20; n++)
        await sql('UPDATE sessions SET last_seen_at = now() WHERE id = $1', [values.id]);
      const [gone] = await sql('DELETE FROM sessions WHERE id = $1 RETURNING version', [values.id]);
      highest = Number(gone?.version);
      expect(highest).toBe(born + 20);
    }
  });

  it('of a session stays a safe integer for as long as a service may live', async () => {
    const [sequence] = await sql(
      `SELECT increment_by::int AS step, last_value::float8 AS last FROM pg_sequences WHERE sequencename = 'session_versions'`,
    );
    // 1 000 logins a second.
    const years =
      (2 ** 53 - Number(sequence?.last)) / Number(sequence?.step) / 1_000 / 3600 / 24 / 365;
    expect(years).toBeGreaterThan(4);
  });
});

describe('a time', () => {
  it.each([
    ['users', user],
    ['orders', order],
  ])('of change (%s) never goes back, whatever is written', async (table, make) => {
    const future = new Date(Date.now() + 3_600_000);
    const { id } = await insert(table, make({ updated_at: future }));
    const [after] = await sql(
      `UPDATE ${table} SET updated_at = '2001-01-01' WHERE id = $1 RETURNING updated_at`,
      [id],
    );
    expect(after?.updated_at).toEqual(future);
  });

  it('of change moves with the change', async () => {
    const { id, updated_at: made } = await insert('orders', order({ updated_at: new Date(0) }));
    const [{ updated_at: changed } = {}] = await sql(
      'UPDATE orders SET note = $2 WHERE id = $1 RETURNING updated_at',
      [id, 'x'],
    );
    expect((changed as Date).getTime()).toBeGreaterThan((made as Date).getTime());
    expect(Math.abs((changed as Date).getTime() - Date.now())).toBeLessThan(5_000);
    const [hash] = await sql(
      `UPDATE credentials SET password_hash = password_hash, updated_at = '2001-01-01' WHERE user_id = $1 RETURNING updated_at`,
      [userId],
    );
    expect((hash?.updated_at as Date).getTime()).toBeGreaterThan(Date.now() - 60_000);
  });

  it('is kept to the millisecond', async () => {
    const { id } = await insert('orders', order());
    const exact = `SELECT created_at = date_trunc('milliseconds', created_at) AND updated_at = date_trunc('milliseconds', updated_at) AS exact FROM orders WHERE id = $1`;
    expect(await sql(exact, [id])).toEqual([{ exact: true }]);
  });
});

describe('the events of an order', () => {
  it.each([
    `UPDATE order_events SET type = 'order.paid'`,
    `UPDATE order_events SET type = 'order.paid' WHERE false`,
    'DELETE FROM order_events',
    'TRUNCATE order_events',
    'TRUNCATE orders CASCADE',
    `INSERT INTO order_events SELECT * FROM order_events ON CONFLICT (order_id, version) DO UPDATE SET type = 'order.paid'`,
  ])('refuse %s', async (statement) => {
    await insert('order_events', event());
    const before = await sql('SELECT count(*) FROM order_events');
    await expect(sql(statement)).rejects.toMatchObject({
      code: '23001',
      message: 'order_events only grows',
    });
    expect(await sql('SELECT count(*) FROM order_events')).toEqual(before);
  });

  it('keep their order from going away', async () => {
    const { id } = await insert('orders', order());
    await insert('order_events', event({ order_id: id }));
    await expect(sql('DELETE FROM orders WHERE id = $1', [id])).rejects.toMatchObject({
      constraint: 'order_events_order_id_fkey',
    });
  });
});

describe('a deleted user', () => {
  it('takes sessions, credentials and idempotency keys along; one with orders cannot be deleted', async () => {
    const { id } = await insert('users', user());
    await insert('sessions', session({ user_id: id }));
    await insert('credentials', credential({ user_id: id }));
    await insert('idempotency_keys', kept({ user_id: id }));
    await sql('DELETE FROM users WHERE id = $1', [id]);
    for (const table of ['sessions', 'credentials', 'idempotency_keys'])
      expect(await sql(`SELECT FROM ${table} WHERE user_id = $1`, [id])).toEqual([]);
    await expect(sql('DELETE FROM users WHERE id = $1', [userId])).rejects.toMatchObject({
      constraint: 'orders_user_id_fkey',
    });
  });

  it('gives its names free', async () => {
    const { id, username, email } = await insert('users', user());
    await sql('UPDATE users SET username = NULL, email = NULL, deleted_at = now() WHERE id = $1', [
      id,
    ]);
    await insert('users', user({ username, email }));
  });
});

/** Each constraint and unique index of the schema, by name: what it must refuse. */
const REFUSALS: Readonly<Record<string, readonly (() => Promise<unknown>)[]>> = {
  users_pkey: [() => insert('users', user({ id: userId }))],
  users_username_key: [
    async () => insert('users', user({ username: (await insert('users', user())).username })),
  ],
  users_email_key: [
    async () =>
      insert('users', user({ email: String((await insert('users', user())).email).toUpperCase() })),
  ],
  users_username_form: ['ab', 'Upper', 'a'.repeat(33), 'sp ace', 'ümlaut', 'abc\n', ''].map(
    (username) => () => insert('users', user({ username })),
  ),
  users_email_form: ['a@', '@example.com', 'nobody', '', `a@${'x'.repeat(254)}`].map(
    (email) => () => insert('users', user({ email })),
  ),
  users_roles_known: [['root'], [], ['user', 'root'], ['user', 'user', 'user', 'user'], [null]].map(
    (roles) => () => insert('users', user({ roles })),
  ),
  users_deleted_is_empty: [
    () => insert('users', user({ deleted_at: new Date() })),
    () => insert('users', user({ username: null })),
    () => insert('users', user({ email: null })),
    () => insert('users', user({ username: null, email: null })),
    () => insert('users', user({ username: null, deleted_at: new Date() })),
  ],
  credentials_pkey: [() => insert('credentials', credential())],
  credentials_user_id_fkey: [() => insert('credentials', credential({ user_id: randomUUID() }))],
  credentials_password_hash_form: [
    '',
    'the password itself',
    HASH.replace('argon2id', 'argon2i'),
    ` ${HASH}`,
    `${HASH}\n`,
    HASH.slice(0, HASH.lastIndexOf('$')),
    '$2b$12$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234',
  ].map((password_hash) => () => insert('credentials', credential({ password_hash }))),
  sessions_pkey: [
    async () => insert('sessions', session({ id: (await insert('sessions', session())).id })),
  ],
  sessions_user_id_fkey: [() => insert('sessions', session({ user_id: randomUUID() }))],
  sessions_token_hash_key: [
    async () =>
      insert('sessions', session({ token_hash: (await insert('sessions', session())).token_hash })),
  ],
  sessions_token_hash_form: [
    '',
    'a'.repeat(63),
    'a'.repeat(65),
    'A'.repeat(64),
    `${'a'.repeat(64)}\n`,
  ].map((hash) => () => insert('sessions', session({ token_hash: hash }))),
  orders_pkey: [() => insert('orders', order({ id: orderId }))],
  orders_user_id_fkey: [() => insert('orders', order({ user_id: randomUUID() }))],
  orders_status_known: ['', 'Placed', 'lost'].map(
    (status) => () => insert('orders', order({ status })),
  ),
  orders_currency_form: ['', 'EU', 'eur', 'EURO', 'EUR\n'].map(
    (currency) => () => insert('orders', order({ currency })),
  ),
  orders_total_range: [-1, '9007199254740992'].map(
    (total) => () => insert('orders', order({ total })),
  ),
  orders_items_count: ['[]', '{}', 'null', '"items"', itemsOf(...Array<object>(101).fill({}))].map(
    (items) => () => insert('orders', order({ items })),
  ),
  orders_items_form: [
    '[1]',
    '[null]',
    '[{}]',
    `[${itemsOf({})}]`,
    itemsOf({}, { quantity: 0 }),
    ...[0, -1, 10_001, 1.5, '1', null, [1], {}, true].map((quantity) => itemsOf({ quantity })),
    ...[-1, 1e12 + 1, 0.5, 1e300, '1', null, [1]].map((unitPrice) => itemsOf({ unitPrice })),
    ...['', 'x'.repeat(65), 1, null, ['a']].map((sku) => itemsOf({ sku })),
    ...['', 'x'.repeat(201), 1, null].map((name) => itemsOf({ name })),
    ...['sku', 'name', 'quantity', 'unitPrice'].map((lost) => itemsOf({ [lost]: undefined })),
  ].map((items) => () => insert('orders', order({ items }))),
  orders_total_sum: [
    () => insert('orders', order({ total: 0 })),
    () => insert('orders', order({ total: 2 })),
    () =>
      insert('orders', order({ items: itemsOf({ quantity: 3, unitPrice: 250 }, {}), total: 750 })),
    () => sql(`UPDATE orders SET total = 2 WHERE id = $1`, [orderId]),
    () => sql(`UPDATE orders SET items = $2 WHERE id = $1`, [orderId, itemsOf({ quantity: 2 })]),
    // What a sum of doubles would take for 2^53 - 1.
    () =>
      insert(
        'orders',
        order({
          items: itemsOf({ quantity: 9_007, unitPrice: 1e12 }, { unitPrice: 199_254_740_990 }),
          total: '9007199254740991',
        }),
      ),
  ],
  orders_note_length: [() => insert('orders', order({ note: 'x'.repeat(1_001) }))],
  order_events_pkey: [
    async () =>
      insert('order_events', event({ version: (await insert('order_events', event())).version })),
  ],
  order_events_order_id_fkey: [() => insert('order_events', event({ order_id: randomUUID() }))],
  order_events_actor_id_fkey: [() => insert('order_events', event({ actor_id: randomUUID() }))],
  order_events_version_range: [0, -1].map(
    (version) => () => insert('order_events', event({ version })),
  ),
  order_events_type_form: [
    '',
    'placed',
    'user.placed',
    'order.',
    'order.Placed',
    'order.paid\n',
    'order.-',
  ].map((type) => () => insert('order_events', event({ type }))),
  order_events_schema_range: [() => insert('order_events', event({ schema: 0 }))],
  order_events_data_form: ['[]', '1', 'null', '"x"'].map(
    (data) => () => insert('order_events', event({ data })),
  ),
  outbox_pkey: [
    async () => {
      const { position } = await insert('outbox', outbox());
      await sql(
        `INSERT INTO outbox (position, id, type, subject, data) OVERRIDING SYSTEM VALUE VALUES ($1, gen_random_uuid(), 'a', 'a', '{}')`,
        [position],
      );
    },
  ],
  outbox_id_key: [
    async () => insert('outbox', outbox({ id: (await insert('outbox', outbox())).id })),
  ],
  idempotency_keys_pkey: [
    async () =>
      insert('idempotency_keys', kept({ key: (await insert('idempotency_keys', kept())).key })),
  ],
  idempotency_keys_user_id_fkey: [
    () => insert('idempotency_keys', kept({ user_id: randomUUID() })),
  ],
  idempotency_keys_key_length: ['', 'x'.repeat(256)].map(
    (key) => () => insert('idempotency_keys', kept({ key })),
  ),
  idempotency_keys_status_success: [199, 300, 400, 429, 500, 503].map(
    (status) => () => insert('idempotency_keys', kept({ status })),
  ),
  known_devices_pkey: [
    async () =>
      insert(
        'known_devices',
        device({ device_hash: (await insert('known_devices', device())).device_hash }),
      ),
  ],
  known_devices_user_id_fkey: [() => insert('known_devices', device({ user_id: randomUUID() }))],
  known_devices_hash_form: ['', 'a'.repeat(63), 'A'.repeat(64)].map(
    (hash) => () => insert('known_devices', device({ device_hash: hash })),
  ),
  event_consumers_pkey: [
    async () => {
      const values = { name: randomUUID(), prefix: 'none.' };
      await insert('event_consumers', values);
      await insert('event_consumers', values);
    },
  ],
  inbox_pkey: [
    async () => {
      const event = { type: 'a.b', subject: 'a/1', data: '{}', occurred_at: new Date() };
      const delivery = { ...event, consumer: 'none', event_id: randomUUID(), position: 1 };
      await insert('inbox', delivery);
      await insert('inbox', delivery);
    },
  ],
  order_figures_pkey: [
    async () => {
      const values = {
        day: '2026-01-31',
        status: randomUUID(),
        currency: 'EUR',
        count: 1,
        total: 1,
      };
      await insert('order_figures', values);
      await insert('order_figures', values);
    },
  ],
  cache_invalidations_pkey: [
    async () => {
      const { position } = await insert('cache_invalidations', { keys: ['a'] });
      await sql(
        `INSERT INTO cache_invalidations (position, keys) OVERRIDING SYSTEM VALUE VALUES ($1, '{}')`,
        [position],
      );
    },
  ],
};

describe('a constraint', () => {
  it('is tried here, each one of the schema', async () => {
    const named = await sql(`
      SELECT conname AS name FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n' AND contype <> 't'
      UNION SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indisunique AND relnamespace = 'public'::regnamespace`);
    const names = named.map(({ name }) => name as string).filter((name) => !name.startsWith('PK_'));
    expect(names.sort()).toEqual(Object.keys(REFUSALS).sort());
  });

  it.each(Object.entries(REFUSALS))('%s refuses', async (constraint, attempts) => {
    for (const attempt of attempts) await expect(attempt()).rejects.toMatchObject({ constraint });
  });

  it('lets everything pass that is right', async () => {
    await insert(
      'users',
      user({ username: 'a.b_c-9', email: 'A@B', roles: ['user', 'support', 'admin'] }),
    );
    await insert('users', { id: randomUUID(), deleted_at: new Date() });
    const largest = itemsOf({ quantity: 9_007, unitPrice: 1e12 }, { unitPrice: 199_254_740_991 });
    await insert('orders', order({ total: '9007199254740991', items: largest }));
    await insert(
      'orders',
      order({ total: 1_000_000, items: itemsOf(...Array<object>(100).fill({ quantity: 10_000 })) }),
    );
    await insert(
      'orders',
      order({ total: 0, items: itemsOf({ unitPrice: 0, sku: '🐙'.repeat(64), name: 'a\nb' }) }),
    );
    await insert('orders', order({ note: '🐙'.repeat(1_000) }));
    await insert('order_events', event({ type: 'order.picked-up' }));
    await insert('idempotency_keys', kept({ key: 'x'.repeat(255) }));
  });

  it('is there for every column that must not be empty', async () => {
    const rows: Readonly<Record<string, Row>> = {
      users: user(),
      sessions: session(),
      orders: order(),
      order_events: event(),
      credentials: credential({ user_id: (await insert('users', user())).id }),
      outbox: outbox(),
      idempotency_keys: kept(),
    };
    const optional = new Set(['username', 'email', 'note', 'user_agent', 'ip', 'trace_parent']);
    for (const [table, row] of Object.entries(rows))
      for (const column of Object.keys(row)) {
        if (optional.has(column)) continue;
        await expect(insert(table, { ...row, [column]: null })).rejects.toMatchObject({
          code: '23502',
          table,
          column,
        });
      }
  });

  it('keeps positions of the outbox from being chosen', async () => {
    await expect(insert('outbox', outbox({ position: 1 }))).rejects.toMatchObject({
      code: '428C9',
    });
  });
});
