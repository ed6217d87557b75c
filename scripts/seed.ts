/**
 * `npm run seed`: fills a database with users and with orders whose histories are what the service would have written: every
 * row is what `evolve` makes of its events. One transaction, so there is all of it or nothing; the outbox is left alone, since
 * nobody is to be told of made-up history.
 *
 * It writes past the cache. That is right when no service runs on the database, and beside a running one only because every
 * id and every name is new (orders go to users of the same run), so that no cache can hold anything about them.
 */
import 'reflect-metadata';
import { createHash, randomInt } from 'node:crypto';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Passwords } from '../src/auth/passwords.js';
import { type Config, loadConfig } from '../src/config.js';
import { dataSourceOptions } from '../src/database/data-source.js';
import { migrateDatabase, pendingMigrations } from '../src/database/migrate.js';
import { Figures } from './figures.js';
import {
  changed,
  EVENT_SCHEMA,
  evolve,
  type OrderFact,
  type OrderState,
  placed,
} from '../src/orders/order-events.js';
import {
  EDITABLE,
  type OrderAction,
  type OrderStatus,
  TRANSITIONS,
} from '../src/orders/order-lifecycle.js';
import {
  command,
  CommandError,
  readArguments,
  startProgress,
  wholeNumber,
  withDatabase,
} from './command.js';
import { currency, Dice, FIRST_NAMES, items, LAST_NAMES, note, REASONS } from './samples.js';

const USAGE = `npm run seed -- [--users N] [--orders M] [--seed S] [--until DAY]
  --users   how many users, 1 to 1000000 (1000)
  --orders  how many orders, 0 to 5000000 (10000); a few users have most of them
  --seed    a whole number: the same one, with the same --until, makes the same data (random)
  --until   the day before which everything happened, such as 2026-01-31 (today, UTC)`;

/** Every seeded user's; no secret, so never for a database that others can reach. */
export const SEEDED_PASSWORD = 'seeded people share one anchor';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** Orders are spread over this many days; their users came during twice as many. */
const DAYS = 180;
/** Rows of one statement. At most two of these batches are in memory at a time. */
const BATCH = 2_000;

interface Plan {
  readonly users: number;
  readonly orders: number;
  readonly seed: number;
  /** Milliseconds since 1970. */
  readonly until: number;
}

interface People {
  readonly ids: string[];
  readonly names: string[];
  /** When each came, ascending. */
  readonly since: number[];
  /** Who ships and refunds: an admin without a password, as whom nobody can log in. */
  readonly clerkId: string;
}

interface SeededEvent extends OrderFact {
  readonly actorId: string;
  readonly at: number;
}

interface SeededOrder {
  readonly id: string;
  readonly state: OrderState;
  /** The order's version is their number. */
  readonly events: readonly SeededEvent[];
}

function plan(): Plan {
  const { options } = readArguments(USAGE, ['users', 'orders', 'seed', 'until']);
  const { until = new Date().toISOString().slice(0, 10) } = options;
  const isDay = /^20\d\d-\d\d-\d\d$/.test(until) && new Date(until).toJSON()?.startsWith(until);
  if (!isDay) throw new CommandError(`--until must be a day such as 2026-01-31, not "${until}"`, 2);
  return {
    users: wholeNumber('users', options.users, { least: 1, most: 1_000_000, otherwise: 1_000 }),
    orders: wholeNumber('orders', options.orders, { least: 0, most: 5_000_000, otherwise: 10_000 }),
    seed: wholeNumber('seed', options.seed, {
      least: 0,
      most: 2 ** 47,
      otherwise: randomInt(1_000_000),
    }),
    until: Date.parse(until),
  };
}

const idAt = (dice: Dice, msecs: number): string => uuidv7({ msecs, random: dice.bytes(16) });

/** Four characters that names of one seed share and names of another do not. */
const tagOf = (seed: number): string =>
  (createHash('sha256').update(`names ${seed}`).digest().readUInt32LE() % 36 ** 4)
    .toString(36)
    .padStart(4, '0');

function people({ users, seed, until }: Plan): People {
  const dice = new Dice(`users ${seed}`);
  const tag = tagOf(seed);
  const from = until - 2 * DAYS * DAY_MS;
  // The first was there before any order.
  const since = Array.from({ length: users }, (_, i) =>
    i === 0 ? from : moment(dice, from, until, i, users),
  );
  return {
    since,
    ids: since.map((at) => idAt(dice, at)),
    names: since.map(
      (_, i) => `${dice.pick(FIRST_NAMES)}.${dice.pick(LAST_NAMES)}.${tag}${i.toString(36)}`,
    ),
    clerkId: idAt(dice, from),
  };
}

/** The time of the i-th of `count`: ascending, evenly spread over the days, and within a day more often at noon than at night. */
function moment(dice: Dice, from: number, until: number, i: number, count: number): number {
  const days = ((i + dice.share()) / count) * ((until - from) / DAY_MS);
  const hour = days % 1;
  return Math.floor(from + (days + (0.6 * Math.sin(2 * Math.PI * hour)) / (2 * Math.PI)) * DAY_MS);
}

