/** Valid rows of every table, inserted by SQL as psql would, for tests of the schema itself. */
import { randomUUID } from 'node:crypto';
import type { Pool } from 'pg';

export type Row = Record<string, unknown>;

export const ITEM = { sku: 'LAMP-01', name: 'Lamp', quantity: 1, unitPrice: 1 };

/** The `items` of an order: one item for each change. */
export const itemsOf = (...changes: readonly object[]): string =>
  JSON.stringify(changes.map((change) => ({ ...ITEM, ...change })));

/** A well-formed hash of no password. */
export const PASSWORD_HASH = [
  '$argon2id$v=19$m=19456,t=2,p=1',
  'c2FsdA'.repeat(4),
  'aGFzaA'.repeat(7),
].join('$');

let rowCount = 0;
/** A number that no other row of this run has. */
function nextNumber(): number {
  rowCount++;
  return rowCount;
}
const uniqueHash = (): string => nextNumber().toString(16).padStart(64, '0');

/** A valid row of each table. */
const ROW_OF_TABLE = {
  users: () => {
    const username = `u-${nextNumber()}`;
    return { id: randomUUID(), username, email: `${username}@example.com` };
  },
  credentials: ({ userId }) => ({ user_id: userId, password_hash: PASSWORD_HASH }),
  sessions: ({ userId }) => ({
    id: randomUUID(),
    user_id: userId,
    token_hash: uniqueHash(),
    last_seen_at: new Date(),
    expires_at: new Date(),
  }),
  bootstrap_admins: ({ userId }) => ({ username: `admin-${nextNumber()}`, user_id: userId }),
  known_devices: ({ userId }) => ({ user_id: userId, device_hash: uniqueHash() }),
  orders: ({ userId }) => ({
    id: randomUUID(),
    user_id: userId,
    status: 'placed',
    currency: 'EUR',
    items: itemsOf({}),
    total: 1,
  }),
  order_events: ({ userId, orderId }) => ({
    order_id: orderId,
    version: nextNumber(),
    type: 'order.placed',
    schema: 1,
    data: '{}',
    actor_id: userId,
    occurred_at: new Date(),
  }),
  order_figures: () => ({
    day: '2026-01-31',
    status: `status-${nextNumber()}`,
    currency: 'EUR',
    count: 1,
    total: 1,
  }),
  outbox: () => ({ id: randomUUID(), type: 'a.b', subject: 'a/1', data: '{}' }),
  event_consumers: () => ({ name: `consumer-${nextNumber()}`, prefix: 'none.' }),
  inbox: () => ({
    consumer: 'none',
    event_id: randomUUID(),
    position: 1,
    type: 'a.b',
    subject: 'a/1',
    data: '{}',
    occurred_at: new Date(),
  }),
  inbox_dead_letters: () => ({
    consumer: 'none',
    event_id: randomUUID(),
    type: 'a.b',
    subject: 'a/1',
    occurred_at: new Date(),
    attempts: 20,
    last_error: 'none',
  }),
  idempotency_keys: ({ userId }) => ({
    user_id: userId,
    key: `key-${nextNumber()}`,
    fingerprint: 'f',
    status: 201,
    headers: '{}',
    body: '{}',
    cache_keys: [],
  }),
  cache_invalidations: () => ({ keys: ['a'] }),
  cache_epoch: () => ({ only_row: true }),
  failed_logins: () => ({
    key: Buffer.from(uniqueHash().slice(-32), 'hex'),
    short_drained_at: new Date(),
    long_drained_at: new Date(),
  }),
  device_key: () => ({ only_row: true }),
  cache_readers: () => ({ registration: randomUUID(), epoch: 'e' }),
} satisfies Record<string, (owner: { userId: string; orderId: string }) => Row>;

export type Table = keyof typeof ROW_OF_TABLE;

export class TestRows {
  private constructor(
    private readonly pool: Pool,
    /** Owns the rows that a test does not give to another user. Has credentials. */
    readonly userId: string,
    /** An order of that user, without events. */
    readonly orderId: string,
  ) {}

  static async create(pool: Pool): Promise<TestRows> {
    const [userId, orderId] = [randomUUID(), randomUUID()];
    const rows = new TestRows(pool, userId, orderId);
    await rows.insert('users', { id: userId });
    await rows.insert('orders', { id: orderId });
    await rows.insert('credentials');
    return rows;
  }

  /** A valid row with these changes, not inserted. */
  rowOf(table: Table, changes: Row = {}): Row {
    return { ...ROW_OF_TABLE[table](this), ...changes };
  }

  /** @returns the row with the values that the database added */
  async insert(table: Table, changes: Row = {}): Promise<Row> {
    const row = this.rowOf(table, changes);
    const columns = Object.keys(row);
    const parameters = columns.map((_, index) => `$${index + 1}`);
    const [inserted] = await this.query(
      `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${parameters.join(', ')}) RETURNING *`,
      Object.values(row),
    );
    return inserted as Row;
  }

  async query(sql: string, parameters: readonly unknown[] = []): Promise<Row[]> {
    return (await this.pool.query<Row>(sql, [...parameters])).rows;
  }

  /** The version of a row by its id. */
  async versionOf(table: Table, id: unknown): Promise<number> {
    const [row] = await this.query(`SELECT version FROM ${table} WHERE id = $1`, [id]);
    return Number(row?.version);
  }
}
