/** Orders over HTTP: placing, reading one or many, listing and paging. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from '../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerSupportUser,
  registerUser,
  type TestUser,
} from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import {
  expectProblem,
  pointersOf,
  validationErrorsOf,
  withoutRequestFields,
} from '../support/problem.js';

const LAMP = ORDER.items[0];
const MAX_TOTAL = Number.MAX_SAFE_INTEGER;
const MAX_UNIT_PRICE = 1e12;

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

const pay = (id: string, token: string): Promise<Reply> =>
  app.call('POST', `/v1/orders/${id}/pay`, { token });

const idsOf = ({ body }: Reply): string[] => (body.data as { id: string }[]).map(({ id }) => id);

const withItem = (item: object): object => ({ ...ORDER, items: [{ ...LAMP, ...item }] });

/** Places orders one after another. @returns their ids, the oldest first */
async function placeOrders(count: number, token: string): Promise<string[]> {
  const ids: string[] = [];
  while (ids.length < count) ids.push((await placeOrder(app, token)).id);
  return ids;
}

describe('placing an order', () => {
  it('answers 201 with the order, its location and its version', async () => {
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
    expect((await get(`/v1/orders/${reply.body.id}`)).body).toEqual(reply.body);
  });

  it.each([null, ''])('with the note %j → keeps it', async (note) => {
    expect((await place({ ...ORDER, note })).body.note).toBe(note);
  });

  it.each<[what: string, body: object, total: number]>([
    [
      '100 items of the largest quantity',
      { ...ORDER, items: Array<object>(100).fill({ ...LAMP, quantity: 10_000 }) },
      100 * 10_000 * 4_999,
    ],
    ['the unit price 0', withItem({ quantity: 1, unitPrice: 0 }), 0],
    [
      'the largest unit price',
      withItem({ quantity: 1, unitPrice: MAX_UNIT_PRICE }),
      MAX_UNIT_PRICE,
    ],
  ])('with %s → is accepted', async (_, body, total) => {
    const reply = await place(body);
    expect([reply.status, reply.body.total]).toEqual([201, total]);
  });

  it.each(['userId', 'total', 'status', 'id', 'version', 'createdAt'])(
    'with the property %s → is rejected: the service decides it',
    async (name) => {
      const reply = await place({ ...ORDER, [name]: 1 });
      expect(validationErrorsOf(reply)).toEqual([`/${name} unknown-property`]);
    },
  );

  it('with a total of an item → is rejected: the service computes it', async () => {
    const reply = await place(withItem({ total: 1 }));
    expect(validationErrorsOf(reply)).toEqual(['/items/0/total unknown-property']);
  });
});

describe('a total', () => {
  /** Items that total the given amount: 9 007 × 10^12 and one item more. */
  const itemsOfTotal = (total: number): object[] => [
    { ...LAMP, quantity: 9_007, unitPrice: MAX_UNIT_PRICE },
    { ...LAMP, quantity: 1, unitPrice: total - 9_007 * MAX_UNIT_PRICE },
  ];

  it('of 2^53 - 1 → is accepted and shown exactly', async () => {
    const reply = await place({ ...ORDER, items: itemsOfTotal(MAX_TOTAL) });
    expect([reply.status, reply.body.total]).toEqual([201, MAX_TOTAL]);
    expect(reply.text).toContain(`"total":${MAX_TOTAL}`);
  });

  it('of 2^53 → is rejected', async () => {
    const reply = await place({ ...ORDER, items: itemsOfTotal(MAX_TOTAL + 1) });
    expect(validationErrorsOf(reply)).toEqual(['/items total']);
  });

  it('of the largest items → is rejected', async () => {
    const largest = { ...LAMP, quantity: 10_000, unitPrice: MAX_UNIT_PRICE };
    const reply = await place({ ...ORDER, items: Array<object>(100).fill(largest) });
    expect(validationErrorsOf(reply)).toEqual(['/items total']);
  });

  it('of 2^53 after a change → is rejected, and the order stays', async () => {
    const order = await placeOrder(app, owner.token);
    const reply = await app.call('PATCH', `/v1/orders/${order.id}`, {
      token: owner.token,
      body: { items: itemsOfTotal(MAX_TOTAL + 1) },
      headers: { 'If-Match': '"1"' },
    });
    expect(validationErrorsOf(reply)).toEqual(['/items total']);
    expect((await get(`/v1/orders/${order.id}`)).body).toEqual(order);
  });
});

