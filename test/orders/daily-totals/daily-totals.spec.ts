/**
 * The daily totals behind /v1/orders/summary equal a count of the orders: after every redelivery,
 * in every order of delivery, and after a rebuild while orders are placed.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { COUNT_ORDERS } from '../../../migrations/1763683200009-inbox.js';
import { rebuild } from '../../../src/cli/rebuild-orders.js';
import { DAILY_TOTALS_CONSUMER } from '../../../src/orders/daily-totals/daily-totals.service.js';
import { Delivery } from '../../../src/platform/inbox/inbox.entity.js';
import { CONSUMER_LOCK } from '../../../src/platform/inbox/consumer-lock.js';
import { InboxService } from '../../../src/platform/inbox/inbox.service.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { Random } from '../../support/random.js';

const COUNTED = `
  SELECT (created_at AT TIME ZONE 'UTC')::date::text AS day, status, currency,
         count(*)::text AS count, sum(total)::text AS total
    FROM orders GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`;
const STORED = `
  SELECT day::text AS day, status, currency, count::text AS count, total::text AS total
    FROM order_figures WHERE (count, total) <> (0, 0) ORDER BY 1, 2, 3`;
const COUNT_PENDING = 'SELECT count(*)::int AS pending FROM inbox WHERE handled_at IS NULL';
/** Undoes what a test did to the data of deliveries. */
const RESTORE_DELIVERIES = `
  UPDATE inbox SET data = outbox.data, occurred_at = outbox.occurred_at
    FROM outbox WHERE outbox.id = inbox.event_id`;

const DELIVERIES_PER_TRANSACTION = 100;
const DAY_MS = 86_400_000;

let app: TestApp;
let owner: TestUser;
let adminToken: string;
let database: pg.Client;
/** The connection that keeps the consumer's lock. */
let lockHolder: pg.Client;

beforeAll(async () => {
  app = await startApp();
  owner = await registerUser(app);
  adminToken = await logInAsAdmin(app);
  database = new pg.Client({ connectionString: app.databaseUrl });
  lockHolder = new pg.Client({ connectionString: app.databaseUrl });
  await database.connect();
  await lockHolder.connect();
});
afterEach(async () => {
  await lockHolder.query('SELECT pg_advisory_unlock_all()');
  await database.query(RESTORE_DELIVERIES);
});
afterAll(async () => {
  await database?.end();
  await lockHolder?.end();
  await app?.close();
});

/** Keeps the service from handling events. */
const blockConsumer = (): Promise<unknown> =>
  lockHolder.query(`SELECT pg_advisory_lock(${CONSUMER_LOCK})`, [DAILY_TOTALS_CONSUMER]);
const unblockConsumer = (): Promise<unknown> =>
  lockHolder.query(`SELECT pg_advisory_unlock(${CONSUMER_LOCK})`, [DAILY_TOTALS_CONSUMER]);

const pendingEvents = async (): Promise<number> =>
  (await database.query<{ pending: number }>(COUNT_PENDING)).rows[0]?.pending ?? 0;
const awaitHandledEvents = (): Promise<boolean> =>
  eventually('all events were handled', async () => (await pendingEvents()) === 0);

async function expectTotalsEqualCount(): Promise<void> {
  const { rows: stored } = await database.query(STORED);
  const { rows: counted } = await database.query(COUNTED);
  expect(stored).toEqual(counted);
}

const rebuildDailyTotals = (): Promise<number> =>
  rebuild(app.databaseUrl, 'daily-totals', () => undefined);

let periods = 0;
/** A period that no other test asks for, so that its summary is not cached. It ends today. */
function uniquePeriod(): string {
  periods++;
  const dayBefore = (days: number): string =>
    new Date(Date.now() - days * DAY_MS).toISOString().slice(0, 10);
  return `?from=${dayBefore(periods)}&to=${dayBefore(0)}`;
}
const getSummary = (query: string, headers: Record<string, string> = {}): Promise<Reply> =>
  app.call('GET', `/v1/orders/summary${query}`, { token: adminToken, headers });
const countSummary = (query: string): Promise<Reply> =>
  getSummary(query, { 'Cache-Control': 'no-cache' });

async function act(id: string, action: string, token = owner.token): Promise<void> {
  const { status, text } = await app.call('POST', `/v1/orders/${id}/${action}`, { token });
  if (status !== 200) throw new Error(`${action}: ${status} ${text}`);
}
async function change(id: string, body: object): Promise<void> {
  const headers = { 'If-Match': '*' };
  const { status, text } = await app.call('PATCH', `/v1/orders/${id}`, {
    token: owner.token,
    body,
    headers,
  });
  if (status !== 200) throw new Error(`PATCH: ${status} ${text}`);
}

