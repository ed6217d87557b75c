/**
 * What the database guarantees by itself, whoever writes: versions grow by one with each change,
 * times do not go back, and the event log only grows. All by SQL, as psql would send it.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Pool } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { type Table, TestRows } from './test-rows.js';

/** Enough connections for writers to wait for each other's row locks. */
const POOL_SIZE = 8;

let database: TestDatabase;
let pool: Pool;
let rows: TestRows;

beforeAll(async () => {
  database = await createTestDatabase();
  pool = new Pool({ connectionString: database.url, max: POOL_SIZE });
  rows = await TestRows.create(pool);
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

describe('the version of a row', () => {
  const CHANGES = ['id = id', 'version = version', 'version = 7', 'version = version + 100'];
  const TABLES: readonly (readonly [table: Table, change: string])[] = [
    ['users', `roles = '{admin}'`],
    ['orders', `note = 'changed'`],
    ['sessions', `ip = '::1'`],
  ];
  const cases = TABLES.flatMap(([table, change]) =>
    [change, ...CHANGES].map((assignment) => [table, assignment] as const),
  );

  it.each(cases)('of %s grows by one with SET %s', async (table, assignment) => {
    const { id } = await rows.insert(table);
    const before = await rows.versionOf(table, id);

    await rows.query(`UPDATE ${table} SET ${assignment} WHERE id = $1`, [id]);

    expect(await rows.versionOf(table, id)).toBe(before + 1);
  });

  it.each(['users', 'orders'] as const)('of %s begins with 1', async (table) => {
    const { id } = await rows.insert(table);
    expect(await rows.versionOf(table, id)).toBe(1);
  });

  it('stays when the update is rolled back', async () => {
    const { id } = await rows.insert('orders');

    await expect(
      rows.query('UPDATE orders SET total = -1 WHERE id = $1', [id]),
    ).rejects.toMatchObject({ constraint: 'orders_total_range' });

    expect(await rows.versionOf('orders', id)).toBe(1);
  });

  it('is given to one of many concurrent writers only', async () => {
    const { id } = await rows.insert('orders');
    const writers = Array.from({ length: 200 }, async (_, writer) => {
      const [row] = await rows.query(
        'UPDATE orders SET note = $2 WHERE id = $1 RETURNING version::int',
        [id, `note ${writer}`],
      );
      return row?.version as number;
    });

    const versions = await Promise.all(writers);

    const expected = Array.from({ length: 200 }, (_, index) => index + 2);
    expect(versions.sort((a, b) => a - b)).toEqual(expected);
    expect(await rows.versionOf('orders', id)).toBe(201);
  });

  it('grows with ON CONFLICT DO UPDATE', async () => {
    const { id } = await rows.insert('users');

    await rows.query(
      `INSERT INTO users (id, username, email) VALUES ($1, 'upserted', 'u@example.com')
         ON CONFLICT (id) DO UPDATE SET username = excluded.username`,
      [id],
    );

    expect(await rows.versionOf('users', id)).toBe(2);
  });

  it('grows in each row of an update of many', async () => {
    const users = await Promise.all([rows.insert('users'), rows.insert('users')]);
    const ids = users.map(({ id }) => id);

    const changed = await rows.query(
      'UPDATE users SET roles = roles WHERE id = ANY($1) RETURNING version::int',
      [ids],
    );

    expect(changed).toEqual([{ version: 2 }, { version: 2 }]);
  });
});

describe('the version of a session that was deleted and inserted again', () => {
  it('is greater than any that the session had before', async () => {
    const session = rows.rowOf('sessions');
    const first = Number((await rows.insert('sessions', session)).version);
    for (let update = 0; update < 20; update++) {
      await rows.query('UPDATE sessions SET last_seen_at = now() WHERE id = $1', [session.id]);
    }
    const last = await rows.versionOf('sessions', session.id);
    await rows.query('DELETE FROM sessions WHERE id = $1', [session.id]);

    const again = await rows.insert('sessions', session);

    expect(last).toBe(first + 20);
    // The deletion itself counts as one more.
    expect(Number(again.version)).toBeGreaterThan(last + 1);
  });

  it('stays a safe integer for years of 1000 logins a second', async () => {
    const [sequence] = await rows.query(
      `SELECT increment_by::int AS step, last_value::float8 AS last FROM pg_sequences
        WHERE sequencename = 'session_versions'`,
    );
    const logins = (2 ** 53 - Number(sequence?.last)) / Number(sequence?.step);
    const years = logins / 1_000 / 3_600 / 24 / 365;
    expect(years).toBeGreaterThan(4);
  });
});

describe('the time of the last change', () => {
  it.each(['users', 'orders'] as const)(
    'of %s does not go back, whatever is written',
    async (table) => {
      const future = new Date(Date.now() + 3_600_000);
      const { id } = await rows.insert(table, { updated_at: future });

      const [after] = await rows.query(
        `UPDATE ${table} SET updated_at = '2001-01-01' WHERE id = $1 RETURNING updated_at`,
        [id],
      );

      expect(after?.updated_at).toEqual(future);
    },
  );

  it('of an order is the time of the update by the clock of PostgreSQL', async () => {
    const { id } = await rows.insert('orders', { updated_at: new Date(0) });
    const [start] = await rows.query(`SELECT date_trunc('milliseconds', clock_timestamp()) AS at`);

    const [after] = await rows.query(
      `UPDATE orders SET note = 'x' WHERE id = $1
       RETURNING updated_at BETWEEN $2 AND clock_timestamp() AS is_now`,
      [id, start?.at],
    );

    expect(after).toEqual({ is_now: true });
  });

  it('of credentials moves with an update that writes an older time', async () => {
    const { id } = await rows.insert('users');
    await rows.insert('credentials', { user_id: id, updated_at: new Date(0) });

    const [after] = await rows.query(
      `UPDATE credentials SET updated_at = '2001-01-01' WHERE user_id = $1
       RETURNING updated_at > '2001-01-01' AS has_moved`,
      [id],
    );

    expect(after).toEqual({ has_moved: true });
  });

  it('has milliseconds and nothing finer, like the time of the insert', async () => {
    const { id } = await rows.insert('orders');

    const [exact] = await rows.query(
      `SELECT created_at = date_trunc('milliseconds', created_at) AS created,
              updated_at = date_trunc('milliseconds', updated_at) AS updated
         FROM orders WHERE id = $1`,
      [id],
    );

    expect(exact).toEqual({ created: true, updated: true });
  });
});

describe('the event log', () => {
  it.each([
    `UPDATE order_events SET type = 'order.paid'`,
    `UPDATE order_events SET type = 'order.paid' WHERE false`,
    'DELETE FROM order_events',
    'TRUNCATE order_events',
    'TRUNCATE orders CASCADE',
    `INSERT INTO order_events SELECT * FROM order_events
       ON CONFLICT (order_id, version) DO UPDATE SET type = 'order.paid'`,
  ])('refuses %s', async (statement) => {
    await rows.insert('order_events');
    const before = await rows.query('SELECT count(*) FROM order_events');

    await expect(rows.query(statement)).rejects.toMatchObject({
      code: '23001',
      message: 'order_events only grows',
    });
    expect(await rows.query('SELECT count(*) FROM order_events')).toEqual(before);
  });
});

describe('the deletion of a user', () => {
  it.each(['sessions', 'credentials', 'known_devices'] as const)(
    'deletes the rows of that user in %s',
    async (table) => {
      const { id } = await rows.insert('users');
      await rows.insert(table, { user_id: id });

      await rows.query('DELETE FROM users WHERE id = $1', [id]);

      expect(await rows.query(`SELECT FROM ${table} WHERE user_id = $1`, [id])).toEqual([]);
    },
  );

  it('leaves username and email to others, also when the row stays without them', async () => {
    const { id, username, email } = await rows.insert('users');
    await rows.query(
      'UPDATE users SET username = NULL, email = NULL, deleted_at = now() WHERE id = $1',
      [id],
    );

    await expect(rows.insert('users', { username, email })).resolves.toBeDefined();
  });
});
