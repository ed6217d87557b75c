/**
 * Invalidation through PostgreSQL: rows of `cache_invalidations` name keys that somebody changed
 * without fencing them. Every node listens; any node whose cache answers deletes the keys, then the
 * rows (docs/adr/0005-database-path.md).
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
import { DataSource } from 'typeorm';
import { PollingLoop } from '../../timing/polling-loop.js';
import { CacheMetrics } from '../cache-metrics.js';
import { ReadGate } from '../read/read-gate.js';
import {
  CACHE_STORE,
  type CacheStore,
  CacheUnavailableError,
  deleteKeys,
  PartiallyUnavailableError,
} from '../store/cache-store.js';
import {
  INVALIDATION_CHANNEL,
  ListenConnection,
  MAX_SILENCE_MS,
  READERS_LOCK,
} from './listen-connection.js';
import { UnreachableRows } from './unreachable-rows.js';

/** Rows that one transaction applies. */
const BATCH_SIZE = 500;
/** A NOTIFY may be lost, so the table is polled as well. */
const POLL_INTERVAL_MS = 1_000;
/** While the gate is closed. */
const CLOSED_POLL_INTERVAL_MS = 50;
const RECONNECT_PAUSE_MS = 250;

/**
 * After this long, every node has deleted the keys or closed its gate: it polls, and it notices a
 * dead connection.
 */
const MAX_INVALIDATION_WAIT_MS = POLL_INTERVAL_MS + MAX_SILENCE_MS;
const INVALIDATION_POLL_INTERVAL_MS = 20;

/** How long the start of the process waits for the cache. */
const STARTUP_GATE_POLL = { maxPolls: 20, intervalMs: 10 } as const;

const ENQUEUE_KEYS = `
  WITH enqueued AS (INSERT INTO cache_invalidations (keys) VALUES ($1) RETURNING position)
  SELECT pg_notify('${INVALIDATION_CHANNEL}', '') FROM enqueued`;

/**
 * Whether one of the keys ($1) waits for its invalidation while a node holds the readers' lock
 * ($2).
 */
const ARE_KEYS_WAITING = `
  SELECT EXISTS (SELECT FROM cache_invalidations WHERE keys && $1) AND EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $2 AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  ) AS waiting`;

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

