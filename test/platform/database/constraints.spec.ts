/** Behind the rules of the API stand constraints of the database: SQL that breaks one is refused, whoever sends it. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

const TOKEN_HASH = '0'.repeat(64);
const HASH = `'$argon2id$v=19$m=19456,t=2,p=1$${'c2FsdA'.repeat(4)}$${'aGFzaA'.repeat(7)}'`;
const [ADA, BEN] = ['00000000-0000-7000-8000-00000000000a', '00000000-0000-7000-8000-00000000000b'];
const ORDER = '00000000-0000-7000-8000-0000000000f0';
const NOBODY = '00000000-0000-7000-8000-0000000000ff';
const ITEMS = `'[{"sku":"a","name":"a","quantity":1,"unitPrice":1}]'`;

const item = (change: object): string =>
  `'${JSON.stringify([{ sku: 'a', name: 'a', quantity: 1, unitPrice: 1, ...change }])}'`;

const user = (change: Record<string, string>): string =>
  insert('users', {
    id: 'gen_random_uuid()',
    username: `'cleo'`,
    email: `'cleo@example.com'`,
    ...change,
  });
const order = (change: Record<string, string>): string =>
  insert('orders', {
    id: 'gen_random_uuid()',
    user_id: `'${ADA}'`,
    status: `'placed'`,
    currency: `'EUR'`,
    items: ITEMS,
    total: '1',
    ...change,
  });
const event = (change: Record<string, string>): string =>
  insert('order_events', {
    order_id: `'${ORDER}'`,
    version: '2',
    type: `'order.paid'`,
    schema: '1',
    data: `'{}'`,
    actor_id: `'${ADA}'`,
    occurred_at: 'now()',
    ...change,
  });
const session = (change: Record<string, string>): string =>
  insert('sessions', {
    id: 'gen_random_uuid()',
    user_id: `'${ADA}'`,
    token_hash: `'${'1'.repeat(64)}'`,
    last_seen_at: 'now()',
    expires_at: 'now()',
    ...change,
  });
const key = (change: Record<string, string>): string =>
  insert('idempotency_keys', {
    user_id: `'${ADA}'`,
    key: `'other'`,
    fingerprint: `'f'`,
    status: '201',
    headers: `'{}'`,
    body: `'{}'`,
    cache_keys: `'{}'`,
    ...change,
  });
function insert(table: string, values: Record<string, string>): string {
  return `INSERT INTO ${table} (${Object.keys(values).join(', ')}) VALUES (${Object.values(values).join(', ')})`;
}

const [CHECK, UNIQUE, FOREIGN, NULL] = ['23514', '23505', '23503', '23502'];

/** [what it breaks, SQLSTATE, constraint or column, SQL] */
const BROKEN: readonly (readonly [string, string, string, string])[] = [
  ['a username with upper case', CHECK, 'users_username_form', user({ username: `'Cleo'` })],
  ['a username of 2', CHECK, 'users_username_form', user({ username: `'ab'` })],
  ['a username of 33', CHECK, 'users_username_form', user({ username: `repeat('a', 33)` })],
  ['a username with a space', CHECK, 'users_username_form', user({ username: `'a b c'` })],
  ['a username twice', UNIQUE, 'users_username_key', user({ username: `'ada'` })],
  ['an email without "@"', CHECK, 'users_email_form', user({ email: `'cleo.example.com'` })],
  [
    'an email of 255',
    CHECK,
    'users_email_form',
    user({ email: `repeat('a', 243) || '@example.com'` }),
  ],
  [
    'an email twice, in another case',
    UNIQUE,
    'users_email_key',
    user({ email: `'ADA@Example.com'` }),
  ],
  ['an unknown role', CHECK, 'users_roles_known', user({ roles: `'{root}'` })],
  ['no role', CHECK, 'users_roles_known', user({ roles: `'{}'` })],
  [
    'a live user without a name',
    CHECK,
    'users_deleted_is_empty',
    user({ username: 'NULL', email: 'NULL' }),
  ],
  ['a deleted user with a name', CHECK, 'users_deleted_is_empty', user({ deleted_at: 'now()' })],
  ['a name without an email', CHECK, 'users_deleted_is_empty', user({ email: 'NULL' })],
  ['a user of that id twice', UNIQUE, 'users_pkey', user({ id: `'${ADA}'` })],
  [
    'a user deleted from under its orders',
    FOREIGN,
    'orders_user_id_fkey',
    `DELETE FROM users WHERE id = '${ADA}'`,
  ],
  [
    'a password of nobody',
    FOREIGN,
    'credentials_user_id_fkey',
    insert('credentials', { user_id: `'${NOBODY}'`, password_hash: HASH }),
  ],
  [
    'two passwords of one user',
    UNIQUE,
    'credentials_pkey',
    insert('credentials', { user_id: `'${ADA}'`, password_hash: HASH }),
  ],
  [
    'no password',
    NULL,
    'password_hash',
    insert('credentials', { user_id: `'${BEN}'`, password_hash: 'NULL' }),
  ],
  [
    'a password itself in the place of its hash',
    CHECK,
    'credentials_password_hash_form',
    insert('credentials', { user_id: `'${BEN}'`, password_hash: `'nine tall ships at anchor'` }),
  ],
  ['a session of nobody', FOREIGN, 'sessions_user_id_fkey', session({ user_id: `'${NOBODY}'` })],
  [
    'a session with the token itself',
    CHECK,
    'sessions_token_hash_form',
    session({ token_hash: `'hf_secret'` }),
  ],
  ['a token twice', UNIQUE, 'sessions_token_hash_key', session({ token_hash: `'${TOKEN_HASH}'` })],
  ['a session without an end', NULL, 'expires_at', session({ expires_at: 'NULL' })],
  ['an unknown status', CHECK, 'orders_status_known', order({ status: `'lost'` })],
  ['a currency in lower case', CHECK, 'orders_currency_form', order({ currency: `'eur'` })],
  ['a negative total', CHECK, 'orders_total_range', order({ total: '-1' })],
  ['a total past 2^53 - 1', CHECK, 'orders_total_range', order({ total: '9007199254740992' })],
  ['no items', CHECK, 'orders_items_count', order({ items: `'[]'` })],
  [
    '101 items',
    CHECK,
    'orders_items_count',
    order({ items: `(SELECT jsonb_agg(1) FROM generate_series(1, 101))` }),
  ],
  [
    'a quantity of 0',
    CHECK,
    'orders_items_form',
    order({ items: item({ quantity: 0 }), total: '0' }),
  ],
  [
    'a quantity of 10 001',
    CHECK,
    'orders_items_form',
    order({ items: item({ quantity: 10_001 }), total: '10001' }),
  ],
  ['half a piece', CHECK, 'orders_items_form', order({ items: item({ quantity: 0.5 }) })],
  ['a negative price', CHECK, 'orders_items_form', order({ items: item({ unitPrice: -1 }) })],
  [
    'a price past 10^12',
    CHECK,
    'orders_items_form',
    order({ items: item({ unitPrice: 1e12 + 1 }) }),
  ],
  [
    'a price of half a unit',
    CHECK,
    'orders_items_form',
    order({ items: item({ unitPrice: 0.5 }) }),
  ],
  ['a price as text', CHECK, 'orders_items_form', order({ items: item({ unitPrice: '1' }) })],
  [
    'an item without a name',
    CHECK,
    'orders_items_form',
    order({ items: item({ name: undefined }) }),
  ],
  ['a total that is not the sum of the items', CHECK, 'orders_total_sum', order({ total: '2' })],
  ['a note of 1 001', CHECK, 'orders_note_length', order({ note: `repeat('x', 1001)` })],
  ['items that are no list', CHECK, 'orders_items_count', order({ items: `'{}'` })],
  ['an order of nobody', FOREIGN, 'orders_user_id_fkey', order({ user_id: `'${NOBODY}'` })],
  [
    'an order deleted from under its events',
    FOREIGN,
    'order_events_order_id_fkey',
    `DELETE FROM orders WHERE id = '${ORDER}'`,
  ],
  [
    'an event of no order',
    FOREIGN,
    'order_events_order_id_fkey',
    event({ order_id: `'${NOBODY}'` }),
  ],
  ['an event before the first', CHECK, 'order_events_version_range', event({ version: '0' })],
  [
    'an event of something else',
    CHECK,
    'order_events_type_form',
    event({ type: `'user.created'` }),
  ],
  ['an event of no schema', CHECK, 'order_events_schema_range', event({ schema: '0' })],
  ['an event whose data is no object', CHECK, 'order_events_data_form', event({ data: `'[]'` })],
  ['an event by nobody', FOREIGN, 'order_events_actor_id_fkey', event({ actor_id: `'${NOBODY}'` })],
  ['two events of one version', UNIQUE, 'order_events_pkey', event({ version: '1' })],
  ['an event by no one', NULL, 'actor_id', event({ actor_id: 'NULL' })],
  ['a key twice', UNIQUE, 'idempotency_keys_pkey', key({ key: `'once'` })],
  ['an empty key', CHECK, 'idempotency_keys_key_length', key({ key: `''` })],
  ['a key of 256', CHECK, 'idempotency_keys_key_length', key({ key: `repeat('k', 256)` })],
  ['the answer of a refusal', CHECK, 'idempotency_keys_status_success', key({ status: '400' })],
  ['the answer of a failure', CHECK, 'idempotency_keys_status_success', key({ status: '503' })],
  ['a key of nobody', FOREIGN, 'idempotency_keys_user_id_fkey', key({ user_id: `'${NOBODY}'` })],
];

