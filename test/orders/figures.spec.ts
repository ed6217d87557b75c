/**
 * The daily figures behind /v1/orders/summary are the count over the rows: kept up by the events, under every redelivery and
 * every order in which they are handled; counted anew from the events while orders are placed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { rebuild } from '../../scripts/rebuild.js';
import { Delivery } from '../../src/inbox/inbox.entity.js';
import { CONSUMER_LOCK, Inbox } from '../../src/inbox/inbox.service.js';
import { FIGURES } from '../../src/orders/order-figures.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { adminToken, ORDER, person, type Person, placeOrder } from '../support/factories.js';

let app: TestApp;
let owner: Person;
let admin: string;
let psql: pg.Client;
let holder: pg.Client;

beforeAll(async () => {
  app = await startApp();
  [owner, admin] = [await person(app), await adminToken(app)];
  [psql, holder] = [0, 1].map(() => new pg.Client({ connectionString: app.databaseUrl })) as [
    pg.Client,
    pg.Client,
  ];
  await psql.connect();
  await holder.connect();
});
afterAll(async () => {
  await psql?.end();
  await holder?.end();
  await app?.close();
});

/** Keeps the service from handling events, until it is let go. */
const hold = (): Promise<unknown> =>
  holder.query(`SELECT pg_advisory_lock(${CONSUMER_LOCK})`, [FIGURES]);
const letGo = (): Promise<unknown> =>
  holder.query(`SELECT pg_advisory_unlock(${CONSUMER_LOCK})`, [FIGURES]);
const ROWS = `SELECT (created_at AT TIME ZONE 'UTC')::date::text AS day, status, currency, count(*)::text AS count, sum(total)::text AS total
                FROM orders GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`;
const KEPT = `SELECT day::text AS day, status, currency, count::text AS count, total::text AS total FROM order_figures
               WHERE (count, total) <> (0, 0) ORDER BY 1, 2, 3`;
const expectEqual = async (): Promise<void> =>
  expect((await psql.query(KEPT)).rows).toEqual((await psql.query(ROWS)).rows);
const waiting = async (): Promise<number> =>
  Number((await psql.query('SELECT count(*) FROM inbox WHERE handled_at IS NULL')).rows[0].count);
async function handled(): Promise<void> {
  for (const deadline = Date.now() + 10_000; (await waiting()) > 0; await sleep(25))
    if (Date.now() > deadline) throw new Error('the events are not handled');
}
const act = (id: string, action: string, token = owner.token): Promise<Reply> =>
  app.call('POST', `/v1/orders/${id}/${action}`, { token });

/** An order for every end that there is, and one changed on its way; every type of event is among theirs. */
async function live(currency: string): Promise<void> {
  const order = { ...ORDER, currency };
  const place = async (): Promise<string> =>
    (await placeOrder(app, owner.token, order)).id as string;
  const ids = await Promise.all(Array.from({ length: 5 }, place));
  const patch = (id: string, body: object): Promise<Reply> =>
    app.call('PATCH', `/v1/orders/${id}`, {
      token: owner.token,
      body,
      headers: { 'If-Match': '*' },
    });
  const steps: ['owner' | 'admin', string][] = [
    ['owner', 'pay'],
    ['admin', 'ship'],
    ['admin', 'deliver'],
    ['admin', 'refund'],
  ];
  for (const [n, id] of ids.entries()) {
    if (n % 2 === 0) await patch(id, { items: [{ ...ORDER.items[0], quantity: n + 1 }] });
    if (n % 3 === 0) await patch(id, { note: 'changed' });
    for (const [who, action] of steps.slice(0, n)) {
      const { status } = await act(id, action, who === 'owner' ? owner.token : admin);
      expect(status).toBe(200);
    }
    if (n === 0) await act(id, 'cancel');
    if (n === 1) await act(id, 'cancel', admin);
  }
}