describe('reading an order', () => {
  it('by its owner, support and admin, with an id in any case → returns the order', async () => {
    const order = await placeOrder(app, owner.token);
    const replies = await Promise.all(
      [owner.token, support.token, adminToken].flatMap((token) => [
        get(`/v1/orders/${order.id}`, token),
        get(`/v1/orders/${order.id.toUpperCase()}`, token),
      ]),
    );
    expect(replies.map(({ body }) => body as unknown)).toEqual(Array(6).fill(order));
  });

  it.each(['', '/events', '?at=1'])(
    'by a stranger with the path suffix "%s" → gets the same 404 as for a missing order',
    async (suffix) => {
      const { id } = await placeOrder(app, owner.token);
      const stranger = await registerUser(app);
      const hidden = await get(`/v1/orders/${id}${suffix}`, stranger.token);
      const missing = await get(`/v1/orders/${crypto.randomUUID()}${suffix}`, stranger.token);
      expectProblem(hidden, 404, 'not-found');
      expect(withoutRequestFields(hidden)).toEqual(withoutRequestFields(missing));
    },
  );

  /** The status and the headers about caching. */
  const cachingOf = ({ status, headers }: Reply): unknown[] => [
    status,
    headers.get('etag'),
    headers.get('cache-control'),
    headers.get('cache-status'),
  ];

  it('again → is a cache hit with ETag and Cache-Control', async () => {
    const { id } = await placeOrder(app, owner.token);
    const first = await get(`/v1/orders/${id}`);
    expect(['holdfast; hit', 'holdfast; fwd=miss; stored']).toContain(
      first.headers.get('cache-status'),
    );
    const second = await get(`/v1/orders/${id}`);
    expect(cachingOf(second)).toEqual([200, '"1"', 'private, no-cache', 'holdfast; hit']);
  });

  it.each(['no-cache', 'max-age=0, No-Cache'])(
    'with Cache-Control: %s → reads the primary database',
    async (cacheControl) => {
      const { id } = await placeOrder(app, owner.token);
      const headers = { 'Cache-Control': cacheControl };
      expect(cachingOf(await get(`/v1/orders/${id}`, owner.token, headers))).toEqual([
        200,
        '"1"',
        'private, no-cache',
        'holdfast; fwd=request',
      ]);
    },
  );

  it.each(['"1"', 'W/"1"', '"0", "1"', '*'])(
    'with If-None-Match: %s of its version → 304',
    async (tags) => {
      const { id } = await placeOrder(app, owner.token);
      await get(`/v1/orders/${id}`);
      const reply = await get(`/v1/orders/${id}`, owner.token, { 'If-None-Match': tags });
      expect(cachingOf(reply)).toEqual([304, '"1"', 'private, no-cache', 'holdfast; hit']);
    },
  );

  it('with If-None-Match of another version → 200', async () => {
    const { id } = await placeOrder(app, owner.token);
    const reply = await get(`/v1/orders/${id}`, owner.token, { 'If-None-Match': '"2"' });
    expect(reply.status).toBe(200);
  });

  it('with If-None-Match of the version before a payment → 200 with the new version', async () => {
    const { id } = await placeOrder(app, owner.token);
    await pay(id, owner.token);
    const reply = await get(`/v1/orders/${id}`, owner.token, { 'If-None-Match': '"1"' });
    expect([reply.status, reply.headers.get('etag')]).toEqual([200, '"2"']);
  });

  it('that no request wrote → misses once, is stored, and hits from then on', async () => {
    const { id } = await placeOrder(app, owner.token);
    // Without triggers: they would invalidate the row some time after the first read.
    await database.query('SET session_replication_role = replica');
    const { rows } = await database.query<{ id: string }>(
      `INSERT INTO orders
       SELECT gen_random_uuid(), user_id, status, currency, items, total, note
         FROM orders WHERE id = $1 RETURNING id`,
      [id],
    );
    await database.query('SET session_replication_role = origin');
    const statuses: (string | null)[] = [];
    while (statuses.length < 3) {
      const { headers } = await get(`/v1/orders/${rows[0]?.id}`);
      statuses.push(headers.get('cache-status'));
    }
    expect(statuses).toEqual(['holdfast; fwd=miss; stored', 'holdfast; hit', 'holdfast; hit']);
  });
});

