/** The words of errors: one entry for each mistake, in terms of what the client sent. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  logInAsAdmin,
  ORDER,
  PASSWORD,
  placeOrder,
  registerSupportUser,
  type TestUser,
} from '../../../support/factories.js';
import type { Reply } from '../../../support/http-client.js';
import { expectProblem } from '../../../support/problem.js';
import { type RouteTarget, startRouteTarget } from '../routes.js';

let target: RouteTarget;

beforeAll(async () => {
  target = await startRouteTarget();
});
afterAll(() => target.app.close());

/** `<pointer> <code>: <detail>` of each entry, in the order of the pointers. */
function entriesOf(reply: Reply): string[] {
  expectProblem(reply, 400, 'validation-failed');
  const errors = reply.body.errors as { pointer: string; code: string; detail: string }[];
  return errors.map(({ pointer, code, detail }) => `${pointer} ${code}: ${detail}`).sort();
}

const [ITEM] = ORDER.items;
const place = (body: unknown): Promise<Reply> =>
  target.send({ method: 'POST', path: '/v1/orders' }, { body });
const placeItems = (...items: unknown[]): Promise<Reply> => place({ ...ORDER, items });
const setRoles = (roles: unknown): Promise<Reply> =>
  target.send({ method: 'PUT', path: '/v1/users/{user}/roles' }, { body: { roles } });
const register = (change: object): Promise<Reply> =>
  target.send(
    { method: 'POST', path: '/v1/users' },
    { body: { username: 'someone', email: 'some@example.com', password: PASSWORD, ...change } },
  );
const get = (path: string): Promise<Reply> => target.send({ method: 'GET', path });

describe('a mistake in a body is one entry:', () => {
  it.each<[what: string, send: () => Promise<Reply>, entries: string[]]>([
    [
      'a number as text',
      () => placeItems({ ...ITEM, quantity: '2' }),
      ['/items/0/quantity type: items[0].quantity must be a whole number, not a string'],
    ],
    [
      'a fraction',
      () => placeItems({ ...ITEM, quantity: 1.5 }),
      ['/items/0/quantity integer: items[0].quantity must be a whole number'],
    ],
    [
      'a number out of its range',
      () => placeItems({ ...ITEM, quantity: 0 }),
      ['/items/0/quantity range: items[0].quantity must be from 1 to 10000'],
    ],
    ['a missing list', () => place({ currency: 'EUR' }), ['/items required: items is required']],
    ['an empty list', () => placeItems(), ['/items count: items must have 1 to 100 elements']],
    [
      'an object in place of a list',
      () => place({ ...ORDER, items: { 0: ITEM, length: 1 } }),
      ['/items type: items must be a list, not an object'],
    ],
    [
      'null in place of a list',
      () => place({ ...ORDER, items: null }),
      ['/items type: items must be a list, not null'],
    ],
    [
      'items that are no objects',
      () => placeItems(null, ITEM, 7, [ITEM]),
      [
        '/items/0 object: items[0] must be an object',
        '/items/2 object: items[2] must be an object',
        '/items/3 object: items[3] must be an object',
      ],
    ],
    [
      'a missing member of an item',
      () => placeItems(ITEM, { ...ITEM, sku: undefined }),
      ['/items/1/sku required: items[1].sku is required'],
    ],
    [
      'an empty name',
      () => placeItems({ ...ITEM, name: '' }),
      ['/items/0/name length: items[0].name must not be empty'],
    ],
    [
      'a name that is too long',
      () => placeItems({ ...ITEM, name: 'x'.repeat(201) }),
      ['/items/0/name length: items[0].name must have 1 to 200 characters'],
    ],
    [
      'a control character',
      () => placeItems({ ...ITEM, name: 'a\u0007' }),
      ['/items/0/name control-characters: items[0].name must not contain control characters'],
    ],
    [
      'a control character in a note',
      () => place({ ...ORDER, note: 'a\r\n' }),
      [
        '/note control-characters: note must not contain control characters other than tabs and ' +
          'line feeds',
      ],
    ],
    [
      'half a surrogate pair',
      () => place(JSON.stringify({ ...ORDER, note: 'x' }).replace('"x"', '"\\ud800"')),
      ['/note unicode: note must not contain half of a surrogate pair'],
    ],
    [
      'a currency',
      () => place({ ...ORDER, currency: 'eur' }),
      [
        '/currency currency: currency must be the ISO 4217 code of a currency in use, in upper ' +
          'case, e.g. EUR',
      ],
    ],
    [
      'a name for a property in another style',
      () => placeItems({ ...ITEM, unit_price: 5 }),
      [
        '/items/0/unit_price unknown-property: items[0].unit_price is not a property of this ' +
          'request; use unitPrice',
      ],
    ],
    [
      'an unknown property',
      () => place({ ...ORDER, 'a b': 1 }),
      ['/a b unknown-property: "a b" is not a property of this request'],
    ],
    [
      'a role twice',
      () => setRoles(['user', 'support', 'user']),
      ['/roles/2 duplicate: roles names user twice'],
    ],
    [
      'a role more often than there are roles',
      () => setRoles(['user', 'user', 'support', 'admin']),
      ['/roles/1 duplicate: roles names user twice'],
    ],
    [
      'an unknown role',
      () => setRoles(['boss', 'user']),
      ['/roles/0 choice: roles[0] must be one of user, support or admin'],
    ],
    ['no role', () => setRoles([]), ['/roles count: roles must have at least 1 element']],
    ['text for roles', () => setRoles('user'), ['/roles type: roles must be a list, not a string']],
    [
      'a username that is too short',
      () => register({ username: 'ab' }),
      ['/username length: username must have 3 to 32 characters'],
    ],
    [
      'a username with other characters',
      () => register({ username: 'a b c' }),
      ['/username form: username must be made of a-z, 0-9, "_", "." and "-"'],
    ],
    [
      'null',
      () => register({ username: null }),
      ['/username type: username must be a string, not null'],
    ],
    [
      'an email address',
      () => register({ email: 'ä@example.com' }),
      ['/email email: email must be an email address of ASCII characters, e.g. ada@example.com'],
    ],
    [
      'an email address that is no text',
      () => register({ email: 7 }),
      ['/email type: email must be a string, not a number'],
    ],
    [
      'a body that is no object',
      () => place('[]'),
      [' object: The request body must be a JSON object'],
    ],
  ])('%s', async (_, send, entries) => {
    expect(entriesOf(await send())).toEqual(entries);
  });

  it('an empty body: each missing member', async () => {
    const reply = await target.send({ method: 'POST', path: '/v1/users' }, { body: {} });
    expect(entriesOf(reply)).toEqual([
      '/email required: email is required',
      '/password required: password is required',
      '/username required: username is required',
    ]);
    expect(reply.body.detail).toBe('username is required; email is required; password is required');
  });
});

