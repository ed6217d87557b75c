/**
 * The short form of `npm run verify -- crash`: exactly one order for each key, on real nodes that
 * are killed with SIGKILL at steps of a write. Further tests prove that the audit finds violations:
 * they damage rows and break guards of the service. CRASH_SEED repeats an earlier run.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { compile } from '../../../scripts/compile.mjs';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { Random } from '../../support/random.js';
import { audit, type Rule, type Violation } from './audit.js';
import { chooseDeaths, CrashCluster, type RoundResult } from './crash-cluster.js';
import { orderIdOf, type Purchase } from './customers.js';
import { type Step, WRITE_STEPS } from './steps.js';

const SEED = Number(process.env.CRASH_SEED ?? Date.now() % 1_000_000);
/** A third of the steps, others in each run; the long form takes all of them many times. */
const DEATHS = 5;
const MAX_RACES = 20;
const TIMEOUT_MS = 400_000;

let compiled: Awaited<ReturnType<typeof compile>>;
let database: TestDatabase;
let cluster: CrashCluster;
let deaths: Step[];
/** A round of the unchanged service. The tests of the audit damage its rows, and undo it. */
let round: RoundResult;

beforeAll(async () => {
  [compiled, database] = await Promise.all([compile(), createTestDatabase()]);
  cluster = await CrashCluster.start(compiled.folder, database.url);
  const random = new Random(SEED);
  deaths = chooseDeaths(DEATHS, WRITE_STEPS, random.fork('deaths'));
  round = await cluster.runRound({ random, name: 'unchanged', deaths, minOrders: 20 });
}, TIMEOUT_MS);

afterAll(async () => {
  await cluster?.stop();
  await database?.drop();
  await compiled?.remove();
});

const rulesOf = (violations: readonly Violation[]): Rule[] => [
  ...new Set(violations.map(({ rule }) => rule)),
];

const auditRound = (purchases = round.purchases): Promise<Violation[]> =>
  audit(cluster.database, cluster.customer.id, purchases);

describe(`orders on two nodes that die at steps of a write (seed ${SEED})`, () => {
  it('are placed exactly once for each key, with all their events', () => {
    expect(round.violations).toEqual([]);
    expect(round.problems).toEqual([]);
  });

  it('were placed while each chosen step killed a node', () => {
    expect(round.crashes).toEqual(Object.fromEntries(deaths.map((step) => [step, 1])));
    expect(round.orders).toBeGreaterThan(10);
    expect(round.counts.unanswered).toBeGreaterThan(0);
  });

  it('get the bytes of the first answer for each repeated key', () => {
    expect(round.counts.replayed).toBeGreaterThan(2 * round.orders);
  });
});

describe('the audit finds', () => {
  /** What must be found, and the damage: $1 is an order's id, $2 its key. */
  const DAMAGES: readonly (readonly [Rule, string, string])[] = [
    [
      'a key places one order',
      'a doubled order',
      `INSERT INTO orders (id, user_id, status, currency, items, total, note)
       SELECT gen_random_uuid(), user_id, status, currency, items, total, note
         FROM orders WHERE id = $1`,
    ],
    ['an acknowledged order exists', 'a lost order', 'DELETE FROM orders WHERE id = $1'],
    [
      'the stored answer is the answer',
      'a lost key',
      'DELETE FROM idempotency_keys WHERE key = $2',
    ],
    [
      'the stored answer is the answer',
      'another stored answer',
      `UPDATE idempotency_keys SET body = '{}' WHERE key = $2`,
    ],
    [
      'events are 1 to n',
      'a lost event',
      'DELETE FROM order_events WHERE order_id = $1 AND version = 1',
    ],
    [
      'events are 1 to n',
      'a version without its event',
      'UPDATE orders SET version = version + 1 WHERE id = $1',
    ],
    [
      'the outbox has each event in order',
      'events that are not in the outbox',
      `DELETE FROM outbox WHERE subject = 'orders/' || $1`,
    ],
    [
      'the outbox has each event in order',
      'another version in the outbox',
      `UPDATE outbox SET data = data || '{"version": 7}'
        WHERE subject = 'orders/' || $1 AND type = 'order.placed'`,
    ],
    [
      'the order equals the replay of its events',
      'another status',
      `UPDATE orders SET status = 'shipped' WHERE id = $1`,
    ],
    [
      'the order equals the replay of its events',
      'another currency',
      `UPDATE orders SET currency = 'CHF' WHERE id = $1`,
    ],
    [
      'no key is in flight',
      'a key that is still locked',
      `SELECT pg_advisory_xact_lock(hashtextextended(user_id || ':' || $2, 0))
         FROM orders WHERE id = $1`,
    ],
  ];

  it.each(DAMAGES)('a violation of “%s”: %s', async (rule, _, damage) => {
    const { place } = round.purchases[0] as Purchase;
    const id = orderIdOf([...place.answers][0] as string);
    const client = cluster.database;

    await client.query('BEGIN');
    let violations: Violation[];
    try {
      // Triggers and foreign keys would reject most of the damages.
      await client.query('SET LOCAL session_replication_role = replica');
      await client.query('ALTER TABLE order_events DISABLE TRIGGER ALL');
      await client.query(damage.replaceAll('$1', `'${id}'`).replaceAll('$2', `'${place.key}'`));
      violations = await auditRound();
    } finally {
      await client.query('ROLLBACK');
    }

    expect(rulesOf(violations)).toContain(rule);
    expect(await auditRound()).toEqual([]);
  });

  it('a violation of “a repeated key gets the same answer”: a second answer', async () => {
    const [first, ...others] = round.purchases as [Purchase, ...Purchase[]];
    const answers = new Set([...first.place.answers, '[201,"{\\"id\\":\\"x\\"}"]']);
    const changed = { ...first, place: { ...first.place, answers } };

    const violations = await auditRound([changed, ...others]);

    expect(rulesOf(violations)).toEqual([
      'an acknowledged order exists',
      'a repeated key gets the same answer',
    ]);
  });

  it(
    'doubled orders when two nodes race for a key that nothing locks',
    async () => {
      await cluster.database.query(
        'ALTER TABLE idempotency_keys DROP CONSTRAINT IF EXISTS idempotency_keys_pkey',
      );
      await cluster.inject('the key is not locked');
      const random = new Random(SEED).fork('races');
      const rules = new Set<Rule>();
      // Whether two requests meet depends on their timing: several rounds, if need be.
      for (let race = 0; race < MAX_RACES && !rules.has('a key places one order'); race++) {
        const { violations } = await cluster.runRound({
          random,
          name: `race ${race}`,
          deaths: [],
          minOrders: 20,
          raceShare: 1,
        });
        for (const rule of rulesOf(violations)) rules.add(rule);
      }

      expect([...rules]).toContain('a key places one order');
    },
    TIMEOUT_MS,
  );

  it(
    'doubled orders when the key is committed after the order and a node dies in between',
    async () => {
      await cluster.inject('the key is committed after the order');

      const { violations } = await cluster.runRound({
        random: new Random(SEED).fork('late key'),
        name: 'late key',
        deaths: ['committed'],
        leavesNodesDown: true,
      });

      expect(rulesOf(violations)).toContain('a key places one order');
    },
    TIMEOUT_MS,
  );
});
