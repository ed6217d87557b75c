/** Money is whole minor units: every sum is exact or refused, up to 2^53 - 1 and not a unit further, wherever it is made. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import {
  changed,
  EVENT_SCHEMA,
  type OrderState,
  placed,
  replay,
  totalOf,
} from '../../src/orders/order-events.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { ORDER, person, type Person, placeOrder } from '../support/factories.js';
import { faultsOf } from '../support/problem.js';

const SEED = Number(process.env.MONEY_SEED ?? Date.now() % 1_000_000);
const MOST = BigInt(Number.MAX_SAFE_INTEGER);
const PRICE = 1_000_000_000_000;

interface Item {
  sku: string;
  name: string;
  quantity: number;
  unitPrice: number;
}
const item = (quantity: number, unitPrice: number): Item => ({
  sku: 'A',
  name: 'a',
  quantity,
  unitPrice,
});
const exact = (items: readonly Item[]): bigint =>
  items.reduce((sum, { quantity, unitPrice }) => sum + BigInt(quantity) * BigInt(unitPrice), 0n);

const quantity = fc.oneof(fc.integer({ min: 1, max: 10_000 }), fc.constantFrom(1, 9_007, 10_000));
const unitPrice = fc.oneof(
  fc.integer({ min: 0, max: PRICE }),
  fc.nat(9_999),
  fc.constantFrom(0, 1, PRICE - 1, PRICE),
);
const anyItems = fc
  .array(fc.tuple(quantity, unitPrice), { minLength: 1, maxLength: 100 })
  .map(toItems);
/** Items that total 2^53 - 1 and a few units more or less. */
const edgeItems = fc
  .tuple(
    fc.array(fc.tuple(quantity, fc.integer({ min: 0, max: 10_000_000_000 })), { maxLength: 40 }),
    fc.integer({ min: -3, max: 3 }),
  )
  .map(([pairs, beyond]) => {
    const items = toItems(pairs);
    while (exact(items) > MOST - 10n) items.pop();
    const rest = MOST + BigInt(beyond) - exact(items);
    const most = BigInt(PRICE);
    return [
      ...items,
      ...(rest >= most ? [item(Number(rest / most), PRICE)] : []),
      item(1, Number(rest % most)),
    ];
  });
const items = fc.oneof(anyItems, edgeItems);
function toItems(pairs: [number, number][]): Item[] {
  return pairs.map(([quantity, unitPrice]) => item(quantity, unitPrice));
}

