/**
 * Every constraint of the schema refuses what breaks it, whoever sends the SQL. The list below is
 * compared with the schema, so a new constraint needs a case.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Pool } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { itemsOf, PASSWORD_HASH, type Row, type Table, TestRows } from './test-rows.js';

type Attempt = (rows: TestRows) => Promise<unknown>;
/** What breaks the constraint → how. */
type Violations = Readonly<Record<string, Attempt>>;

/** A row with each of these values in one column. */
function withEach(table: Table, column: string, values: Row): Violations {
  return Object.fromEntries(
    Object.entries(values).map(([what, value]) => [
      what,
      (rows: TestRows) => rows.insert(table, { [column]: value }),
    ]),
  );
}

/** A second row with the same values in these columns. */
const twice = (table: Table, ...columns: readonly string[]): Violations => ({
  'the same value twice': async (rows) => {
    const first = await rows.insert(table);
    const repeated = columns.map((column) => [column, first[column]]);
    await rows.insert(table, Object.fromEntries(repeated) as Row);
  },
});

/** A second row with the same generated position. */
const samePosition = (table: Table, columns: string, values: string): Violations => ({
  'the same value twice': async (rows) => {
    const { position } = await rows.insert(table);
    await rows.query(
      `INSERT INTO ${table} (position, ${columns}) OVERRIDING SYSTEM VALUE VALUES ($1, ${values})`,
      [position],
    );
  },
});

const nobody = (table: Table, column: string): Violations =>
  withEach(table, column, { 'an id that does not exist': randomUUID() });

const emojis = (count: number): string => '🐙'.repeat(count);

