/**
 * Rows as the service writes them, in SQL that fits the schema before `OrderConstraints` and every
 * later one. Most of it is generate_series: a million orders are there in a minute.
 */
import { createHash, randomUUID } from 'node:crypto';
import type { Client } from 'pg';
import type { Random } from '../../support/random.js';

const ITEMS = `'[{"sku": "A-1", "name": "Thing", "quantity": 2, "unitPrice": 450}]'`;
const CUSTOMERS = 1_000;

const idOf = (kind: string, number: string): string => `md5('${kind} ' || (${number}))::uuid`;

const PASSWORD_HASH =
  `'$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$` +
  `c29tZWhhc2hzb21laGFzaHNvbWVoYXNoc29tZWhhc2g'`;

const FILL = (orders: number): string[] => [
  `INSERT INTO users (id, username, email)
   SELECT ${idOf('user', 'i')}, 'user-' || i, 'user-' || i || '@example.com'
     FROM generate_series(1, ${CUSTOMERS}) AS i`,
  `INSERT INTO credentials (user_id, password_hash) SELECT id, ${PASSWORD_HASH} FROM users`,
  `INSERT INTO sessions (id, user_id, token_hash, last_seen_at, expires_at)
   SELECT id, id, repeat(md5(id::text), 2), now(), now() + interval '1 day' FROM users`,
  `INSERT INTO orders (id, user_id, status, currency, items, total, created_at, updated_at)
   SELECT ${idOf('order', 'i')}, ${idOf('user', `1 + i % ${CUSTOMERS}`)}, 'placed', 'EUR',
          ${ITEMS}, 900, at, at
     FROM generate_series(1, ${orders}) AS i,
          date_trunc('second', now() - i * interval '20 seconds') AS at`,
  `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
   SELECT id, 1, 'order.placed', 1, '{}', user_id, created_at FROM orders`,
  `INSERT INTO outbox (id, type, subject, data, published_at)
   SELECT gen_random_uuid(), 'order.placed', 'orders/' || id, '{}', now() FROM orders`,
];

/** Fills a database whose last migration is `CacheInvalidations`. */
export async function fill(client: Client, orders: number): Promise<void> {
  // The rows are new: no cache has them.
  await client.query(`SET holdfast.fenced = 'on'`);
  for (const sql of FILL(orders)) await client.query(sql);
  await client.query('ANALYZE');
}

/** The rows that a request is about. */
export interface Subjects {
  readonly order: string;
  readonly customer: string;
  readonly newId: string;
}

export interface RequestKind {
  readonly name: string;
  /** In the order in which the service sends them. Several run in one transaction. */
  readonly statements: (subjects: Subjects) => string[];
}

export function pickSubjects(random: Random, orders: number): Subjects {
  return {
    order: uuidOf(`order ${random.between(1, orders)}`),
    customer: uuidOf(`user ${random.between(1, CUSTOMERS)}`),
    newId: randomUUID(),
  };
}

/** What {@link idOf} computes in SQL. */
function uuidOf(text: string): string {
  const digits = createHash('md5').update(text).digest('hex');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

const lockSession = (customer: string): string =>
  `SELECT id FROM sessions WHERE id = '${customer}' FOR SHARE`;

const appendEvent = (order: string, customer: string, type: string): string[] => [
  `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
   SELECT id, version, '${type}', 1, '{}', '${customer}', updated_at
     FROM orders WHERE id = '${order}'`,
  `INSERT INTO outbox (id, type, subject, data)
   VALUES (gen_random_uuid(), '${type}', 'orders/${order}', '{}')`,
];

export const WRITES: readonly RequestKind[] = [
  {
    name: 'place an order',
    statements: ({ customer, newId }) => [
      lockSession(customer),
      `SELECT body FROM idempotency_keys WHERE user_id = '${customer}' AND key = '${newId}'`,
      `INSERT INTO orders (id, user_id, status, currency, items, total)
       VALUES ('${newId}', '${customer}', 'placed', 'EUR', ${ITEMS}, 900)`,
      ...appendEvent(newId, customer, 'order.placed'),
      `INSERT INTO idempotency_keys (user_id, key, fingerprint, status, headers, body, cache_keys)
       VALUES ('${customer}', '${newId}', 'f', 201, '{}', '{}', '{}')`,
    ],
  },
  {
    name: 'change an order',
    statements: ({ order, customer }) => [
      lockSession(customer),
      `SELECT id FROM orders WHERE id = '${order}' FOR UPDATE`,
      `UPDATE orders SET note = 'changed' WHERE id = '${order}'`,
      ...appendEvent(order, customer, 'order.changed'),
    ],
  },
  {
    name: 'log in',
    statements: ({ customer, newId }) => [
      `SELECT id FROM users WHERE id = '${customer}' FOR SHARE`,
      `SELECT password_hash FROM credentials WHERE user_id = '${customer}'`,
      `INSERT INTO sessions (id, user_id, token_hash, last_seen_at, expires_at)
       VALUES ('${newId}', '${customer}', repeat(md5('${newId}'), 2), now(),
               now() + interval '1 day')`,
    ],
  },
  {
    name: 'relay events',
    statements: () => [
      `UPDATE outbox SET published_at = now() WHERE position IN (
         SELECT position FROM outbox WHERE published_at IS NULL
          ORDER BY position LIMIT 10 FOR UPDATE SKIP LOCKED)`,
    ],
  },
];

const NEWEST_FIRST = 'ORDER BY created_at DESC, id DESC';

export const READS: readonly RequestKind[] = [
  {
    name: 'read an order',
    statements: ({ order }) => [`SELECT * FROM orders WHERE id = '${order}'`],
  },
  {
    name: 'list orders of a user',
    statements: ({ customer }) => [
      `SELECT * FROM orders WHERE user_id = '${customer}' ${NEWEST_FIRST} LIMIT 20`,
    ],
  },
  { name: 'list orders', statements: () => [`SELECT * FROM orders ${NEWEST_FIRST} LIMIT 20`] },
  {
    name: 'read a session',
    statements: ({ customer }) => [
      `SELECT * FROM sessions JOIN users ON users.id = user_id WHERE sessions.id = '${customer}'`,
    ],
  },
];

/** One batch of an export. Its transaction may stay open while the client reads. */
export const EXPORT_BATCH = `SELECT id FROM orders ${NEWEST_FIRST} LIMIT 500`;

/** Zero when each order is counted once: in the daily totals, or by an event that waits. */
export const UNCOUNTED_ORDERS = `
  SELECT (SELECT count(*) FROM orders)
       - (SELECT sum(count) FROM order_figures)
       - (SELECT count(*) FROM inbox WHERE type = 'order.placed' AND handled_at IS NULL)
         AS difference`;
