/**
 * The reader's side of the database's own path (docs/cache-protocol.md): rows of `cache_invalidations` name keys that somebody
 * changed without fencing them. Every node listens for them; any whose cache answers takes the keys out and then removes the
 * rows. Rows are taken with SKIP LOCKED, never by a position read before: a late commit would be skipped. A row goes when its own
 * keys are gone; one whose keys are out of reach (a part of a cluster) holds no other up.
 *
 * While this node could have missed one, its {@link ReadGate} is closed.
 */
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { CacheMetrics } from './cache.metrics.js';
import {
  CACHE_STORE,
  type CacheStore,
  CacheUnavailableError,
  dropKeys,
  PartlyUnavailableError,
} from './cache.store.js';
import { ReadGate } from './read-gate.js';

export const CHANNEL = 'holdfast_cache_invalidations';
const BATCH = 500;
/** NOTIFY is a hint: the table is looked at this often without one. */
const POLL_MS = 1_000;
/** The same while the gate is closed. */
const CLOSED_POLL_MS = 50;
const RECONNECT_MS = 250;
/** Rows whose keys could not be reached: when they are tried again, and how many are remembered meanwhile. */
const RETRY = { firstMs: 50, lastMs: 5_000, most: 10_000 } as const;
/** A LISTEN connection that answers nothing for this long is dead, whatever TCP thinks. */
const SILENCE_MS = 2_000;
/** Every node that may answer from the cache holds this advisory lock, shared, on its LISTEN connection. */
const READERS_LOCK = 0x686f6c64;
/** After so long no node is left that has neither taken the keys out nor closed its gate: it polls and finds a dead connection. */
const APPLIED_WITHIN_MS = POLL_MS + SILENCE_MS;
const APPLIED_LOOK_MS = 20;