describe('the database', () => {
  let database: TestDatabase;
  let client: pg.Client;

  beforeAll(async () => {
    database = await createTestDatabase();
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
    await client.query(user({ id: `'${ADA}'`, username: `'ada'`, email: `'ada@example.com'` }));
    await client.query(user({ id: `'${BEN}'`, username: `'ben'`, email: `'ben@example.com'` }));
    await client.query(insert('credentials', { user_id: `'${ADA}'`, password_hash: HASH }));
    await client.query(session({ token_hash: `'${TOKEN_HASH}'` }));
    await client.query(order({ id: `'${ORDER}'` }));
    await client.query(event({ version: '1', type: `'order.placed'` }));
    await client.query(key({ key: `'once'` }));
  });
  afterAll(async () => {
    await client.end();
    await database.drop();
  });

  it.each(BROKEN)('refuses %s', async (_, code, name, sql) => {
    await expect(client.query(sql)).rejects.toMatchObject({
      code,
      [code === NULL ? 'column' : 'constraint']: name,
    });
  });

  it('has a test for each of its constraints', async () => {
    const { rows } = await client.query<{ name: string }>(
      `SELECT conname AS name FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
       WHERE relname IN ('users', 'credentials', 'sessions', 'orders', 'order_events', 'idempotency_keys') AND contype IN ('c', 'f', 'u')
       UNION SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
       WHERE relname IN ('users', 'credentials', 'sessions', 'orders', 'order_events', 'idempotency_keys') AND indisunique AND NOT indisprimary`,
    );
    const tested = new Set(BROKEN.map(([, , name]) => name));
    expect(rows.map(({ name }) => name).filter((name) => !tested.has(name))).toEqual([]);
  });

  it.each([
    `UPDATE order_events SET type = 'x'`,
    'DELETE FROM order_events',
    'TRUNCATE order_events',
  ])('lets no event be changed: %s', async (sql) => {
    await expect(client.query(sql)).rejects.toMatchObject({
      code: '23001',
      message: 'order_events only grows',
    });
  });

  it.each(['users', 'orders', 'sessions'])(
    'moves the version of %s by one with each update, whatever is written',
    async (table) => {
      const column = table === 'sessions' ? 'user_agent' : 'created_at';
      const versions = async (sql: string): Promise<number> =>
        Number(
          (await client.query<{ version: string }>(`${sql} RETURNING version`)).rows[0]?.version,
        );
      const first = await versions(`UPDATE ${table} SET ${column} = ${column}`);
      expect(await versions(`UPDATE ${table} SET version = 1`)).toBe(first + 1);
      expect(await versions(`UPDATE ${table} SET version = 1000000000`)).toBe(first + 2);
    },
  );

  it('ends with a user what is the user’s alone', async () => {
    await client.query(session({ user_id: `'${BEN}'`, token_hash: `'${'2'.repeat(64)}'` }));
    await client.query(insert('credentials', { user_id: `'${BEN}'`, password_hash: HASH }));
    await client.query(key({ user_id: `'${BEN}'` }));
    await client.query(`DELETE FROM users WHERE id = '${BEN}'`);
    for (const table of ['sessions', 'credentials', 'idempotency_keys'])
      expect((await client.query(`SELECT 1 FROM ${table} WHERE user_id = '${BEN}'`)).rowCount).toBe(
        0,
      );
  });
});