describe('reading many orders by id', () => {
  it('returns the orders that the caller may see, each once, in the order of the ids', async () => {
    const stranger = await registerUser(app);
    const [first, second, third] = (await placeOrders(3, owner.token)) as [string, string, string];
    const hidden = (await placeOrder(app, stranger.token)).id as string;
    const missing = crypto.randomUUID();
    const ids = [third, missing, first, hidden, third, second.toUpperCase(), first].join(',');
    const mine = await get(`/v1/orders?ids=${ids}`);
    expect([mine.status, idsOf(mine)]).toEqual([200, [third, first, second]]);
    expect([mine.body.next, mine.headers.get('link')]).toEqual([null, null]);
    const all = await get(`/v1/orders?ids=${ids}`, support.token);
    expect(idsOf(all)).toEqual([third, first, hidden, second]);
    const none = await get(`/v1/orders?ids=${first},${third}`, stranger.token);
    expect(idsOf(none)).toEqual([]);
  });

  it('uses the cache', async () => {
    const { id } = await placeOrder(app, owner.token);
    await get(`/v1/orders?ids=${id}`);
    const reply = await get(`/v1/orders?ids=${id}`);
    expect(reply.headers.get('cache-status')).toBe('holdfast; hit');
  });

  const uuids = (count: number): string[] =>
    Array.from({ length: count }, () => crypto.randomUUID());

  it('with 100 ids of missing orders → returns an empty page', async () => {
    const reply = await get(`/v1/orders?ids=${uuids(100).join(',')}`);
    expect(reply.body).toEqual({ data: [], next: null });
  });

  const [first = '', second = ''] = uuids(2);
  it.each<[what: string, query: string, errors: string[]]>([
    ['101 ids', `ids=${uuids(101).join(',')}`, ['/ids count']],
    ['no id', 'ids=', ['/ids/0 uuid']],
    ['only a comma', 'ids=,', ['/ids/0 uuid', '/ids/1 uuid']],
    ['a comma at the end', `ids=${first},`, ['/ids/1 uuid']],
    ['text that is not an id', 'ids=x', ['/ids/0 uuid']],
    ['an id and other text', `ids=${first},x`, ['/ids/1 uuid']],
    ['a semicolon as separator', `ids=${first};${second}`, ['/ids/0 uuid']],
    ['a space after an id', `ids=${first}%20`, ['/ids/0 uuid']],
    ['an empty repetition', `ids=${first}&ids=`, ['/ids/1 uuid']],
    ['101 repetitions', `ids=${uuids(101).join('&ids=')}`, ['/ids count']],
  ])('with %s → is rejected', async (_, query, errors) => {
    expect(validationErrorsOf(await get(`/v1/orders?${query}`))).toEqual(errors);
  });

  it('accepts a parameter for each id, as generated clients send lists', async () => {
    const [a, b, c] = (await placeOrders(3, owner.token)) as [string, string, string];
    expect(idsOf(await get(`/v1/orders?ids=${c}&ids=${a}`))).toEqual([c, a]);
    expect(idsOf(await get(`/v1/orders?ids=${c}&ids=${a},${b}&ids=${c}`))).toEqual([c, a, b]);
  });

  it.each(['limit=10', 'status=placed', `userId=${first}`])(
    'together with %s → is rejected',
    async (parameter) => {
      const reply = await get(`/v1/orders?ids=${first}&${parameter}`);
      expect(validationErrorsOf(reply)).toEqual(['/ids ids-alone']);
    },
  );
});