const VIOLATIONS: Readonly<Record<string, Violations>> = {
  users_pkey: twice('users', 'id'),
  users_username_key: twice('users', 'username'),
  users_email_key: {
    'the same email twice': twice('users', 'email')['the same value twice'] as Attempt,
    'the same email in another case': async (rows) => {
      const { email } = await rows.insert('users');
      await rows.insert('users', { email: String(email).toUpperCase() });
    },
  },
  users_username_form: withEach('users', 'username', {
    '2 characters': 'ab',
    '33 characters': 'a'.repeat(33),
    'an upper-case letter': 'Upper',
    'a space': 'sp ace',
    'a letter beyond ASCII': 'ümlaut',
    'a line end': 'abc\n',
    'no character': '',
  }),
  users_email_form: withEach('users', 'email', {
    'nothing after the @': 'a@',
    'nothing before the @': '@example.com',
    'no @': 'nobody',
    'no character': '',
    '255 characters and more': `a@${'x'.repeat(254)}`,
  }),
  users_roles_known: withEach('users', 'roles', {
    'an unknown role': ['root'],
    'no role': [],
    'an unknown role beside a known one': ['user', 'root'],
    'four roles': ['user', 'user', 'user', 'user'],
    'a role that is NULL': [null],
  }),
  users_deleted_is_empty: {
    'a deleted user with names': (rows) => rows.insert('users', { deleted_at: new Date() }),
    'a deleted user with an email': (rows) =>
      rows.insert('users', { username: null, deleted_at: new Date() }),
    'a live user without a username': (rows) => rows.insert('users', { username: null }),
    'a live user without an email': (rows) => rows.insert('users', { email: null }),
    'a live user without names': (rows) => rows.insert('users', { username: null, email: null }),
  },
  credentials_pkey: {
    'two passwords of one user': (rows) => rows.insert('credentials'),
  },
  credentials_user_id_fkey: nobody('credentials', 'user_id'),
  credentials_password_hash_form: withEach('credentials', 'password_hash', {
    'no character': '',
    'a password': 'the password itself',
    'another variant of argon2': PASSWORD_HASH.replace('argon2id', 'argon2i'),
    'a space before it': ` ${PASSWORD_HASH}`,
    'a line end after it': `${PASSWORD_HASH}\n`,
    'a missing part': PASSWORD_HASH.slice(0, PASSWORD_HASH.lastIndexOf('$')),
    'a hash of bcrypt': '$2b$12$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234',
  }),
  sessions_pkey: twice('sessions', 'id'),
  sessions_user_id_fkey: nobody('sessions', 'user_id'),
  sessions_token_hash_key: twice('sessions', 'token_hash'),
  sessions_token_hash_form: withEach('sessions', 'token_hash', {
    'no character': '',
    'a token': 'hf_secret',
    '63 digits': 'a'.repeat(63),
    '65 digits': 'a'.repeat(65),
    'upper-case digits': 'A'.repeat(64),
    'a line end after it': `${'a'.repeat(64)}\n`,
  }),
  orders_pkey: twice('orders', 'id'),
  orders_user_id_fkey: {
    ...nobody('orders', 'user_id'),
    'the deletion of a user who has orders': (rows) =>
      rows.query('DELETE FROM users WHERE id = $1', [rows.userId]),
  },
  orders_status_known: withEach('orders', 'status', {
    'no character': '',
    'another case': 'Placed',
    'an unknown status': 'lost',
  }),
  orders_currency_form: withEach('orders', 'currency', {
    'no character': '',
    '2 letters': 'EU',
    '4 letters': 'EURO',
    'lower case': 'eur',
    'a line end after it': 'EUR\n',
  }),
  orders_total_range: withEach('orders', 'total', {
    'a negative total': -1,
    '2^53': '9007199254740992',
  }),
  orders_items_count: withEach('orders', 'items', {
    'an empty list': '[]',
    'an object': '{}',
    null: 'null',
    'a string': '"items"',
    '101 items': itemsOf(...Array<object>(101).fill({})),
  }),
  orders_items_form: withEach('orders', 'items', {
    'a number as an item': '[1]',
    'null as an item': '[null]',
    'an empty item': '[{}]',
    'a list as an item': `[${itemsOf({})}]`,
    'a wrong item behind a right one': itemsOf({}, { quantity: 0 }),
    ...itemsWith('quantity', [0, -1, 10_001, 0.5, 1.5, '1', null, [1], {}, true]),
    ...itemsWith('unitPrice', [-1, 1e12 + 1, 0.5, 1e300, '1', null, [1]]),
    ...itemsWith('sku', ['', 'x'.repeat(65), 1, null, ['a']]),
    ...itemsWith('name', ['', 'x'.repeat(201), 1, null]),
    'an item without a sku': itemsOf({ sku: undefined }),
    'an item without a name': itemsOf({ name: undefined }),
    'an item without a quantity': itemsOf({ quantity: undefined }),
    'an item without a unit price': itemsOf({ unitPrice: undefined }),
  }),
  orders_total_sum: {
    'a total below the sum': (rows) => rows.insert('orders', { total: 0 }),
    'a total above the sum': (rows) => rows.insert('orders', { total: 2 }),
    'a total without the last item': (rows) =>
      rows.insert('orders', {
        items: itemsOf({ quantity: 3, unitPrice: 250 }, {}),
        total: 750,
      }),
    'a change of the total alone': (rows) =>
      rows.query('UPDATE orders SET total = 2 WHERE id = $1', [rows.orderId]),
    'a change of the items alone': (rows) =>
      rows.query('UPDATE orders SET items = $2 WHERE id = $1', [
        rows.orderId,
        itemsOf({ quantity: 2 }),
      ]),
    // Added as floating-point numbers, the items give 2^53 - 1.
    'a difference that floating-point numbers lose': (rows) =>
      rows.insert('orders', {
        items: itemsOf({ quantity: 9_007, unitPrice: 1e12 }, { unitPrice: 199_254_740_990 }),
        total: '9007199254740991',
      }),
  },
  orders_note_length: withEach('orders', 'note', { '1001 characters': 'x'.repeat(1_001) }),
  order_events_pkey: twice('order_events', 'version'),
  order_events_order_id_fkey: {
    ...nobody('order_events', 'order_id'),
    'the deletion of an order that has events': async (rows) => {
      const { id } = await rows.insert('orders');
      await rows.insert('order_events', { order_id: id });
      await rows.query('DELETE FROM orders WHERE id = $1', [id]);
    },
  },
  order_events_actor_id_fkey: nobody('order_events', 'actor_id'),
  order_events_version_range: withEach('order_events', 'version', {
    'version 0': 0,
    'a negative version': -1,
  }),
  order_events_type_form: withEach('order_events', 'type', {
    'no character': '',
    'no prefix': 'placed',
    'another prefix': 'user.placed',
    'nothing after the prefix': 'order.',
    'an upper-case letter': 'order.Placed',
    'a line end after it': 'order.paid\n',
    'a lone hyphen': 'order.-',
  }),
  order_events_schema_range: withEach('order_events', 'schema', { 'schema 0': 0 }),
  order_events_data_form: withEach('order_events', 'data', {
    'a list': '[]',
    'a number': '1',
    null: 'null',
    'a string': '"x"',
  }),
  outbox_pkey: samePosition(
    'outbox',
    'id, type, subject, data',
    `gen_random_uuid(), 'a', 'a', '{}'`,
  ),
  outbox_id_key: twice('outbox', 'id'),
  idempotency_keys_pkey: twice('idempotency_keys', 'key'),
  idempotency_keys_key_length: withEach('idempotency_keys', 'key', {
    'no character': '',
    '256 characters': 'x'.repeat(256),
  }),
  idempotency_keys_status_success: withEach('idempotency_keys', 'status', {
    'status 199': 199,
    'status 300': 300,
    'status 400': 400,
    'status 429': 429,
    'status 500': 500,
    'status 503': 503,
  }),
  bootstrap_admins_pkey: twice('bootstrap_admins', 'username'),
  bootstrap_admins_user_id_key: twice('bootstrap_admins', 'user_id'),
  bootstrap_admins_user_id_fkey: nobody('bootstrap_admins', 'user_id'),
  known_devices_pkey: twice('known_devices', 'device_hash'),
  known_devices_user_id_fkey: nobody('known_devices', 'user_id'),
  known_devices_hash_form: withEach('known_devices', 'device_hash', {
    'no character': '',
    '63 digits': 'a'.repeat(63),
    'upper-case digits': 'A'.repeat(64),
  }),
  event_consumers_pkey: twice('event_consumers', 'name'),
  inbox_pkey: twice('inbox', 'event_id'),
  inbox_dead_letters_pkey: twice('inbox_dead_letters', 'event_id'),
  order_figures_pkey: twice('order_figures', 'status'),
  cache_invalidations_pkey: samePosition('cache_invalidations', 'keys', `'{}'`),
  cache_epoch_pkey: twice('cache_epoch', 'only_row'),
  cache_epoch_is_one: withEach('cache_epoch', 'only_row', { 'a second row': false }),
  cache_readers_pkey: twice('cache_readers', 'registration'),
  failed_logins_pkey: twice('failed_logins', 'key'),
  failed_logins_key_length: withEach('failed_logins', 'key', {
    'no byte': Buffer.alloc(0),
    '15 bytes': Buffer.alloc(15),
    '17 bytes': Buffer.alloc(17),
  }),
  device_key_pkey: twice('device_key', 'only_row'),
  device_key_is_one: withEach('device_key', 'only_row', { 'a second row': false }),
  device_key_length: {
    '31 bytes': (rows) => rows.query(`UPDATE device_key SET key = '\\x${'00'.repeat(31)}'`),
  },
};

