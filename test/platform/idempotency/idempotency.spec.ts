/** Idempotency-Key over HTTP: its form, what it belongs to, and what a repetition gets. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from '../../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem } from '../../support/problem.js';

let app: TestApp;
let database: pg.Client;

beforeAll(async () => {
  app = await startApp();
  database = new pg.Client({ connectionString: app.databaseUrl });
  await database.connect();
});
afterAll(async () => {
  await database?.end();
  await app?.close();
});

const newKey = (): string => crypto.randomUUID();

/** @param key undefined: no header; a list: a header for each */
const place = (
  { token }: Pick<TestUser, 'token'>,
  key: string | string[] | undefined,
  body: unknown = ORDER,
): Promise<Reply> =>
  app.call('POST', '/v1/orders', {
    token,
    body,
    headers: key === undefined ? {} : { 'Idempotency-Key': key },
  });

const act = (
  id: string,
  action: string,
  token: string,
  key: string,
  body: object = {},
): Promise<Reply> =>
  app.call('POST', `/v1/orders/${id}/${action}`, {
    token,
    body,
    headers: { 'Idempotency-Key': key },
  });

async function orderIdsOf({ token }: TestUser): Promise<string[]> {
  const { body } = await app.call('GET', '/v1/orders?limit=100', { token });
  return (body.data as { id: string }[]).map(({ id }) => id);
}

/** What a repetition must repeat. */
const repeatableParts = ({ status, text, headers }: Reply): unknown[] => [
  status,
  text,
  headers.get('location'),
  headers.get('etag'),
  headers.get('content-type'),
];

/** The JSON of a value with the members of all objects in the reverse order. */
function reversed(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(reversed).join()}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value)
    .toReversed()
    .map(([name, member]) => `${JSON.stringify(name)}:${reversed(member)}`);
  return `{${members.join()}}`;
}

const isReplay = ({ headers }: Reply): boolean => headers.get('idempotent-replayed') === 'true';

describe('an Idempotency-Key', () => {
  it('that is missing → 400, and no order is placed', async () => {
    const user = await registerUser(app);
    expectProblem(await place(user, undefined), 400, 'idempotency-key-required');
    expect(await orderIdsOf(user)).toEqual([]);
  });

  it.each<[what: string, key: string | string[]]>([
    ['empty', ''],
    ['an empty quoted string', '""'],
    ['256 characters', 'x'.repeat(256)],
    ['256 quoted characters', `"${'x'.repeat(256)}"`],
    ['an open quote', '"open'],
    ['a closing quote', 'closed"'],
    ['a quote inside quotes', '"a"b"'],
    ['an unknown escape', '"a\\x"'],
    ['not ASCII', Buffer.from('ключ').toString('latin1')],
    ['with a tab', 'a\tb'],
    ['sent twice', ['one', 'two']],
  ])('that is %s → 400', async (_, key) => {
    const user = await registerUser(app);
    expectProblem(await place(user, key), 400, 'idempotency-key-malformed');
  });

  it.each(['k', 'x'.repeat(255), `"${'y'.repeat(255)}"`, 'a b', 'a"b', '{}', "it's"])(
    'of the form %j → is accepted',
    async (key) => {
      expect((await place(await registerUser(app), key)).status).toBe(201);
    },
  );

  it.each([
    ['same-key', '"same-key"'],
    ['with "quotes" and \\ in it', '"with \\"quotes\\" and \\\\ in it"'],
  ])('%j → is the same key as its quoted form %j', async (bare, quoted) => {
    const user = await registerUser(app);
    const first = await place(user, bare);
    const second = await place(user, quoted);
    expect(repeatableParts(second)).toEqual(repeatableParts(first));
    expect(isReplay(second)).toBe(true);
  });

  it('of one user → is not the key of another user', async () => {
    const [first, second] = [await registerUser(app), await registerUser(app)];
    const key = newKey();
    const ofFirst = await place(first, key);
    const ofSecond = await place(second, key, { ...ORDER, note: 'theirs' });
    expect([ofFirst.status, ofSecond.status, isReplay(ofSecond)]).toEqual([201, 201, false]);
    expect(await orderIdsOf(second)).toEqual([ofSecond.body.id]);
  });

  it('older than 24 hours → is forgotten', async () => {
    const user = await registerUser(app);
    const key = newKey();
    const first = await place(user, key);
    const setAge = (age: string): Promise<unknown> =>
      database.query(
        'UPDATE idempotency_keys SET created_at = now() - $2::interval WHERE key = $1',
        [key, age],
      );
    await setAge('23 hours');
    expect(repeatableParts(await place(user, key))).toEqual(repeatableParts(first));
    await setAge('24 hours 1 second');
    const second = await place(user, key, { ...ORDER, note: 'a new day' });
    expect([second.status, isReplay(second)]).toEqual([201, false]);
    expect(second.body.id).not.toBe(first.body.id);
  });
});