describe('listing orders', () => {
  it('of a user without orders → returns an empty page', async () => {
    const user = await registerUser(app);
    const reply = await get('/v1/orders', user.token);
    expect([reply.status, reply.body, reply.headers.get('link')]).toEqual([
      200,
      { data: [], next: null },
      null,
    ]);
  });

  it('after each new order → begins with it, and hits the cache the second time', async () => {
    const user = await registerUser(app);
    const lists: string[][] = [];
    const cacheStatuses = new Set<string | null>();
    const ids: string[] = [];
    const expected: string[][] = [];
    while (ids.length < 4) {
      ids.unshift((await placeOrder(app, user.token)).id);
      expected.push([...ids], [...ids]);
      const first = await get('/v1/orders', user.token);
      const second = await get('/v1/orders', user.token);
      lists.push(idsOf(first), idsOf(second));
      cacheStatuses.add(second.headers.get('cache-status'));
    }
    expect(lists).toEqual(expected);
    expect([...cacheStatuses]).toEqual(['holdfast; hit']);
  });

  it('after a payment → shows the new status and version', async () => {
    const user = await registerUser(app);
    const { id } = await placeOrder(app, user.token);
    await get('/v1/orders', user.token);
    await pay(id, user.token);
    const { body, headers } = await get('/v1/orders', user.token);
    expect(body.data).toEqual([expect.objectContaining({ id, status: 'paid', version: 2 })]);
    expect(headers.get('cache-control')).toBe('private, no-cache');
  });

  it('as support or admin → returns the orders of all users', async () => {
    const other = await registerUser(app);
    const older = (await placeOrder(app, owner.token)).id as string;
    const newer = (await placeOrder(app, other.token)).id as string;
    expect(idsOf(await get('/v1/orders?limit=2', support.token))).toEqual([newer, older]);
    expect(idsOf(await get('/v1/orders?limit=2', adminToken))).toEqual([newer, older]);
  });

  it('of one user, as the user, support or admin → returns the orders of the user', async () => {
    const user = await registerUser(app);
    const { id } = await placeOrder(app, user.token);
    const paths = [
      `/v1/orders?userId=${user.id}`,
      `/v1/orders?userId=${user.id.toUpperCase()}`,
      `/v1/users/${user.id}/orders`,
    ];
    const tokens = [user.token, support.token, adminToken];
    const replies = await Promise.all(
      tokens.flatMap((token) => paths.map((path) => get(path, token))),
    );
    expect(replies.map(idsOf)).toEqual(Array(9).fill([id]));
  });

  it('of another user with userId → 403, whether the user exists or not', async () => {
    const { token } = await registerUser(app);
    const existing = await get(`/v1/orders?userId=${owner.id}`, token);
    const missing = await get(`/v1/orders?userId=${crypto.randomUUID()}`, token);
    expectProblem(existing, 403, 'forbidden');
    expectProblem(missing, 403, 'forbidden');
  });

  it("by a user's path → 404 for a missing or hidden user, else a page", async () => {
    const user = await registerUser(app);
    const missing = `/v1/users/${crypto.randomUUID()}/orders`;
    const existing = `/v1/users/${user.id}/orders`;
    expect((await get(existing, user.token)).body).toEqual({ data: [], next: null });
    expect((await get(existing, support.token)).body).toEqual({ data: [], next: null });
    expect((await get(existing, adminToken)).body).toEqual({ data: [], next: null });
    expectProblem(await get(missing, user.token), 404, 'not-found');
    expectProblem(await get(missing, support.token), 404, 'not-found');
    expectProblem(await get(missing, adminToken), 404, 'not-found');
    expectProblem(await get(existing, owner.token), 404, 'not-found');
  });
});

