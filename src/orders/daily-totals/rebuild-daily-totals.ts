/**
 * Counts the daily totals again from all events, in one snapshot. Their consumer's lock keeps the
 * consumer out meanwhile. The new totals hold every event of the snapshot, so exactly the
 * deliveries of the snapshot are marked as handled. Later events wait and are added by the
 * consumer. Readers see the old totals until the new ones are committed.
 */
import type { ClientBase } from 'pg';
import { CONSUMER_LOCK } from '../../platform/inbox/consumer-lock.js';
import type { OrderState } from '../projection/order-events.js';
import { inTransaction } from '../projection/rebuild-transaction.js';
import { ALL_IDS, replayOrders } from '../projection/replay-orders.js';
import { DAILY_TOTALS_CONSUMER } from './daily-totals.service.js';

const LOCK_CONSUMER = `SELECT pg_advisory_lock(${CONSUMER_LOCK})`;
const UNLOCK_CONSUMER = `SELECT pg_advisory_unlock(${CONSUMER_LOCK})`;

const ADD_TOTALS = `
  INSERT INTO order_figures AS daily (day, status, currency, count, total)
  SELECT * FROM unnest($1::date[], $2::text[], $3::text[], $4::bigint[], $5::numeric[])
  ON CONFLICT (day, status, currency)
  DO UPDATE SET count = daily.count + excluded.count, total = daily.total + excluded.total`;

const COPY_OLD_TOTALS = `
  CREATE TEMP TABLE old_totals ON COMMIT DROP AS SELECT * FROM order_figures WHERE count <> 0`;

const COUNT_CHANGED_TOTALS = `
  SELECT count(*)::int AS changed
    FROM order_figures AS new FULL JOIN old_totals AS old USING (day, status, currency)
   WHERE (new.count, new.total) IS DISTINCT FROM (old.count, old.total)`;

/** Dead letters among them are not dead any more. */
const MARK_EVENTS_HANDLED = `
  WITH handled AS (
    UPDATE inbox SET handled_at = clock_timestamp(), retry_at = NULL
     WHERE consumer = $1 AND handled_at IS NULL
    RETURNING event_id)
  DELETE FROM inbox_dead_letters
   WHERE consumer = $1 AND event_id IN (SELECT event_id FROM handled)`;

interface DailySum {
  readonly day: string;
  readonly status: string;
  readonly currency: string;
  count: number;
  total: bigint;
}

/** Sums orders by day, status and currency in memory: one entry for each such group. */
export class TotalsByGroup {
  private readonly sums = new Map<string, DailySum>();

  add(
    createdAt: Date,
    { status, currency, total }: Pick<OrderState, 'status' | 'currency' | 'total'>,
  ): void {
    const day = createdAt.toISOString().slice(0, 10);
    const key = `${day} ${status} ${currency}`;
    const sum = this.sums.get(key) ?? { day, status, currency, count: 0, total: 0n };
    sum.count++;
    sum.total += BigInt(total);
    this.sums.set(key, sum);
  }

  /** Adds the sums to the table. */
  async store(client: ClientBase): Promise<void> {
    // All writers lock the rows in one order, so that they cannot deadlock.
    const sorted = [...this.sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
    await client.query(ADD_TOTALS, [
      sorted.map(({ day }) => day),
      sorted.map(({ status }) => status),
      sorted.map(({ currency }) => currency),
      sorted.map(({ count }) => count),
      sorted.map(({ total }) => String(total)),
    ]);
  }
}

/**
 * @param client a connection that nothing else uses
 * @returns how many orders were counted, and how many totals changed
 */
export async function rebuildDailyTotals(
  client: ClientBase,
): Promise<{ orders: number; changed: number }> {
  await client.query(LOCK_CONSUMER, [DAILY_TOTALS_CONSUMER]);
  try {
    return await inTransaction(client, 'REPEATABLE READ', () => countAgain(client));
  } finally {
    await client.query(UNLOCK_CONSUMER, [DAILY_TOTALS_CONSUMER]).catch(() => undefined);
  }
}

async function countAgain(client: ClientBase): Promise<{ orders: number; changed: number }> {
  const totals = new TotalsByGroup();
  let orders = 0;
  for await (const order of replayOrders(client, ALL_IDS)) {
    if ('problem' in order) continue;
    totals.add(order.createdAt, order.state);
    orders++;
  }
  await client.query(COPY_OLD_TOTALS);
  await client.query('DELETE FROM order_figures');
  await totals.store(client);
  const { rows } = await client.query<{ changed: number }>(COUNT_CHANGED_TOTALS);
  // The snapshot decides: an event that it does not show was not counted, and stays pending.
  await client.query(MARK_EVENTS_HANDLED, [DAILY_TOTALS_CONSUMER]);
  return { orders, changed: rows[0]?.changed ?? 0 };
}
