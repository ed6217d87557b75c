/** Which values the fields of the API accept: text, numbers, lists. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ORDER, PASSWORD } from '../../../support/factories.js';
import { pointersOf, validationErrorsOf } from '../../../support/problem.js';
import { type RouteTarget, startRouteTarget } from '../routes.js';

let target: RouteTarget;

beforeAll(async () => {
  target = await startRouteTarget();
});
afterAll(() => target.app.close());

const post = (path: string, body: object) => target.send({ method: 'POST', path }, { body });

const [ITEM] = ORDER.items;
const orderWith = (change: object): object => ({ ...ORDER, ...change });
const orderWithItem = (change: object): object => orderWith({ items: [{ ...ITEM, ...change }] });
const accountWith = (change: object): object => ({
  username: 'someone',
  email: 'some@example.com',
  password: PASSWORD,
  ...change,
});

/** Values that no text field accepts. */
const NOT_TEXT = [1, true, null, [], {}, ['x']];
/** C0 and C1 controls, a line separator, lone surrogates. */
const CONTROLS = ['a\0b', 'a\u0007b', 'a\u007fb', 'a\u0085b', 'a\u2028b', '\ud800', 'a\udc00'];
const NOT_PRINTABLE_TEXT: readonly unknown[] = [...NOT_TEXT, ...CONTROLS];
const NOT_A_NUMBER: readonly unknown[] = [true, null, [], {}, ['x'], ...CONTROLS];

interface Field {
  readonly name: string;
  readonly path: string;
  readonly bodyWith: (value: unknown) => object;
  readonly pointer: string;
  readonly rejects: readonly unknown[];
}

const FIELDS: readonly Field[] = [
  {
    name: 'username',
    path: '/v1/users',
    bodyWith: (username) => accountWith({ username }),
    pointer: '/username',
    rejects: [
      ...NOT_PRINTABLE_TEXT,
      ...['', 'ab', 'a'.repeat(33), 'a b', 'ä'.repeat(3), 'a@b', '\u212aate'],
    ],
  },
  {
    name: 'email',
    path: '/v1/users',
    bodyWith: (email) => accountWith({ email }),
    pointer: '/email',
    rejects: [
      ...NOT_PRINTABLE_TEXT,
      ...['', 'x', 'x@', '@x.com', 'a b@x.com', 'ä@x.com', `${'a'.repeat(250)}@x.com`],
      ...['a@b@c.com', 'x@localhost'],
    ],
  },
  {
    name: 'password',
    path: '/v1/users',
    bodyWith: (password) => accountWith({ password }),
    pointer: '/password',
    rejects: [
      ...NOT_PRINTABLE_TEXT,
      ...['', 'short', '🐙'.repeat(14), '🐙'.repeat(129), 'x y '.repeat(40)],
    ],
  },
  {
    name: 'sku',
    path: '/v1/orders',
    bodyWith: (sku) => orderWithItem({ sku }),
    pointer: '/items/0/sku',
    rejects: [...NOT_PRINTABLE_TEXT, '', 'x'.repeat(65), '🐙'.repeat(65), 'a\nb'],
  },
  {
    name: 'name',
    path: '/v1/orders',
    bodyWith: (name) => orderWithItem({ name }),
    pointer: '/items/0/name',
    rejects: [...NOT_PRINTABLE_TEXT, '', 'x'.repeat(201), 'a\tb'],
  },
  {
    name: 'note',
    path: '/v1/orders',
    bodyWith: (note) => orderWith({ note }),
    pointer: '/note',
    rejects: [
      ...NOT_PRINTABLE_TEXT.filter((value) => value !== null),
      ...['x'.repeat(1001), '🐙'.repeat(1001)],
    ],
  },
  {
    name: 'currency',
    path: '/v1/orders',
    bodyWith: (currency) => orderWith({ currency }),
    pointer: '/currency',
    rejects: [...NOT_PRINTABLE_TEXT, '', 'eur', 'EURO', 'ABC', ' EUR', 'E\u0055\u0301R'],
  },
  {
    name: 'quantity',
    path: '/v1/orders',
    bodyWith: (quantity) => orderWithItem({ quantity }),
    pointer: '/items/0/quantity',
    rejects: [...NOT_A_NUMBER, '1', '', 0, -1, 1.5, 10_001, 1e300],
  },
  {
    name: 'unitPrice',
    path: '/v1/orders',
    bodyWith: (unitPrice) => orderWithItem({ unitPrice }),
    pointer: '/items/0/unitPrice',
    rejects: [...NOT_A_NUMBER, '0', -1, 0.01, 1e12 + 1, 2 ** 53],
  },
  {
    name: 'items',
    path: '/v1/orders',
    bodyWith: (items) => orderWith({ items }),
    pointer: '/items',
    rejects: [
      ...NOT_PRINTABLE_TEXT,
      ...['[]', [], Array(101).fill(ITEM), [null], [1], [[]], { 0: ITEM, length: 1 }],
    ],
  },
];

const shorten = (value: unknown): string => JSON.stringify(value).slice(0, 40);
const REJECTED = FIELDS.flatMap(({ rejects, ...field }) =>
  rejects.map((value) => ({ ...field, value, shown: shorten(value) })),
);

it.each(REJECTED)(
  '$name rejects $shown, with one error',
  async ({ path, bodyWith, pointer, value }) => {
    const errors = validationErrorsOf(await post(path, bodyWith(value)));
    // One mistake is one entry, in the field or in one of its elements.
    expect(errors).toEqual([expect.stringMatching(new RegExp(`^${pointer}(/\\d+)? `))]);
  },
);

it('the length of text is counted in code points, not in UTF-16 units', async () => {
  const names = { sku: '🐙'.repeat(64), name: '🐙'.repeat(200) };
  const note = `${'🐙'.repeat(997)}\n\t`;
  const { status, body } = await post(
    '/v1/orders',
    orderWith({ items: [{ ...ITEM, ...names }], note }),
  );
  expect([status, body.items[0].sku, body.note]).toEqual([201, names.sku, note]);
});

describe('a body with several errors', () => {
  it('gets all of them, each with a pointer', async () => {
    const body = {
      currency: 'eur',
      items: [ITEM, { sku: '', name: 7, quantity: 0, extra: 1 }],
      note: 'a\0',
      stray: {},
    };
    expect(pointersOf(await post('/v1/orders', body)).sort()).toEqual([
      '/currency',
      '/items/1/extra',
      '/items/1/name',
      '/items/1/quantity',
      '/items/1/sku',
      '/items/1/unitPrice',
      '/note',
      '/stray',
    ]);
  });

  it('gets "is required" for each missing field', async () => {
    const reply = await post('/v1/users', {});
    expect(pointersOf(reply).sort()).toEqual(['/email', '/password', '/username']);
    const details = new Set(
      (reply.body.errors as { detail: string }[]).map(({ detail }) => detail),
    );
    expect([...details].sort()).toEqual([
      'email is required',
      'password is required',
      'username is required',
    ]);
  });

  it('gets at most 50 of them', async () => {
    const items = Array(100).fill({});
    expect(validationErrorsOf(await post('/v1/orders', orderWith({ items })))).toHaveLength(50);
  });
});