describe('a repetition', () => {
  it('of a placed order → gets the same bytes, and no second order is placed', async () => {
    const user = await registerUser(app);
    const key = newKey();
    const first = await place(user, key);
    const repetitions = [await place(user, key), await place(user, key), await place(user, key)];
    expect(isReplay(first)).toBe(false);
    expect(repetitions.map(isReplay)).toEqual([true, true, true]);
    expect(repetitions.map(repeatableParts)).toEqual(Array(3).fill(repeatableParts(first)));
    expect(await orderIdsOf(user)).toEqual([first.body.id]);
  });

  it('after the order has changed → gets the first response', async () => {
    const user = await registerUser(app);
    const key = newKey();
    const first = await place(user, key);
    await app.call('POST', `/v1/orders/${first.body.id}/pay`, { token: user.token });
    expect(repeatableParts(await place(user, key))).toEqual(repeatableParts(first));
  });

  it('with other white space in the body → gets the first response', async () => {
    const user = await registerUser(app);
    const key = newKey();
    const first = await place(user, key);
    const second = await place(user, key, ` ${JSON.stringify(ORDER, null, 2)}\n`);
    expect(repeatableParts(second)).toEqual(repeatableParts(first));
  });

  it.each<[what: string, text: string]>([
    ['its members in another order', reversed(ORDER)],
    ['numbers in another form', JSON.stringify(ORDER).replace(':4999', ':4.999e3')],
    ['escaped characters', JSON.stringify(ORDER).replace('"EUR"', '"\\u0045UR"')],
    ['escaped names', JSON.stringify(ORDER).replace('"currency"', '"\\u0063urrency"')],
  ])('with %s → gets the first response', async (_, text) => {
    const user = await registerUser(app);
    const key = newKey();
    const first = await place(user, key);
    expect(JSON.parse(text)).toEqual(ORDER);
    const second = await place(user, key, text);
    expect(repeatableParts(second)).toEqual(repeatableParts(first));
    expect(isReplay(second)).toBe(true);
  });

  it('with items in another order → 422', async () => {
    const user = await registerUser(app);
    const key = newKey();
    const [item] = ORDER.items;
    const items = [item, { ...item, sku: 'LAMP-02' }];
    expect((await place(user, key, { ...ORDER, items })).status).toBe(201);
    const reply = await place(user, key, { ...ORDER, items: items.toReversed() });
    expectProblem(reply, 422, 'idempotency-key-reused');
  });

  it('with half of a surrogate pair → 400, and the key is unused', async () => {
    const user = await registerUser(app);
    const key = newKey();
    const text = JSON.stringify({ ...ORDER, note: 'x' }).replace('"x"', '"\\ud800"');
    expectProblem(await place(user, key, text), 400, 'validation-failed');
    expect((await place(user, key)).status).toBe(201);
  });

  it.each<[what: string, body: object]>([
    ['a note', { ...ORDER, note: 'another' }],
    ['another currency', { ...ORDER, currency: 'CHF' }],
    ['null as note', { ...ORDER, note: null }],
  ])('with %s → 422', async (_, body) => {
    const user = await registerUser(app);
    const key = newKey();
    await place(user, key);
    expectProblem(await place(user, key, body), 422, 'idempotency-key-reused');
  });

  it('with the key of another route → 422', async () => {
    const user = await registerUser(app);
    const key = newKey();
    const { body } = await place(user, key);
    const reply = await act(body.id, 'pay', user.token, key);
    expectProblem(reply, 422, 'idempotency-key-reused');
  });
});

