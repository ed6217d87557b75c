/**
 * What must be so after any crash, asked of the database by plain SQL: one order for a key and the same bytes for each of its
 * repetitions, events 1 to n, an outbox row for each event in their order, a projection that is the replay, no key in flight.
 */
import type { Client } from 'pg';
import { type OrderState, replay } from '../../../src/orders/order-events.js';
import type { Purchase } from './customers.js';

export const RULES = [
  'one order for a key',
  'acknowledged and there',
  'the same bytes again',
  'the key’s row is the answer',
  'events 1 to n',
  'the outbox tells each event, in order',
  'the projection is the replay',
  'no key in flight',
] as const;
export type Rule = (typeof RULES)[number];

export interface Violation {
  readonly rule: Rule;
  readonly what: string;
}

interface OrderRow {
  readonly id: string;
  readonly version: number;
  readonly state: OrderState;
  readonly events:
    | readonly { version: number; type: string; schema: number; data: Record<string, unknown> }[]
    | null;
  readonly told: readonly { version: number; type: string }[] | null;
}

const ORDERS = `
  SELECT id, version::int AS version,
         jsonb_build_object('userId', user_id, 'status', status, 'currency', currency, 'items', items, 'total', total, 'note', note) AS state,
         (SELECT jsonb_agg(jsonb_build_object('version', event.version, 'type', type, 'schema', schema, 'data', data) ORDER BY event.version)
            FROM order_events AS event WHERE order_id = orders.id) AS events,
         (SELECT jsonb_agg(jsonb_build_object('version', data -> 'version', 'type', type) ORDER BY position)
            FROM outbox WHERE subject = 'orders/' || orders.id) AS told
    FROM orders WHERE note = ANY ($1)`;

/** Undefined for a sequence that no order can have. */
function replayed(events: NonNullable<OrderRow['events']>): OrderState | null | undefined {
  try {
    return replay(events);
  } catch {
    return undefined;
  }
}

/** As text that equal values share, whatever the order of their members. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) =>
    part && typeof part === 'object' && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([one], [other]) => (one < other ? -1 : 1)))
      : part,
  );

function groupBy<T, K>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

/** Judges the orders of these purchases. Each key was repeated after the last crash, so its answers are all there. */
export async function audit(
  client: Client,
  customerId: string,
  purchases: readonly Purchase[],
): Promise<Violation[]> {
  const found: Violation[] = [];
  const expect = (rule: Rule, holds: boolean, what: () => string): void => {
    if (!holds) found.push({ rule, what: what() });
  };

  const { rows } = await client.query<OrderRow>(ORDERS, [purchases.map(({ tag }) => tag)]);
  const byTag = groupBy(rows, ({ state }) => state.note);
  for (const { tag, place } of purchases) {
    const orders = byTag.get(tag) ?? [];
    expect(
      'one order for a key',
      orders.length <= 1,
      () => `${tag}: ${orders.map(({ id }) => id).join(', ')}`,
    );
    for (const answer of place.answers) {
      const { id } = JSON.parse((JSON.parse(answer) as [number, string])[1]) as { id: string };
      expect(
        'acknowledged and there',
        orders.some((order) => order.id === id),
        () => `${tag}: ${id}`,
      );
    }
  }

  const keyed = purchases.flatMap(({ place, pay }) => (pay ? [place, pay] : [place]));
  const { rows: keys } = await client.query<{ key: string; body: string }>(
    'SELECT key, body FROM idempotency_keys WHERE key = ANY ($1)',
    [keyed.map(({ key }) => key)],
  );
  const kept = groupBy(keys, ({ key }) => key);
  for (const { key, path, answers } of keyed) {
    expect(
      'the same bytes again',
      answers.size === 1,
      () => `${path} ${key}: ${[...answers].join(' and ')}`,
    );
    const bodies = [...answers].map((answer) => (JSON.parse(answer) as [number, string])[1]);
    const own = (kept.get(key) ?? []).map(({ body }) => body);
    expect(
      'the key’s row is the answer',
      own.length === 1 && bodies.includes(own[0] as string),
      () => `${path} ${key}`,
    );
  }

  for (const { id, version, state, events, told } of rows) {
    const versions = (events ?? []).map((event) => event.version);
    const wanted = Array.from({ length: version }, (_, index) => index + 1);
    expect(
      'events 1 to n',
      canonical(versions) === canonical(wanted),
      () => `${id}: ${versions.join()} of ${version}`,
    );
    const happened = (events ?? []).map(({ version, type }) => ({ version, type }));
    expect(
      'the outbox tells each event, in order',
      canonical(told ?? []) === canonical(happened),
      () => id,
    );
    expect(
      'the projection is the replay',
      canonical(replayed(events ?? [])) === canonical(state),
      () => id,
    );
  }

  const { rows: locks } = await client.query(
    `SELECT pid FROM pg_locks JOIN unnest($2::text[]) AS key ON locktype = 'advisory'
        AND (classid::bigint << 32) | objid::bigint = hashtextextended($1 || ':' || key, 0)`,
    [customerId, keyed.map(({ key }) => key)],
  );
  expect('no key in flight', locks.length === 0, () => `${locks.length} locks`);
  return found;
}
