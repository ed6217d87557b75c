/** Orders through the API: placed within their bounds, read by whom they concern, many at a time, and page by page. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  ORDER,
  person,
  type Person,
  placeOrder,
  supportPerson,
} from '../support/factories.js';
import { anonymous, expectProblem, faultsOf, pointersOf } from '../support/problem.js';

const LAMP = ORDER.items[0];
const MOST = Number.MAX_SAFE_INTEGER;

describe('orders', () => {
  let app: TestApp;
  let owner: Person;
  let admin: string;
  let support: Person;

  beforeAll(async () => {
    app = await startApp();
    [owner, admin, support] = [await person(app), await adminToken(app), await supportPerson(app)];
  });
  afterAll(() => app.close());

  const get = (
    path: string,
    token: string = owner.token,
    headers: Record<string, string> = {},
  ): Promise<Reply> => app.call('GET', path, { token, headers });
  const place = (body: object, token: string = owner.token): Promise<Reply> =>
    app.call('POST', '/v1/orders', {
      token,
      body,
      headers: { 'Idempotency-Key': crypto.randomUUID() },
    });
  const idsOf = ({ body }: Reply): string[] => (body.data as { id: string }[]).map(({ id }) => id);

  describe('placing', () => {
    it('answers 201 with the order, where it is and its version', async () => {
      const reply = await place({ ...ORDER, note: 'Ring twice.\nThen wait.' });
      expect(reply.status).toBe(201);
      expect(reply.body).toEqual({
        id: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7/),
        userId: owner.id,
        status: 'placed',
        currency: 'EUR',
        items: [LAMP],
        total: 9_998,
        note: 'Ring twice.\nThen wait.',
        version: 1,
        createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
        updatedAt: reply.body.createdAt,
      });
      expect(reply.headers.get('location')).toBe(`/v1/orders/${reply.body.id}`);
      expect(reply.headers.get('etag')).toBe('"1"');
      expect((await get(reply.headers.get('location') as string)).body).toEqual(reply.body);
      expect((await place({ ...ORDER, note: null })).body.note).toBeNull();
      expect((await place({ ...ORDER, note: '' })).body.note).toBe('');
    });

    it('takes what lies on its bounds', async () => {
      const many = { ...ORDER, items: Array<object>(100).fill({ ...LAMP, quantity: 10_000 }) };
      expect((await place(many)).body.total).toBe(100 * 10_000 * 4_999);
      expect(
        (await place({ ...ORDER, items: [{ ...LAMP, quantity: 1, unitPrice: 0 }] })).body.total,
      ).toBe(0);
      expect(
        (await place({ ...ORDER, items: [{ ...LAMP, quantity: 1, unitPrice: 1e12 }] })).body.total,
      ).toBe(1e12);
    });

    it('takes a total of 2^53 - 1 exactly and not a unit more, in a change as well', async () => {
      // 9 007 × 10^12 is the most that fits with this price; the rest is one more item.
      const rest = MOST - 9_007 * 1e12;
      const items = (last: number): object[] => [
        { ...LAMP, quantity: 9_007, unitPrice: 1e12 },
        { ...LAMP, quantity: 1, unitPrice: last },
      ];
      const largest = await place({ ...ORDER, items: items(rest) });
      expect([
        largest.status,
        largest.body.total,
        largest.text.includes(`"total":${MOST}`),
      ]).toEqual([201, MOST, true]);
      expect(faultsOf(await place({ ...ORDER, items: items(rest + 1) }))).toEqual(['/items total']);
      const heavy = Array<object>(100).fill({ ...LAMP, quantity: 10_000, unitPrice: 1e12 });
      expect(faultsOf(await place({ ...ORDER, items: heavy }))).toEqual(['/items total']);
      const change = await app.call('PATCH', `/v1/orders/${largest.body.id}`, {
        token: owner.token,
        body: { items: items(rest + 1) },
        headers: { 'If-Match': '"1"' },
      });
      expect(faultsOf(change)).toEqual(['/items total']);
      expect((await get(`/v1/orders/${largest.body.id}`)).body).toEqual(largest.body);
    });

    it('decides itself whose it is, what it totals and what state it is in', async () => {
      for (const name of ['userId', 'total', 'status', 'id', 'version', 'createdAt'])
        expect(faultsOf(await place({ ...ORDER, [name]: 1 }))).toEqual([
          `/${name} unknown-property`,
        ]);
      expect(faultsOf(await place({ ...ORDER, items: [{ ...LAMP, total: 1 }] }))).toEqual([
        '/items/0/total unknown-property',
      ]);
    });
  });

  describe('reading', () => {
    it('is for the owner, support and admin; to others there is no such order', async () => {
      const order = await placeOrder(app, owner.token);
      for (const token of [owner.token, support.token, admin])
        for (const id of [order.id, order.id.toUpperCase()])
          expect((await get(`/v1/orders/${id}`, token)).body).toEqual(order);
      const stranger = await person(app);
      for (const tail of ['', '/events', '?at=1']) {
        const hidden = await get(`/v1/orders/${order.id}${tail}`, stranger.token);
        expectProblem(hidden, 404, 'not-found');
        expect(anonymous(hidden)).toEqual(
          anonymous(await get(`/v1/orders/${crypto.randomUUID()}${tail}`, stranger.token)),
        );
      }
    });

    it('tells the ETag, Cache-Control and how the cache answered, and gives 304 for what the caller has', async () => {
      const { id } = await placeOrder(app, owner.token);
      const told = async (headers = {}): Promise<unknown[]> => {
        const reply = await get(`/v1/orders/${id}`, owner.token, headers);
        return [
          reply.status,
          ...['etag', 'cache-control', 'cache-status'].map((name) => reply.headers.get(name)),
        ];
      };
      expect(['holdfast; hit', 'holdfast; fwd=miss; stored']).toContain((await told())[3]);
      expect(await told()).toEqual([200, '"1"', 'private, no-cache', 'holdfast; hit']);
      expect(await told({ 'Cache-Control': 'no-cache' })).toEqual([
        200,
        '"1"',
        'private, no-cache',
        'holdfast; fwd=request',
      ]);
      expect(await told({ 'Cache-Control': 'max-age=0, No-Cache' })).toEqual([
        200,
        '"1"',
        'private, no-cache',
        'holdfast; fwd=request',
      ]);
      for (const tags of ['"1"', 'W/"1"', '"0", "1"', '*'])
        expect(await told({ 'If-None-Match': tags })).toEqual([
          304,
          '"1"',
          'private, no-cache',
          'holdfast; hit',
        ]);
      expect((await told({ 'If-None-Match': '"2"' }))[0]).toBe(200);
      await app.call('POST', `/v1/orders/${id}/pay`, { token: owner.token });
      expect((await told({ 'If-None-Match': '"1"' })).slice(0, 2)).toEqual([200, '"2"']);
    });

    it('of a row that no request wrote misses once, is stored, and hits from then on', async () => {
      const { id } = await placeOrder(app, owner.token);
      await sql(
        `INSERT INTO orders SELECT gen_random_uuid(), user_id, status, currency, items, total, note FROM orders WHERE id = '${id}'`,
      );
      const [copy] = await sql<{ id: string }>(
        `SELECT id FROM orders WHERE id <> '${id}' ORDER BY created_at DESC, id DESC LIMIT 1`,
      );
      const statuses: (string | null)[] = [];
      for (let times = 0; times < 3; times++)
        statuses.push((await get(`/v1/orders/${copy?.id}`)).headers.get('cache-status'));
      expect(statuses).toEqual(['holdfast; fwd=miss; stored', 'holdfast; hit', 'holdfast; hit']);
    });
  });

  describe('reading many by id', () => {
    it('gives those that exist and may be seen, each once, in the order asked', async () => {
      const stranger = await person(app);
      const mine: string[] = [];
      for (let made = 0; made < 3; made++) mine.push((await placeOrder(app, owner.token)).id);
      const [first, second, third] = mine as [string, string, string];
      const other = (await placeOrder(app, stranger.token)).id as string;
      const asked = [third, crypto.randomUUID(), first, other, third, second.toUpperCase(), first];
      const read = await get(`/v1/orders?ids=${asked.join(',')}`);
      expect([read.status, idsOf(read), read.body.next, read.headers.get('link')]).toEqual([
        200,
        [third, first, second],
        null,
        null,
      ]);
      expect(idsOf(await get(`/v1/orders?ids=${asked.join(',')}`, support.token))).toEqual([
        third,
        first,
        other,
        second,
      ]);
      expect(idsOf(await get(`/v1/orders?ids=${first},${third}`, stranger.token))).toEqual([]);
      expect((await get(`/v1/orders?ids=${first}`)).headers.get('cache-status')).toBe(
        'holdfast; hit',
      );
    });

    it('takes up to 100 ids and nothing else beside them', async () => {
      const many = Array.from({ length: 101 }, () => crypto.randomUUID());
      expect((await get(`/v1/orders?ids=${many.slice(1).join(',')}`)).body).toEqual({
        data: [],
        next: null,
      });
      const bad = [
        many.join(','),
        '',
        ',',
        `${many[0]},`,
        'x',
        `${many[0]},x`,
        `${many[0]};${many[1]}`,
        `${many[0]}%20`,
      ];
      for (const ids of bad)
        expect(faultsOf(await get(`/v1/orders?ids=${ids}`))).toEqual(['/ids ids']);
      expect(faultsOf(await get(`/v1/orders?ids=${many[0]}&ids=${many[1]}`))).toEqual(['/ids ids']);
      for (const beside of ['limit=10', 'status=placed', `userId=${owner.id}`])
        expect(faultsOf(await get(`/v1/orders?ids=${many[0]}&${beside}`))).toEqual([
          '/ids ids-alone',
        ]);
    });
  });

  describe('listing', () => {
    it('gives one’s own, newest first, and never a stale list', async () => {
      const someone = await person(app);
      const empty = await get('/v1/orders', someone.token);
      expect([empty.status, empty.body, empty.headers.get('link')]).toEqual([
        200,
        { data: [], next: null },
        null,
      ]);
      const made: string[] = [];
      for (let times = 0; times < 4; times++) {
        made.unshift((await placeOrder(app, someone.token)).id);
        const [first, second] = [
          await get('/v1/orders', someone.token),
          await get('/v1/orders', someone.token),
        ];
        expect([idsOf(first), idsOf(second)]).toEqual([made, made]);
        expect(second.headers.get('cache-status')).toBe('holdfast; hit');
        expect(second.headers.get('cache-control')).toBe('private, no-cache');
      }
      await app.call('POST', `/v1/orders/${made[2]}/pay`, { token: someone.token });
      expect((await get('/v1/orders', someone.token)).body.data[2]).toMatchObject({
        id: made[2],
        status: 'paid',
        version: 2,
      });
    });

    it('gives support and admin all, or one user’s; others only their own', async () => {
      const [someone, stranger] = [await person(app), await person(app)];
      const [mine, other] = [
        (await placeOrder(app, someone.token)).id,
        (await placeOrder(app, stranger.token)).id,
      ];
      for (const token of [support.token, admin]) {
        expect(idsOf(await get('/v1/orders?limit=2', token))).toEqual([other, mine]);
        for (const path of [
          `/v1/orders?userId=${someone.id}`,
          `/v1/orders?userId=${someone.id.toUpperCase()}`,
          `/v1/users/${someone.id}/orders`,
        ])
          expect(idsOf(await get(path, token))).toEqual([mine]);
      }
      for (const path of [
        '/v1/orders',
        `/v1/orders?userId=${someone.id}`,
        `/v1/users/${someone.id}/orders`,
      ])
        expect(idsOf(await get(path, someone.token))).toEqual([mine]);
      expectProblem(await get(`/v1/orders?userId=${someone.id}`, stranger.token), 403, 'forbidden');
      expectProblem(
        await get(`/v1/orders?userId=${crypto.randomUUID()}`, stranger.token),
        403,
        'forbidden',
      );
    });

    it('of a user without orders is 200 with none; of a user that never was, 404', async () => {
      const someone = await person(app);
      for (const token of [someone.token, support.token, admin]) {
        const empty = await get(`/v1/users/${someone.id}/orders`, token);
        expect([empty.status, empty.body]).toEqual([200, { data: [], next: null }]);
        expectProblem(
          await get(`/v1/users/${crypto.randomUUID()}/orders`, token),
          404,
          'not-found',
        );
      }
      expectProblem(await get(`/v1/users/${someone.id}/orders`), 404, 'not-found');
    });

    it('filters by status and by the time that it was made, from inclusive, to exclusive', async () => {
      const someone = await person(app);
      const orders = [];
      for (let made = 0; made < 4; made++) {
        orders.push(await placeOrder(app, someone.token));
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      const [first, second, third, fourth] = orders as [
        { id: string; createdAt: string },
        ...{ id: string; createdAt: string }[],
      ];
      await app.call('POST', `/v1/orders/${second?.id}/pay`, { token: someone.token });
      const of = async (query: string): Promise<string[]> =>
        idsOf(await get(`/v1/orders?${query}`, someone.token));
      expect(await of('status=paid')).toEqual([second?.id]);
      expect(await of('status=shipped')).toEqual([]);
      expect(await of('status=placed&limit=100')).toEqual([fourth?.id, third?.id, first.id]);
      expect(await of(`createdFrom=${second?.createdAt}`)).toEqual([
        fourth?.id,
        third?.id,
        second?.id,
      ]);
      expect(await of(`createdTo=${second?.createdAt}`)).toEqual([first.id]);
      expect(
        await of(`createdFrom=${second?.createdAt}&createdTo=${fourth?.createdAt}&status=placed`),
      ).toEqual([third?.id]);
      expect(await of(`createdFrom=${fourth?.createdAt}&createdTo=${first.createdAt}`)).toEqual([]);
      const elsewhere = new Date(Date.parse(second?.createdAt as string) + 2 * 3_600_000)
        .toISOString()
        .replace('Z', '%2B02:00');
      expect(await of(`createdFrom=${elsewhere}`)).toEqual([fourth?.id, third?.id, second?.id]);
      expect(
        await of('createdFrom=0001-01-01T00:00:00Z&createdTo=9999-12-31T23:59:59.999Z'),
      ).toHaveLength(4);
    });

    it('refuses filters that are none', async () => {
      for (const status of ['', 'PLACED', 'placed,paid', 'open'])
        expect(pointersOf(await get(`/v1/orders?status=${status}`))).toEqual(['/status']);
      expect(pointersOf(await get('/v1/orders?status=placed&status=paid'))).toEqual(['/status']);
      const times = [
        '',
        '2026',
        '2026-01-31',
        '2026-01-31T10:00:00',
        '2026-02-30T10:00:00Z',
        '2026-01-31T24:00:00Z',
        '2026-01-31T10:00:00+02:00',
        '0000-01-01T00:00:00Z',
        'yesterday',
        '1700000000',
      ];
      for (const time of times)
        for (const name of ['createdFrom', 'createdTo'])
          expect(pointersOf(await get(`/v1/orders?${name}=${time}`))).toEqual([`/${name}`]);
      for (const id of ['', 'me', '1'])
        expect(pointersOf(await get(`/v1/orders?userId=${id}`))).toEqual(['/userId']);
      expect(pointersOf(await get(`/v1/users/${owner.id}/orders?userId=${owner.id}`))).toEqual([
        '/userId',
      ]);
      expect(
        pointersOf(await get('/v1/orders?status=x&limit=0&createdTo=x&sort=asc')).sort(),
      ).toEqual(['/createdTo', '/limit', '/sort', '/status']);
    });
  });

  describe('paging', () => {
    /** Walks a list by its Link headers; `between` runs after each page. */
    const walk = async (
      path: string,
      token: string,
      between: (page: number, seen: string[]) => Promise<unknown>,
    ): Promise<string[]> => {
      const seen: string[] = [];
      let next: string | undefined = path;
      for (let page = 0; next !== undefined; page++) {
        const reply: Reply = await get(next, token);
        expect(reply.status).toBe(200);
        seen.push(...idsOf(reply));
        next = /^<([^>]+)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
        expect(next === undefined).toBe(reply.body.next === null);
        if (next) {
          const target = new URL(next, app.url);
          expect(target.searchParams.get('cursor')).toBe(reply.body.next);
          for (const [name, value] of new URL(path, app.url).searchParams)
            expect(target.searchParams.get(name)).toBe(value);
        }
        await between(page, seen);
      }
      return seen;
    };

    it.each(['own', 'all', 'of a user', 'by status'])(
      '%s shows each order once while orders come and change',
      async (kind) => {
        const someone = await person(app);
        const before: string[] = [];
        for (let made = 0; made < 13; made++)
          before.unshift((await placeOrder(app, someone.token)).id);
        const [path, token] = {
          own: ['/v1/orders?limit=4', someone.token],
          all: ['/v1/orders?limit=4&createdFrom=2020-01-01T00:00:00.000Z', admin],
          'of a user': [`/v1/users/${someone.id}/orders?limit=4`, support.token],
          'by status': ['/v1/orders?status=placed&limit=4', someone.token],
        }[kind] as [string, string];
        const left = new Set<string>();
        const seen = await walk(path, token, async (page, so) => {
          await placeOrder(app, someone.token);
          const [shown, coming] = [before[page * 2] as string, before.at(-1 - page) as string];
          await app.call('PATCH', `/v1/orders/${shown}`, {
            token: someone.token,
            body: { note: `page ${page}` },
            headers: { 'If-Match': '*' },
          });
          if (page > 1 || so.includes(coming)) return;
          await app.call('POST', `/v1/orders/${coming}/pay`, { token: someone.token });
          left.add(coming);
        });
        expect(new Set(seen).size).toBe(seen.length);
        expect(seen.filter((id) => before.includes(id))).toEqual(
          kind === 'by status' ? before.filter((id) => !left.has(id)) : before,
        );
        expect(left.size).toBe(2);
      },
    );

    it('loses none of many that were made in the same millisecond', async () => {
      const someone = await person(app);
      const { id } = await placeOrder(app, someone.token);
      await sql(
        `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
         SELECT gen_random_uuid(), user_id, status, currency, items, total, '2025-06-01T00:00:00.000Z' FROM orders, generate_series(1, 150) WHERE id = '${id}'`,
      );
      for (const limit of [7, 100]) {
        const seen = await walk(`/v1/orders?limit=${limit}`, someone.token, () =>
          Promise.resolve(),
        );
        expect([seen.length, new Set(seen).size]).toEqual([151, 151]);
        expect(seen.slice(1)).toEqual(seen.slice(1).sort().reverse());
      }
      expect(idsOf(await get('/v1/orders', someone.token))).toHaveLength(20);
    });
  });

  async function sql<T extends object>(text: string): Promise<T[]> {
    const client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    try {
      return (await client.query<T>(text)).rows;
    } finally {
      await client.end();
    }
  }
});
