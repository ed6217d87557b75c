/**
 * Stored events. Every form in which an event was ever written has examples in frozen-events/: each
 * must yield the same state for as long as databases hold such events. A form without an example
 * fails, and so does an example of a form that was never written.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import pg from 'pg';
import {
  EVENT_SCHEMA,
  EVENT_TYPES,
  evolve,
  type OrderState,
  replay,
  type StoredOrderChange,
  toChangedEvent,
  toPlacedEvent,
  totalOf,
  upcast,
} from '../../../src/orders/projection/order-events.js';
import { startApp, type TestApp } from '../../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import { REPOSITORY } from '../../support/repository.js';

interface FrozenEvent extends StoredOrderChange {
  readonly before: OrderState | null;
  readonly after: OrderState;
}

const FROZEN_EVENTS = new URL('test/orders/projection/frozen-events/', REPOSITORY);

const readFrozenEvent = (file: string): FrozenEvent =>
  JSON.parse(readFileSync(new URL(file, FROZEN_EVENTS), 'utf8')) as FrozenEvent;
const examples = readdirSync(FROZEN_EVENTS)
  .sort()
  .map((file) => [file, readFrozenEvent(file)] as const);

/** Every form that was ever written, as `<type>.v<schema>`. */
const writtenForms = [...EVENT_TYPES].flatMap(([type, firstSchema]) =>
  Array.from(
    { length: EVENT_SCHEMA - firstSchema + 1 },
    (_, offset) => `${type}.v${firstSchema + offset}`,
  ),
);

describe('the frozen events', () => {
  it('cover every form that was ever written, and no other', () => {
    const forms = new Set(examples.map(([, { type, schema }]) => `${type}.v${schema}`));
    expect(forms).toEqual(new Set(writtenForms));
  });

  it.each(examples)('%s → is named by its type and schema', (file, { type, schema }) => {
    expect(file).toMatch(new RegExp(`^${type}\\.v${schema}(\\.[a-z]+)?\\.json$`));
  });

  it.each(examples)('%s → yields the frozen state', (_, { before, after, ...event }) => {
    expect(replay([event], before)).toEqual(after);
  });

  it.each(examples)(
    '%s → is replayed without changing the event or the state',
    (_, { before, after, ...event }) => {
      const [stateCopy, eventCopy] = [structuredClone(before), structuredClone(event)];
      replay([event], before);
      expect([before, event]).toEqual([stateCopy, eventCopy]);
      expect(replay([event], before)).toEqual(after);
    },
  );

  it.each(examples)(
    '%s → yields the same state in the current form',
    (_, { before, after, ...event }) => {
      const current = { ...upcast(event), schema: EVENT_SCHEMA };
      expect(upcast(current)).toEqual({ type: current.type, data: current.data });
      expect(replay([current], before)).toEqual(after);
    },
  );
});

describe('a sequence of events', () => {
  const placed = readFrozenEvent('order.placed.v2.json');
  const paid = { type: 'order.paid', data: {} };

  it.each<[what: string, run: () => unknown]>([
    ['that does not begin with order.placed', () => evolve(null, paid)],
    ['with order.placed twice', () => replay([placed, placed])],
    ['with an unknown type', () => evolve(placed.after, { type: 'order.lost', data: {} })],
    ['of a newer release', () => upcast({ ...paid, schema: EVENT_SCHEMA + 1 })],
    ['with the schema 0', () => upcast({ ...paid, schema: 0 })],
    ['with a schema that is not a number', () => upcast({ ...paid, schema: NaN })],
  ])('%s → is rejected with the type in the message', (_, run) => {
    expect(run).toThrow(/order\./);
  });

  it('without any event → is no order', () => {
    expect(replay([])).toBeNull();
  });

  it('with any changes → keeps the total equal to the sum of the items', () => {
    const anyItem = fc.record({
      sku: fc.string(),
      name: fc.string(),
      quantity: fc.integer({ min: 1, max: 10_000 }),
      unitPrice: fc.integer({ min: 0, max: 90_071_992_547 }),
    });
    const items = fc.array(anyItem, { minLength: 1, maxLength: 10 });
    const note = fc.option(fc.string());
    const anyChange = fc.record({ items, note }, { requiredKeys: [] });
    fc.assert(
      fc.property(items, note, fc.array(anyChange), (firstItems, firstNote, changes) => {
        const order = { userId: 'u', currency: 'EUR', items: firstItems, note: firstNote };
        let state = evolve(null, toPlacedEvent(order));
        for (const change of changes) {
          const before = state;
          state = evolve(state, toChangedEvent(change));
          expect(state).toEqual({ ...before, ...change, total: totalOf(state.items) });
        }
      }),
    );
  });
});

