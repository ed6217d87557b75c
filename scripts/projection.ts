/**
 * Compares `orders` with what the events make of them, and mends what differs, while the service runs. A batch is compared in
 * one snapshot: order and events are committed together, so a difference is damage and never a write that is under way.
 *
 * Nothing is swapped: mending is a write like any other. It locks a bounded number of rows, takes the next version (an entity
 * tag never comes back with another body), says so by an event of its own (versions stay the count of the events), and reaches
 * the caches on the database's own path. docs/adr/0014-mended-in-place.md
 */
import type { ClientBase } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { EVENT_SCHEMA, REBUILT } from '../src/orders/order-events.js';
import { ALL_IDS, type IdRange, type ReplayedOrder, replayOrders } from './replay.js';

/** How much is done at a time. */
export interface Batch {
  /** Orders of one snapshot, at most. */
  readonly orders: number;
  /** Events of one snapshot, about. */
  readonly events: number;
  /** Rows that are locked together. */
  readonly locked: number;
}
export const BATCH: Batch = { orders: 1_000, events: 5_000, locked: 100 };
/** Whoever holds a row longer than this keeps it unmended for now, in milliseconds. */
const LOCK_MS = 3_000;
/** Who a mending is by: a user without a name, as whom nobody can log in. */
export const SERVICE_ID = '00000000-0000-0000-0000-000000000000';

/** The columns that events decide. */
const COLUMNS = [
  'user_id',
  'status',
  'currency',
  'items',
  'total',
  'note',
  'version',
  'created_at',
  'updated_at',
];
const CHECKSUM = `hashtextextended(ROW(id, ${COLUMNS.join(', ')})::text, 0)`;

export interface Difference {
  readonly id: string;
  /** The columns that differ; or `no row`, `no events`, `gaps`, or what is wrong with the events. */
  readonly why: string;
  readonly mended: boolean;
}

export interface Comparison {
  orders: number;
  events: number;
  /** Of all rows, in hexadecimal: the sum of their hashes modulo 2^64. */
  live: string;
  replayed: string;
  different: number;
  mended: number;
}

interface Found {
  readonly id: string;
  readonly why: string;
  readonly kind: 'row' | 'missing' | 'hopeless';
}

/**
 * @param mend false only compares
 * @param tell each difference, as it is found
 * @param progress orders so far
 */
export async function compareProjection(
  client: ClientBase,
  mend: boolean,
  tell: (difference: Difference) => void,
  progress: (orders: number) => void = () => undefined,
  size: Batch = BATCH,
): Promise<Comparison> {
  await client.query(
    `CREATE TEMP TABLE IF NOT EXISTS orders_shadow (LIKE orders, events bigint NOT NULL)`,
  );
  await client.query(
    `SELECT set_config('lock_timeout', '${LOCK_MS}', false), set_config('holdfast.fenced', 'off', false)`,
  );
  const total = { orders: 0, events: 0, different: 0, mended: 0 };
  let [live, replayed] = [0n, 0n];
  for (let range: IdRange | undefined = ALL_IDS; range;) {
    const batch = await compareBatch(client, range, size);
    total.orders += batch.orders;
    total.events += batch.events;
    live = BigInt.asUintN(64, live + batch.live);
    replayed = BigInt.asUintN(64, replayed + batch.replayed);
    const mended = new Set<string>();
    const mendable = mend ? batch.found.filter(({ kind }) => kind !== 'hopeless') : [];
    for (let at = 0; at < mendable.length; at += size.locked) {
      const ids = mendable.slice(at, at + size.locked).map(({ id }) => id);
      for (const id of await mendRows(client, ids)) mended.add(id);
    }
    for (const { id, why } of batch.found) tell({ id, why, mended: mended.has(id) });
    total.different += batch.found.length;
    total.mended += mended.size;
    progress(total.orders);
    range = batch.rest;
  }
  const hex = (sum: bigint): string => sum.toString(16).padStart(16, '0');
  return { ...total, live: hex(live), replayed: hex(replayed) };
}

