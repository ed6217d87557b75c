/** What was: an order's events and its past, the summary by day, and the export of all. */
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  logIn,
  ORDER,
  person,
  type Person,
  placeOrder,
  supportPerson,
} from '../support/factories.js';
import { expectProblem, faultsOf, pointersOf } from '../support/problem.js';

describe('the past of orders', () => {
  let app: TestApp;
  let owner: Person;
  let support: Person;
  let admin: string;
  let client: pg.Client;

  beforeAll(async () => {
    app = await startApp();
    [owner, support, admin] = [await person(app), await supportPerson(app), await adminToken(app)];
    client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
  });
  afterAll(async () => {
    await client.end();
    await app.close();
  });

  const get = (
    path: string,
    token: string = owner.token,
    headers: Record<string, string> = {},
  ): Promise<Reply> => app.call('GET', path, { token, headers });

  describe('of one order', () => {
    const states: Record<string, unknown>[] = [];
    let id: string;
    let adminId: string;

    beforeAll(async () => {
      adminId = (await get('/v1/users/me', admin)).body.id;
      states.push(await placeOrder(app, owner.token, { ...ORDER, note: 'first' }));
      id = states[0]?.id as string;
      const steps: [string, string, string, object][] = [
        ['PATCH', '', owner.token, { note: null, items: [{ ...ORDER.items[0], quantity: 1 }] }],
        ['POST', '/pay', owner.token, { reason: 'by card' }],
        ['POST', '/ship', admin, {}],
      ];
      for (const [method, tail, token, body] of steps) {
        await sleep(5);
        states.push(
          (
            await app.call(method, `/v1/orders/${id}${tail}`, {
              token,
              body,
              headers: { 'If-Match': '*' },
            })
          ).body,
        );
      }
    });

    it('is told by its events, oldest first, with who did what', async () => {
      const { status, body, headers } = await get(`/v1/orders/${id}/events`);
      expect([status, body.next, headers.get('cache-control')]).toEqual([
        200,
        null,
        'private, no-cache',
      ]);
      const event = (version: number, type: string, actorId: string, data: object): object => ({
        version,
        type,
        data,
        actorId,
        occurredAt: states[version - 1]?.updatedAt,
      });
      expect(body.data).toEqual([
        event(1, 'order.placed', owner.id, {
          userId: owner.id,
          currency: 'EUR',
          items: ORDER.items,
          total: 9_998,
          note: 'first',
        }),
        event(2, 'order.changed', owner.id, {
          note: null,
          items: [{ ...ORDER.items[0], quantity: 1 }],
          total: 4_999,
        }),
        event(3, 'order.paid', owner.id, { reason: 'by card' }),
        event(4, 'order.shipped', adminId, {}),
      ]);
    });

    it('comes in pages', async () => {
      const seen: number[] = [];
      let next: string | undefined = `/v1/orders/${id}/events?limit=3`;
      while (next !== undefined) {
        const reply: Reply = await get(next, support.token);
        seen.push(...reply.body.data.map(({ version }: { version: number }) => version));
        next = /^<([^>]+)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
      }
      expect(seen).toEqual([1, 2, 3, 4]);
      const other = await placeOrder(app, owner.token);
      const { next: cursor } = (await get(`/v1/orders/${id}/events?limit=1`)).body as {
        next: string;
      };
      expect(pointersOf(await get(`/v1/orders/${other.id}/events?cursor=${cursor}`))).toEqual([
        '/cursor',
      ]);
    });

    it('can be read at each version', async () => {
      for (const [index, state] of states.entries()) {
        const reply = await get(`/v1/orders/${id}?at=${index + 1}`);
        expect([reply.status, reply.body, reply.headers.get('etag')]).toEqual([
          200,
          state,
          `"${index + 1}"`,
        ]);
      }
      expectProblem(await get(`/v1/orders/${id}?at=5`), 404, 'not-found');
      expectProblem(await get(`/v1/orders/${id}?at=999999999999999`), 404, 'not-found');
      expect((await get(`/v1/orders/${id}`)).body).toEqual(states.at(-1));
    });

    it('can be read at any time since it was placed', async () => {
      const later = (time: string, ms: number): string =>
        new Date(Date.parse(time) + ms).toISOString();
      for (const [index, state] of states.entries()) {
        const from = state.updatedAt as string;
        expect((await get(`/v1/orders/${id}?at=${from}`)).body).toEqual(state);
        expect((await get(`/v1/orders/${id}?at=${later(from, 1)}`)).body).toEqual(state);
        const before = await get(`/v1/orders/${id}?at=${later(from, -1)}`);
        if (index === 0) expectProblem(before, 404, 'not-found');
        else expect(before.body).toEqual(states[index - 1]);
      }
      expect((await get(`/v1/orders/${id}?at=9999-12-31T23:59:59Z`)).body).toEqual(states.at(-1));
      const offset = later(states[1]?.updatedAt as string, 2 * 3_600_000).replace('Z', '%2B02:00');
      expect((await get(`/v1/orders/${id}?at=${offset}`)).body).toEqual(states[1]);
    });

    it('is not read at what is neither', async () => {
      for (const at of [
        '',
        '0',
        '-1',
        '01',
        '1.0',
        '1e0',
        'x',
        '2026-01-31',
        '2026-01-31T10:00:00',
        '2026-02-30T00:00:00Z',
        '1234567890123456',
      ])
        expect(pointersOf(await get(`/v1/orders/${id}?at=${at}`))).toEqual(['/at']);
      expect(pointersOf(await get(`/v1/orders/${id}?at=1&at=2`))).toEqual(['/at']);
    });
  });

  describe('summed up', () => {
    // Rows without events are in no figures (figures.spec.ts): what is asked for here is counted.
    const fresh = { 'Cache-Control': 'no-cache' };
    const summary = (
      query: string,
      token: string = support.token,
      headers: object = fresh,
    ): Promise<Reply> =>
      get(`/v1/orders/summary${query}`, token, headers as Record<string, string>);
    const insert = async (
      day: string,
      status: string,
      currency: string,
      ...totals: number[]
    ): Promise<void> => {
      for (const total of totals)
        await client.query(
          `INSERT INTO orders (id, user_id, status, currency, items, total, created_at) VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6)`,
          [owner.id, status, currency, itemsOf(total), total, day],
        );
    };

    /** Items that total this: at most 10 000 × 10^12 a line. */
    const itemsOf = (total: number): string => {
      const [many, rest] = [Math.floor(total / 1e12), total % 1e12];
      const lines = [...(many ? [[many, 1e12]] : []), [1, rest]];
      return JSON.stringify(
        lines.map(([quantity, unitPrice]) => ({ ...ORDER.items[0], quantity, unitPrice })),
      );
    };

    it('counts and totals by day (UTC), status and currency', async () => {
      await insert('2024-03-01T00:00:00.000Z', 'placed', 'EUR', 100, 50);
      await insert('2024-03-01T23:59:59.999Z', 'paid', 'EUR', 7);
      await insert('2024-03-01T12:00:00.000Z', 'placed', 'CHF', 1);
      await insert('2024-03-02T00:00:00.000Z', 'placed', 'EUR', 0);
      await insert('2024-02-29T23:59:59.999Z', 'placed', 'EUR', 5);
      const row = (
        day: string,
        status: string,
        currency: string,
        count: number,
        total: number,
      ): object => ({
        day,
        status,
        currency,
        count,
        total,
      });
      const march = [
        row('2024-03-01', 'paid', 'EUR', 1, 7),
        row('2024-03-01', 'placed', 'CHF', 1, 1),
        row('2024-03-01', 'placed', 'EUR', 2, 150),
        row('2024-03-02', 'placed', 'EUR', 1, 0),
      ];
      const reply = await summary('?from=2024-03-01&to=2024-03-02');
      expect([reply.status, reply.body]).toEqual([
        200,
        { from: '2024-03-01', to: '2024-03-02', data: march },
      ]);
      expect((await summary('?from=2024-02-29&to=2024-02-29')).body.data).toEqual([
        row('2024-02-29', 'placed', 'EUR', 1, 5),
      ]);
    });

    it('gives as text what no JSON number holds', async () => {
      const most = Number.MAX_SAFE_INTEGER;
      await insert('2024-04-01T00:00:00Z', 'placed', 'EUR', most);
      await insert('2024-04-02T00:00:00Z', 'placed', 'EUR', most, 2);
      const { data } = (await summary('?from=2024-04-01&to=2024-04-02')).body as {
        data: { total: unknown }[];
      };
      expect(data.map(({ total }) => total)).toEqual([most, '9007199254740993']);
    });

    it('is the same for all who may ask, may lag, and is of now with no-cache', async () => {
      const query = '?from=2024-05-01&to=2024-05-31';
      const first = await summary(query, support.token, {});
      expect([
        first.body.data,
        first.headers.get('cache-status'),
        first.headers.get('cache-control'),
      ]).toEqual([[], 'holdfast; fwd=miss; stored', 'private, no-cache']);
      await insert('2024-05-05T00:00:00Z', 'placed', 'EUR', 5);
      const second = await summary(query, admin, {});
      expect([second.body, second.headers.get('cache-status')]).toEqual([
        first.body,
        'holdfast; hit',
      ]);
      expect(second.headers.get('age')).toMatch(/^\d$/);
      const counted = await summary(query, admin);
      expect([counted.body.data.length, counted.headers.get('cache-status')]).toEqual([
        1,
        'holdfast; fwd=request',
      ]);
      expect((await summary(query, support.token, {})).body).toEqual(counted.body);
    });

    it('takes 30 days to today when not told, and 366 at most', async () => {
      const today = new Date().toISOString().slice(0, 10);
      const past = new Date(Date.parse(today) - 29 * 86_400_000).toISOString().slice(0, 10);
      const { from, to } = (await summary('')).body as Record<string, string>;
      expect([past, today]).toContain(from);
      expect([from, to]).toEqual([past, today]);
      expect((await summary('?from=2024-01-01&to=2024-12-31')).status).toBe(200);
      expect(faultsOf(await summary('?from=2024-01-01&to=2025-01-01'))).toEqual(['/to range']);
      expect(faultsOf(await summary('?from=2024-01-02&to=2024-01-01'))).toEqual(['/to range']);
      for (const day of [
        '',
        '2024',
        '2024-02-30',
        '2023-02-29',
        '2024-1-1',
        '0000-01-01',
        '2024-01-01T00:00:00Z',
      ])
        expect(pointersOf(await summary(`?from=${day}&to=2024-12-31`))).toEqual(['/from']);
    });

    it('is for support and admin', async () => {
      expectProblem(await summary('', owner.token), 403, 'forbidden');
      expectProblem(await get('/v1/orders/export', owner.token), 403, 'forbidden');
    });
  });

  describe('exported', () => {
    const ROWS = 4_000;
    beforeAll(async () => {
      await client.query(
        `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
         SELECT gen_random_uuid(), $1, 'placed', 'EUR', $2, 9998, '2023-01-01T00:00:00Z'::timestamptz + make_interval(secs => ordinal / 3) FROM generate_series(1, ${ROWS}) AS ordinal`,
        [owner.id, JSON.stringify(ORDER.items)],
      );
    });

    it('is one valid order a line, all of them, newest first, each once', async () => {
      const { rows } = await client.query<{ count: string }>('SELECT count(*) FROM orders');
      const reply = await get('/v1/orders/export', support.token);
      expect([
        reply.status,
        reply.headers.get('content-type'),
        reply.headers.get('cache-control'),
      ]).toEqual([200, 'application/x-ndjson', 'no-store']);
      expect(reply.text.endsWith('}\n')).toBe(true);
      const orders = reply.text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as { id: string; createdAt: string });
      expect(orders).toHaveLength(Number(rows[0]?.count));
      expect(new Set(orders.map(({ id }) => id)).size).toBe(orders.length);
      expect(orders.map(({ createdAt }) => createdAt)).toEqual(
        orders
          .map(({ createdAt }) => createdAt)
          .sort()
          .reverse(),
      );
      expect((await get(`/v1/orders/${orders[0]?.id}`, support.token)).body).toEqual(orders[0]);
    });

    it('to clients that hang up leaves no transaction and no connection behind', async () => {
      const { port } = new URL(app.url);
      const hangUp = (): Promise<void> =>
        new Promise((resolve, reject) => {
          const request = http.get(
            {
              port,
              path: '/v1/orders/export',
              headers: { Authorization: `Bearer ${admin}` },
              agent: false,
            },
            (response) => {
              response.once('data', () => {
                request.destroy();
                resolve();
              });
            },
          );
          request.on('error', reject);
        });
      await Promise.all(Array.from({ length: 15 }, hangUp));
      let busy = '';
      for (const deadline = Date.now() + 2_000; Date.now() < deadline; await sleep(50)) {
        const { rows } = await client.query<{ state: string; query: string }>(
          `SELECT state, query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'`,
        );
        busy = JSON.stringify(rows);
        if (rows.length === 0) break;
      }
      expect(busy).toBe('[]');
      const after = await Promise.all(
        Array.from({ length: 12 }, () => get('/v1/users?limit=1', admin)),
      );
      expect(after.map(({ status }) => status)).toEqual(Array(12).fill(200));
      const { rows } = await client.query<{ count: string }>(
        `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()`,
      );
      expect(Number(rows[0]?.count)).toBeLessThanOrEqual(app.config.databasePool + 5);
    });

    it('is not read from the database for a HEAD', async () => {
      const reply = await app.call('HEAD', '/v1/orders/export', {
        token: await logIn(app, support.username),
      });
      expect([reply.status, reply.text, reply.headers.get('content-type')]).toEqual([
        200,
        '',
        'application/x-ndjson',
      ]);
    });
  });
});