describe('a mistake in a query is one entry:', () => {
  const TIME = 'createdFrom must be an RFC 3339 time with an offset, e.g. 2026-01-31T09:30:00.000Z';
  it.each<[query: string, entries: string[]]>([
    ['page=2', ['/page unknown-property: page is not a query parameter; use cursor']],
    ['per_page=9', ['/per_page unknown-property: per_page is not a query parameter; use limit']],
    ['userid=9', ['/userid unknown-property: userid is not a query parameter; use userId']],
    [
      'zzz=1',
      [
        '/zzz unknown-property: zzz is not a query parameter; use ids, userId, limit, cursor, ' +
          'status, createdFrom, createdTo',
      ],
    ],
    ['limit=0', ['/limit integer: limit must be a whole number from 1 to 100']],
    ['limit=1&limit=2', ['/limit repeated: limit must be sent only once']],
    [
      'status=lost',
      [
        '/status choice: status must be one of placed, paid, shipped, delivered, cancelled or ' +
          'refunded',
      ],
    ],
    ['createdFrom=2026-01-31T09:30:00%2B02:00x', [`/createdFrom time: ${TIME}`]],
    ['createdFrom=2026-01-31T09:30:00+02:00', [`/createdFrom time: ${TIME}; write + as %2B`]],
    ['userId=7', ['/userId uuid: userId must be a UUID']],
    [
      `ids=${randomUUID()},x,${randomUUID()},y`,
      ['/ids/1 uuid: ids[1] must be a UUID', '/ids/3 uuid: ids[3] must be a UUID'],
    ],
    [
      `ids=${Array.from({ length: 101 }, () => randomUUID()).join()}`,
      ['/ids count: ids must have 1 to 100 elements'],
    ],
  ])('GET /v1/orders?%s', async (query, entries) => {
    expect(entriesOf(await get(`/v1/orders?${query}`))).toEqual(entries);
  });

  it('a raw "+" in the time of a version', async () => {
    expect(entriesOf(await get('/v1/orders/{order}?at=2026-01-31T09:30:00+02:00'))).toEqual([
      '/at time: at must be a version or an RFC 3339 time with an offset; write + as %2B',
    ]);
  });

  it('a parameter for a route without any', async () => {
    expect(entriesOf(await get('/v1/users/me?page=1'))).toEqual([
      '/page unknown-property: page is not a query parameter; this route has none',
    ]);
  });
});

describe('the detail of a problem with many entries', () => {
  it('says how many it does not repeat', async () => {
    const { body } = await placeItems({});
    expect(body.detail).toBe(
      'items[0].sku is required; items[0].name is required; items[0].quantity is required; ' +
        'and 1 more',
    );
  });

  it.each<[what: string, send: () => Promise<Reply>]>([
    ['missing members', () => placeItems(...Array(100).fill({}))],
    ['unknown properties', () => place(Object.fromEntries(Array(60).fill(0).map(pairOf)))],
  ])('says when the entries are not all: %s', async (_, send) => {
    const { body } = await send();
    expect(body.errors).toHaveLength(50);
    expect(body.detail).toMatch(/; and more, of which "errors" has the first 50$/);
  });

  const pairOf = (_: number, index: number): [string, number] => [`k${index}`, 1];

  it('shows a long name cut, and says so', async () => {
    const { body } = await place({ ...ORDER, ['x'.repeat(1_000)]: 1, 'ключ\u0007': 1 });
    expect(body.errors.map(({ pointer }: { pointer: string }) => pointer)).toEqual([
      `/${'x'.repeat(64)}…`,
      '/ключ?',
    ]);
  });
});

