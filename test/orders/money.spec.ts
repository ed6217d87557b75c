/**
 * Money is an integer of minor units. Every total is exact up to 2^53 - 1 and is rejected beyond,
 * wherever it is computed. MONEY_SEED repeats a run.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import {
  EVENT_SCHEMA,
  type OrderState,
  replay,
  toChangedEvent,
  toPlacedEvent,
  totalOf,
} from '../../src/orders/projection/order-events.js';
import { startApp, type TestApp } from '../support/app.js';
import { ORDER, placeOrder, registerUser, type TestUser } from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import { validationErrorsOf } from '../support/problem.js';

const SEED = Number(process.env.MONEY_SEED ?? Date.now() % 1_000_000);
const MAX_TOTAL = BigInt(Number.MAX_SAFE_INTEGER);
const MAX_UNIT_PRICE = 1_000_000_000_000;

interface Item {
  readonly sku: string;
  readonly name: string;
  readonly quantity: number;
  readonly unitPrice: number;
}

const itemOf = (quantity: number, unitPrice: number): Item => ({
  sku: 'A',
  name: 'a',
  quantity,
  unitPrice,
});

const itemsOf = (pairs: readonly [quantity: number, unitPrice: number][]): Item[] =>
  pairs.map(([quantity, unitPrice]) => itemOf(quantity, unitPrice));

const exactTotal = (items: readonly Item[]): bigint =>
  items.reduce((sum, { quantity, unitPrice }) => sum + BigInt(quantity) * BigInt(unitPrice), 0n);

/** Whether `total` returns the exact total, or NaN when it exceeds 2^53 - 1. */
function isCorrect(total: (items: Item[]) => number, items: Item[]): boolean {
  const expected = exactTotal(items);
  const actual = total(items);
  return expected > MAX_TOTAL ? Number.isNaN(actual) : BigInt(actual) === expected;
}

const anyQuantity = fc.oneof(
  fc.integer({ min: 1, max: 10_000 }),
  fc.constantFrom(1, 9_007, 10_000),
);
const anyUnitPrice = fc.oneof(
  fc.integer({ min: 0, max: MAX_UNIT_PRICE }),
  fc.nat(9_999),
  fc.constantFrom(0, 1, MAX_UNIT_PRICE - 1, MAX_UNIT_PRICE),
);
const randomItems = fc
  .array(fc.tuple(anyQuantity, anyUnitPrice), { minLength: 1, maxLength: 100 })
  .map(itemsOf);
/** Items whose total is within three units of 2^53 - 1. */
const itemsAtLimit = fc
  .tuple(
    fc.array(fc.tuple(anyQuantity, fc.integer({ min: 0, max: 10_000_000_000 })), {
      maxLength: 40,
    }),
    fc.integer({ min: -3, max: 3 }),
  )
  .map(([pairs, distance]) => {
    const items = itemsOf(pairs);
    while (exactTotal(items) > MAX_TOTAL - 10n) items.pop();
    const rest = MAX_TOTAL + BigInt(distance) - exactTotal(items);
    const wholePrices = rest / BigInt(MAX_UNIT_PRICE);
    const remainder = rest % BigInt(MAX_UNIT_PRICE);
    if (wholePrices > 0n) items.push(itemOf(Number(wholePrices), MAX_UNIT_PRICE));
    return [...items, itemOf(1, Number(remainder))];
  });
const anyItems = fc.oneof(randomItems, itemsAtLimit);

