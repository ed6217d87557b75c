/**
 * How this service connects to PostgreSQL: the driver's options and a timeout for every wait.
 * Invariant: each timeout is shorter than a fence (cache/cache-timings.ts), so a transaction ends
 * before the fences that protect it.
 */
import type pg from 'pg';
import type { DataSourceOptions } from 'typeorm';
import { MIGRATIONS } from '#migrations';
import { CLIENT_KEEPALIVE } from '../timing/keepalive.js';

/** All in milliseconds. */
export interface DatabaseTimeouts {
  /** To open a connection, and to wait for a free one in the pool. */
  readonly connect: number;
  /** PostgreSQL cancels a statement after this time (`statement_timeout`). */
  readonly statement: number;
  /** PostgreSQL cancels a statement that waits this long for a lock (`lock_timeout`). */
  readonly lock: number;
  /** PostgreSQL ends a session that is idle in a transaction for this long. */
  readonly idleInTransaction: number;
  /** The driver gives up on an answer after this time: PostgreSQL may be unreachable. */
  readonly query: number;
  /** While not even SELECT 1 is answered, connections that have waited this long are cut. */
  readonly silence: number;
}

export const DATABASE_TIMEOUTS_MS: DatabaseTimeouts = {
  connect: 800,
  statement: 5_000,
  lock: 3_000,
  idleInTransaction: 5_000,
  // Longer than `statement`: PostgreSQL's own error says more than a timeout of the driver.
  query: 6_000,
  // Below one second together with database-probe.ts: then callers get a 503.
  silence: 600,
};

/**
 * Injection token for `Partial<DatabaseTimeouts>`, which replace the defaults. The service does not
 * provide it; a global module of a test may.
 */
export const DATABASE_TIMEOUTS = Symbol('DatabaseTimeouts');

export interface ConnectionSettings {
  /** The pool's client class; pg's own when absent. */
  readonly Client?: typeof pg.Client | undefined;
  /** Replace single values of {@link DATABASE_TIMEOUTS_MS}. */
  readonly timeouts?: Partial<DatabaseTimeouts> | undefined;
}

/** @param poolSize connections of this process to the server at `url` */
export function dataSourceOptions(
  url: string,
  poolSize: number,
  { Client, timeouts }: ConnectionSettings = {},
): Extract<DataSourceOptions, { type: 'postgres' }> {
  const { connect, statement, lock, idleInTransaction, query } = {
    ...DATABASE_TIMEOUTS_MS,
    ...timeouts,
  };
  return {
    type: 'postgres',
    url,
    migrations: MIGRATIONS,
    migrationsTableName: 'migrations',
    migrationsTransactionMode: 'each',
    synchronize: false,
    logging: false,
    poolSize,
    connectTimeoutMS: connect,
    applicationName: 'holdfast',
    parseInt8: false,
    extra: {
      ...(Client ? { Client } : {}),
      statement_timeout: statement,
      lock_timeout: lock,
      idle_in_transaction_session_timeout: idleInTransaction,
      query_timeout: query,
      ...CLIENT_KEEPALIVE,
    },
  };
}
