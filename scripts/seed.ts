/**
 * `npm run seed`: fills a database with users and orders as if the service had written them. One
 * transaction inserts everything or nothing. The outbox stays empty: nobody needs invented events.
 * It bypasses the cache, which is safe beside a running service: all ids and names are new, and
 * each order belongs to a user of the same run.
 */
import 'reflect-metadata';
import { randomInt } from 'node:crypto';
import type { Client } from 'pg';
import { DataSource } from 'typeorm';
import { PasswordsService } from '../src/auth/passwords/passwords.service.js';
import { parseArguments, parseWholeNumber } from '../src/cli/arguments.js';
import { CommandError, errorCodeOf, runCommand } from '../src/cli/command.js';
import { withClient, withDatabase } from '../src/cli/database.js';
import { startProgress } from '../src/cli/progress.js';
import { type Config, loadConfig } from '../src/config.js';
import { TotalsByGroup } from '../src/orders/daily-totals/rebuild-daily-totals.js';
import { DECLARE_NEW_ROWS } from '../src/platform/cache/epoch/epoch-table.js';
import { dataSourceOptions } from '../src/platform/database/data-source.js';
import { migrateDatabase, pendingMigrations } from '../src/platform/database/migrate.js';
import { insertCredentials, insertOrders, insertUsers } from './seed/insert-rows.js';
import type { Plan } from './seed/plan.js';
import { makeOrders, type SampleOrder } from './seed/sample-orders.js';
import { makeUsers, type SampleUsers } from './seed/sample-users.js';

const USAGE = `npm run seed -- [--users N] [--orders M] [--seed S] [--until DAY]
  --users   number of users, 1 to 1000000 (default 1000)
  --orders  number of orders, 0 to 5000000 (default 10000); a few users have most of them
  --seed    a whole number (default random); the same seed and day make the same data
  --until   the day before which everything happened, e.g. 2026-01-31 (default today, UTC)`;

/** The password of every seeded user. It is public: never seed a database that others can reach. */
const SEEDED_PASSWORD = 'seeded people share one anchor';

const MAX_USERS = 1_000_000;
const MAX_ORDERS = 5_000_000;
/** Seeds are 32 bits wide. */
const MAX_SEED = 2 ** 32 - 1;
/** Rows of one statement. At most two batches are in memory. */
const BATCH_SIZE = 2_000;
/** SQLSTATE unique_violation. */
const UNIQUE_VIOLATION = '23505';

async function run(args: string[]): Promise<number> {
  const plan = readPlan(args);
  const config = loadConfig();
  await withDatabase(config, async (url) => {
    await migrate(url, config);
    await withClient(url, 'holdfast-seed', (client) => seedDatabase(client, plan));
  });
  return 0;
}

function readPlan(args: string[]): Plan {
  const { options } = parseArguments(args, {
    usage: USAGE,
    options: ['users', 'orders', 'seed', 'until'],
  });
  const { until = new Date().toISOString().slice(0, 10) } = options;
  if (!isDay(until)) {
    throw new CommandError(`--until must be a day such as 2026-01-31, not "${until}"`, 2);
  }
  return {
    users: parseWholeNumber('users', options.users, { min: 1, max: MAX_USERS, byDefault: 1_000 }),
    orders: parseWholeNumber('orders', options.orders, {
      min: 0,
      max: MAX_ORDERS,
      byDefault: 10_000,
    }),
    seed: parseWholeNumber('seed', options.seed, {
      min: 0,
      max: MAX_SEED,
      byDefault: randomInt(1_000_000),
    }),
    until: Date.parse(until),
  };
}

/** JavaScript turns 2026-02-30 into another day; such text is not a day. */
const isDay = (text: string): boolean =>
  /^20\d\d-\d\d-\d\d$/.test(text) && new Date(text).toJSON()?.startsWith(text) === true;

/** @throws CommandError when migrations are missing and MIGRATIONS is `manual` */
async function migrate(url: string, { migrations }: Config): Promise<void> {
  if (migrations === 'auto') {
    for (const name of await migrateDatabase(url)) console.log(`Ran ${name}`);
    return;
  }
  const dataSource = await new DataSource(dataSourceOptions(url, 2)).initialize();
  const pending = await pendingMigrations(dataSource).finally(() => dataSource.destroy());
  if (pending.length > 0) {
    throw new CommandError(
      `the database lacks ${pending.length} migrations and MIGRATIONS is manual: run "npm run ` +
        'migrate" first',
    );
  }
}

