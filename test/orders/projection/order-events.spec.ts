/**
 * Events as they are kept. Each form in which one was ever written is frozen in frozen-events/: it must yield the same state
 * for as long as databases hold it. A form without an example is a fault, and so is an example of a form that nothing writes.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import pg from 'pg';
import {
  changed,
  EVENT_SCHEMA,
  EVENT_TYPES,
  evolve,
  type OrderState,
  placed,
  replay,
  type StoredFact,
  totalOf,
  upcast,
} from '../../src/orders/order-events.js';
import { startApp, type TestApp } from '../support/app.js';
import { adminToken, ORDER, person, type Person, placeOrder } from '../support/factories.js';

interface Frozen extends StoredFact {
  readonly before: OrderState | null;
  readonly after: OrderState;
}

const FOLDER = new URL('./frozen-events/', import.meta.url);
const frozen = readdirSync(FOLDER)
  .sort()
  .map(
    (file) => [file, JSON.parse(readFileSync(new URL(file, FOLDER), 'utf8')) as Frozen] as const,
  );

/** Every form that was ever written, as `type.vN`. */
const forms = [...EVENT_TYPES].flatMap(([type, since]) =>
  Array.from({ length: EVENT_SCHEMA - since + 1 }, (_, step) => `${type}.v${since + step}`),
);

describe('a frozen event', () => {
  it('is there for every type and schema number that was ever written, and for no other', () => {
    expect(new Set(frozen.map(([, { type, schema }]) => `${type}.v${schema}`))).toEqual(
      new Set(forms),
    );
    for (const [file, { type, schema }] of frozen)
      expect(file).toMatch(new RegExp(`^${type}\\.v${schema}(\\.[a-z]+)?\\.json$`));
  });

  it.each(frozen)(
    '%s yields the state that it yielded when it was written',
    (_, { before, after, ...event }) => {
      const [input, stored] = [structuredClone(before), structuredClone(event)];
      expect(replay([event], before)).toEqual(after);
      // Pure: neither the state before nor the event is touched, and the second time is as the first.
      expect([before, event]).toEqual([input, stored]);
      expect(replay([event], before)).toEqual(after);
    },
  );

  it.each(frozen)('%s in the present form says the same', (_, { before, after, ...event }) => {
    const present = { ...upcast(event), schema: EVENT_SCHEMA };
    expect(upcast(present)).toEqual({ type: present.type, data: present.data });
    expect(replay([present], before)).toEqual(after);
  });
});

describe('a sequence of events', () => {
  const [first] = frozen
    .map(([, event]) => event)
    .filter(({ type }) => type === 'order.placed') as [Frozen];
  const paid = { type: 'order.paid', data: {} };

  it.each([
    ['that begins with another than order.placed', () => evolve(null, paid)],
    ['with order.placed twice', () => replay([first, first])],
    ['with a type that nobody knows', () => evolve(first.after, { type: 'order.lost', data: {} })],
    ['of a newer release', () => upcast({ ...paid, schema: EVENT_SCHEMA + 1 })],
    ['with no schema number', () => upcast({ ...paid, schema: 0 })],
    ['with a schema number that is none', () => upcast({ ...paid, schema: NaN })],
  ])('%s is refused', (_, run) => {
    expect(run).toThrow(/order\./);
  });

  it('without any event is no order', () => expect(replay([])).toBeNull());

  it('keeps the total equal to the sum of its items, whatever is changed', () => {
    const item = fc.record({
      sku: fc.string(),
      name: fc.string(),
      quantity: fc.integer({ min: 1, max: 10_000 }),
      unitPrice: fc.integer({ min: 0, max: 90_071_992_547 }),
    });
    const items = fc.array(item, { minLength: 1, maxLength: 10 });
    const note = fc.option(fc.string());
    const change = fc.record({ items, note }, { requiredKeys: [] });
    fc.assert(
      fc.property(items, note, fc.array(change), (those, said, changes) => {
        let state = evolve(
          null,
          placed({ userId: 'u', currency: 'EUR', items: those, note: said }),
        );
        for (const one of changes) {
          const before = state;
          state = evolve(state, changed(one));
          expect(state).toEqual({ ...before, ...one, total: totalOf(state.items) });
        }
      }),
    );
  });
});

