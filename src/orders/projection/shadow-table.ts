/**
 * A temporary table of orders as their events make them, and its comparison with `orders`. It holds
 * one batch at a time and belongs to one connection.
 */
import type { ClientBase } from 'pg';
import { type IdRange, type ReplayedOrder, replayOrders } from './replay-orders.js';

/** The columns of `orders` that the events decide. */
export const PROJECTED_COLUMNS = [
  'user_id',
  'status',
  'currency',
  'items',
  'total',
  'note',
  'version',
  'created_at',
  'updated_at',
] as const;
export const PROJECTED_COLUMN_LIST = PROJECTED_COLUMNS.join(', ');

/** One row's contribution to a checksum. The sum does not depend on the order of the rows. */
const ROW_HASH = `hashtextextended(ROW(id, ${PROJECTED_COLUMN_LIST})::text, 0)`;

const CREATE_SHADOW = `
  CREATE TEMP TABLE IF NOT EXISTS orders_shadow (LIKE orders, events bigint NOT NULL)`;

const INSERT_SHADOW = `
  INSERT INTO orders_shadow (id, ${PROJECTED_COLUMN_LIST}, events)
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::bigint[],
                       $7::text[], $8::bigint[], $9::timestamptz[], $10::timestamptz[],
                       $11::bigint[])`;

const SUM_UP = `
  WITH
    -- the rows of the range
    live AS (
      SELECT count(*) AS orders, coalesce(sum(${ROW_HASH}), 0) AS orders_sum
        FROM orders WHERE id > $1 AND id <= $2),
    -- what the events of the range make; gaps: orders whose versions are not 1 to n
    shadow AS (
      SELECT count(*) AS replayed, coalesce(sum(events), 0) AS events,
             coalesce(sum(${ROW_HASH}), 0) AS replayed_sum,
             count(*) FILTER (WHERE events <> version) AS gaps
        FROM orders_shadow)
  SELECT live.*, shadow.* FROM live CROSS JOIN shadow`;

const DIFFERENT_COLUMNS = PROJECTED_COLUMNS.map(
  (name) => `CASE WHEN live.${name} IS DISTINCT FROM shadow.${name} THEN '${name}' END`,
).join(', ');

/** @param filter which rows of `orders` to compare with the shadow table */
const selectDifferences = (filter: string): string => `
  SELECT id, live.id IS NOT NULL AS "isLive", shadow.id IS NOT NULL AS "isReplayed",
         array_remove(ARRAY[${DIFFERENT_COLUMNS},
                            CASE WHEN shadow.events <> shadow.version THEN 'gaps' END],
                      NULL) AS columns
    FROM (SELECT * FROM orders WHERE ${filter}) AS live
    FULL JOIN orders_shadow AS shadow USING (id)
   ORDER BY id`;
const DIFFERENCES_IN_RANGE = selectDifferences('id > $1 AND id <= $2');
const DIFFERENCES_OF_IDS = selectDifferences('id = ANY($1)');

/** Items of the orders that are inserted together: they are in memory meanwhile. */
const MAX_INSERT_BYTES = 2_097_152;

/** An order that is not what its events make of it. */
export interface DifferentOrder {
  readonly id: string;
  /**
   * The columns that differ; or `no row`, `no events`, `gaps`, or what is wrong with the events.
   */
  readonly reason: string;
  /** `unreplayable`: its events make no order, so that nothing can be repaired from them. */
  readonly kind: 'damaged' | 'missing' | 'unreplayable';
}

export interface RangeSums {
  readonly orders: number;
  readonly events: number;
  /** Sums of the rows' hashes: equal when all rows are equal. */
  readonly ordersSum: bigint;
  readonly replayedSum: bigint;
  /** Whether every order of the range equals the replay of its events. */
  readonly isEqual: boolean;
}

export async function createShadowTable(client: ClientBase): Promise<void> {
  await client.query(CREATE_SHADOW);
}

/**
 * Replaces the shadow table's rows by the replay of these ranges.
 * @returns what is wrong with the histories that cannot be replayed, by order id
 */
