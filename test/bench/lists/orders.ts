/**
 * Orders by the million for the benchmark of lists: inserted by one statement that every CHECK of the schema looks at, in the
 * order in which they were placed, as in life; its indexes are built when all are there. The same shares whatever the number: five customers have a tenth each, the rest
 * have 200 each; the newest tenth is still on its way, the older ones are nearly all delivered.
 */
import pg from 'pg';

/** Who lists; each has a tenth of all orders. */
export const CUSTOMERS = 5;
/** Days over which the orders were placed, evenly. */
export const DAYS = 180;

/** @param customers ids of {@link CUSTOMERS} users that exist @returns seconds that it took */
export async function loadOrders(
  url: string,
  orders: number,
  customers: readonly string[],
): Promise<number> {
  const began = performance.now();
  const psql = new pg.Client({ connectionString: url });
  await psql.connect();
  try {
    // No trigger and no foreign key: what they would note (keys of caches that hold nothing yet) nobody needs.
    await psql.query('SET session_replication_role = replica');
    await psql.query(
      `INSERT INTO users (id, username, email)
       SELECT uuidv7(), 'other-' || n, 'other-' || n || '@example.com' FROM generate_series(1, $1::int / 400 + 1) AS n`,
      [orders],
    );
    const { rows } = await psql.query<{ name: string; definition: string }>(
      `SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
         FROM pg_index WHERE indrelid = 'orders'::regclass AND NOT indisunique`,
    );
    for (const { name } of rows) await psql.query(`DROP INDEX ${name}`);
    await psql.query(
      `INSERT INTO orders (id, user_id, status, currency, items, total, created_at, updated_at)
       SELECT uuidv7(placed - clock_timestamp()),
              CASE WHEN n % 10 < ${CUSTOMERS} THEN ($2::uuid[])[1 + n % 10] ELSE others[1 + (hashint4(n) & 2147483647) % cardinality(others)] END,
              CASE WHEN n > $1::int * 0.9 THEN (ARRAY['placed', 'paid', 'shipped'])[1 + n / 10 % 3]
                   ELSE coalesce((ARRAY['cancelled', 'refunded'])[1 + n / 10 % 8], 'delivered') END,
              'EUR', items, total, placed, placed
         FROM (SELECT array_agg(id) AS others FROM users WHERE username LIKE 'other-%') AS crowd,
              generate_series(1, $1::int) AS n,
              LATERAL (SELECT date_trunc('milliseconds', now()) - ($1::int - n) * (interval '${DAYS} days' / $1::int) AS placed) AS time,
              LATERAL (SELECT jsonb_build_array(
                  jsonb_build_object('sku', 'LAMP-' || n % 1000, 'name', 'Signal lamp', 'quantity', 1 + n % 3, 'unitPrice', 4999),
                  jsonb_build_object('sku', 'ROPE-' || n % 777, 'name', 'Ten fathoms of rope', 'quantity', 1, 'unitPrice', n % 9000)
                ) AS items, (1 + n % 3) * 4999 + n % 9000 AS total) AS basket`,
      [orders, customers],
    );
    for (const { definition } of rows) await psql.query(definition);
    for (const table of ['users', 'orders']) await psql.query(`VACUUM (ANALYZE) ${table}`);
    await psql.query('CHECKPOINT');
  } finally {
    await psql.end();
  }
  return (performance.now() - began) / 1000;
}
