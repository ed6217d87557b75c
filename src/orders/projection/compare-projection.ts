/**
 * Compares `orders` with the replay of the events, and repairs what differs, while the service
 * runs. Each batch is compared in one snapshot. An order and its event commit together, so a
 * difference is damage and never a write in progress. docs/design/order-history.md
 */
import type { ClientBase } from 'pg';
import { inTransaction } from './rebuild-transaction.js';
import { configureRepairs, repairOrders } from './repair-projection.js';
import { ALL_IDS, type IdRange } from './replay-orders.js';
import {
  createShadowTable,
  type DifferentOrder,
  fillShadowTable,
  findDifferencesInRange,
  type RangeSums,
  sumUpRange,
} from './shadow-table.js';

/** How much is processed at a time. */
export interface BatchLimits {
  /** At most so many orders in one snapshot. */
  readonly maxOrders: number;
  /** About so many events in one snapshot. An order is never split. */
  readonly maxEvents: number;
  /** At most so many rows locked together for a repair. */
  readonly maxLockedRows: number;
}
const DEFAULT_LIMITS: BatchLimits = { maxOrders: 1_000, maxEvents: 5_000, maxLockedRows: 100 };

export interface Difference {
  readonly id: string;
  /**
   * The columns that differ; or `no row`, `no events`, `gaps`, or what is wrong with the events.
   */
  readonly reason: string;
  readonly repaired: boolean;
}

export interface CompareOptions {
  /** False: only compare, and change nothing. */
  readonly repair: boolean;
  /** Called once for each difference, when it is repaired or left. */
  readonly onDifference: (difference: Difference) => void;
  /** Called with the number of orders compared so far. */
  readonly onProgress?: (orders: number) => void;
  readonly limits?: BatchLimits | undefined;
}

export interface Comparison {
  readonly orders: number;
  readonly events: number;
  /** In hexadecimal: the sum of the hashes of all rows, modulo 2^64. */
  readonly checksums: { readonly orders: string; readonly replayed: string };
  readonly different: number;
  readonly repaired: number;
}

/** The end of a batch: the id at which `orders` or `order_events` reaches its limit first. */
const SELECT_BATCH_END = `
  SELECT least(
    (SELECT id FROM orders
      WHERE id > $1 ORDER BY id OFFSET $2 LIMIT 1),
    (SELECT order_id FROM order_events
      WHERE order_id > $1 ORDER BY order_id OFFSET $3 LIMIT 1)) AS "lastId"`;

/**
 * Compares all orders, batch by batch.
 * @param client a connection that nothing else uses; its session settings are changed
 */
export async function compareProjection(
  client: ClientBase,
  { repair, onDifference, onProgress = () => undefined, limits = DEFAULT_LIMITS }: CompareOptions,
): Promise<Comparison> {
  await createShadowTable(client);
  await configureRepairs(client);
  const totals = { orders: 0, events: 0, different: 0, repaired: 0 };
  let ordersSum = 0n;
  let replayedSum = 0n;
  let range: IdRange | undefined = ALL_IDS;
  while (range) {
    const batch: ComparedBatch = await compareBatch(client, range, limits);
    const repairedIds = repair
      ? await repairBatch(client, batch.differences, limits)
      : new Set<string>();
    for (const { id, reason } of batch.differences) {
      onDifference({ id, reason, repaired: repairedIds.has(id) });
    }
    totals.orders += batch.sums.orders;
    totals.events += batch.sums.events;
    totals.different += batch.differences.length;
    totals.repaired += repairedIds.size;
    ordersSum = BigInt.asUintN(64, ordersSum + batch.sums.ordersSum);
    replayedSum = BigInt.asUintN(64, replayedSum + batch.sums.replayedSum);
    onProgress(totals.orders);
    range = batch.rest;
  }
  return { ...totals, checksums: { orders: toHex(ordersSum), replayed: toHex(replayedSum) } };
}

const toHex = (checksum: bigint): string => checksum.toString(16).padStart(16, '0');

interface ComparedBatch {
  readonly sums: RangeSums;
  readonly differences: readonly DifferentOrder[];
  /** The ids that are left; undefined after the last batch. */
  readonly rest: IdRange | undefined;
}

/** Compares the first orders of the range, in one snapshot. */
function compareBatch(
  client: ClientBase,
  { after, upTo }: IdRange,
  { maxOrders, maxEvents }: BatchLimits,
): Promise<ComparedBatch> {
  return inTransaction(client, 'REPEATABLE READ', async () => {
    const { rows } = await client.query<{ lastId: string | null }>(SELECT_BATCH_END, [
      after,
      maxOrders - 1,
      maxEvents - 1,
    ]);
    const lastId = rows[0]?.lastId ?? undefined;
    const batch = { after, upTo: lastId ?? upTo };
    const problems = await fillShadowTable(client, [batch]);
    const sums = await sumUpRange(client, batch);
    const isEqual = sums.isEqual && problems.size === 0;
    return {
      sums,
      differences: isEqual ? [] : await findDifferencesInRange(client, batch, problems),
      rest: lastId === undefined ? undefined : { after: lastId, upTo },
    };
  });
}

/** @returns the ids of the orders that were repaired */
async function repairBatch(
  client: ClientBase,
  differences: readonly DifferentOrder[],
  { maxLockedRows }: BatchLimits,
): Promise<ReadonlySet<string>> {
  const ids = differences.filter(({ kind }) => kind !== 'unreplayable').map(({ id }) => id);
  const repairedIds = new Set<string>();
  for (let start = 0; start < ids.length; start += maxLockedRows) {
    const repaired = await repairOrders(client, ids.slice(start, start + maxLockedRows));
    for (const id of repaired) repairedIds.add(id);
  }
  return repairedIds;
}
