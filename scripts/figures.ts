/**
 * The daily figures, counted anew from the events, in one snapshot. Their consumer is held off meanwhile by its own lock: the
 * figures of the snapshot hold all events that the snapshot shows, so exactly those of its deliveries are marked as handled;
 * what commits later waits and is added afterwards. Readers see the old figures until the new ones are committed.
 */
import type { ClientBase } from 'pg';
import { CONSUMER_LOCK } from '../src/inbox/inbox.service.js';
import { FIGURES } from '../src/orders/order-figures.js';
import type { OrderState } from '../src/orders/order-events.js';
import { ALL_IDS, replayOrders } from './replay.js';

/** Sums by day, status and currency: as many as there are such groups. */
export class Figures {
  private readonly groups = new Map<string, { count: number; total: bigint }>();

  add(
    createdAt: Date,
    { status, currency, total }: Pick<OrderState, 'status' | 'currency' | 'total'>,
  ): void {
    const key = JSON.stringify([createdAt.toISOString().slice(0, 10), status, currency]);
    const group = this.groups.get(key) ?? { count: 0, total: 0n };
    this.groups.set(key, { count: group.count + 1, total: group.total + BigInt(total) });
  }

  /** Adds them to what is in the table. */
  async store(client: ClientBase): Promise<void> {
    const keys = [...this.groups.keys()]
      .sort()
      .map((key) => JSON.parse(key) as [string, string, string]);
    const sums = [...this.groups.entries()]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([, group]) => group);
    await client.query(
      `INSERT INTO order_figures AS figure (day, status, currency, count, total)
       SELECT * FROM unnest($1::date[], $2::text[], $3::text[], $4::bigint[], $5::numeric[])
       ON CONFLICT (day, status, currency)
       DO UPDATE SET count = figure.count + excluded.count, total = figure.total + excluded.total`,
      [
        keys.map(([day]) => day),
        keys.map(([, status]) => status),
        keys.map(([, , currency]) => currency),
        sums.map(({ count }) => count),
        sums.map(({ total }) => String(total)),
      ],
    );
  }
}

/** @returns how many orders were counted, and how many figures were not what they became (of those without waiting events) */
export async function rebuildFigures(
  client: ClientBase,
): Promise<{ orders: number; changed: number }> {
  await client.query(`SELECT pg_advisory_lock(${CONSUMER_LOCK})`, [FIGURES]);
  try {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const figures = new Figures();
    let orders = 0;
    for await (const order of replayOrders(client, ALL_IDS)) {
      if ('fault' in order) continue;
      figures.add(order.createdAt, order.state);
      orders++;
    }
    await client.query(
      'CREATE TEMP TABLE figures_before ON COMMIT DROP AS SELECT * FROM order_figures WHERE count <> 0',
    );
    await client.query('DELETE FROM order_figures');
    await figures.store(client);
    const { rows } = await client.query<{ changed: number }>(
      `SELECT count(*)::int AS changed FROM order_figures AS now FULL JOIN figures_before AS before USING (day, status, currency)
        WHERE (now.count, now.total) IS DISTINCT FROM (before.count, before.total)`,
    );
    // In this snapshot: what it does not show is not counted, and stays.
    await client.query(
      `UPDATE inbox SET handled_at = clock_timestamp(), retry_at = NULL WHERE consumer = $1 AND handled_at IS NULL`,
      [FIGURES],
    );
    await client.query('COMMIT');
    return { orders, changed: rows[0]?.changed ?? 0 };
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw error;
  } finally {
    await client
      .query(`SELECT pg_advisory_unlock(${CONSUMER_LOCK})`, [FIGURES])
      .catch(() => undefined);
  }
}