@Injectable()
export class DatabaseInvalidations implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Cache');
  private client: Client | undefined;
  private stopping = false;
  private running: Promise<void> = Promise.resolve();
  private wake: () => void = () => undefined;
  private notified = false;
  private holdsReadersLock = false;
  private readonly heldBack = { positions: new Set<string>(), until: 0, retries: 0 };

  constructor(
    @Inject(CACHE_STORE) private readonly store: CacheStore,
    private readonly dataSource: DataSource,
    private readonly gate: ReadGate,
    private readonly metrics: CacheMetrics,
  ) {
    gate.onClosed = () => {
      // Perhaps because a part of the cache has come back.
      this.heldBack.until = 0;
      this.signal();
    };
  }

  async onApplicationBootstrap(): Promise<void> {
    this.running = this.run();
    // The first requests should find the cache in use, but no start waits for it.
    for (let look = 0; look < 20 && !this.gate.isOpen; look++)
      await new Promise((resolve) => setTimeout(resolve, 10));
  }

  async onApplicationShutdown(): Promise<void> {
    this.stopping = true;
    this.signal();
    await this.running;
  }

  /** Keys that were changed but could not be published: whoever reaches the cache takes them out. @throws a driver error */
  async leave(keys: readonly string[]): Promise<void> {
    await this.dataSource.query(
      `WITH left_behind AS (INSERT INTO cache_invalidations (keys) VALUES ($1) RETURNING position)
       SELECT pg_notify('${CHANNEL}', '') FROM left_behind`,
      [keys],
    );
  }

  /**
   * Resolves when no node answers any more from what the cache held under these keys before they were left here: they are taken
   * out, or no node reads the cache. For a write that must be in force everywhere once it is acknowledged and could not be fenced.
   * Waits 3 s at most. @throws a driver error
   */
  async untilApplied(keys: readonly string[]): Promise<void> {
    for (
      const until = performance.now() + APPLIED_WITHIN_MS;
      performance.now() < until;
      await sleep(APPLIED_LOOK_MS)
    ) {
      const [{ waiting }] = await this.dataSource.query<[{ waiting: boolean }]>(
        `SELECT EXISTS (SELECT FROM cache_invalidations WHERE keys && $1) AND EXISTS (
           SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $2 AND granted
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS waiting`,
        [keys, READERS_LOCK],
      );
      if (!waiting) return;
    }
  }

  /**
   * Of these PostgreSQL processes, those that are in a transaction that has written, with its number: what such a transaction
   * does is not to be seen by others yet. @throws a driver error
   */
  async openTransactions(backends: readonly number[]): Promise<Map<number, string>> {
    // backend_xid goes in the very step that makes a transaction's rows visible, or rolls them back.
    const rows = await this.dataSource.query<{ pid: number; transaction: string }[]>(
      `SELECT pid, backend_xid::text AS transaction FROM pg_stat_activity WHERE pid = ANY($1) AND backend_xid IS NOT NULL`,
      [backends],
    );
    return new Map(rows.map(({ pid, transaction }) => [pid, transaction]));
  }

  private signal(): void {
    this.notified = true;
    this.wake();
  }

  private async run(): Promise<void> {
    while (!this.stopping) {
      try {
        await this.listen();
        if (!this.notified) await this.heartbeat();
        // With the gate closed no reader tries the cache, so the probe that a breaker waits for must come from here.
        if (!this.store.available) await this.store.ping().catch(() => undefined);
        // Before the table is looked at: a writer that saw no reader has committed by then.
        await this.holdReadersLock(this.store.available);
        const pass = this.gate.pass();
        this.notified = false;
        const empty = await this.drain();
        if (empty && this.store.available && this.holdsReadersLock) this.gate.open(pass);
        if (!this.notified) await this.pause(this.gate.isOpen ? POLL_MS : CLOSED_POLL_MS);
      } catch (error) {
        this.disconnect();
        if (!this.stopping) {
          this.logger.debug(
            `Invalidations: ${error instanceof Error ? error.message : String(error)}`,
          );
          await this.pause(RECONNECT_MS);
        }
      }
    }
    this.disconnect();
  }

  private async listen(): Promise<void> {
    if (this.client) return;
    this.gate.close();
    const { url } = this.dataSource.options as { url?: string };
    const client = new Client({
      connectionString: url,
      connectionTimeoutMillis: SILENCE_MS,
      query_timeout: SILENCE_MS,
      keepAlive: true,
      application_name: 'holdfast-invalidations',
    });
    client.on('error', () => this.disconnect(client));
    client.on('end', () => this.disconnect(client));
    client.on('notification', () => this.signal());
    try {
      await client.connect();
      await client.query(`LISTEN ${CHANNEL}`);
    } catch (error) {
      void client.end().catch(() => undefined);
      throw error;
    }
    this.client = client;
    this.holdsReadersLock = false;
  }

  private async holdReadersLock(wanted: boolean): Promise<void> {
    if (wanted === this.holdsReadersLock) return;
    const step = wanted ? 'pg_advisory_lock_shared' : 'pg_advisory_unlock_shared';
    await this.client?.query(`SELECT ${step}($1)`, [READERS_LOCK]);
    this.holdsReadersLock = wanted;
  }

  /** The connection may be half-open: asked each round, since a node that hears nothing must not believe that nothing was said. */
  private async heartbeat(): Promise<void> {
    await this.client?.query('SELECT 1');
  }

  private disconnect(client = this.client): void {
    if (!client || client !== this.client) return;
    this.client = undefined;
    this.gate.close();
    void client.end().catch(() => undefined);
    this.signal();
  }

  /** Applies what waits; true when the table was seen empty after it. */
  private async drain(): Promise<boolean> {
    if (!this.client) throw new Error('the LISTEN connection has closed');
    if (performance.now() >= this.heldBack.until) this.heldBack.positions.clear();
    // Only within this pass: what commits later at an earlier position is found by the next.
    let after = '0';
    while (this.store.available) {
      const batch = await this.applyBatch(after);
      if (batch.length < BATCH) break;
      after = batch.at(-1) as string;
    }
    if (this.heldBack.positions.size === 0) this.heldBack.retries = 0;
    // Rows that another node is applying are locked but still to be seen: they count.
    const [{ waiting }] = await this.dataSource.query<[{ waiting: boolean }]>(
      'SELECT EXISTS (SELECT FROM cache_invalidations) AS waiting',
    );
    return !waiting;
  }

  /** One batch behind `after`: each row goes whose own keys were dropped. @returns the positions that it held */
  private async applyBatch(after: string): Promise<string[]> {
    return this.dataSource.transaction(async (manager) => {
      const rows = await manager.query<{ position: string; keys: string[]; age: number }[]>(
        `SELECT position, keys, extract(epoch FROM clock_timestamp() - created_at)::float8 AS age
           FROM cache_invalidations WHERE position > $1 AND position <> ALL($2)
          ORDER BY position LIMIT $3 FOR UPDATE SKIP LOCKED`,
        [after, [...this.heldBack.positions], BATCH],
      );
      if (rows.length === 0) return [];
      const unreached = await this.drop(rows.flatMap(({ keys }) => keys));
      const isStuck = ({ keys }: { keys: string[] }): boolean =>
        keys.some((key) => unreached.has(key));
      const [stuck, done] = [rows.filter(isStuck), rows.filter((row) => !isStuck(row))];
      await manager.query('DELETE FROM cache_invalidations WHERE position = ANY($1)', [
        done.map(({ position }) => position),
      ]);
      for (const { age } of done) this.metrics.invalidationLag(age);
      this.holdBack(stuck.map(({ position }) => position));
      return rows.map(({ position }) => position);
    });
  }

  /** @returns the keys that could not be reached */
  private async drop(keys: readonly string[]): Promise<ReadonlySet<string>> {
    const distinct = [...new Set(keys)];
    try {
      await dropKeys(this.store, distinct);
      return new Set();
    } catch (error) {
      if (error instanceof PartlyUnavailableError) return new Set(error.keys);
      if (error instanceof CacheUnavailableError) return new Set(distinct);
      throw error;
    }
  }

  /** Rows whose keys are out of reach are tried again after a while, so that those behind them need not wait. */
  private holdBack(positions: readonly string[]): void {
    const { heldBack } = this;
    if (positions.length === 0) return;
    if (heldBack.positions.size === 0) {
      heldBack.until =
        performance.now() + Math.min(RETRY.firstMs * 2 ** heldBack.retries, RETRY.lastMs);
      heldBack.retries = Math.min(heldBack.retries + 1, 10);
    }
    for (const position of positions)
      if (heldBack.positions.size < RETRY.most) heldBack.positions.add(position);
  }

  private pause(ms: number): Promise<void> {
    if (this.stopping) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => (clearTimeout(timer), resolve());
    });
  }
}
