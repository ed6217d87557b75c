/**
 * Invalidation through PostgreSQL: rows of `cache_invalidations` name keys that somebody changed
 * without fencing them. Every node listens; any node that is registered for the epoch deletes the
 * keys from the epoch's cache, then the rows (docs/adr/0005-database-path.md).
 *
 * Invariant: while this node could have missed such a row, its {@link ReadGate} is closed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import type { Client } from 'pg';
import { DataSource } from 'typeorm';
import { PollingLoop } from '../../timing/polling-loop.js';
import { CacheMetrics } from '../cache-metrics.js';
import { CACHE_TIMINGS, type CacheTimings } from '../cache-timings.js';
import { Membership } from '../epoch/membership.js';
import { type GatePass, ReadGate } from '../read/read-gate.js';
import {
  CACHE_STORE,
  type CacheStore,
  CacheUnavailableError,
  deleteKeys,
  PartiallyUnavailableError,
} from '../store/cache-store.js';
import type { EpochStore } from '../store/epoch-store.js';
import { InvalidationWaits } from './invalidation-waits.js';
import { INVALIDATION_CHANNEL, ListenConnection } from './listen-connection.js';
import { UnreachableRows } from './unreachable-rows.js';

/** Rows that one transaction applies. */
const BATCH_SIZE = 500;
/** A NOTIFY may be lost, so the table is polled as well. */
const POLL_INTERVAL_MS = 1_000;
/** While the gate is closed; doubled with each pass that leaves it closed. */
const CLOSED_POLL_INTERVAL_MS = { min: 20, max: 500 } as const;
const RECONNECT_PAUSE_MS = 250;
/** How long a node that ends waits for PostgreSQL to take its registration out. */
const LEAVE_TIMEOUT_MS = 500;

/** How long the start of the process waits for the cache. */
const STARTUP_GATE_POLL = { maxPolls: 20, intervalMs: 10 } as const;

const ENQUEUE_KEYS = `
  WITH enqueued AS (INSERT INTO cache_invalidations (keys) VALUES ($1) RETURNING position)
  SELECT pg_notify('${INVALIDATION_CHANNEL}', '') FROM enqueued`;

/**
 * PostgreSQL clears backend_xid in the very step that makes a transaction's rows visible to others.
 */
const FIND_OPEN_TRANSACTIONS = `
  SELECT pid, backend_xid::text AS transaction FROM pg_stat_activity
   WHERE pid = ANY($1) AND backend_xid IS NOT NULL`;

/**
 * Locks the next rows ($3) after a position ($1), without the unreachable ones ($2). Positions
 * order a pass only: SKIP LOCKED, and a pass that begins at 0, find rows that commit late.
 */
const TAKE_ROWS = `
  SELECT position, keys, extract(epoch FROM clock_timestamp() - created_at)::float8 AS age
    FROM cache_invalidations WHERE position > $1 AND position <> ALL($2)
   ORDER BY position LIMIT $3 FOR UPDATE SKIP LOCKED`;

const DELETE_ROWS = 'DELETE FROM cache_invalidations WHERE position = ANY($1)';

const FIND_LAST_POSITION =
  'SELECT max(position) AS position FROM cache_invalidations WHERE position > 0';

/** Rows that another node has locked are still visible: they count as waiting. */
const ARE_ROWS_WAITING =
  'SELECT EXISTS (SELECT FROM cache_invalidations WHERE position BETWEEN 1 AND $1) AS waiting';

/** Held until the rows are deleted: nobody can take the registration out and move the epoch. */
const HOLD_REGISTRATION =
  'SELECT FROM cache_readers WHERE registration = $1 AND epoch = $2 FOR SHARE';

interface InvalidationRow {
  readonly position: string;
  readonly keys: string[];
  /** Seconds since the change. */
  readonly age: number;
}