/** Rows that another node has locked are still visible: they count as waiting. */
const ARE_ROWS_WAITING = 'SELECT EXISTS (SELECT FROM cache_invalidations) AS waiting';

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
  /** Whether something has happened that the last pass may not have seen. */
  private isNotified = false;

  constructor(
    @Inject(CACHE_STORE) private readonly store: CacheStore,
    private readonly dataSource: DataSource,
    private readonly gate: ReadGate,
    private readonly metrics: CacheMetrics,
  ) {
    const { url } = dataSource.options as { url?: string };
    this.connection = new ListenConnection({
      url,
      onNotification: () => this.notify(),
      onLost: () => this.gate.close(),
    });
    this.loop = new PollingLoop({
      step: () => this.runPass(),
      onError: (error) => this.handleFailedPass(error),
      retry: { minMs: RECONNECT_PAUSE_MS, maxMs: RECONNECT_PAUSE_MS },
    });
    gate.onClosed = () => {
      // The cause may be a part of the cache that has come back.
      this.unreachableRows.retryNow();
      this.notify();
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
   * Resolves when no node answers any more from what the cache had under these keys when they were
   * enqueued: the keys are deleted, or no node reads the cache. For a write that could not be
   * fenced and must take effect everywhere before it is acknowledged. Waits 3 s at most.
   * @throws a driver error
   */
  async awaitInvalidation(keys: readonly string[]): Promise<void> {
    const deadline = performance.now() + MAX_INVALIDATION_WAIT_MS;
    while (performance.now() < deadline) {
      const [{ waiting }] = await this.dataSource.query<[{ waiting: boolean }]>(ARE_KEYS_WAITING, [
        keys,
        READERS_LOCK,
      ]);
      if (!waiting) return;
      await sleep(INVALIDATION_POLL_INTERVAL_MS);
    }
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

  private notify(): void {
    this.isNotified = true;
    this.loop.wake();
  }

  /** @returns milliseconds until the next pass */
  private async runPass(): Promise<number> {
    await this.listen();
    // A notification shows that the connection works.
    if (!this.isNotified) await this.connection.heartbeat();
    // While the gate is closed no reader uses the cache, so the ping that closes the circuit
    // breaker
    // must come from here.
    if (!this.store.isAvailable) await this.store.ping().catch(() => undefined);
    // Before the table is read: a writer that saw no reader's lock has committed by then.
    await this.connection.setReadersLock(this.store.isAvailable);
    const pass = this.gate.takePass();
    this.isNotified = false;
    this.loop.clearWake();
    const isEmpty = await this.applyWaitingRows();
    const canRead = this.store.isAvailable && this.connection.holdsReadersLock;
    if (isEmpty && canRead) this.gate.open(pass);
    return this.gate.isOpen ? POLL_INTERVAL_MS : CLOSED_POLL_INTERVAL_MS;
  }

  private handleFailedPass(error: unknown): void {
    this.connection.close();
    // The closed gate has woken the loop, but the reconnection must not skip its pause.
    this.loop.clearWake();
    const reason = error instanceof Error ? error.message : String(error);
    this.logger.debug(`Could not apply cache invalidations: ${reason}`);
  }

  private async listen(): Promise<void> {
    if (this.connection.isOpen) return;
    this.gate.close();
    await this.connection.open();
  }

  /** @returns whether the table was empty afterwards */
  private async applyWaitingRows(): Promise<boolean> {
    if (!this.connection.isOpen) throw new Error('the LISTEN connection has closed');
    this.unreachableRows.beginPass();
    let lastPosition = '0';
    while (this.store.isAvailable) {
      const positions = await this.applyBatch(lastPosition);
      if (positions.length < BATCH_SIZE) break;
      lastPosition = positions.at(-1) as string;
    }
    this.unreachableRows.endPass();
    const [{ waiting }] = await this.dataSource.query<[{ waiting: boolean }]>(ARE_ROWS_WAITING);
    return !waiting;
  }

  /**
   * Applies one batch of rows after a position. A row is deleted when all its keys are; a row with
   * unreachable keys stays.
   * @returns the positions of the batch
   */
  private async applyBatch(afterPosition: string): Promise<string[]> {
    return this.dataSource.transaction(async (manager) => {
      const rows = await manager.query<InvalidationRow[]>(TAKE_ROWS, [
        afterPosition,
        this.unreachableRows.positions,
        BATCH_SIZE,
      ]);
      if (rows.length === 0) return [];
      const unreachedKeys = await this.deleteKeys(rows.flatMap(({ keys }) => keys));
      const isUnreachable = ({ keys }: InvalidationRow): boolean =>
        keys.some((key) => unreachedKeys.has(key));
      const appliedRows = rows.filter((row) => !isUnreachable(row));
      await manager.query(DELETE_ROWS, [positionsOf(appliedRows)]);
      for (const { age } of appliedRows) this.metrics.observeInvalidationLag(age);
      this.unreachableRows.add(positionsOf(rows.filter(isUnreachable)));
      return positionsOf(rows);
    });
  }

  /** @returns the keys that could not be reached */
  private async deleteKeys(keys: readonly string[]): Promise<ReadonlySet<string>> {
    const distinctKeys = [...new Set(keys)];
    try {
      await deleteKeys(this.store, distinctKeys);
      return new Set();
    } catch (error) {
      if (error instanceof PartiallyUnavailableError) return new Set(error.keys);
      if (error instanceof CacheUnavailableError) return new Set(distinctKeys);
      throw error;
    }
  }
}

const positionsOf = (rows: readonly InvalidationRow[]): string[] =>
  rows.map(({ position }) => position);