export async function fillShadowTable(
  client: ClientBase,
  ranges: readonly IdRange[],
): Promise<ReadonlyMap<string, string>> {
  await client.query('TRUNCATE orders_shadow');
  const problems = new Map<string, string>();
  let rows: ShadowRow[] = [];
  let bytes = 0;
  for (const range of ranges) {
    for await (const order of replayOrders(client, range)) {
      if ('problem' in order) {
        problems.set(order.id, order.problem);
        continue;
      }
      const items = JSON.stringify(order.state.items);
      rows.push({ order, items });
      bytes += Buffer.byteLength(items);
      if (bytes < MAX_INSERT_BYTES) continue;
      await insertRows(client, rows);
      [rows, bytes] = [[], 0];
    }
  }
  await insertRows(client, rows);
  return problems;
}

interface ShadowRow {
  readonly order: ReplayedOrder;
  /** As JSON. */
  readonly items: string;
}

async function insertRows(client: ClientBase, rows: readonly ShadowRow[]): Promise<void> {
  const column = <T>(valueOf: (order: ReplayedOrder) => T): T[] =>
    rows.map(({ order }) => valueOf(order));
  await client.query({
    name: 'insert-shadow',
    text: INSERT_SHADOW,
    values: [
      column(({ id }) => id),
      column(({ state }) => state.userId),
      column(({ state }) => state.status),
      column(({ state }) => state.currency),
      rows.map(({ items }) => items),
      column(({ state }) => state.total),
      column(({ state }) => state.note),
      column(({ version }) => version),
      column(({ createdAt }) => createdAt.toISOString()),
      column(({ updatedAt }) => updatedAt.toISOString()),
      column(({ eventCount }) => eventCount),
    ],
  });
}

/** Counts and checksums of a range that the shadow table was filled with. */
export async function sumUpRange(client: ClientBase, { after, upTo }: IdRange): Promise<RangeSums> {
  const { rows } = await client.query<
    Record<'orders' | 'orders_sum' | 'replayed' | 'replayed_sum' | 'events' | 'gaps', string>
  >(SUM_UP, [after, upTo]);
  const [sums] = rows;
  if (!sums) throw new Error('PostgreSQL returned no checksums');
  const isEqual =
    sums.orders === sums.replayed && sums.orders_sum === sums.replayed_sum && sums.gaps === '0';
  return {
    orders: Number(sums.orders),
    events: Number(sums.events),
    ordersSum: BigInt(sums.orders_sum),
    replayedSum: BigInt(sums.replayed_sum),
    isEqual,
  };
}

/** @param problems what {@link fillShadowTable} returned for the range */
export const findDifferencesInRange = (
  client: ClientBase,
  { after, upTo }: IdRange,
  problems: ReadonlyMap<string, string>,
): Promise<DifferentOrder[]> =>
  findDifferences(client, DIFFERENCES_IN_RANGE, [after, upTo], problems);

/** @param problems what {@link fillShadowTable} returned for the ids */
export const findDifferencesOf = (
  client: ClientBase,
  ids: readonly string[],
  problems: ReadonlyMap<string, string>,
): Promise<DifferentOrder[]> => findDifferences(client, DIFFERENCES_OF_IDS, [ids], problems);

async function findDifferences(
  client: ClientBase,
  sql: string,
  values: unknown[],
  problems: ReadonlyMap<string, string>,
): Promise<DifferentOrder[]> {
  const { rows } = await client.query<{
    id: string;
    isLive: boolean;
    isReplayed: boolean;
    columns: string[];
  }>(sql, values);
  const found = rows.flatMap(({ id, isLive, isReplayed, columns }): DifferentOrder[] => {
    if (!isReplayed) {
      return [{ id, kind: 'unreplayable', reason: problems.get(id) ?? 'no events' }];
    }
    if (!isLive) return [{ id, kind: 'missing', reason: 'no row' }];
    return columns.length > 0 ? [{ id, kind: 'damaged', reason: columns.join(', ') }] : [];
  });
  const comparedIds = new Set(rows.map(({ id }) => id));
  for (const [id, reason] of problems) {
    // Neither a row nor a replay: only the problem is left to report.
    if (!comparedIds.has(id)) found.push({ id, kind: 'unreplayable', reason });
  }
  return found;
}