const place = async (currency: string): Promise<string> =>
  (await placeOrder(app, owner.token, { ...ORDER, currency })).id as string;

/** Five orders that have every type of event and end in five statuses. */
async function placeOrdersWithEveryEvent(currency: string): Promise<void> {
  const ids: string[] = [];
  while (ids.length < 5) ids.push(await place(currency));
  const [placed, paid, shipped, delivered, refunded] = ids as [
    string,
    string,
    string,
    string,
    string,
  ];
  await change(placed, { items: [{ ...ORDER.items[0], quantity: 1 }], note: 'changed' });
  await act(placed, 'cancel');
  await act(paid, 'pay');
  await act(paid, 'cancel', adminToken);
  await change(shipped, { items: [{ ...ORDER.items[0], quantity: 3 }] });
  await change(delivered, { note: 'changed' });
  for (const id of [shipped, delivered, refunded]) {
    await act(id, 'pay');
    await act(id, 'ship', adminToken);
  }
  for (const id of [delivered, refunded]) await act(id, 'deliver', adminToken);
  await act(refunded, 'refund', adminToken);
}

describe('the daily totals', () => {
  it('equal the count of the orders when all events are handled', async () => {
    await placeOrdersWithEveryEvent('EUR');
    await placeOrdersWithEveryEvent('JPY');
    await awaitHandledEvents();
    await expectTotalsEqualCount();
    const { rows } = await database.query<{ type: string }>(
      `SELECT DISTINCT type FROM inbox WHERE type <> 'order.rebuilt' ORDER BY 1`,
    );
    expect(rows.map(({ type }) => type)).toEqual([
      'order.cancelled',
      'order.changed',
      'order.delivered',
      'order.paid',
      'order.placed',
      'order.refunded',
      'order.shipped',
    ]);
  });

  it('are what the summary shows', async () => {
    await placeOrdersWithEveryEvent('CZK');
    await awaitHandledEvents();
    const period = uniquePeriod();
    const summary = await getSummary(period);
    const counted = await countSummary(period);
    expect(summary.body).toEqual(counted.body);
    const ofCurrency = (summary.body.data as { currency: string; count: number }[]).filter(
      ({ currency }) => currency === 'CZK',
    );
    expect(ofCurrency.reduce((sum, { count }) => sum + count, 0)).toBe(5);
  });

  it.each([1, 2])(
    'are the same when every event is delivered ten times in random order (seed %i)',
    async (seed) => {
      const inbox = app.app.get(InboxService);
      const dataSource = app.app.get(DataSource);
      await blockConsumer();
      await placeOrdersWithEveryEvent('CHF');
      const events = await dataSource.getRepository(Delivery).find();
      await database.query('UPDATE inbox SET handled_at = NULL');
      await database.query('DELETE FROM order_figures');

      const deliveries = new Random(seed).shuffled(Array.from({ length: 10 }, () => events).flat());
      let handled = 0;
      for (let start = 0; start < deliveries.length; start += DELIVERIES_PER_TRANSACTION) {
        await dataSource.transaction(async (manager) => {
          for (const event of deliveries.slice(start, start + DELIVERIES_PER_TRANSACTION)) {
            if (await inbox.deliver(manager, event)) handled++;
          }
        });
      }
      await unblockConsumer();
      expect(handled).toBe(events.length);
      await expectTotalsEqualCount();
    },
  );

  it('become wrong when an event counts twice, and right again by a rebuild', async () => {
    const inbox = app.app.get(InboxService);
    const dataSource = app.app.get(DataSource);
    const id = await place('PLN');
    await awaitHandledEvents();
    await blockConsumer();
    const event = await dataSource
      .getRepository(Delivery)
      .findOneByOrFail({ subject: `orders/${id}` });
    await database.query('UPDATE inbox SET handled_at = NULL WHERE event_id = $1', [event.eventId]);
    await dataSource.transaction((manager) => inbox.deliver(manager, event));
    await unblockConsumer();
    await expect(expectTotalsEqualCount()).rejects.toThrow();
    expect(await rebuildDailyTotals()).toBe(0);
    await expectTotalsEqualCount();
  });

  it('are right after a repair of damaged orders', async () => {
    const id = await place('DKK');
    await database.query(
      `UPDATE orders SET items = jsonb_set(items, '{0,quantity}', '9'), total = 44991
        WHERE id = $1`,
      [id],
    );
    await act(id, 'pay');
    expect(await rebuild(app.databaseUrl, 'all', () => undefined)).toBe(0);
    await awaitHandledEvents();
    await expectTotalsEqualCount();
    const headers = { 'Cache-Control': 'no-cache' };
    const { body } = await app.call('GET', `/v1/orders/${id}`, { token: owner.token, headers });
    expect(body).toMatchObject({ total: 9_998, status: 'paid' });
  });

  it('begin with the orders that exist when the migration adds them', async () => {
    await placeOrdersWithEveryEvent('HUF');
    await blockConsumer();
    const { rows: counted } = await database.query(COUNTED);
    await database.query('BEGIN');
    for (const sql of COUNT_ORDERS) await database.query(sql);
    const { rows: stored } = await database.query(STORED);
    await database.query('ROLLBACK');
    expect(stored).toEqual(counted);
  });
});