describe('the table order_events', () => {
  let app: TestApp;
  let owner: TestUser;
  let adminToken: string;
  /** The owner of the schema, a superuser. */
  let database: pg.Client;

  beforeAll(async () => {
    app = await startApp();
    owner = await registerUser(app);
    adminToken = await logInAsAdmin(app);
    database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
    await placeOrder(app, owner.token);
  });
  afterAll(async () => {
    await database?.end();
    await app?.close();
  });

  type EventRow = StoredOrderChange & { version: string; occurred_at: Date };

  /** The row of an order, and the row that a replay of its events makes. */
  async function compareWithReplay(id: string): Promise<{ row: object; replayed: object }> {
    const { rows: events } = await database.query<EventRow>(
      'SELECT * FROM order_events WHERE order_id = $1 ORDER BY version',
      [id],
    );
    const { rows } = await database.query<Record<string, unknown>>(
      'SELECT * FROM orders WHERE id = $1',
      [id],
    );
    const { userId, ...state } = replay(events) as OrderState;
    return {
      row: { ...rows[0], total: Number(rows[0]?.total), version: Number(rows[0]?.version) },
      replayed: {
        id,
        user_id: userId,
        ...state,
        version: events.length,
        created_at: events[0]?.occurred_at,
        updated_at: events.at(-1)?.occurred_at,
      },
    };
  }

  it('replays to the row of the order, column by column, after every request', async () => {
    const { id } = await placeOrder(app, owner.token, { ...ORDER, note: 'first' });
    const comparisons = [await compareWithReplay(id)];
    const requests: [method: string, suffix: string, token: string, body: object][] = [
      ['PATCH', '', owner.token, { note: null, items: [{ ...ORDER.items[0], quantity: 7 }] }],
      ['PATCH', '', owner.token, { note: 'by hand' }],
      ['PATCH', '', owner.token, {}],
      ['POST', '/pay', owner.token, { reason: 'by card' }],
      ['POST', '/pay', owner.token, {}],
      ['POST', '/ship', adminToken, {}],
      ['POST', '/deliver', adminToken, {}],
      ['POST', '/refund', adminToken, { reason: 'broken' }],
    ];
    for (const [method, suffix, token, body] of requests) {
      const headers = { 'If-Match': '*' };
      await app.call(method, `/v1/orders/${id}${suffix}`, { token, body, headers });
      comparisons.push(await compareWithReplay(id));
    }
    expect(comparisons.map(({ row }) => row)).toEqual(comparisons.map(({ replayed }) => replayed));
  });

  it('holds events of an old form → the API shows them in the current form', async () => {
    const { id, createdAt } = await placeOrder(app, owner.token);
    const oldId = crypto.randomUUID();
    await database.query('SET session_replication_role = replica');
    await database.query(
      `INSERT INTO orders
       SELECT (jsonb_populate_record(orders, jsonb_build_object('id', $2::text))).*
         FROM orders WHERE id = $1`,
      [id, oldId],
    );
    await database.query(
      `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
       SELECT $2, version, type, 1, data - 'total', actor_id, occurred_at
         FROM order_events WHERE order_id = $1`,
      [id, oldId],
    );
    await database.query('SET session_replication_role = origin');
    const events = await app.call('GET', `/v1/orders/${oldId}/events`, { token: owner.token });
    expect(events.body.data[0].data.total).toBe(9_998);
    const then = await app.call('GET', `/v1/orders/${oldId}?at=${createdAt}`, {
      token: owner.token,
    });
    expect(then.body).toMatchObject({ id: oldId, version: 1, total: 9_998 });
  });

  /** Statements that change or delete events. */
  const REWRITES = [
    `UPDATE order_events SET type = 'order.paid'`,
    'DELETE FROM order_events',
    'TRUNCATE order_events',
    'TRUNCATE orders CASCADE',
    'INSERT INTO order_events SELECT * FROM order_events ' +
      `ON CONFLICT (order_id, version) DO UPDATE SET type = 'order.paid'`,
    'MERGE INTO order_events AS event USING orders ON orders.id = event.order_id ' +
      'WHEN MATCHED THEN DELETE',
    `WITH gone AS (DELETE FROM order_events RETURNING 1) SELECT count(*) FROM gone`,
  ];

  it.each(REWRITES)(
    'rejects a superuser who has switched other triggers off: %s',
    async (statement) => {
      await database.query('SET session_replication_role = replica');
      try {
        await expect(database.query(statement)).rejects.toThrow('order_events only grows');
      } finally {
        await database.query('SET session_replication_role = origin');
      }
    },
  );

  it('grants nobody the right to change or delete, not even its owner', async () => {
    const { rows } = await database.query(
      `SELECT grantee, privilege_type FROM information_schema.role_table_grants
        WHERE table_name = 'order_events' AND privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')`,
    );
    expect(rows).toEqual([]);
  });

  describe("with the service's own role (deploy/roles.sql)", () => {
    const role = `holdfast_service_${process.pid}`;
    let service: TestApp;
    /** A connection as the service's role. */
    let connection: pg.Client;

    beforeAll(async () => {
      const grants = readFileSync(new URL('deploy/roles.sql', REPOSITORY), 'utf8');
      await database.query(`CREATE ROLE ${role} LOGIN PASSWORD 'service'`);
      await database.query(grants.replaceAll('holdfast_service', role));
      const url = new URL(app.databaseUrl);
      url.username = role;
      url.password = 'service';
      service = await startApp({ MIGRATIONS: 'manual' }, url.href);
      connection = new pg.Client({ connectionString: url.href });
      await connection.connect();
    });
    afterAll(async () => {
      await connection?.end();
      await service?.close();
      await database.query(`DROP OWNED BY ${role}`);
      await database.query(`DROP ROLE ${role}`);
    });

    it('serves every kind of request', async () => {
      const { token } = await registerUser(service);
      const { id } = await placeOrder(service, token);
      const paid = await service.call('POST', `/v1/orders/${id}/pay`, { token });
      expect([paid.status, paid.body.version]).toEqual([200, 2]);
      expect((await service.call('DELETE', '/v1/sessions', { token })).status).toBe(204);
      // The owner's node has another cache in its memory, and came first.
      expect((await service.call('GET', '/health/ready')).body).toMatchObject({
        status: 'degraded',
        checks: { migrations: { status: 'up' }, cache: { status: 'degraded' } },
      });
    });

    it.each([
      ...REWRITES,
      'ALTER TABLE order_events DISABLE TRIGGER ALL',
      'DROP TRIGGER order_events_append_only ON order_events',
      'ALTER TABLE order_events RENAME TO other',
      'DROP TABLE order_events CASCADE',
      'SET session_replication_role = replica',
      'GRANT UPDATE ON order_events TO PUBLIC',
      `CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE sql AS 'SELECT 1'`,
      'SELECT * FROM order_events FOR UPDATE',
      'CREATE RULE past AS ON INSERT TO order_events DO INSTEAD NOTHING',
      'SET ROLE postgres',
    ])('rejects %s', async (statement) => {
      const selectAll = 'SELECT * FROM order_events ORDER BY order_id, version';
      const { rows: before } = await database.query(selectAll);
      await connection.query('BEGIN');
      let rejection: unknown;
      try {
        await connection.query(statement);
        // PostgreSQL only warns of a GRANT without the right to it: try to use it.
        await connection.query(`UPDATE order_events SET type = 'order.paid'`);
      } catch (error) {
        rejection = error;
      }
      await connection.query('COMMIT');
      const { rows: after } = await database.query(selectAll);
      expect(rejection).toMatchObject({ code: '42501' });
      expect(after).toEqual(before);
    });
  });
});