interface Step {
  readonly action: OrderAction | 'change';
  /** Of all orders in this state; the rest stay in it. */
  readonly chance: number;
  /** How long it takes on average. */
  readonly hours: number;
}

/** What becomes of orders. Who does it and which event tells of it: order-lifecycle.ts. */
const STEPS: Readonly<Record<OrderStatus, readonly Step[]>> = {
  placed: [
    { action: 'change', chance: 0.12, hours: 0.5 },
    { action: 'pay', chance: 0.79, hours: 2 },
    { action: 'cancel', chance: 0.05, hours: 8 },
  ],
  paid: [
    { action: 'ship', chance: 0.96, hours: 20 },
    { action: 'cancel', chance: 0.02, hours: 12 },
  ],
  shipped: [{ action: 'deliver', chance: 0.99, hours: 60 }],
  delivered: [{ action: 'refund', chance: 0.04, hours: 150 }],
  cancelled: [],
  refunded: [],
};

/** One order's life from `placedAt` on, as far as it came before `until`. */
function order(
  dice: Dice,
  {
    userId,
    clerkId,
    placedAt,
    until,
  }: { userId: string; clerkId: string; placedAt: number; until: number },
): SeededOrder {
  const code = currency(dice);
  const events: SeededEvent[] = [];
  let state: OrderState | null = null;
  const happen = (fact: OrderFact, actorId: string, at: number): OrderState => {
    events.push({ ...fact, actorId, at });
    return (state = evolve(state, fact));
  };
  const id = idAt(dice, placedAt);
  let now = happen(
    placed({ userId, currency: code, items: items(dice, code), note: note(dice) }),
    userId,
    placedAt,
  );
  for (let at = placedAt; ;) {
    const { status } = now;
    let left = dice.share();
    const step = STEPS[status].find(({ chance }) => (left -= chance) < 0);
    if (!step) break;
    at += 1 + Math.round(dice.wait(step.hours * HOUR_MS));
    if (at >= until) break;
    if (step.action === 'change') {
      if (status !== EDITABLE) throw new Error(`orders that are ${status} cannot be changed`);
      const changes = dice.chance(0.5) ? { items: items(dice, code) } : { note: note(dice) };
      now = happen(changed(changes), userId, at);
      continue;
    }
    const { action } = step;
    const transition = TRANSITIONS.find((one) => one.from === status && one.action === action);
    if (!transition) throw new Error(`orders that are ${status} have no ${action}`);
    const reasons = action === 'cancel' || action === 'refund' ? REASONS[action] : undefined;
    const data = reasons && dice.chance(0.7) ? { reason: dice.pick(reasons) } : {};
    now = happen(
      { type: transition.event, data },
      transition.by === 'owner' ? userId : clerkId,
      at,
    );
  }
  return { id, state: now, events };
}

const iso = (at: number): string => new Date(at).toISOString();

async function insertPeople(
  client: Client,
  { ids, names, since, clerkId }: People,
  seed: number,
): Promise<void> {
  const insert = `INSERT INTO users (id, username, email, roles, created_at, updated_at)
    SELECT id, name, name || '@example.com', $4, at, at FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS row (id, name, at)`;
  await client.query(insert, [
    [clerkId],
    [`clerk.${tagOf(seed)}`],
    [iso(since[0] as number)],
    ['user', 'admin'],
  ]);
  const passwordHash = await new Passwords().hash(SEEDED_PASSWORD);
  const progress = await startProgress('users ', ids.length, 'users');
  for (let i = 0; i < ids.length; i += BATCH) {
    const batch = ids.slice(i, i + BATCH);
    const times = since.slice(i, i + BATCH).map(iso);
    await client.query(insert, [batch, names.slice(i, i + BATCH), times, ['user']]);
    await client.query(
      `INSERT INTO credentials (user_id, password_hash, updated_at)
       SELECT id, $2, at FROM unnest($1::uuid[], $3::timestamptz[]) AS row (id, at)`,
      [batch, passwordHash, times],
    );
    progress.update(i + batch.length);
  }
  progress.stop();
}

async function insertOrders(client: Client, batch: readonly SeededOrder[]): Promise<void> {
  const column = <T>(of: (order: SeededOrder) => T): T[] => batch.map(of);
  await client.query({
    name: 'orders',
    text: `INSERT INTO orders (id, user_id, status, currency, items, total, note, version, created_at, updated_at)
      SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::bigint[], $7::text[], $8::bigint[],
                           $9::timestamptz[], $10::timestamptz[])`,
    values: [
      column(({ id }) => id),
      column(({ state }) => state.userId),
      column(({ state }) => state.status),
      column(({ state }) => state.currency),
      column(({ state }) => JSON.stringify(state.items)),
      column(({ state }) => state.total),
      column(({ state }) => state.note),
      column(({ events }) => events.length),
      column(({ events }) => iso((events[0] as SeededEvent).at)),
      column(({ events }) => iso((events.at(-1) as SeededEvent).at)),
    ],
  });
  const events = batch.flatMap(({ id, events }) =>
    events.map((event, i) => ({ ...event, id, version: i + 1 })),
  );
  await client.query({
    name: 'events',
    text: `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
      SELECT id, version, type, $7::smallint, data, actor, at
        FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[], $5::uuid[], $6::timestamptz[])
          AS row (id, version, type, data, actor, at)`,
    values: [
      events.map(({ id }) => id),
      events.map(({ version }) => version),
      events.map(({ type }) => type),
      events.map(({ data }) => JSON.stringify(data)),
      events.map(({ actorId }) => actorId),
      events.map(({ at }) => iso(at)),
      EVENT_SCHEMA,
    ],
  });
}