describe('filtering the list of orders', () => {
  /** One millisecond apart; the second is paid. */
  const TIMES = [1, 2, 3, 4].map((ms) => `2025-03-01T09:00:00.00${ms}Z`);
  const [, SECOND = '', , FOURTH = ''] = TIMES;
  /** The second time, written with another offset. */
  const SECOND_ELSEWHERE = '2025-03-01T11:00:00.002%2B02:00';
  let user: TestUser;
  /** Id → its number, from 1 for the oldest. */
  const numberById = new Map<string, number>();

  beforeAll(async () => {
    user = await registerUser(app);
    const { rows } = await database.query<{ id: string; created_at: Date }>(
      `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
       SELECT gen_random_uuid(), $1, CASE number WHEN 2 THEN 'paid' ELSE 'placed' END, 'EUR', $2,
              9998, time
         FROM unnest($3::timestamptz[]) WITH ORDINALITY AS row (time, number)
       RETURNING id, created_at`,
      [user.id, JSON.stringify(ORDER.items), TIMES],
    );
    for (const { id, created_at } of rows) {
      numberById.set(id, TIMES.indexOf(created_at.toISOString()) + 1);
    }
  });

  it.each<[query: string, numbers: number[]]>([
    ['status=paid', [2]],
    ['status=shipped', []],
    ['status=placed&limit=100', [4, 3, 1]],
    [`createdFrom=${SECOND}`, [4, 3, 2]],
    [`createdFrom=${SECOND_ELSEWHERE}`, [4, 3, 2]],
    [`createdTo=${SECOND}`, [1]],
    [`createdFrom=${SECOND}&createdTo=${FOURTH}&status=placed`, [3]],
    [`createdFrom=${FOURTH}&createdTo=${SECOND}`, []],
    ['createdFrom=0001-01-01T00:00:00Z&createdTo=9999-12-31T23:59:59.999Z', [4, 3, 2, 1]],
  ])('by %s → returns the orders %j', async (query, numbers) => {
    const reply = await get(`/v1/orders?${query}`, user.token);
    expect(idsOf(reply).map((id) => numberById.get(id))).toEqual(numbers);
  });

  const INVALID_TIMES = [
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
  it.each<[name: string, value: string]>([
    ...['', 'PLACED', 'placed,paid', 'open', 'placed&status=paid'].map(
      (value): [string, string] => ['status', value],
    ),
    ...INVALID_TIMES.map((value): [string, string] => ['createdFrom', value]),
    ...INVALID_TIMES.map((value): [string, string] => ['createdTo', value]),
    ...['', 'me', '1'].map((value): [string, string] => ['userId', value]),
  ])('by the invalid %s=%s → is rejected', async (name, value) => {
    expect(pointersOf(await get(`/v1/orders?${name}=${value}`))).toEqual([`/${name}`]);
  });

  it("by userId on a user's path → is rejected", async () => {
    const reply = await get(`/v1/users/${owner.id}/orders?userId=${owner.id}`);
    expect(pointersOf(reply)).toEqual(['/userId']);
  });

  it('by several invalid parameters → all of them are reported', async () => {
    const reply = await get('/v1/orders?status=x&limit=0&createdTo=x&sort=asc');
    expect(pointersOf(reply).sort()).toEqual(['/createdTo', '/limit', '/sort', '/status']);
  });
});

describe('paging through orders', () => {
  interface Page {
    readonly ids: string[];
    readonly cursor: string | null;
    /** The target of the link with rel="next". */
    readonly next: string | undefined;
  }

  /** Follows the Link headers to the last page. @param afterPage runs after each page */
  async function readPages(
    path: string,
    token: string,
    afterPage: (page: number, seen: string[]) => Promise<unknown> = () => Promise.resolve(),
  ): Promise<Page[]> {
    const pages: Page[] = [];
    let next: string | undefined = path;
    while (next !== undefined) {
      const reply: Reply = await get(next, token);
      if (reply.status !== 200) throw new Error(`${next}: ${reply.status} ${reply.text}`);
      next = /^<([^>]+)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
      pages.push({ ids: idsOf(reply), cursor: reply.body.next as string | null, next });
      await afterPage(
        pages.length - 1,
        pages.flatMap(({ ids }) => ids),
      );
    }
    return pages;
  }

  it('with a filter → each link repeats the filter and has the cursor of its page', async () => {
    const user = await registerUser(app);
    await placeOrders(5, user.token);
    const query = { status: 'placed', limit: '2' };
    const path = `/v1/orders?${new URLSearchParams(query).toString()}`;
    const pages = await readPages(path, user.token);
    const linkedQueries = pages.map(
      ({ next }) => next && Object.fromEntries(new URL(next, app.url).searchParams),
    );
    expect(pages.map(({ ids }) => ids.length)).toEqual([2, 2, 1]);
    expect(linkedQueries).toEqual([
      { ...query, cursor: pages[0]?.cursor },
      { ...query, cursor: pages[1]?.cursor },
      undefined,
    ]);
    expect(pages.at(-1)?.cursor).toBeNull();
  });

  interface PagedList {
    readonly name: string;
    readonly path: (user: TestUser) => string;
    readonly token: (user: TestUser) => string;
    /** Whether orders that are paid meanwhile leave the list. */
    readonly excludesPaid: boolean;
  }

  it.each<PagedList>([
    {
      name: "the caller's orders",
      path: () => '/v1/orders?limit=4',
      token: (user) => user.token,
      excludesPaid: false,
    },
    {
      name: 'all orders',
      path: () => '/v1/orders?limit=4&createdFrom=2020-01-01T00:00:00.000Z',
      token: () => adminToken,
      excludesPaid: false,
    },
    {
      name: "a user's orders",
      path: ({ id }) => `/v1/users/${id}/orders?limit=4`,
      token: () => support.token,
      excludesPaid: false,
    },
    {
      name: 'orders by status',
      path: () => '/v1/orders?status=placed&limit=4',
      token: (user) => user.token,
      excludesPaid: true,
    },
  ])(
    '$name, while orders are placed, changed and paid → shows each order once',
    async ({ path, token, excludesPaid }) => {
      const user = await registerUser(app);
      const ids = (await placeOrders(13, user.token)).reverse();
      const paid = new Set<string>();
      const pages = await readPages(path(user), token(user), async (page, seen) => {
        await placeOrder(app, user.token);
        // Change an order that a page has shown, and pay one of the last page.
        await app.call('PATCH', `/v1/orders/${ids[page * 2]}`, {
          token: user.token,
          body: { note: `page ${page}` },
          headers: { 'If-Match': '*' },
        });
        const coming = ids.at(-1 - page) as string;
        if (page > 1 || seen.includes(coming)) return;
        await pay(coming, user.token);
        paid.add(coming);
      });
      const shown = pages.flatMap((page) => page.ids);
      const expected = excludesPaid ? ids.filter((id) => !paid.has(id)) : ids;
      expect(new Set(shown).size).toBe(shown.length);
      expect(shown.filter((id) => ids.includes(id))).toEqual(expected);
      expect(paid.size).toBe(2);
    },
  );

  it.each([7, 100])(
    'of the same millisecond, %i at a time → shows all of them, sorted by id',
    async (limit) => {
      const user = await registerUser(app);
      await database.query(
        `INSERT INTO orders (id, user_id, status, currency, items, total, created_at)
         SELECT gen_random_uuid(), $1, 'placed', 'EUR', $2, 9998, '2025-06-01T00:00:00.000Z'
           FROM generate_series(1, 150)`,
        [user.id, JSON.stringify(ORDER.items)],
      );
      const pages = await readPages(`/v1/orders?limit=${limit}`, user.token);
      const shown = pages.flatMap(({ ids }) => ids);
      expect(new Set(shown).size).toBe(150);
      expect(shown).toEqual([...shown].sort().reverse());
    },
  );

  it('without a limit → shows 20 orders a page', async () => {
    const user = await registerUser(app);
    await placeOrders(21, user.token);
    expect(idsOf(await get('/v1/orders', user.token))).toHaveLength(20);
  });
});