describe('a key whose request was rejected', () => {
  const tooExpensive = {
    ...ORDER,
    items: Array<object>(100).fill({ ...ORDER.items[0], quantity: 10_000, unitPrice: 1e12 }),
  };
  it.each<[reason: string, status: number, body: unknown, token: string | undefined]>([
    ['an invalid currency', 400, { ...ORDER, currency: 'eur' }, undefined],
    ['malformed JSON', 400, '{', undefined],
    ['a total that is too large', 400, tooExpensive, undefined],
    ['an unknown token', 401, ORDER, 'nobody'],
  ])('for %s → is unused', async (_, status, body, token) => {
    const user = await registerUser(app);
    const key = newKey();
    expect((await place({ token: token ?? user.token }, key, body)).status).toBe(status);
    const reply = await place(user, key);
    expect([reply.status, isReplay(reply)]).toEqual([201, false]);
  });
});

describe('requests with one key at once', () => {
  it.each([1, 2, 3])(
    '→ place one order; the others get its response or 409 (round %i)',
    async () => {
      const user = await registerUser(app);
      const key = newKey();
      const replies = await Promise.all(Array.from({ length: 10 }, () => place(user, key)));
      const placed = replies.filter(({ status }) => status === 201);
      const conflicts = replies.filter(({ status }) => status !== 201);
      const later = await place(user, key);
      expect(placed.filter((reply) => !isReplay(reply))).toHaveLength(1);
      expect(new Set(placed.map((reply) => JSON.stringify(repeatableParts(reply)))).size).toBe(1);
      for (const conflict of conflicts) {
        expectProblem(conflict, 409, 'idempotency-key-in-flight');
      }
      const retryAfters = conflicts.map(({ headers }) => Number(headers.get('retry-after')));
      expect(retryAfters.filter((seconds) => !(seconds >= 1))).toEqual([]);
      expect(repeatableParts(later)).toEqual(repeatableParts(placed[0] as Reply));
      expect(isReplay(later)).toBe(true);
      expect(await orderIdsOf(user)).toHaveLength(1);
    },
  );

  it('→ get 409 while the first one runs, and may place the order when it failed', async () => {
    const user = await registerUser(app);
    const key = newKey();
    // What the transaction of a first request on another node would lock.
    await database.query('BEGIN');
    await database.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 0))', [
      `${user.id}:${key}`,
    ]);
    const conflict = await place(user, key);
    await database.query('ROLLBACK');
    expectProblem(conflict, 409, 'idempotency-key-in-flight');
    expect(conflict.headers.get('retry-after')).toBe('1');
    expect((await place(user, key)).status).toBe(201);
  });
});

describe('an action with an Idempotency-Key', () => {
  let user: TestUser;
  let id: string;

  /** Each test has an order that its owner has paid with the key `pay-1`. */
  const placeAndPay = async (): Promise<Reply> => {
    user = await registerUser(app);
    id = (await placeOrder(app, user.token)).id;
    return act(id, 'pay', user.token, 'pay-1');
  };

  it('that is repeated → happens once', async () => {
    const first = await placeAndPay();
    const repetition = await act(id, 'pay', user.token, 'pay-1');
    expect([first.status, first.headers.get('etag')]).toEqual([200, '"2"']);
    expect(repeatableParts(repetition)).toEqual(repeatableParts(first));
    expect(isReplay(repetition)).toBe(true);
    const events = await app.call('GET', `/v1/orders/${id}/events`, { token: user.token });
    expect(events.body.data).toHaveLength(2);
  });

  it('that is repeated with the id in capitals → happens once', async () => {
    await placeAndPay();
    const repetition = await act(id.toUpperCase(), 'pay', user.token, 'pay-1');
    expect([repetition.status, isReplay(repetition)]).toEqual([200, true]);
  });

  it('that is repeated with another key → 409', async () => {
    await placeAndPay();
    const reply = await act(id, 'pay', user.token, 'pay-2');
    expectProblem(reply, 409, 'invalid-transition');
  });

  it('that is repeated with another body → 422', async () => {
    await placeAndPay();
    const reply = await act(id, 'pay', user.token, 'pay-1', { reason: 'x' });
    expectProblem(reply, 422, 'idempotency-key-reused');
  });

  it('that is malformed → 400', async () => {
    await placeAndPay();
    const reply = await act(id, 'ship', await logInAsAdmin(app), 'x'.repeat(256));
    expectProblem(reply, 400, 'idempotency-key-malformed');
  });

  it('that another user has used → is accepted', async () => {
    await placeAndPay();
    expect((await act(id, 'ship', await logInAsAdmin(app), 'pay-1')).status).toBe(200);
  });
});
