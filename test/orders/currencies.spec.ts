/** The currencies of orders: those in use today, and of old orders those that are not any more. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { CURRENCIES, currenciesOn } from '../../src/orders/currencies.js';
import { startApp, type TestApp } from '../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerUser,
  type TestUser,
} from '../support/factories.js';
import { validationErrorsOf } from '../support/problem.js';

describe('the list of currencies', () => {
  it.each([
    ['the Zimbabwean gold', 'ZWG', '2024-06-25', true],
    ['the Caribbean guilder before its first day', 'XCG', '2025-03-30', false],
    ['the Caribbean guilder from its first day', 'XCG', '2025-03-31', true],
    ['the Bulgarian lev on its last day', 'BGN', '2026-01-31', true],
    ['the Bulgarian lev after its last day', 'BGN', '2026-02-01', false],
    ['the euro before there was one', 'EUR', '1998-12-31', false],
    ['gold, which is tender nowhere', 'XAU', '2026-01-31', false],
    ['a code for tests', 'XTS', '2026-01-31', false],
  ])('%s: %s on %s → %s', (_, code, day, isListed) => {
    expect(currenciesOn(day).includes(code)).toBe(isListed);
  });

  it('has each code once, in upper case and in order', () => {
    expect(CURRENCIES).toEqual([...new Set(CURRENCIES)].sort());
    expect(CURRENCIES.filter((code) => !/^[A-Z]{3}$/.test(code))).toEqual([]);
    expect(CURRENCIES.length).toBeGreaterThan(140);
  });
});

describe('an order', () => {
  let app: TestApp;
  let user: TestUser;
  let adminToken: string;
  beforeAll(async () => {
    app = await startApp();
    user = await registerUser(app);
    adminToken = await logInAsAdmin(app);
  });
  afterAll(() => app?.close());

  it.each(['ZWG', 'XCG', 'VES', 'SLE', 'XOF'])('in %s → is placed', async (currency) => {
    expect((await placeOrder(app, user.token, { ...ORDER, currency })).currency).toBe(currency);
  });

  /** ISO 4217: a transaction without a currency. */
  const NO_CURRENCY = 'X'.repeat(3);

  it.each([NO_CURRENCY, 'XTS', 'XAU', 'XDR', 'XUA', 'ZWL', 'ANG', 'BGN', 'HRK', 'DEM'])(
    'in %s, which is not in use → is rejected',
    async (currency) => {
      const reply = await app.call('POST', '/v1/orders', {
        token: user.token,
        headers: { 'Idempotency-Key': crypto.randomUUID() },
        body: { ...ORDER, currency },
      });
      expect(validationErrorsOf(reply)).toEqual(['/currency currency']);
    },
  );

  it('in a currency that has gone out of use → can be read, listed and finished', async () => {
    const { id } = await placeOrder(app, user.token);
    const oldId = crypto.randomUUID();
    const database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
    await database.query('SET session_replication_role = replica');
    await database.query(
      `INSERT INTO orders SELECT (jsonb_populate_record(orders, $2)).* FROM orders WHERE id = $1`,
      [id, { id: oldId, currency: 'BGN' }],
    );
    await database.query(
      `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
       SELECT $2, version, type, schema, data || '{"currency": "BGN"}', actor_id, occurred_at
         FROM order_events WHERE order_id = $1`,
      [id, oldId],
    );
    await database.end();

    const { token } = user;
    const read = await app.call('GET', `/v1/orders/${oldId}`, { token });
    const past = await app.call('GET', `/v1/orders/${oldId}?at=1`, { token });
    const listed = await app.call('GET', `/v1/orders?status=placed`, { token });
    const exported = await app.call('GET', '/v1/orders/export', { token: adminToken });
    const summary = await app.call('GET', '/v1/orders/summary', {
      token: adminToken,
      headers: { 'Cache-Control': 'no-cache' },
    });
    const paid = await app.call('POST', `/v1/orders/${oldId}/pay`, { token });

    expect([read, past, paid].map(({ body }) => body.currency)).toEqual(['BGN', 'BGN', 'BGN']);
    expect(paid.body.status).toBe('paid');
    expect(JSON.stringify(listed.body.data)).toContain('BGN');
    expect(exported.text).toContain('BGN');
    expect(JSON.stringify(summary.body.data)).toContain('BGN');
  });
});

describe('the OpenAPI document', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app?.close());

  it('lists the currencies of new orders, and allows any code in responses', async () => {
    const { body } = await app.call('GET', '/docs/openapi.json');
    const { Currency, Order, SummaryRow } = body.components.schemas;
    const pattern = { type: 'string', pattern: '^[A-Z]{3}$' };
    expect(Currency.enum).toEqual(CURRENCIES);
    expect(Order.properties.currency).toMatchObject(pattern);
    expect(SummaryRow.properties.currency).toMatchObject(pattern);
  });
});