async function inTransaction<T>(
  client: ClientBase,
  mode: string,
  work: () => Promise<T>,
): Promise<T> {
  await client.query(`BEGIN ${mode}`);
  try {
    const result = await work();
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}

/** The next orders of the range, in one snapshot. */
function compareBatch(client: ClientBase, { after, upTo: end }: IdRange, size: Batch) {
  return inTransaction(client, 'ISOLATION LEVEL REPEATABLE READ', async () => {
    // The rows and the events may have ids that the other lacks: the batch ends where the first of them has enough.
    const { rows } = await client.query<{ last: string | null }>(
      `SELECT least((SELECT id FROM orders WHERE id > $1 ORDER BY id OFFSET $2 LIMIT 1),
                    (SELECT order_id FROM order_events WHERE order_id > $1 ORDER BY order_id OFFSET $3 LIMIT 1)) AS last`,
      [after, size.orders - 1, size.events - 1],
    );
    const upTo = rows[0]?.last ?? end;
    const faults = await fillShadow(client, [{ after, upTo }]);
    const { rows: sums } = await client.query<
      Record<'orders' | 'replayable' | 'events' | 'gaps' | 'live' | 'replayed', string>
    >(
      `SELECT live.*, shadow.*
         FROM (SELECT count(*) AS orders, coalesce(sum(${CHECKSUM}), 0) AS live FROM orders WHERE id > $1 AND id <= $2) AS live,
              (SELECT count(*) AS replayable, coalesce(sum(events), 0) AS events, coalesce(sum(${CHECKSUM}), 0) AS replayed,
                      count(*) FILTER (WHERE events <> version) AS gaps FROM orders_shadow) AS shadow`,
      [after, upTo],
    );
    const [sum] = sums;
    if (!sum) throw new Error('no checksums');
    const alike =
      sum.orders === sum.replayable &&
      sum.live === sum.replayed &&
      sum.gaps === '0' &&
      faults.size === 0;
    return {
      orders: Number(sum.orders),
      events: Number(sum.events),
      live: BigInt(sum.live),
      replayed: BigInt(sum.replayed),
      found: alike ? [] : await differences(client, 'id > $1 AND id <= $2', [after, upTo], faults),
      rest: rows[0]?.last ? { after: upTo, upTo: end } : undefined,
    };
  });
}

/** Replays into the shadow table. @returns what is wrong with the histories that cannot be replayed, by order */
async function fillShadow(
  client: ClientBase,
  ranges: readonly IdRange[],
): Promise<Map<string, string>> {
  await client.query('TRUNCATE orders_shadow');
  const faults = new Map<string, string>();
  const orders: ReplayedOrder[] = [];
  for (const range of ranges)
    for await (const order of replayOrders(client, range)) {
      if ('fault' in order) faults.set(order.id, order.fault);
      else orders.push(order);
    }
  const column = <T>(of: (order: ReplayedOrder) => T): T[] => orders.map(of);
  await client.query({
    name: 'shadow',
    text: `INSERT INTO orders_shadow (id, ${COLUMNS.join(', ')}, events)
      SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::bigint[], $7::text[], $8::bigint[],
                           $9::timestamptz[], $10::timestamptz[], $11::bigint[])`,
    values: [
      column(({ id }) => id),
      column(({ state }) => state.userId),
      column(({ state }) => state.status),
      column(({ state }) => state.currency),
      column(({ state }) => JSON.stringify(state.items)),
      column(({ state }) => state.total),
      column(({ state }) => state.note),
      column(({ version }) => version),
      column(({ createdAt }) => createdAt.toISOString()),
      column(({ updatedAt }) => updatedAt.toISOString()),
      column(({ events }) => events),
    ],
  });
  return faults;
}

/** What differs between the rows that `live` names and the shadow. */
async function differences(
  client: ClientBase,
  live: string,
  values: unknown[],
  faults: ReadonlyMap<string, string>,
): Promise<Found[]> {
  const { rows } = await client.query<{
    id: string;
    live: boolean;
    shadow: boolean;
    columns: string[];
  }>(
    `SELECT id, o.id IS NOT NULL AS live, s.id IS NOT NULL AS shadow,
            array_remove(ARRAY[${COLUMNS.map((name) => `CASE WHEN o.${name} IS DISTINCT FROM s.${name} THEN '${name}' END`).join(', ')},
                         CASE WHEN s.events <> s.version THEN 'gaps' END], NULL) AS columns
       FROM (SELECT * FROM orders WHERE ${live}) AS o FULL JOIN orders_shadow AS s USING (id) ORDER BY id`,
    values,
  );
  const found = rows.flatMap(({ id, live, shadow, columns }): Found[] => {
    if (!shadow) return [{ id, kind: 'hopeless', why: faults.get(id) ?? 'no events' }];
    if (!live) return [{ id, kind: 'missing', why: 'no row' }];
    return columns.length > 0 ? [{ id, kind: 'row', why: columns.join(', ') }] : [];
  });
  const seen = new Set(rows.map(({ id }) => id));
  for (const [id, why] of faults) if (!seen.has(id)) found.push({ id, kind: 'hopeless', why });
  return found;
}

/** Mends these orders, as far as they still need it, under their rows' locks. @returns those that are mended */
async function mendRows(client: ClientBase, ids: readonly string[]): Promise<string[]> {
  try {
    return await inTransaction(client, '', async () => {
      await client.query('SELECT FROM orders WHERE id = ANY($1) ORDER BY id FOR UPDATE', [ids]);
      // Under the locks nothing moves any more: the events as they are now decide.
      await fillShadow(client, ids.map(only));
      const found = await differences(client, 'id = ANY($1)', [ids], new Map());
      const of = (kind: Found['kind']): string[] =>
        found.filter((one) => one.kind === kind).map(({ id }) => id);
      const [missing, damaged] = [of('missing'), of('row')];
      await client.query(
        `INSERT INTO orders (id, ${COLUMNS.join(', ')}) SELECT id, ${COLUMNS.join(', ')} FROM orders_shadow WHERE id = ANY($1)`,
        [missing],
      );
      await rewrite(client, damaged);
      return [...missing, ...damaged];
    });
  } catch (error) {
    // Somebody holds one of them: they are told as not mended, and the next run tries again.
    if ((error as { code?: string }).code === '55P03') return [];
    throw error;
  }
}

const only = (id: string): IdRange => ({ after: before(id), upTo: id });

/** The id before this one. */
function before(id: string): string {
  const number = BigInt(`0x${id.replaceAll('-', '')}`) - 1n;
  return number
    .toString(16)
    .padStart(32, '0')
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

async function rewrite(client: ClientBase, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  // A version moves by one with each write and by nothing else: a row that has fallen behind its events catches up.
  const behind = `UPDATE orders AS o SET version = o.version FROM orders_shadow AS s
                   WHERE o.id = s.id AND o.id = ANY($1) AND o.version < s.version`;
  while ((await client.query(behind, [ids])).rowCount);
  const written = COLUMNS.filter((name) => name !== 'version' && name !== 'updated_at');
  await client.query(
    `UPDATE orders AS o SET ${written.map((name) => `${name} = s.${name}`).join(', ')} FROM orders_shadow AS s
      WHERE o.id = s.id AND o.id = ANY($1)`,
    [ids],
  );
  await client.query(
    `INSERT INTO users (id, created_at, deleted_at) VALUES ($1, now(), now()) ON CONFLICT (id) DO NOTHING`,
    [SERVICE_ID],
  );
  await client.query(
    `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
     SELECT o.id, v, $2, $3, '{}', $4, coalesce((SELECT min(later.occurred_at) FROM order_events AS later
                                                  WHERE later.order_id = o.id AND later.version > v), o.updated_at)
       FROM orders AS o CROSS JOIN LATERAL generate_series(1, o.version) AS v
      WHERE o.id = ANY($1) AND NOT EXISTS (SELECT FROM order_events AS e WHERE e.order_id = o.id AND e.version = v)`,
    [ids, REBUILT, EVENT_SCHEMA, SERVICE_ID],
  );
  await client.query(
    `INSERT INTO outbox (id, type, subject, data)
     SELECT message.id, $3, 'orders/' || o.id,
            jsonb_build_object('version', o.version, 'userId', o.user_id, 'status', o.status, 'currency', o.currency, 'total', o.total,
              'createdAt', to_char(o.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
              'previous', jsonb_build_object('status', o.status, 'total', o.total))
       FROM orders AS o JOIN unnest($1::uuid[], $2::uuid[]) AS message (order_id, id) ON message.order_id = o.id`,
    [ids, ids.map(() => uuidv7()), REBUILT],
  );
  // A member that moved within its list changes none of the keys that the trigger knows of.
  await client.query(
    `INSERT INTO cache_invalidations (keys) SELECT array_agg(DISTINCT 'order:ofUser:' || user_id) FROM orders WHERE id = ANY($1)`,
    [ids],
  );
}