describe('the history in the database', () => {
  let app: TestApp;
  let owner: Person;
  let admin: string;
  let client: pg.Client;

  beforeAll(async () => {
    app = await startApp();
    [owner, admin] = await Promise.all([person(app), adminToken(app)]);
    client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
  });
  afterAll(async () => {
    await client?.end();
    await app?.close();
  });

  it('makes each order, after every command, to the last column', async () => {
    const { id } = await placeOrder(app, owner.token, { ...ORDER, note: 'first' });
    const steps: [string, string, string, object][] = [
      ['PATCH', '', owner.token, { note: null, items: [{ ...ORDER.items[0], quantity: 7 }] }],
      ['PATCH', '', owner.token, { note: 'by hand' }],
      ['PATCH', '', owner.token, {}],
      ['POST', '/pay', owner.token, { reason: 'by card' }],
      ['POST', '/pay', owner.token, {}],
      ['POST', '/ship', admin, {}],
      ['POST', '/deliver', admin, {}],
      ['POST', '/refund', admin, { reason: 'broken' }],
    ];
    for (const [method, tail, token, body] of [['GET', '', owner.token, {}] as const, ...steps]) {
      if (method !== 'GET')
        await app.call(method, `/v1/orders/${id}${tail}`, {
          token,
          body,
          headers: { 'If-Match': '*' },
        });
      const { rows } = await client.query(
        'SELECT * FROM order_events WHERE order_id = $1 ORDER BY version',
        [id],
      );
      const events = rows as (StoredFact & {
        version: string;
        occurred_at: Date;
        actor_id: string;
      })[];
      const row = (await client.query('SELECT * FROM orders WHERE id = $1', [id]))
        .rows[0] as Record<string, unknown>;
      expect(events.map(({ version }) => Number(version))).toEqual(events.map((_, at) => at + 1));
      expect({
        ...replay(events),
        version: events.length,
        created_at: events[0]?.occurred_at,
        updated_at: events.at(-1)?.occurred_at,
      }).toEqual({
        userId: row.user_id,
        ...Object.fromEntries(
          ['status', 'currency', 'items', 'note'].map((name) => [name, row[name]]),
        ),
        total: Number(row.total),
        version: Number(row.version),
        created_at: row.created_at,
        updated_at: row.updated_at,
      });
    }
  });

  it('tells events of an older form in the present one, and replays them', async () => {
    const { id, createdAt } = await placeOrder(app, owner.token);
    await client.query(`SET session_replication_role = replica`);
    const old = await client.query(
      `INSERT INTO orders SELECT (jsonb_populate_record(o, '{"id": "0198c5a2-7d1e-7c3a-9f00-000000000001"}')).* FROM orders o WHERE id = $1 RETURNING id`,
      [id],
    );
    const oldId = (old.rows[0] as { id: string }).id;
    await client.query(
      `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
       SELECT $2, version, type, 1, data - 'total', actor_id, occurred_at FROM order_events WHERE order_id = $1`,
      [id, oldId],
    );
    await client.query(`SET session_replication_role = origin`);
    const { body } = await app.call('GET', `/v1/orders/${oldId}/events`, { token: owner.token });
    expect(body.data[0].data.total).toBe(9_998);
    const then = await app.call('GET', `/v1/orders/${oldId}?at=${createdAt}`, {
      token: owner.token,
    });
    expect(then.body).toMatchObject({ id: oldId, version: 1, total: 9_998 });
  });

  const REWRITES = [
    `UPDATE order_events SET type = 'order.paid'`,
    'DELETE FROM order_events',
    'TRUNCATE order_events',
    'TRUNCATE orders CASCADE',
    `INSERT INTO order_events SELECT * FROM order_events ON CONFLICT (order_id, version) DO UPDATE SET type = 'order.paid'`,
    `MERGE INTO order_events AS e USING orders AS o ON o.id = e.order_id WHEN MATCHED THEN DELETE`,
    `WITH gone AS (DELETE FROM order_events RETURNING 1) SELECT count(*) FROM gone`,
  ];

  it.each(REWRITES)(
    'refuses a superuser too, who says that triggers are not for him: %s',
    async (statement) => {
      await client.query(`SET session_replication_role = replica`);
      try {
        await expect(client.query(statement)).rejects.toThrow('order_events only grows');
      } finally {
        await client.query(`SET session_replication_role = origin`);
      }
    },
  );

  describe("for the service's own role (deploy/roles.sql)", () => {
    const role = `holdfast_service_${process.pid}`;
    let service: TestApp;
    let psql: pg.Client;

    beforeAll(async () => {
      const grants = readFileSync(new URL('../../deploy/roles.sql', import.meta.url), 'utf8');
      await client.query(`CREATE ROLE ${role} LOGIN PASSWORD 'service'`);
      await client.query(grants.replaceAll('holdfast_service', role));
      const url = new URL(app.databaseUrl);
      [url.username, url.password] = [role, 'service'];
      service = await startApp({ MIGRATIONS: 'manual' }, url.href);
      psql = new pg.Client({ connectionString: url.href });
      await psql.connect();
    });
    afterAll(async () => {
      await psql?.end();
      await service?.close();
      await client.query(`DROP OWNED BY ${role}`);
      await client.query(`DROP ROLE ${role}`);
    });

    it('everything that the service does goes on', async () => {
      const someone = await person(service);
      const { id } = await placeOrder(service, someone.token);
      const paid = await service.call('POST', `/v1/orders/${id}/pay`, { token: someone.token });
      expect([paid.status, paid.body.version]).toEqual([200, 2]);
      expect((await service.call('DELETE', `/v1/sessions`, { token: someone.token })).status).toBe(
        204,
      );
      expect((await service.call('GET', '/health/ready')).body.status).toBe('ok');
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
    ])('refuses %s', async (statement) => {
      const { rows: before } = await client.query(
        'SELECT * FROM order_events ORDER BY order_id, version',
      );
      await psql.query('BEGIN');
      let refusal: unknown;
      try {
        await psql.query(statement);
        // A GRANT without the right to it is a warning only.
        await psql.query(`UPDATE order_events SET type = 'order.paid'`);
      } catch (error) {
        refusal = error;
      }
      await psql.query('COMMIT');
      expect(refusal).toMatchObject({ code: '42501' });
      expect(
        (await client.query('SELECT * FROM order_events ORDER BY order_id, version')).rows,
      ).toEqual(before);
    });
  });

  it('not even the owner has the right, without granting it to himself first', async () => {
    const { rows } = await client.query<{ privilege: string }>(
      `SELECT privilege_type AS privilege FROM information_schema.role_table_grants
        WHERE table_name = 'order_events' AND privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')`,
    );
    expect(rows).toEqual([]);
  });
});