describe(`the total of items (seed ${SEED})`, () => {
  it('is the exact sum of quantity × unit price, or NaN beyond 2^53 - 1', () => {
    fc.assert(
      fc.property(anyItems, (items) => isCorrect(totalOf, items)),
      { seed: SEED, numRuns: 500 },
    );
  });

  it.each<[mistake: string, total: (items: Item[]) => number]>([
    [
      'adds floating-point numbers',
      (items) => items.reduce((sum, item) => sum + item.quantity * item.unitPrice, 0),
    ],
    [
      'rejects 2^53 - 1',
      (items) => (exactTotal(items) < MAX_TOTAL ? Number(exactTotal(items)) : NaN),
    ],
    [
      'accepts 2^53',
      (items) => (exactTotal(items) <= MAX_TOTAL + 1n ? Number(exactTotal(items)) : NaN),
    ],
    [
      'adds 32-bit integers',
      (items) => items.reduce((sum, item) => (sum + item.quantity * item.unitPrice) | 0, 0),
    ],
  ])('computed by code that %s → is found to be wrong', (_, total) => {
    const property = fc.property(anyItems, (items) => isCorrect(total, items));
    expect(fc.check(property, { seed: SEED, numRuns: 500 }).failed).toBe(true);
  });

  it('is exact in a replay, whatever changes the order went through', () => {
    const histories = fc.array(anyItems, { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(histories, ([first = [], ...changes]) => {
        const events = [
          toPlacedEvent({ userId: 'u', currency: 'EUR', items: first, note: null }),
          ...changes.map((items) => toChangedEvent({ items })),
        ];
        const stored = events.map((event) => ({ ...event, schema: EVENT_SCHEMA }));
        const state = replay(stored) as OrderState;
        return isCorrect(() => state.total, changes.at(-1) ?? first);
      }),
      { seed: SEED, numRuns: 100 },
    );
  });
});

describe(`the API of orders (seed ${SEED})`, () => {
  let app: TestApp;
  let owner: TestUser;

  beforeAll(async () => {
    app = await startApp();
    owner = await registerUser(app);
  });
  afterAll(() => app?.close());

  const place = (body: unknown): Promise<Reply> =>
    app.call('POST', '/v1/orders', {
      token: owner.token,
      body,
      headers: { 'Idempotency-Key': crypto.randomUUID() },
    });
  const changeItems = (id: string, items: Item[]): Promise<Reply> =>
    app.call('PATCH', `/v1/orders/${id}`, {
      token: owner.token,
      body: { items },
      headers: { 'If-Match': '"1"' },
    });
  const read = (path: string): Promise<Reply> => app.call('GET', path, { token: owner.token });

  /**
   * Whether the response, and later reads of the same version, show these items and their total.
   */
  async function showsExactly(reply: Reply, items: Item[]): Promise<boolean> {
    // The text, because JSON.parse would round a total that is too large.
    const total = `"total":${exactTotal(items)},`;
    const { id, version } = reply.body as { id: string; version: number };
    const now = await read(`/v1/orders/${id}`);
    const then = await read(`/v1/orders/${id}?at=${version}`);
    const replies = [reply, now, then];
    const showsTotal = replies.every(({ text }) => text.includes(total));
    const showsItems = replies.every(
      ({ body }) => JSON.stringify(body.items) === JSON.stringify(items),
    );
    return showsTotal && showsItems;
  }

  it('places an order with an exact total, or rejects the items', async () => {
    await fc.assert(
      fc.asyncProperty(anyItems, async (items) => {
        const reply = await place({ currency: 'EUR', items });
        if (exactTotal(items) > MAX_TOTAL) {
          expect(validationErrorsOf(reply)).toEqual(['/items total']);
          return;
        }
        expect([reply.status, await showsExactly(reply, items)]).toEqual([201, true]);
      }),
      { seed: SEED, numRuns: 25, endOnFailure: true },
    );
  });

  it('changes an order to an exact total, or rejects the items and keeps the order', async () => {
    await fc.assert(
      fc.asyncProperty(anyItems, async (items) => {
        const order = await placeOrder(app, owner.token);
        const reply = await changeItems(order.id, items);
        if (exactTotal(items) > MAX_TOTAL) {
          expect(validationErrorsOf(reply)).toEqual(['/items total']);
          expect((await read(`/v1/orders/${order.id}`)).body).toEqual(order);
          return;
        }
        expect([reply.status, await showsExactly(reply, items)]).toEqual([200, true]);
      }),
      { seed: SEED, numRuns: 25, endOnFailure: true },
    );
  });

  it('rejects a quantity or price that is not an integer within its bounds', async () => {
    const invalidNumber = fc.oneof(
      fc
        .double({ noNaN: true, noDefaultInfinity: true })
        .filter((value) => !Number.isInteger(value)),
      fc.integer({ min: MAX_UNIT_PRICE + 1, max: Number.MAX_SAFE_INTEGER }),
      fc.integer({ min: Number.MIN_SAFE_INTEGER, max: -1 }),
      fc.constantFrom('1', '1.00', null, true, [1], {}, 2 ** 53, 1e300),
    );
    const anyName = fc.constantFrom('quantity', 'unitPrice');
    await fc.assert(
      fc.asyncProperty(invalidNumber, anyName, async (value, name) => {
        const items = [ORDER.items[0], { ...ORDER.items[0], [name]: value }];
        const errors = validationErrorsOf(await place({ ...ORDER, items }));
        expect(errors.filter((error) => !error.startsWith(`/items/1/${name} `))).toEqual([]);
      }),
      { seed: SEED, numRuns: 40, endOnFailure: true },
    );
  });

  it.each(['EUR', 'JPY', 'BHD', 'CHF'])(
    'accepts the currency %s and counts its minor units',
    async (currency) => {
      const { status, body } = await place({ ...ORDER, currency });
      expect([status, body.currency, body.total]).toEqual([201, currency, 9_998]);
    },
  );

  it('rejects a currency that is not an ISO 4217 code in upper case', async () => {
    const invalidCurrency = fc.oneof(
      fc.string().filter((text) => !/^[A-Z]{3}$/.test(text)),
      fc.constantFrom('eur', 'Eur', 'EU', 'EURO', 'EUR ', 'ZZZ', 'ABC', '€', 978, null, ['EUR']),
    );
    await fc.assert(
      fc.asyncProperty(invalidCurrency, async (currency) => {
        const reply = await place({ ...ORDER, currency });
        expect(validationErrorsOf(reply)).toEqual(['/currency currency']);
      }),
      { seed: SEED, numRuns: 30, endOnFailure: true },
    );
  });
});
