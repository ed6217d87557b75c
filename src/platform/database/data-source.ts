/**
 * How this service speaks to PostgreSQL: the driver's options, the bounds on every statement, and the list of migrations
 * (by class, in order; never a glob). The bounds stay below the cache's fence (cache/invalidation.service.ts, FENCE_MS), so
 * that no transaction outlives the fences that guard it.
 */
import type pg from 'pg';
import type { DataSourceOptions } from 'typeorm';
import type { PostgresDataSourceOptions } from 'typeorm/driver/postgres/PostgresDataSourceOptions.js';
import { Users1763683200000 } from '../../migrations/1763683200000-users.js';
import { Sessions1763683200001 } from '../../migrations/1763683200001-sessions.js';
import { Orders1763683200002 } from '../../migrations/1763683200002-orders.js';
import { Outbox1763683200003 } from '../../migrations/1763683200003-outbox.js';
import { IdempotencyKeys1763683200004 } from '../../migrations/1763683200004-idempotency-keys.js';
import { CacheInvalidations1763683200005 } from '../../migrations/1763683200005-cache-invalidations.js';
import { OrderConstraints1763683200006 } from '../../migrations/1763683200006-order-constraints.js';
import { OutboxLanes1763683200007 } from '../../migrations/1763683200007-outbox-lanes.js';
import { OrderHistory1763683200008 } from '../../migrations/1763683200008-order-history.js';
import { Inbox1763683200009 } from '../../migrations/1763683200009-inbox.js';
import { KnownDevices1763683200010 } from '../../migrations/1763683200010-known-devices.js';
import { OrderLists1763683200012 } from '../../migrations/1763683200012-order-lists.js';

/** Milliseconds. `connect` also bounds the wait for a free connection of the pool. */
export const BOUNDS = {
  connect: 800,
  statement: 5_000,
  lock: 3_000,
  idleInTransaction: 5_000,
  query: 6_000,
} as const;

export const MIGRATIONS = [
  Users1763683200000,
  Sessions1763683200001,
  Orders1763683200002,
  Outbox1763683200003,
  IdempotencyKeys1763683200004,
  CacheInvalidations1763683200005,
  OrderConstraints1763683200006,
  OutboxLanes1763683200007,
  OrderHistory1763683200008,
  Inbox1763683200009,
  KnownDevices1763683200010,
  OrderLists1763683200012,
];

/** @param pool connections of this process @param Client the pool's client class, pg's own when absent */
export function dataSourceOptions(
  url: string,
  pool: number,
  Client?: typeof pg.Client,
): DataSourceOptions & PostgresDataSourceOptions {
  return {
    type: 'postgres',
    url,
    migrations: MIGRATIONS,
    migrationsTableName: 'migrations',
    migrationsTransactionMode: 'each',
    synchronize: false,
    logging: false,
    poolSize: pool,
    connectTimeoutMS: BOUNDS.connect,
    applicationName: 'holdfast',
    parseInt8: false,
    extra: {
      ...(Client ? { Client } : {}),
      // This session fences the keys of what it changes; unit-of-work.ts takes that back where it could not.
      options: '-c holdfast.fenced=on',
      statement_timeout: BOUNDS.statement,
      lock_timeout: BOUNDS.lock,
      idle_in_transaction_session_timeout: BOUNDS.idleInTransaction,
      query_timeout: BOUNDS.query,
      keepAlive: true,
    },
  };
}
