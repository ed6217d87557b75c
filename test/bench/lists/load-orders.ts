/**
 * Loads orders by the million for the benchmark of lists. One INSERT, which every CHECK of the
 * schema applies to; the indexes are built afterwards. The shares are the same for any number:
 * {@link CUSTOMER_COUNT} customers own a tenth each, other users own the rest; the newest tenth of
 * the orders is in progress, nearly all older ones are delivered.
 */
import pg from 'pg';
import { timeOf } from '../rounds.js';

/** Users who list their orders. */
export const CUSTOMER_COUNT = 5;
/** Days over which the orders were placed, evenly. */
export const DAYS = 180;

/** How many orders each of the other users has, on average. */
const ORDERS_OF_OTHERS = 200;

/** Triggers and foreign keys are off: they would only write keys to invalidate in empty caches. */
const WITHOUT_TRIGGERS = 'SET session_replication_role = replica';

const INSERT_OTHER_USERS = `
  INSERT INTO users (id, username, email)
  SELECT uuidv7(), 'other-' || n, 'other-' || n || '@example.com'
    FROM generate_series(1, $1::int / (2 * ${ORDERS_OF_OTHERS}) + 1) AS n`;

const SELECT_INDEXES = `
  SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
    FROM pg_index
   WHERE indrelid = 'orders'::regclass AND NOT indisunique`;

/** $1: the number of orders. $2: the customers' ids. */
const INSERT_ORDERS = `
  WITH others AS (
    -- The users who own what the customers do not.
    SELECT array_agg(id) AS ids FROM users WHERE username LIKE 'other-%'
  ), placings AS (
    -- Order n of $1, oldest first, placed evenly over the days until now.
    SELECT n,
           date_trunc('milliseconds', now())
             - ($1::int - n) * (interval '${DAYS} days' / $1::int) AS placed_at
      FROM generate_series(1, $1::int) AS n
  ), baskets AS (
    -- Two items, with prices that differ from order to order.
    SELECT n, placed_at,
           jsonb_build_array(
             jsonb_build_object('sku', 'LAMP-' || n % 1000, 'name', 'Signal lamp',
                                'quantity', 1 + n % 3, 'unitPrice', 4999),
             jsonb_build_object('sku', 'ROPE-' || n % 777, 'name', 'Ten fathoms of rope',
                                'quantity', 1, 'unitPrice', n % 9000)) AS items,
           (1 + n % 3) * 4999 + n % 9000 AS total
      FROM placings
  )
  INSERT INTO orders (id, user_id, status, currency, items, total, created_at, updated_at)
  SELECT uuidv7(placed_at - clock_timestamp()),
         CASE WHEN n % 10 < ${CUSTOMER_COUNT} THEN ($2::uuid[])[1 + n % 10]
              ELSE others.ids[1 + (hashint4(n) & 2147483647) % cardinality(others.ids)] END,
         CASE WHEN n > $1::int * 0.9 THEN (ARRAY['placed', 'paid', 'shipped'])[1 + n / 10 % 3]
              ELSE coalesce((ARRAY['cancelled', 'refunded'])[1 + n / 10 % 8], 'delivered') END,
         'EUR', items, total, placed_at, placed_at
    FROM baskets, others`;

/**
 * @param customerIds ids of {@link CUSTOMER_COUNT} existing users
 * @returns the seconds that it took
 */
export async function loadOrders(
  databaseUrl: string,
  orders: number,
  customerIds: readonly string[],
): Promise<number> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    return (await timeOf(() => load(client, orders, customerIds))) / 1_000;
  } finally {
    await client.end();
  }
}

async function load(
  client: pg.Client,
  orders: number,
  customerIds: readonly string[],
): Promise<void> {
  await client.query(WITHOUT_TRIGGERS);
  await client.query(INSERT_OTHER_USERS, [orders]);
  const { rows: indexes } = await client.query<{ name: string; definition: string }>(
    SELECT_INDEXES,
  );
  for (const { name } of indexes) await client.query(`DROP INDEX ${name}`);
  await client.query(INSERT_ORDERS, [orders, customerIds]);
  for (const { definition } of indexes) await client.query(definition);
  await client.query('VACUUM (ANALYZE) users');
  await client.query('VACUUM (ANALYZE) orders');
  await client.query('CHECKPOINT');
}