/** The same numbers on every machine (mulberry32). */
function dice(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

afterEach(() => holder.query('SELECT pg_advisory_unlock_all()'));

describe('the daily figures', () => {
  it('are the count over the rows, by the summary too, when the events are handled', async () => {
    await live('EUR');
    await live('JPY');
    await handled();
    await expectEqual();
    const { rows } = await psql.query(`SELECT DISTINCT type FROM inbox ORDER BY 1`);
    expect(rows.map(({ type }: { type: string }) => type)).toEqual(
      ['cancelled', 'changed', 'delivered', 'paid', 'placed', 'refunded', 'shipped'].map(
        (type) => `order.${type}`,
      ),
    );
    const [kept, counted] = [await summary(), await summary('no-cache')];
    expect(kept.body).toEqual(counted.body);
    expect(kept.body.data).toHaveLength(8);
  });

  it.each([1, 2])(
    'come out the same under every event ten times, in any order, within an order too (seed %i)',
    async (seed) => {
      const [inbox, dataSource, random] = [app.app.get(Inbox), app.app.get(DataSource), dice(seed)];
      await hold();
      await live(['EUR', 'CHF'][seed - 1] as string);
      const events = await dataSource.getRepository(Delivery).find();
      await psql.query(`UPDATE inbox SET handled_at = NULL`);
      await psql.query(`DELETE FROM order_figures`);
      const deliveries = Array.from({ length: 10 }, () => events).flat();
      for (let at = deliveries.length - 1; at > 0; at--) {
        const other = Math.floor(random() * (at + 1));
        [deliveries[at], deliveries[other]] = [
          deliveries[other] as Delivery,
          deliveries[at] as Delivery,
        ];
      }
      let ran = 0;
      for (let at = 0; at < deliveries.length; at += 100)
        await dataSource.transaction(async (manager) => {
          for (const event of deliveries.slice(at, at + 100))
            if (await inbox.deliver(manager, event)) ran++;
        });
      await letGo();
      expect(ran).toBe(events.length);
      await expectEqual();
    },
  );

  it('without the inbox, the same deliveries count twice', async () => {
    const [inbox, dataSource] = [app.app.get(Inbox), app.app.get(DataSource)];
    await hold();
    const [event] = await dataSource
      .getRepository(Delivery)
      .find({ where: { type: 'order.paid' }, take: 1 });
    await psql.query(`UPDATE inbox SET handled_at = NULL WHERE event_id = $1`, [event?.eventId]);
    await dataSource.transaction((manager) => inbox.deliver(manager, event as Delivery));
    await letGo();
    await expect(expectEqual()).rejects.toThrow();
    expect(await rebuild(app.databaseUrl, 'figures', () => undefined)).toBe(0);
    await expectEqual();
  });

  it('are of now while events wait, and say how old they are when one of those says too little', async () => {
    const to = new Date().toISOString().slice(0, 10);
    const from = (days: number): string =>
      new Date(Date.parse(to) - days * 86_400_000).toISOString().slice(0, 10);
    await hold();
    const { id } = await placeOrder(app, owner.token, { ...ORDER, currency: 'SEK' });
    await act(id as string, 'pay');
    expect(await waiting()).toBe(2);
    const [now, counted] = [
      await summary(undefined, `?from=${from(7)}&to=${to}`),
      await summary('no-cache', `?from=${from(7)}`),
    ];
    expect(now.body).toEqual(counted.body);
    expect(Number(now.headers.get('age'))).toBeLessThan(10);
    expect(JSON.stringify(now.body)).toContain('"paid","currency":"SEK","count":1');

    await psql.query(
      `UPDATE inbox SET data = data - 'previous', occurred_at = now() - interval '90 seconds' WHERE type = 'order.paid' AND handled_at IS NULL`,
    );
    const lagging = await summary(undefined, `?from=${from(6)}&to=${to}`);
    expect(JSON.stringify(lagging.body)).toContain('"placed","currency":"SEK","count":1');
    expect(Number(lagging.headers.get('age'))).toBeGreaterThanOrEqual(90);
    const kept = await summary(undefined, `?from=${from(6)}&to=${to}`);
    expect([kept.headers.get('cache-status'), Number(kept.headers.get('age')) >= 90]).toEqual([
      'holdfast; hit',
      true,
    ]);
    await letGo();
    await rebuild(app.databaseUrl, 'figures', () => undefined);
    expect(await waiting()).toBe(0);
    await expectEqual();
  });

  it('are counted anew from the events while orders are placed, and no reader sees them half', async () => {
    let stop = false;
    const faults: string[] = [];
    const placing = (async () => {
      for (let n = 0; !stop; n++) {
        const { id } = await placeOrder(app, owner.token, { ...ORDER, currency: 'NOK' });
        if (n % 2) await act(id as string, 'pay');
      }
    })();
    const watching = (async () => {
      while (!stop) {
        const { rows } = await psql.query(
          `SELECT coalesce(sum(count), 0)::int AS n FROM order_figures WHERE currency = 'EUR'`,
        );
        if ((rows[0] as { n: number }).n !== 10) faults.push(JSON.stringify(rows));
        await sleep(5);
      }
    })();
    for (let round = 0; round < 2; round++) {
      await holder.query(
        `UPDATE order_figures SET count = count + 5, total = total - 1 WHERE currency = 'JPY'`,
      );
      expect(await rebuild(app.databaseUrl, 'figures', () => undefined)).toBe(0);
    }
    stop = true;
    await Promise.all([placing, watching]);
    await handled();
    await expectEqual();
    expect(faults).toEqual([]);
  });

  it('are right again after damage to the orders, when all is rebuilt', async () => {
    const { id } = await placeOrder(app, owner.token, { ...ORDER, currency: 'DKK' });
    await psql.query(
      `UPDATE orders SET items = jsonb_set(items, '{0,quantity}', '9'), total = 44991 WHERE id = $1`,
      [id],
    );
    expect((await act(id as string, 'pay')).status).toBe(200);
    expect(await rebuild(app.databaseUrl, 'all', () => undefined)).toBe(0);
    await handled();
    await expectEqual();
    const headers = { 'Cache-Control': 'no-cache' };
    const { body } = await app.call('GET', `/v1/orders/${id}`, { token: owner.token, headers });
    expect(body).toMatchObject({ total: 9_998, status: 'paid' });
  });

  it('begin with the orders that were there before them', async () => {
    const fresh = await psql.query(ROWS);
    await hold();
    await psql.query('BEGIN');
    await psql.query('DELETE FROM order_figures');
    const { Inbox1763683200009 } = await import('../../migrations/1763683200009-inbox.js');
    const sent: string[] = [];
    await new Inbox1763683200009().up({
      query: async (sql: string) => void sent.push(sql),
    } as never);
    await psql.query(sent.find((sql) => /INSERT INTO order_figures/.test(sql)) as string);
    expect((await psql.query(KEPT)).rows).toEqual(fresh.rows);
    await psql.query('ROLLBACK');
    await letGo();
  });
});

const summary = (cacheControl?: string, query = ''): Promise<Reply> =>
  app.call('GET', `/v1/orders/summary${query}`, {
    token: admin,
    headers: cacheControl === undefined ? {} : { 'Cache-Control': cacheControl },
  });
