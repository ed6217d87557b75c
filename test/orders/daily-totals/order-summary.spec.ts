/**
 * /v1/orders/summary: its period, its sums and its caching. The rows of these tests have no events,
 * so only a fresh read, which counts the orders, shows them (see daily-totals.spec.ts).
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from '../../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  registerSupportUser,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem, pointersOf, validationErrorsOf } from '../../support/problem.js';

const MAX_UNIT_PRICE = 1e12;
const DAY_MS = 86_400_000;

let app: TestApp;
let owner: TestUser;
let support: TestUser;
let adminToken: string;
let database: pg.Client;

beforeAll(async () => {
  app = await startApp();
  owner = await registerUser(app);
  support = await registerSupportUser(app);
  adminToken = await logInAsAdmin(app);
  database = new pg.Client({ connectionString: app.databaseUrl });
  await database.connect();
});
afterAll(async () => {
  await database?.end();
  await app?.close();
});

const getSummary = (query: string, token: string = support.token): Promise<Reply> =>
  app.call('GET', `/v1/orders/summary${query}`, { token });
const countSummary = (query: string, token: string = support.token): Promise<Reply> =>
  app.call('GET', `/v1/orders/summary${query}`, {
    token,
    headers: { 'Cache-Control': 'no-cache' },
  });

/** Items of this total, which may need two lines. */
function itemsOf(total: number): object[] {
  const lines = [
    { quantity: Math.floor(total / MAX_UNIT_PRICE), unitPrice: MAX_UNIT_PRICE },
    { quantity: 1, unitPrice: total % MAX_UNIT_PRICE },
  ];
  return lines
    .filter(({ quantity }) => quantity > 0)
    .map((line) => ({ ...ORDER.items[0], ...line }));
}

interface InsertedOrder {
  readonly createdAt: string;
  readonly total: number;
  readonly status?: string;
  readonly currency?: string;
}
async function insertOrder({
  createdAt,
  total,
  status = 'placed',
  currency = 'EUR',
}: InsertedOrder): Promise<void> {
  await database.query(
    `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
     VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6)`,
    [owner.id, status, currency, JSON.stringify(itemsOf(total)), total, createdAt],
  );
}

describe('the summary of orders', () => {
  it('counts and totals by day (UTC), status and currency', async () => {
    await insertOrder({ createdAt: '2024-02-29T23:59:59.999Z', total: 5 });
    await insertOrder({ createdAt: '2024-03-01T00:00:00.000Z', total: 100 });
    await insertOrder({ createdAt: '2024-03-01T00:00:00.000Z', total: 50 });
    await insertOrder({ createdAt: '2024-03-01T12:00:00.000Z', total: 1, currency: 'CHF' });
    await insertOrder({ createdAt: '2024-03-01T23:59:59.999Z', total: 7, status: 'paid' });
    await insertOrder({ createdAt: '2024-03-02T00:00:00.000Z', total: 0 });
    const { status, body } = await countSummary('?from=2024-03-01&to=2024-03-02');
    expect([status, body]).toEqual([
      200,
      {
        from: '2024-03-01',
        to: '2024-03-02',
        data: [
          { day: '2024-03-01', status: 'paid', currency: 'EUR', count: 1, total: 7 },
          { day: '2024-03-01', status: 'placed', currency: 'CHF', count: 1, total: 1 },
          { day: '2024-03-01', status: 'placed', currency: 'EUR', count: 2, total: 150 },
          { day: '2024-03-02', status: 'placed', currency: 'EUR', count: 1, total: 0 },
        ],
      },
    ]);
    const dayBefore = await countSummary('?from=2024-02-29&to=2024-02-29');
    expect(dayBefore.body.data).toEqual([
      { day: '2024-02-29', status: 'placed', currency: 'EUR', count: 1, total: 5 },
    ]);
  });

  it('shows a total beyond 2^53 - 1 as text', async () => {
    const max = Number.MAX_SAFE_INTEGER;
    await insertOrder({ createdAt: '2024-04-01T00:00:00Z', total: max });
    await insertOrder({ createdAt: '2024-04-02T00:00:00Z', total: max });
    await insertOrder({ createdAt: '2024-04-02T00:00:00Z', total: 2 });
    const { body } = await countSummary('?from=2024-04-01&to=2024-04-02');
    const totals = (body.data as { total: unknown }[]).map(({ total }) => total);
    expect(totals).toEqual([max, '9007199254740993']);
  });

  it('is cached for all callers, and a fresh read replaces the cached one', async () => {
    const period = '?from=2024-05-01&to=2024-05-31';
    const first = await getSummary(period);
    await insertOrder({ createdAt: '2024-05-05T00:00:00Z', total: 5 });
    const cached = await getSummary(period, adminToken);
    const counted = await countSummary(period, adminToken);
    const replaced = await getSummary(period);
    const cacheStatuses = [first, cached, counted, replaced].map(({ headers }) =>
      headers.get('cache-status'),
    );
    expect(cacheStatuses).toEqual([
      'holdfast; fwd=miss; stored',
      'holdfast; hit',
      'holdfast; fwd=request',
      'holdfast; hit',
    ]);
    expect(first.headers.get('cache-control')).toBe('private, no-cache');
    expect(first.body.data).toEqual([]);
    expect(cached.body).toEqual(first.body);
    expect(counted.body.data).toHaveLength(1);
    expect(replaced.body).toEqual(counted.body);
  });

  it('states its age in seconds', async () => {
    const { headers } = await getSummary('?from=2024-06-01&to=2024-06-30');
    expect(headers.get('age')).toMatch(/^\d+$/);
  });

  it('without a period → covers the 30 days that end today', async () => {
    const dayOf = (time: number): string => new Date(time).toISOString().slice(0, 10);
    const dayBefore = dayOf(Date.now());
    const { from, to } = (await countSummary('')).body as { from: string; to: string };
    const dayAfter = dayOf(Date.now());
    expect([dayBefore, dayAfter]).toContain(to);
    expect(from).toBe(dayOf(Date.parse(to) - 29 * DAY_MS));
  });

  it('of 366 days → is accepted', async () => {
    expect((await countSummary('?from=2024-01-01&to=2024-12-31')).status).toBe(200);
  });

  it.each([
    ['of 367 days', '?from=2024-01-01&to=2025-01-01'],
    ['that ends before it begins', '?from=2024-01-02&to=2024-01-01'],
  ])('of a period %s → is rejected', async (_, query) => {
    expect(validationErrorsOf(await countSummary(query))).toEqual(['/to range']);
  });

  it.each([
    '',
    '2024',
    '2024-02-30',
    '2023-02-29',
    '2024-1-1',
    '0000-01-01',
    '2024-01-01T00:00:00Z',
  ])('from "%s", which is not a day → is rejected', async (day) => {
    expect(pointersOf(await countSummary(`?from=${day}&to=2024-12-31`))).toEqual(['/from']);
  });

  it('for a user without a role → 403', async () => {
    expectProblem(await countSummary('', owner.token), 403, 'forbidden');
  });
});
