/**
 * Exactly once, through `kill -9` at every step of a write, on real processes (`npm run test:orders` goes on for longer); and
 * the proof that the audit finds what it is there for: guards are taken out while nodes run, and rows are damaged by hand.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { compile } from '../campaign/compile.mjs';
import { Random } from '../campaign/random.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { audit, type Rule } from './crash/audit.js';
import { deathsOf, type Result, Shop } from './crash/crashes.js';
import type { Purchase } from './crash/customers.js';
import { STEPS } from './crash/steps.js';

const SEED = Number(process.env.CRASH_SEED ?? Date.now() % 1_000_000);

describe('orders', () => {
  let compiled: Awaited<ReturnType<typeof compile>>;
  let database: TestDatabase;
  let shop: Shop;

  beforeAll(async () => {
    [compiled, database] = await Promise.all([compile(), createTestDatabase()]);
    shop = await Shop.open(compiled.folder, database.url);
  }, 300_000);
  afterAll(async () => {
    await shop?.close();
    await database?.drop();
    await compiled?.remove();
  });

  const rulesBroken = ({ violations }: Result): string[] => [
    ...new Set(violations.map(({ rule }) => rule)),
  ];

  let whole: Result;

  it(`are placed once each and whole, whatever step of a write a node dies at (seed ${SEED})`, async () => {
    // A third of the steps a run, others each time; the long form takes them all, many times.
    const deaths = deathsOf(STEPS.length, new Random(SEED), STEPS).slice(0, 5);
    whole = await shop.round(SEED, deaths, { orders: 20 });
    expect(whole.faults).toEqual([]);
    expect(whole.violations).toEqual([]);
    expect(whole.crashes).toEqual(Object.fromEntries(deaths.map((step) => [step, 1])));
    expect(whole.orders).toBeGreaterThan(10);
    expect(whole.counts.unanswered).toBeGreaterThan(0);
    expect(whole.counts.replayed).toBeGreaterThan(2 * whole.orders);
  }, 300_000);

  /** [what the audit must say, what somebody did to the first purchase's order $1, of note $2, with key $3] */
  const DAMAGES: readonly (readonly [Rule, string])[] = [
    [
      'one order for a key',
      `INSERT INTO orders (id, user_id, status, currency, items, total, note) SELECT gen_random_uuid(), user_id, status, currency, items, total, note FROM orders WHERE id = $1`,
    ],
    ['acknowledged and there', `DELETE FROM orders WHERE id = $1`],
    ['the key’s row is the answer', `DELETE FROM idempotency_keys WHERE key = $3`],
    ['the key’s row is the answer', `UPDATE idempotency_keys SET body = '{}' WHERE key = $3`],
    ['events 1 to n', `DELETE FROM order_events WHERE order_id = $1 AND version = 1`],
    ['events 1 to n', `UPDATE orders SET version = version + 1 WHERE id = $1`],
    ['the outbox tells each event, in order', `DELETE FROM outbox WHERE subject = 'orders/' || $1`],
    [
      'the outbox tells each event, in order',
      `UPDATE outbox SET data = data || '{"version": 7}' WHERE subject = 'orders/' || $1 AND type = 'order.placed'`,
    ],
    ['the projection is the replay', `UPDATE orders SET status = 'shipped' WHERE id = $1`],
    ['the projection is the replay', `UPDATE orders SET currency = 'CHF' WHERE id = $1`],
    [
      'no key in flight',
      `SELECT pg_advisory_xact_lock(hashtextextended(user_id || ':' || $3, 0)) FROM orders WHERE id = $1`,
    ],
  ];

  it.each(DAMAGES)('“%s” is what the audit says when not: %s', async (rule, sql) => {
    const { place, tag } = whole.purchases[0] as Purchase;
    const { id } = JSON.parse(
      (JSON.parse([...place.answers][0] as string) as [number, string])[1],
    ) as { id: string };
    const { database } = shop;
    await database.query('BEGIN');
    try {
      // Past triggers and foreign keys, which would refuse most of it.
      await database.query(`SET LOCAL session_replication_role = replica`);
      await database.query(`ALTER TABLE order_events DISABLE TRIGGER ALL`);
      const values = [id, tag, place.key].map((value) => `'${value.replaceAll("'", "''")}'`);
      await database.query(
        sql.replace(/\$([123])/g, (_, place: string) => values[Number(place) - 1] as string),
      );
      const found = await audit(database, shop.customer.id, whole.purchases);
      expect(found.map((violation) => violation.rule)).toContain(rule);
    } finally {
      await database.query('ROLLBACK');
    }
    expect(await audit(database, shop.customer.id, whole.purchases)).toEqual([]);
  });

  it('of other bytes for one key are found too', async () => {
    const [first, ...others] = whole.purchases as [Purchase, ...Purchase[]];
    const place = {
      ...first.place,
      answers: new Set([...first.place.answers, '[201,"{\\"id\\":\\"x\\"}"]']),
    };
    const found = await audit(shop.database, shop.customer.id, [{ ...first, place }, ...others]);
    expect(found.map(({ rule }) => rule)).toEqual([
      'acknowledged and there',
      'the same bytes again',
    ]);
  });

  it('are doubled, and the audit says so, when two nodes race for a key that nothing locks', async () => {
    await shop.database.query('ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey');
    shop.break('the key is not locked');
    const rules = new Set<string>();
    // Whether two requests meet is a matter of timing: what one round does not show, another will.
    for (let attempt = 0; attempt < 10 && !rules.has('one order for a key'); attempt++)
      for (const rule of rulesBroken(await shop.round(SEED + 100 + attempt, [], { orders: 20 })))
        rules.add(rule);
    expect([...rules]).toContain('one order for a key');
  }, 300_000);

  it('are doubled, and the audit says so, when the key is committed after the order', async () => {
    shop.break('the key is committed after the order');
    expect(rulesBroken(await shop.round(SEED + 2, ['committed'], { forGood: true }))).toContain(
      'one order for a key',
    );
  }, 300_000);
});