describe('a refusal says what is missing:', () => {
  let support: TestUser;
  let admin: string;
  let id: string;

  beforeAll(async () => {
    support = await registerSupportUser(target.app);
    admin = await logInAsAdmin(target.app);
  });

  const act = (action: string, token: string): Promise<Reply> =>
    target.app.call('POST', `/v1/orders/${id}/${action}`, { token });

  it.each<[method: string, path: string, detail: string]>([
    ['GET', '/v1/users', 'GET /v1/users needs the role admin'],
    ['GET', '/v1/orders/summary', 'GET /v1/orders/summary needs the role support or admin'],
    ['GET', '/v1/orders?userId={other}', 'userId of another user needs the role support or admin'],
    ['PUT', '/v1/users/{user}/roles', 'PUT /v1/users/{id}/roles needs the role admin'],
  ])('%s %s for a user', async (method, path, detail) => {
    const { token } = target.owner;
    const reply = await target.send(
      { method, path: path.replace('{other}', randomUUID()) },
      { token, ...(method === 'PUT' ? { body: { roles: ['user'] } } : {}) },
    );
    expectProblem(reply, 403, 'forbidden');
    expect(reply.body.detail).toBe(detail);
  });

  it('a change of another user’s password', async () => {
    const body = { currentPassword: 'x', newPassword: PASSWORD };
    const reply = await target.send({ method: 'PUT', path: '/v1/users/{user}/password' }, { body });
    expectProblem(reply, 403, 'forbidden');
    expect(reply.body.detail).toBe('A password can be changed only by its own user');
  });

  it.each<[action: string, by: 'owner' | 'support', detail: string]>([
    ['ship', 'owner', 'ship needs the role admin'],
    ['pay', 'support', 'pay needs the owner of the order'],
    ['cancel', 'support', 'cancel needs the owner of the order or the role admin'],
  ])('%s by %s', async (action, by, detail) => {
    id = target.orderId;
    const reply = await act(action, by === 'owner' ? target.owner.token : support.token);
    expectProblem(reply, 403, 'forbidden');
    expect(reply.body.detail).toBe(detail);
  });

  it('a change of an order by another user', async () => {
    const options = { headers: { 'If-Match': '*' }, body: {} };
    const reply = await target.send({ method: 'PATCH', path: '/v1/orders/{order}' }, options);
    expectProblem(reply, 403, 'forbidden');
    expect(reply.body.detail).toBe('An order can be changed only by its owner');
  });

  describe('an order', () => {
    const owner = (): string => target.owner.token;
    const reject = async (action: string, token: string): Promise<string> => {
      const reply = await act(action, token);
      expectProblem(reply, 409, 'invalid-transition');
      return reply.body.detail as string;
    };

    it('that is already paid', async () => {
      ({ id } = await placeOrder(target.app, owner()));
      expect(await reject('cancel', admin)).toBe(
        'The order is placed; cancel needs the owner of the order then',
      );
      expect(await reject('ship', admin)).toBe(
        'The order is placed; only a paid order can be shipped',
      );
      await act('pay', owner());
      expect(await reject('pay', owner())).toBe('The order is already paid');
      // A shipped one only by an operator of the service.
      expect(await reject('refund', admin)).toBe(
        'The order is paid; only a delivered order can be refunded',
      );
      expect(await reject('cancel', owner())).toBe(
        'The order is paid; cancel needs the role admin then',
      );
      const headers = { 'If-Match': '*' };
      const body = { note: 'late' };
      const change = { token: owner(), headers, body };
      const changed = await target.app.call('PATCH', `/v1/orders/${id}`, change);
      expect(changed.body.detail).toBe('The order is paid; it can be changed only while placed');
    });

    it('that is shipped', async () => {
      ({ id } = await placeOrder(target.app, owner()));
      await act('pay', owner());
      await act('ship', admin);
      expect(await reject('cancel', admin)).toBe(
        'The order is shipped; only a paid order can be cancelled',
      );
    });
  });

  it('an old version', async () => {
    const options = { token: target.owner.token, headers: { 'If-Match': '"9"' }, body: {} };
    const reply = await target.send({ method: 'PATCH', path: '/v1/orders/{order}' }, options);
    expectProblem(reply, 412, 'version-mismatch');
    expect(reply.body.detail).toBe(
      'The entity tag is now "1"; read the object again and decide again',
    );
  });
});