describe(`a total (seed ${SEED})`, () => {
  let app: TestApp;
  let owner: Person;

  beforeAll(async () => {
    app = await startApp();
    owner = await person(app);
  });
  afterAll(() => app.close());

  const place = (body: unknown): Promise<Reply> =>
    app.call('POST', '/v1/orders', {
      token: owner.token,
      body,
      headers: { 'Idempotency-Key': crypto.randomUUID() },
    });
  const isRight = (total: (items: Item[]) => number, given: Item[]): boolean => {
    const sum = exact(given);
    return sum > MOST ? Number.isNaN(total(given)) : BigInt(total(given)) === sum;
  };

  it('is the sum of quantity × unit price, exactly, or no number', () => {
    fc.assert(
      fc.property(items, (given) => isRight(totalOf, given)),
      { seed: SEED, numRuns: 500 },
    );
  });

  it.each<[string, (items: Item[]) => number]>([
    [
      'of doubles, unchecked',
      (given) => given.reduce((sum, { quantity, unitPrice }) => sum + quantity * unitPrice, 0),
    ],
    ['that stops a unit early', (given) => (exact(given) < MOST ? Number(exact(given)) : NaN)],
    ['that stops a unit late', (given) => (exact(given) <= MOST + 1n ? Number(exact(given)) : NaN)],
    [
      'of 32 bits',
      (given) =>
        given.reduce((sum, { quantity, unitPrice }) => (sum + quantity * unitPrice) | 0, 0),
    ],
  ])('%s would be found', (_, total) => {
    expect(
      fc.check(
        fc.property(items, (given) => isRight(total, given)),
        { seed: SEED, numRuns: 500 },
      ).failed,
    ).toBe(true);
  });

  it('is the replay’s too, whatever was changed in between', () => {
    fc.assert(
      fc.property(fc.array(items, { minLength: 1, maxLength: 5 }), ([first, ...later]) => {
        const order = { userId: 'u', currency: 'EUR', items: first as Item[], note: null };
        const facts = [placed(order), ...later.map((next) => changed({ items: next }))];
        const state = replay(
          facts.map((fact) => ({ ...fact, schema: EVENT_SCHEMA })),
        ) as OrderState;
        return isRight(() => state.total, later.at(-1) ?? (first as Item[]));
      }),
      { seed: SEED, numRuns: 100 },
    );
  });

  it('is told exactly by the API or refused, for new items and for changed ones; the database agrees', async () => {
    await fc.assert(
      fc.asyncProperty(items, async (given) => {
        const sum = exact(given);
        const small = await placeOrder(app, owner.token);
        const replies = [
          await place({ currency: 'EUR', items: given }),
          await app.call('PATCH', `/v1/orders/${small.id}`, {
            token: owner.token,
            body: { items: given },
            headers: { 'If-Match': '"1"' },
          }),
        ];
        for (const [index, reply] of replies.entries()) {
          if (sum > MOST) {
            expect([reply.status, faultsOf(reply)]).toEqual([400, ['/items total']]);
            continue;
          }
          expect([reply.status, reply.text.includes(`"total":${sum},`), reply.body.items]).toEqual([
            201 - index,
            true,
            given,
          ]);
          for (const path of [
            `/v1/orders/${reply.body.id}`,
            `/v1/orders/${reply.body.id}?at=${reply.body.version}`,
          ]) {
            const read = await app.call('GET', path, { token: owner.token });
            expect([read.text.includes(`"total":${sum},`), read.body]).toEqual([true, reply.body]);
          }
        }
        if (sum > MOST) {
          const { body } = await app.call('GET', `/v1/orders/${small.id}`, { token: owner.token });
          expect(body).toEqual(small);
        }
      }),
      { seed: SEED, numRuns: 25, endOnFailure: true },
    );
  }, 60_000);

  it('is of whole units: a part of one is refused where it stands, whatever its size', async () => {
    const part = fc.oneof(
      fc
        .double({ noNaN: true, noDefaultInfinity: true })
        .filter((value) => !Number.isInteger(value)),
      fc.integer({ min: PRICE + 1, max: Number.MAX_SAFE_INTEGER }),
      fc.integer({ min: Number.MIN_SAFE_INTEGER, max: -1 }),
      fc.constantFrom('1', '1.00', null, true, [1], {}, 2 ** 53, 1e300),
    );
    await fc.assert(
      fc.asyncProperty(part, fc.constantFrom('quantity', 'unitPrice'), async (value, name) => {
        const reply = await place({
          ...ORDER,
          items: [ORDER.items[0], { ...ORDER.items[0], [name]: value }],
        });
        expect(reply.status).toBe(400);
        for (const fault of faultsOf(reply))
          expect(fault).toMatch(new RegExp(`^/items/1/${name} `));
      }),
      { seed: SEED, numRuns: 40, endOnFailure: true },
    );
  }, 60_000);

  it('has a currency of ISO 4217 in upper case, whose minor units it counts; no other', async () => {
    for (const currency of ['EUR', 'JPY', 'BHD', 'CHF']) {
      const { status, body } = await place({ ...ORDER, currency });
      expect([status, body.currency, body.total]).toEqual([201, currency, 9_998]);
    }
    const wrong = fc.oneof(
      fc.string().filter((text) => !/^[A-Z]{3}$/.test(text)),
      fc.constantFrom('eur', 'Eur', 'EU', 'EURO', 'EUR ', 'ZZZ', 'ABC', '€', 978, null, ['EUR']),
    );
    await fc.assert(
      fc.asyncProperty(wrong, async (currency) => {
        const reply = await place({ ...ORDER, currency });
        expect([reply.status, faultsOf(reply)]).toEqual([400, ['/currency currency']]);
      }),
      { seed: SEED, numRuns: 30, endOnFailure: true },
    );
  }, 60_000);
});
