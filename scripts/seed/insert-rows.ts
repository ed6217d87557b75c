/** Inserts seeded rows, many in one statement. */
import type { Client } from 'pg';
import { WRITTEN_EVENT_SCHEMA } from '../../src/orders/projection/order-events.js';
import type { SampleEvent, SampleOrder } from './sample-orders.js';

const INSERT_USERS = `
  INSERT INTO users (id, username, email, roles, created_at, updated_at)
  SELECT id, name, name || '@example.com', $4, at, at
    FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS row (id, name, at)`;

const INSERT_CREDENTIALS = `
  INSERT INTO credentials (user_id, password_hash, updated_at)
  SELECT id, $2, at FROM unnest($1::uuid[], $3::timestamptz[]) AS row (id, at)`;

const INSERT_ORDERS = `
  INSERT INTO orders
    (id, user_id, status, currency, items, total, note, version, created_at, updated_at)
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::bigint[],
                       $7::text[], $8::bigint[], $9::timestamptz[], $10::timestamptz[])`;

const INSERT_EVENTS = `
  INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
  SELECT id, version, type, $7::smallint, data, actor, at
    FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[], $5::uuid[], $6::timestamptz[])
      AS row (id, version, type, data, actor, at)`;

export interface UserRows {
  readonly ids: readonly string[];
  readonly usernames: readonly string[];
  /** Milliseconds since 1970. */
  readonly registeredAt: readonly number[];
}

const toIso = (time: number): string => new Date(time).toISOString();

export async function insertUsers(
  client: Client,
  { ids, usernames, registeredAt }: UserRows,
  roles: readonly string[],
): Promise<void> {
  await client.query(INSERT_USERS, [ids, usernames, registeredAt.map(toIso), roles]);
}

export async function insertCredentials(
  client: Client,
  { ids, registeredAt }: UserRows,
  passwordHash: string,
): Promise<void> {
  await client.query(INSERT_CREDENTIALS, [ids, passwordHash, registeredAt.map(toIso)]);
}

export async function insertOrders(client: Client, orders: readonly SampleOrder[]): Promise<void> {
  const column = <T>(valueOf: (order: SampleOrder) => T): T[] => orders.map(valueOf);
  await client.query({
    name: 'insert-orders',
    text: INSERT_ORDERS,
    values: [
      column(({ id }) => id),
      column(({ state }) => state.userId),
      column(({ state }) => state.status),
      column(({ state }) => state.currency),
      column(({ state }) => JSON.stringify(state.items)),
      column(({ state }) => state.total),
      column(({ state }) => state.note),
      column(({ events }) => events.length),
      column(({ events }) => toIso((events[0] as SampleEvent).occurredAt)),
      column(({ events }) => toIso((events.at(-1) as SampleEvent).occurredAt)),
    ],
  });
  const events = orders.flatMap(({ id, events }) =>
    events.map((event, index) => ({ ...event, id, version: index + 1 })),
  );
  await client.query({
    name: 'insert-events',
    text: INSERT_EVENTS,
    values: [
      events.map(({ id }) => id),
      events.map(({ version }) => version),
      events.map(({ type }) => type),
      events.map(({ data }) => JSON.stringify(data)),
      events.map(({ actorId }) => actorId),
      events.map(({ occurredAt }) => toIso(occurredAt)),
      WRITTEN_EVENT_SCHEMA,
    ],
  });
}