/** @returns how many events there are, and who has the most orders */
async function fillOrders(client: Client, plan: Plan, { ids, since, clerkId }: People) {
  const { orders, users, seed, until } = plan;
  const dice = new Dice(`orders ${seed}`);
  const from = until - DAYS * DAY_MS;
  // The best customers are no older or younger than others: a rank is anyone's.
  const ranks = Uint32Array.from(ids, (_, i) => i);
  for (let i = users - 1; i > 0; i--) {
    const j = dice.between(0, i);
    [ranks[i], ranks[j]] = [ranks[j] as number, ranks[i] as number];
  }
  const orderCounts = new Uint32Array(users);
  const customerAt = (at: number): number => {
    for (;;) {
      const customer = ranks[dice.zipf(users)] as number;
      if ((since[customer] as number) < at || customer === 0) return customer;
    }
  };
  const figures = new Figures();
  let events = 0;
  let writing = Promise.resolve();
  const began = performance.now();
  const progress = await startProgress('orders', orders, 'orders');
  for (let done = 0; done < orders;) {
    const batch: SeededOrder[] = [];
    for (; batch.length < BATCH && done < orders; done++) {
      const placedAt = moment(dice, from, until, done, orders);
      const customer = customerAt(placedAt);
      orderCounts[customer] = (orderCounts[customer] as number) + 1;
      const made = order(dice, { userId: ids[customer] as string, clerkId, placedAt, until });
      events += made.events.length;
      figures.add(new Date(placedAt), made.state);
      batch.push(made);
    }
    // PostgreSQL writes one batch while the next is made.
    await writing;
    writing = insertOrders(client, batch);
    progress.update(done, `${Math.round(done / ((performance.now() - began) / 1000))} a second`);
  }
  await writing;
  await figures.store(client);
  progress.stop();
  const busiest = orderCounts.reduce(
    (best, count, i) => (count > (orderCounts[best] as number) ? i : best),
    0,
  );
  return { events, busiest, most: orderCounts[busiest] as number };
}

async function prepare(url: string, { migrations }: Config): Promise<void> {
  if (migrations === 'auto') {
    for (const name of await migrateDatabase(url)) console.log(`Ran ${name}`);
    return;
  }
  const dataSource = await new DataSource(dataSourceOptions(url, 2)).initialize();
  const pending = await pendingMigrations(dataSource).finally(() => dataSource.destroy());
  if (pending.length > 0)
    throw new CommandError(
      `the database lacks ${pending.length} migrations (MIGRATIONS=manual): npm run migrate first`,
    );
}

async function seedDatabase(url: string, plan: Plan): Promise<void> {
  const began = performance.now();
  const client = new Client({
    connectionString: url,
    connectionTimeoutMillis: 5_000,
    application_name: 'holdfast-seed',
  });
  // A connection that breaks also rejects the query under way, which tells.
  client.on('error', () => undefined);
  await client.connect();
  try {
    await client.query('BEGIN');
    // What the service says of its own writes, whose cache keys need no invalidation by the database: nor do new ids.
    await client.query(`SELECT set_config('holdfast.fenced', 'on', true)`);
    // Triggers that wait for COMMIT would wait in PostgreSQL's memory, one for each row.
    await client.query('SET CONSTRAINTS ALL IMMEDIATE');
    const everyone = people(plan);
    await insertPeople(client, everyone, plan.seed);
    const { events, busiest, most } = await fillOrders(client, plan, everyone);
    await client.query('COMMIT');
    await client.query('ANALYZE users, credentials, orders, order_events');
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    console.log(
      `Seeded ${plan.users} users and ${plan.orders} orders (${events} events) in ${seconds} s; the same again, on another ` +
        `database: --users ${plan.users} --orders ${plan.orders} --seed ${plan.seed} --until ${iso(plan.until).slice(0, 10)}`,
    );
    console.log(
      `Log in as "${everyone.names[busiest]}" (${most} orders), password "${SEEDED_PASSWORD}" like everyone's`,
    );
  } catch (error) {
    if (!(error instanceof Error) || (error as { code?: string }).code !== '23505') throw error;
    throw new CommandError(
      `this database has the data of --seed ${plan.seed} already: give another number`,
    );
  } finally {
    await client.end().catch(() => undefined);
  }
}

await command('seed', async () => {
  const given = plan();
  const config = loadConfig();
  await withDatabase(config, async (url) => {
    await prepare(url, config);
    await seedDatabase(url, given);
  });
  return 0;
});