/** One item for each value of a member. */
function itemsWith(member: string, values: readonly unknown[]): Row {
  const entries = values.map((value) => {
    const text = JSON.stringify(value).slice(0, 20);
    return [`${member} ${text}`, itemsOf({ [member]: value })] as const;
  });
  return Object.fromEntries(entries);
}

/** SQLSTATE of a violation, by the ending of the constraint's name. */
function sqlStateOf(constraint: string): string {
  if (constraint.endsWith('_fkey')) return '23503';
  return /_p?key$/.test(constraint) ? '23505' : '23514';
}

let database: TestDatabase;
let pool: Pool;
let rows: TestRows;

beforeAll(async () => {
  database = await createTestDatabase();
  pool = new Pool({ connectionString: database.url });
  rows = await TestRows.create(pool);
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

describe('the constraints of the schema', () => {
  /** Everything but NOT NULL and the triggers, and unique indexes besides. */
  const NAMES = `
    SELECT conname AS name FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace AND contype NOT IN ('n', 't')
    UNION
    SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
     WHERE indisunique AND relnamespace = 'public'::regnamespace`;

  it('all have a case in this file', async () => {
    const names = (await rows.query(NAMES)).map(({ name }) => name as string);
    // The table of migrations is TypeORM's.
    const ofService = names.filter((name) => !name.startsWith('PK_'));
    expect(ofService.sort()).toEqual(Object.keys(VIOLATIONS).sort());
  });

  const cases = Object.entries(VIOLATIONS).flatMap(([constraint, violations]) =>
    Object.entries(violations).map(([what, attempt]) => [constraint, what, attempt] as const),
  );
  it.each(cases)('%s refuses %s', async (constraint, _, attempt) => {
    await expect(attempt(rows)).rejects.toMatchObject({ constraint, code: sqlStateOf(constraint) });
  });

  it.each([
    ['a username with every kind of character', 'users', { username: 'a.b_c-9' }],
    ['the shortest email', 'users', { email: 'A@B' }],
    ['every role', 'users', { roles: ['user', 'support', 'admin'] }],
    ['a deleted user', 'users', { username: null, email: null, deleted_at: new Date() }],
    [
      'the greatest total',
      'orders',
      {
        items: itemsOf({ quantity: 9_007, unitPrice: 1e12 }, { unitPrice: 199_254_740_991 }),
        total: '9007199254740991',
      },
    ],
    [
      '100 items of 10 000',
      'orders',
      { items: itemsOf(...Array<object>(100).fill({ quantity: 10_000 })), total: 1_000_000 },
    ],
    ['a price of 0', 'orders', { items: itemsOf({ unitPrice: 0 }), total: 0 }],
    ['a SKU of 64 emojis', 'orders', { items: itemsOf({ sku: emojis(64) }) }],
    ['a line end in the name of an item', 'orders', { items: itemsOf({ name: 'a\nb' }) }],
    ['a note of 1000 emojis', 'orders', { note: emojis(1_000) }],
    ['an event type with a hyphen', 'order_events', { type: 'order.picked-up' }],
    ['an idempotency key of 255 characters', 'idempotency_keys', { key: 'x'.repeat(255) }],
  ] as [string, Table, Row][])('accept %s', async (_, table, changes) => {
    await expect(rows.insert(table, changes)).resolves.toBeDefined();
  });

  it('do not let a row of the outbox choose its position', async () => {
    await expect(rows.insert('outbox', { position: 1 })).rejects.toMatchObject({ code: '428C9' });
  });
});

describe('a column that must have a value', () => {
  const COLUMNS: Readonly<Partial<Record<Table, readonly string[]>>> = {
    users: ['id'],
    sessions: ['id', 'user_id', 'token_hash', 'last_seen_at', 'expires_at'],
    orders: ['id', 'user_id', 'status', 'currency', 'items', 'total'],
    order_events: ['order_id', 'version', 'type', 'schema', 'data', 'actor_id', 'occurred_at'],
    credentials: ['user_id', 'password_hash'],
    bootstrap_admins: ['username', 'user_id'],
    outbox: ['id', 'type', 'subject', 'data'],
    idempotency_keys: ['user_id', 'key', 'fingerprint', 'status', 'headers', 'body', 'cache_keys'],
  };
  const cases = Object.entries(COLUMNS).flatMap(([table, columns]) =>
    columns.map((column) => [table as Table, column] as const),
  );

  it.each(cases)('%s.%s refuses NULL', async (table, column) => {
    await expect(rows.insert(table, { [column]: null })).rejects.toMatchObject({
      code: '23502',
      table,
      column,
    });
  });
});