describe('the summary while events are pending', () => {
  const MAKE_PENDING_OLD = `
    UPDATE inbox SET occurred_at = now() - interval '1 hour' WHERE handled_at IS NULL`;
  const REMOVE_PREVIOUS = `
    UPDATE inbox SET data = data - 'previous' WHERE type = 'order.paid' AND handled_at IS NULL`;
  const HOUR_SECONDS = 3_600;
  const ageOf = ({ headers }: Reply): number => Number(headers.get('age'));

  it('includes their effects, however old they are', async () => {
    await blockConsumer();
    const earlierEvents = await pendingEvents();
    await act(await place('SEK'), 'pay');
    expect(await pendingEvents()).toBe(earlierEvents + 2);
    await database.query(MAKE_PENDING_OLD);
    const period = uniquePeriod();
    const summary = await getSummary(period);
    expect(summary.body).toEqual((await countSummary(period)).body);
    expect(JSON.stringify(summary.body)).toContain('"paid","currency":"SEK","count":1');
    expect(ageOf(summary)).toBeLessThan(HOUR_SECONDS);
  });

  it('is as old as the first event that lacks data, also from the cache', async () => {
    await blockConsumer();
    await act(await place('ISK'), 'pay');
    await database.query(MAKE_PENDING_OLD);
    await database.query(REMOVE_PREVIOUS);
    const period = uniquePeriod();
    const summary = await getSummary(period);
    expect(JSON.stringify(summary.body)).toContain('"placed","currency":"ISK","count":1');
    expect(ageOf(summary)).toBeGreaterThanOrEqual(HOUR_SECONDS);
    // Again when the entry has expired meanwhile.
    const cached = (await eventually('the summary comes from the cache', async () => {
      const reply = await getSummary(period);
      return reply.headers.get('cache-status') === 'holdfast; hit' ? reply : undefined;
    })) as Reply;
    expect(ageOf(cached)).toBeGreaterThanOrEqual(HOUR_SECONDS);
  });

  it('is right again after a rebuild, which handles the events that lack data', async () => {
    await blockConsumer();
    await act(await place('BAM'), 'pay');
    await database.query(REMOVE_PREVIOUS);
    await unblockConsumer();
    expect(await rebuildDailyTotals()).toBe(0);
    expect(await pendingEvents()).toBe(0);
    await expectTotalsEqualCount();
  });
});

describe('a rebuild of the daily totals', () => {
  it('while orders are placed → corrects the totals; readers see no partial ones', async () => {
    await placeOrdersWithEveryEvent('NZD');
    await place('AUD');
    await awaitHandledEvents();
    let isDone = false;
    const wrongCounts: number[] = [];
    const placing = (async () => {
      while (!isDone) await act(await place('NOK'), 'pay');
    })();
    const watching = (async () => {
      while (!isDone) {
        const { rows } = await database.query<{ count: number }>(
          `SELECT coalesce(sum(count), 0)::int AS count FROM order_figures WHERE currency = 'NZD'`,
        );
        if (rows[0]?.count !== 5) wrongCounts.push(rows[0]?.count ?? NaN);
      }
    })();
    const damage = `
      UPDATE order_figures SET count = count + 5, total = total - 1 WHERE currency = 'AUD'`;
    const exitCodes: number[] = [];
    while (exitCodes.length < 2) {
      await lockHolder.query(damage);
      exitCodes.push(await rebuildDailyTotals());
    }
    isDone = true;
    await Promise.all([placing, watching]);

    await awaitHandledEvents();
    expect(exitCodes).toEqual([0, 0]);
    expect(wrongCounts).toEqual([]);
    await expectTotalsEqualCount();
  });
});