async function seedDatabase(client: Client, plan: Plan): Promise<void> {
  const startedAt = performance.now();
  const users = makeUsers(plan);
  let summary: OrdersSummary;
  try {
    await client.query('BEGIN');
    // The triggers then invalidate no cache keys. New ids have none.
    await client.query(DECLARE_NEW_ROWS);
    // A deferred trigger would keep every row in PostgreSQL's memory until the COMMIT.
    await client.query('SET CONSTRAINTS ALL IMMEDIATE');
    await insertAllUsers(client, users);
    summary = await insertAllOrders(client, plan, users);
    await client.query('COMMIT');
  } catch (error) {
    const isSeededAlready = error instanceof Error && errorCodeOf(error) === UNIQUE_VIOLATION;
    if (!isSeededAlready) throw error;
    throw new CommandError(
      `the database already has the data of --seed ${plan.seed}: choose another seed`,
    );
  }
  await client.query('ANALYZE users, credentials, orders, order_events');
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  printSummary(plan, users, summary, seconds);
}

async function insertAllUsers(client: Client, users: SampleUsers): Promise<void> {
  const { ids, usernames, registeredAt, clerk } = users;
  const clerkRow = {
    ids: [clerk.id],
    usernames: [clerk.username],
    registeredAt: registeredAt.slice(0, 1),
  };
  await insertUsers(client, clerkRow, ['user', 'admin']);
  const turn = { lane: 'new-password', caller: 'seed' } as const;
  const passwordHash = await new PasswordsService().hash(turn, SEEDED_PASSWORD);
  const progress = await startProgress('users ', ids.length, 'users');
  for (let start = 0; start < ids.length; start += BATCH_SIZE) {
    const end = start + BATCH_SIZE;
    const batch = {
      ids: ids.slice(start, end),
      usernames: usernames.slice(start, end),
      registeredAt: registeredAt.slice(start, end),
    };
    await insertUsers(client, batch, ['user']);
    await insertCredentials(client, batch, passwordHash);
    progress.update(start + batch.ids.length);
  }
  progress.stop();
}

interface OrdersSummary {
  readonly events: number;
  /** The index of the user with the most orders. */
  readonly busiestUser: number;
  readonly ordersOfBusiestUser: number;
}

async function insertAllOrders(
  client: Client,
  plan: Plan,
  users: SampleUsers,
): Promise<OrdersSummary> {
  const orderCounts = new Uint32Array(plan.users);
  const totals = new TotalsByGroup();
  let events = 0;
  let inserted = 0;
  let insertion = Promise.resolve();
  const startedAt = performance.now();
  const progress = await startProgress('orders', plan.orders, 'orders');
  for (const batch of inBatches(makeOrders(plan, users))) {
    for (const { customer, state, events: history } of batch) {
      orderCounts[customer] = (orderCounts[customer] ?? 0) + 1;
      events += history.length;
      totals.add(new Date(history[0]?.occurredAt ?? 0), state);
    }
    // PostgreSQL inserts one batch while the next one is made.
    await insertion;
    insertion = insertOrders(client, batch);
    inserted += batch.length;
    const perSecond = Math.round(inserted / ((performance.now() - startedAt) / 1000));
    progress.update(inserted, `${perSecond} a second`);
  }
  await insertion;
  await totals.store(client);
  progress.stop();
  const ordersOfBusiestUser = orderCounts.reduce((most, count) => Math.max(most, count), 0);
  return { events, ordersOfBusiestUser, busiestUser: orderCounts.indexOf(ordersOfBusiestUser) };
}

function* inBatches(orders: Iterable<SampleOrder>): Generator<SampleOrder[]> {
  let batch: SampleOrder[] = [];
  for (const order of orders) {
    batch.push(order);
    if (batch.length < BATCH_SIZE) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

function printSummary(
  { users: userCount, orders, seed, until }: Plan,
  users: SampleUsers,
  { events, busiestUser, ordersOfBusiestUser }: OrdersSummary,
  seconds: string,
): void {
  const day = new Date(until).toISOString().slice(0, 10);
  console.log(
    `Seeded ${userCount} users and ${orders} orders (${events} events) in ${seconds} s. To ` +
      'make the same data in ' +
      `another database: --users ${userCount} --orders ${orders} --seed ${seed} --until ${day}`,
  );
  console.log(
    `Log in as "${users.usernames[busiestUser]}" (${ordersOfBusiestUser} orders); ` +
      `the password of every seeded user is "${SEEDED_PASSWORD}"`,
  );
}

void runCommand('seed', { USAGE, run }, process.argv.slice(2)).then((exitCode) => {
  process.exitCode = exitCode;
});
