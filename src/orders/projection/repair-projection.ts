/**
 * Repairs rows of `orders` from their events. A repair is a write like any other: it locks the
 * rows, takes the next version (an entity tag never names two bodies), appends the event
 * `order.rebuilt` (versions stay 1 to n) and puts its message into the outbox. Raw SQL on cached
 * tables: a bulk write that must not trust the rows; the triggers of `orders` invalidate the
 * caches.
 */
import type { ClientBase } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { ORDER_REBUILT, WRITTEN_EVENT_SCHEMA } from './order-events.js';
import { type MessagedOrder, orderEventMessage } from './order-event-message.js';
import { inTransaction } from './rebuild-transaction.js';
import type { IdRange } from './replay-orders.js';
import { ENSURE_SERVICE_USER, SERVICE_USER_ID } from './service-user.js';
import {
  findDifferencesOf,
  fillShadowTable,
  PROJECTED_COLUMN_LIST,
  PROJECTED_COLUMNS,
} from './shadow-table.js';

/** A row that another transaction locks for longer stays damaged until the next run. */
const MAX_LOCK_WAIT_MS = 3_000;
/** SQLSTATE lock_not_available. */
const LOCK_NOT_AVAILABLE = '55P03';

/** Nothing is declared as fenced, so the triggers invalidate what is repaired. */
const CONFIGURE_SESSION = `SELECT set_config('lock_timeout', '${MAX_LOCK_WAIT_MS}', false)`;

const LOCK_ROWS = 'SELECT FROM orders WHERE id = ANY($1) ORDER BY id FOR UPDATE';

const INSERT_MISSING = `
  INSERT INTO orders (id, ${PROJECTED_COLUMN_LIST})
  SELECT id, ${PROJECTED_COLUMN_LIST} FROM orders_shadow WHERE id = ANY($1)`;

/** Adds 1 to each version that is behind the events: a trigger adds it, as for every update. */
const ADVANCE_VERSIONS = `
  UPDATE orders AS live SET version = live.version
    FROM orders_shadow AS shadow
   WHERE live.id = shadow.id AND live.id = ANY($1) AND live.version < shadow.version`;

/** The trigger sets version and updated_at. */
const ASSIGN_COLUMNS = PROJECTED_COLUMNS.filter(
  (name) => name !== 'version' && name !== 'updated_at',
)
  .map((name) => `${name} = shadow.${name}`)
  .join(', ');
const REWRITE_ROWS = `
  UPDATE orders AS live SET ${ASSIGN_COLUMNS}
    FROM orders_shadow AS shadow
   WHERE live.id = shadow.id AND live.id = ANY($1)
  RETURNING live.id, live.version, live.user_id AS "userId", live.status, live.currency,
            live.total, live.created_at AS "createdAt"`;

/**
 * One event for each version that has none: the one of this repair, and those that a write by hand
 * took. Such an event gets the time of the next event, so that times never go back.
 */
const APPEND_MISSING_EVENTS = `
  INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
  SELECT live.id, missing.version, $2, $3, '{}', $4,
         coalesce((SELECT min(later.occurred_at) FROM order_events AS later
                    WHERE later.order_id = live.id AND later.version > missing.version),
                  live.updated_at)
    FROM orders AS live
   CROSS JOIN LATERAL generate_series(1, live.version) AS missing (version)
   WHERE live.id = ANY($1)
     AND NOT EXISTS (SELECT FROM order_events AS event
                      WHERE event.order_id = live.id AND event.version = missing.version)`;

const INSERT_MESSAGES = `
  INSERT INTO outbox (id, type, subject, data)
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[])`;

/**
 * The lists of the orders' owners. The trigger invalidates a list only when an order joins or
 * leaves it, and a repaired order may have moved within its list.
 */
const INVALIDATE_LISTS = `
  INSERT INTO cache_invalidations (keys)
  SELECT array_agg(DISTINCT 'order:ofUser:' || user_id) FROM orders WHERE id = ANY($1)`;

/** Prepares a connection for {@link repairOrders}. */
export async function configureRepairs(client: ClientBase): Promise<void> {
  await client.query(CONFIGURE_SESSION);
}

/**
 * Repairs those of these orders that still need it, in one transaction that locks their rows.
 * @returns the ids of the repaired orders; none when another transaction kept a row locked
 */
export async function repairOrders(
  client: ClientBase,
  ids: readonly string[],
): Promise<readonly string[]> {
  try {
    return await inTransaction(client, 'READ COMMITTED', async () => {
      await client.query(LOCK_ROWS, [ids]);
      // The comparison may be outdated. Under the locks, rows and events no longer change.
      await fillShadowTable(client, ids.map(rangeOfOne));
      const differences = await findDifferencesOf(client, ids, new Map());
      const idsOf = (wanted: (typeof differences)[number]['kind']): string[] =>
        differences.filter(({ kind }) => kind === wanted).map(({ id }) => id);
      const missingIds = idsOf('missing');
      const damagedIds = idsOf('damaged');
      await client.query(INSERT_MISSING, [missingIds]);
      if (damagedIds.length > 0) await rewriteOrders(client, damagedIds);
      return [...missingIds, ...damagedIds];
    });
  } catch (error) {
    if ((error as { code?: string }).code === LOCK_NOT_AVAILABLE) return [];
    throw error;
  }
}

async function rewriteOrders(client: ClientBase, ids: readonly string[]): Promise<void> {
  let advanced: number | null;
  do {
    const { rowCount } = await client.query(ADVANCE_VERSIONS, [ids]);
    advanced = rowCount;
  } while (advanced);
  const { rows } = await client.query<RewrittenRow>(REWRITE_ROWS, [ids]);
  await client.query(ENSURE_SERVICE_USER, [SERVICE_USER_ID]);
  await client.query(APPEND_MISSING_EVENTS, [
    ids,
    ORDER_REBUILT,
    WRITTEN_EVENT_SCHEMA,
    SERVICE_USER_ID,
  ]);
  // A repair moves nothing between daily totals: they count the events, and the events stay.
  const messages = rows.map(orderOf).map((order) => orderEventMessage(ORDER_REBUILT, order, order));
  await client.query(INSERT_MESSAGES, [
    messages.map(() => uuidv7()),
    messages.map(({ type }) => type),
    messages.map(({ subject }) => subject),
    messages.map(({ data }) => JSON.stringify(data)),
  ]);
  await client.query(INVALIDATE_LISTS, [ids]);
}

/** pg returns a bigint as text. */
type RewrittenRow = Omit<MessagedOrder, 'version' | 'total'> & { version: string; total: string };

const orderOf = (row: RewrittenRow): MessagedOrder => ({
  ...row,
  version: Number(row.version),
  total: Number(row.total),
});

/** The range that holds this id alone. */
const rangeOfOne = (id: string): IdRange => ({ after: idBefore(id), upTo: id });

/** The UUID before this one, in PostgreSQL's order of UUIDs. */
function idBefore(id: string): string {
  const number = BigInt(`0x${id.replaceAll('-', '')}`) - 1n;
  const hex = number.toString(16).padStart(32, '0');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