@Injectable()
export class DatabaseInvalidations implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Cache');
  private readonly connection: ListenConnection;
  private readonly loop: PollingLoop;
  private readonly unreachableRows = new UnreachableRows();
  private readonly waits: InvalidationWaits;
  /** Passes in a row that left the gate closed. */
  private closedPasses = 0;

  constructor(
    @Inject(CACHE_STORE) private readonly store: CacheStore,
    private readonly dataSource: DataSource,
    private readonly gate: ReadGate,
    private readonly membership: Membership,
    private readonly metrics: CacheMetrics,
    @Inject(CACHE_TIMINGS) timings: CacheTimings,
  ) {
    const { url } = dataSource.options as { url?: string };
    this.connection = new ListenConnection({
      url,
      onNotification: () => this.loop.wake(),
      onLost: () => this.gate.close(),
    });
    this.loop = new PollingLoop({
      step: () => this.runPass(),
      onError: (error) => this.handleFailedPass(error),
      retry: { minMs: RECONNECT_PAUSE_MS, maxMs: RECONNECT_PAUSE_MS },
    });
    this.waits = new InvalidationWaits(dataSource, timings.gateTimeoutMs);
    gate.onClosed = () => {
      // The cause may be a part of the cache that has come back.
      this.unreachableRows.retryNow();
      this.closedPasses = 0;
      this.loop.wake();
    };
  }

  async onApplicationBootstrap(): Promise<void> {
    this.loop.start();
    // The first requests should find the cache in use, but a start must not depend on the cache.
    for (let poll = 0; poll < STARTUP_GATE_POLL.maxPolls && !this.gate.isOpen; poll++) {
      await sleep(STARTUP_GATE_POLL.intervalMs);
    }
  }

  async onApplicationShutdown(): Promise<void> {
    await this.loop.stop();
    const { client } = this.connection;
    if (client) {
      // The others need not wait until this node counts as silent.
      const left = this.membership.leave(client).catch(() => undefined);
      await Promise.race([left, sleep(LEAVE_TIMEOUT_MS, undefined, { ref: false })]);
    }
    this.connection.close();
  }

  /**
   * Leaves keys that were changed but could not be published to the nodes that reach the cache.
   * @throws a driver error
   */
  async enqueue(keys: readonly string[]): Promise<void> {
    await this.dataSource.query(ENQUEUE_KEYS, [keys]);
  }

  /**
   * For a write whose keys are committed in `cache_invalidations`, before it is acknowledged:
   * resolves when no node answers from before, after `gateTimeoutMs` at the latest. Never rejects.
   */
  async awaitInvalidation(keys: readonly string[]): Promise<void> {
    const beganAt = performance.now();
    await this.waits.wait(keys);
    this.metrics.observeDegradedWrite((performance.now() - beganAt) / 1000);
  }

  /**
   * Whether the epoch has not moved: what was deleted from its cache is deleted for every node.
   * @throws a driver error
   */
  async isCurrent({ epoch }: EpochStore): Promise<boolean> {
    const rows = await this.dataSource.query<unknown[]>(
      'SELECT FROM cache_epoch WHERE epoch = $1',
      [epoch.id],
    );
    return rows.length === 1;
  }

  /**
   * Finds which of these PostgreSQL processes are in a transaction that has written. Others cannot
   * see yet what such a transaction wrote.
   * @returns transaction numbers by process id
   * @throws a driver error
   */
  async findOpenTransactions(backendPids: readonly number[]): Promise<Map<number, string>> {
    const rows = await this.dataSource.query<{ pid: number; transaction: string }[]>(
      FIND_OPEN_TRANSACTIONS,
      [backendPids],
    );
    return new Map(rows.map(({ pid, transaction }) => [pid, transaction]));
  }

  /** @returns milliseconds until the next pass */
  private async runPass(): Promise<number> {
    if (!this.connection.client) this.gate.close();
    const client = await this.connection.open();
    // While the gate is closed no reader uses the cache, so the ping that closes the circuit
    // breaker must come from here.
    if (!this.store.isAvailable) await this.store.ping().catch(() => undefined);
    const pass = this.gate.takePass();
    this.loop.clearWake();
    const store = await this.membership.renew(client);
    if (store) await this.usePass(pass, client, store);
    if (this.gate.isOpen) {
      this.closedPasses = 0;
      return POLL_INTERVAL_MS;
    }
    const { min, max } = CLOSED_POLL_INTERVAL_MS;
    const pauseMs = Math.min(min * 2 ** Math.min(this.closedPasses, 10), max);
    this.closedPasses++;
    return pauseMs;
  }

  /** Opens the gate if every row is applied that this node may have missed. */
  private async usePass(pass: GatePass, client: Client, store: EpochStore): Promise<void> {
    try {
      if (await this.applyWaitingRows(client, store)) this.gate.open(pass, store);
    } catch (error) {
      if (!(error instanceof CacheUnavailableError)) throw error;
      // Writers need not wait until this node counts as silent.
      await this.membership.leave(client);
    }
  }

  private handleFailedPass(error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    this.connection.close();
    this.membership.loseDatabase(reason);
    // The closed gate has woken the loop, but the reconnection must not skip its pause.
    this.loop.clearWake();
    this.logger.debug(`Could not apply cache invalidations: ${reason}`);
  }

  /**
   * @returns whether every row is gone that was there when this began
   * @throws CacheUnavailableError when no part of the cache can be reached; a driver error
   */
  private async applyWaitingRows(client: Client, store: EpochStore): Promise<boolean> {
    const {
      rows: [last],
    } = await client.query<{ position: string | null }>(FIND_LAST_POSITION);
    if (!last || last.position === null) return true;
    this.unreachableRows.beginPass();
    let position = '0';
    while (store.isAvailable) {
      const positions = await this.applyBatch(client, store, position);
      if (positions.length < BATCH_SIZE) break;
      position = positions.at(-1) as string;
    }
    this.unreachableRows.endPass();
    const {
      rows: [found],
    } = await client.query<{ waiting: boolean }>(ARE_ROWS_WAITING, [last.position]);
    return found?.waiting === false;
  }

  /**
   * Applies one batch of rows after a position. A row is deleted when all its keys are; a row with
   * unreachable keys stays.
   * @returns the positions of the batch
   */
  private async applyBatch(
    client: Client,
    store: EpochStore,
    afterPosition: string,
  ): Promise<string[]> {
    return inTransaction(client, async () => {
      const { rowCount } = await client.query(HOLD_REGISTRATION, [
        this.membership.registrationId,
        store.epoch.id,
      ]);
      if (rowCount !== 1) return [];
      const { rows } = await client.query<InvalidationRow>(TAKE_ROWS, [
        afterPosition,
        this.unreachableRows.positions,
        BATCH_SIZE,
      ]);
      if (rows.length === 0) return [];
      const unreachedKeys = await this.deleteReachable(
        store,
        rows.flatMap(({ keys }) => keys),
      );
      const isUnreachable = ({ keys }: InvalidationRow): boolean =>
        keys.some((key) => unreachedKeys.has(key));
      const appliedRows = rows.filter((row) => !isUnreachable(row));
      await client.query(DELETE_ROWS, [positionsOf(appliedRows)]);
      for (const { age } of appliedRows) this.metrics.observeInvalidationLag(age);
      this.unreachableRows.add(positionsOf(rows.filter(isUnreachable)));
      return positionsOf(rows);
    });
  }

  /**
   * @returns the keys that could not be reached
   * @throws CacheUnavailableError when the cache's only server cannot be reached
   */
  private async deleteReachable(
    store: EpochStore,
    keys: readonly string[],
  ): Promise<ReadonlySet<string>> {
    const distinctKeys = [...new Set(keys)];
    try {
      await deleteKeys(store, distinctKeys);
      return new Set();
    } catch (error) {
      if (error instanceof PartiallyUnavailableError) return new Set(error.keys);
      const isShardGone = this.store.isSharded && error instanceof CacheUnavailableError;
      if (isShardGone) return new Set(distinctKeys);
      throw error;
    }
  }
}

async function inTransaction<T>(client: Client, work: () => Promise<T>): Promise<T> {
  await client.query('BEGIN');
  try {
    const result = await work();
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  }
}

const positionsOf = (rows: readonly InvalidationRow[]): string[] =>
  rows.map(({ position }) => position);
