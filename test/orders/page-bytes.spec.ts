/** A page of large rows ends early, and its cursor leads to the others. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { OrderExportService } from '../../src/orders/order-export.service.js';
import {
  ALL_IDS,
  MAX_REPLAY_PAGE,
  replayOrders,
} from '../../src/orders/projection/replay-orders.js';
import { MAX_PAGE_BYTES } from '../../src/platform/http/bounds/bounds.js';
import { startApp, type TestApp } from '../support/app.js';
import { logInAsAdmin, placeOrder, registerUser, type TestUser } from '../support/factories.js';

const ORDERS = 30;
/** About 50 KB. */
const LARGE_ORDER = {
  currency: 'EUR',
  items: Array.from({ length: 100 }, (_, index) => ({
    sku: `LAMP-${index}`,
    name: 'é'.repeat(200),
    quantity: 1,
    unitPrice: 1,
  })),
};

let app: TestApp;
let owner: TestUser;
/** Newest first. */
const orderIds: string[] = [];

beforeAll(async () => {
  app = await startApp();
  owner = await registerUser(app);
  for (let count = 0; count < ORDERS; count++) {
    orderIds.unshift((await placeOrder(app, owner.token, LARGE_ORDER)).id);
  }
});
afterAll(() => app.close());

/** Follows `next` from the first page to the last. */
async function readPages(path: string, token: string): Promise<{ id: string }[][]> {
  const pages: { id: string }[][] = [];
  let cursor = '';
  do {
    const { status, body, text } = await app.call('GET', `${path}${cursor}`, { token });
    expect([status, Buffer.byteLength(text) <= MAX_PAGE_BYTES + 1_000]).toEqual([200, true]);
    pages.push(body.data);
    cursor = body.next === null ? '' : `&cursor=${body.next}`;
  } while (cursor !== '');
  return pages;
}

describe('a list of large orders', () => {
  it.each([
    ["the owner's, from the cache", () => '/v1/orders?limit=100', () => owner.token],
    ['with a filter', () => '/v1/orders?limit=100&status=placed', () => owner.token],
    ["the admin's", () => '/v1/orders?limit=100', () => logInAsAdmin(app)],
    ['by ids', () => `/v1/orders?ids=${orderIds.join()}`, () => owner.token],
  ])('has pages of at most 1 MiB, and every order once (%s)', async (_, pathOf, tokenOf) => {
    const pages = await readPages(pathOf(), await tokenOf());
    expect(pages.length).toBeGreaterThan(1);
    expect(pages.flat().map(({ id }) => id)).toEqual(orderIds);
  });

  it('by ids rejects the cursor of other ids', async () => {
    const { token } = owner;
    const first = await app.call('GET', `/v1/orders?ids=${orderIds.join()}`, { token });
    const path = `/v1/orders?ids=${orderIds[0]}&cursor=${first.body.next}`;
    expect((await app.call('GET', path, { token })).status).toBe(400);
  });
});

it("a list of an order's events has pages of at most 1 MiB, and every event once", async () => {
  const { token } = owner;
  const path = `/v1/orders/${orderIds[0]}`;
  for (let version = 1; version <= ORDERS; version++) {
    const items = LARGE_ORDER.items.map((item) => ({ ...item, quantity: version }));
    const headers = { 'If-Match': '*' };
    const { status } = await app.call('PATCH', path, { token, headers, body: { items } });
    expect(status).toBe(200);
  }
  const pages = await readPages(`${path}/events?limit=100`, token);
  expect(pages.length).toBeGreaterThan(1);
  const versions = (pages.flat() as unknown as { version: number }[]).map(({ version }) => version);
  expect(versions).toEqual(Array.from({ length: ORDERS + 1 }, (_, index) => index + 1));
});

it('an export of large orders reads at most a page of 1 MiB at a time, and every order once', async () => {
  const ids: string[] = [];
  const bytes: number[] = [];
  for await (const batch of app.app.get(OrderExportService).export()) {
    const lines = batch.trimEnd().split('\n');
    ids.push(...lines.map((line) => (JSON.parse(line) as { id: string }).id));
    bytes.push(Buffer.byteLength(batch));
  }
  expect(ids).toEqual(orderIds);
  expect(bytes.length).toBeGreaterThan(1);
  expect(Math.max(...bytes)).toBeLessThan(MAX_PAGE_BYTES + 100_000);
});

it('a rebuild reads a bounded page of large events at a time, and replays every order', async () => {
  const client = new pg.Client({ connectionString: app.databaseUrl });
  await client.connect();
  const bytes: number[] = [];
  const query = client.query.bind(client) as (statement: unknown) => Promise<pg.QueryResult>;
  const observed = {
    query: async (statement: unknown) => {
      const result = await query(statement);
      bytes.push(Buffer.byteLength(JSON.stringify(result.rows)));
      return result;
    },
  } as unknown as pg.Client;
  try {
    const replayed: string[] = [];
    for await (const { id } of replayOrders(observed, ALL_IDS)) replayed.push(id);
    expect(replayed).toEqual([...orderIds].sort());
    expect(bytes.length).toBeGreaterThan(1);
    expect(Math.max(...bytes)).toBeLessThan(MAX_REPLAY_PAGE.bytes + 200_000);
  } finally {
    await client.end();
  }
});
