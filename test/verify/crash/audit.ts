/**
 * What must hold after any crash, asked of the database in plain SQL. See {@link RULES}.
 */
import type { Client } from 'pg';
import { type OrderState, replay } from '../../../src/orders/projection/order-events.js';
import { bodyOf, keyedRequestsOf, orderIdOf, type Purchase } from './customers.js';

export const RULES = [
  'a key places one order',
  'an acknowledged order exists',
  'a repeated key gets the same answer',
  'the stored answer is the answer',
  'events are 1 to n',
  'the outbox has each event in order',
  'the order equals the replay of its events',
  'no key is in flight',
] as const;
export type Rule = (typeof RULES)[number];

export interface Violation {
  readonly rule: Rule;
  readonly details: string;
}

interface OrderEventRow {
  readonly version: number;
  readonly type: string;
  readonly schema: number;
  readonly data: Record<string, unknown>;
}

interface OrderRow {
  readonly id: string;
  readonly version: number;
  readonly state: OrderState;
  readonly events: readonly OrderEventRow[];
  /** Its events in the outbox, in the order of their positions. */
  readonly outbox: readonly { version: number; type: string }[];
}

/** The orders whose notes are in $1, with their events and their rows of the outbox. */
const SELECT_ORDERS = `
  SELECT id, version::int AS version,
         jsonb_build_object(
           'userId', user_id, 'status', status, 'currency', currency,
           'items', items, 'total', total, 'note', note) AS state,
         (SELECT coalesce(jsonb_agg(
                   jsonb_build_object(
                     'version', event.version, 'type', type, 'schema', schema, 'data', data)
                   ORDER BY event.version), '[]')
            FROM order_events AS event WHERE order_id = orders.id) AS events,
         (SELECT coalesce(jsonb_agg(
                   jsonb_build_object('version', data -> 'version', 'type', type)
                   ORDER BY position), '[]')
            FROM outbox WHERE subject = 'orders/' || orders.id) AS outbox
    FROM orders WHERE note = ANY ($1)`;

/** The advisory locks of customer $1 for the keys $2: a request with the key still runs. */
const SELECT_LOCKS = `
  SELECT pid
    FROM pg_locks
    JOIN unnest($2::text[]) AS key
      ON locktype = 'advisory'
     AND (classid::bigint << 32) | objid::bigint = hashtextextended($1 || ':' || key, 0)`;

/**
 * Judges the orders of these purchases.
 * @param purchases of one customer, each key repeated after the last crash
 */
export async function audit(
  database: Client,
  customerId: string,
  purchases: readonly Purchase[],
): Promise<Violation[]> {
  const tags = purchases.map(({ tag }) => tag);
  const { rows: orders } = await database.query<OrderRow>(SELECT_ORDERS, [tags]);
  return [
    ...auditPlacements(purchases, orders),
    ...(await auditAnswers(database, purchases)),
    ...orders.flatMap(auditOrder),
    ...(await auditLocks(database, customerId, purchases)),
  ];
}

function auditPlacements(purchases: readonly Purchase[], orders: readonly OrderRow[]): Violation[] {
  const violations: Violation[] = [];
  for (const { tag, place } of purchases) {
    const ids = orders.filter(({ state }) => state.note === tag).map(({ id }) => id);
    if (ids.length > 1) {
      violations.push({ rule: 'a key places one order', details: `${tag}: ${ids.join(', ')}` });
    }
    const missing = [...place.answers].map(orderIdOf).filter((id) => !ids.includes(id));
    for (const id of missing) {
      violations.push({ rule: 'an acknowledged order exists', details: `${tag}: ${id}` });
    }
  }
  return violations;
}

async function auditAnswers(
  database: Client,
  purchases: readonly Purchase[],
): Promise<Violation[]> {
  const requests = keyedRequestsOf(purchases);
  const { rows } = await database.query<{ key: string; body: string }>(
    'SELECT key, body FROM idempotency_keys WHERE key = ANY ($1)',
    [requests.map(({ key }) => key)],
  );
  const violations: Violation[] = [];
  for (const { key, path, answers } of requests) {
    if (answers.size !== 1) {
      const details = `${path} ${key}: ${[...answers].join(' and ')}`;
      violations.push({ rule: 'a repeated key gets the same answer', details });
    }
    const storedBodies = rows.filter((row) => row.key === key).map(({ body }) => body);
    const answeredBodies = [...answers].map(bodyOf);
    const isStored = storedBodies.length === 1 && answeredBodies.includes(storedBodies[0] ?? '');
    if (!isStored) {
      violations.push({ rule: 'the stored answer is the answer', details: `${path} ${key}` });
    }
  }
  return violations;
}

function auditOrder({ id, version, state, events, outbox }: OrderRow): Violation[] {
  const violations: Violation[] = [];
  const versions = events.map((event) => event.version);
  const expectedVersions = Array.from({ length: version }, (_, index) => index + 1);
  if (!isEqual(versions, expectedVersions)) {
    const details = `${id}: ${versions.join()} of ${version}`;
    violations.push({ rule: 'events are 1 to n', details });
  }
  const expectedOutbox = events.map((event) => ({ version: event.version, type: event.type }));
  if (!isEqual(outbox, expectedOutbox)) {
    violations.push({ rule: 'the outbox has each event in order', details: id });
  }
  if (!isEqual(replayOrUndefined(events), state)) {
    violations.push({ rule: 'the order equals the replay of its events', details: id });
  }
  return violations;
}

async function auditLocks(
  database: Client,
  customerId: string,
  purchases: readonly Purchase[],
): Promise<Violation[]> {
  const keys = keyedRequestsOf(purchases).map(({ key }) => key);
  const { rows } = await database.query(SELECT_LOCKS, [customerId, keys]);
  if (rows.length === 0) return [];
  return [{ rule: 'no key is in flight', details: `${rows.length} locks` }];
}

/** @returns undefined for a sequence that no order can have */
function replayOrUndefined(events: readonly OrderEventRow[]): OrderState | null | undefined {
  try {
    return replay(events);
  } catch {
    return undefined;
  }
}

const isEqual = (one: unknown, another: unknown): boolean =>
  canonicalJson(one) === canonicalJson(another);

/** JSON with the members of each object in the order of their names. */
const canonicalJson = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) => {
    const isObject = typeof part === 'object' && part !== null && !Array.isArray(part);
    if (!isObject) return part;
    return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
