/**
 * Finds out whether PostgreSQL answers and is migrated. Invariant: over a connection of its own, so
 * that a pool that is busy with requests does not look like a database that is gone.
 */
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationShutdown,
  type OnModuleInit,
  Optional,
} from '@nestjs/common';
import { Pool } from 'pg';
import { DataSource } from 'typeorm';
import { PollingLoop } from '../timing/polling-loop.js';
import { DATABASE_TIMEOUTS, DATABASE_TIMEOUTS_MS, type DatabaseTimeouts } from './data-source.js';
import { pendingMigrations } from './migrate.js';
import type { WatchedClients } from './watched-client.js';

export const WATCHED_CLIENTS = Symbol('WatchedClients');

const PROBE_TIMEOUT_MS = 1_000;
const PROBE_IDLE_TIMEOUT_MS = 60_000;

// These and the timeout `silence` stay below one second together: by then a caller of a PostgreSQL
// that hangs gets a 503.
const POLL_INTERVAL_MS = 200;
/** PostgreSQL counts as silent when even SELECT 1 takes this long: a slow statement does not. */
const SILENT_AFTER_MS = 450;
const SILENCE_CHECK_INTERVAL_MS = 90;

@Injectable()
export class DatabaseProbe implements OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger('Database');
  private readonly pool: Pool;
  private readonly watchLoop = new PollingLoop({
    step: () => this.watch(),
    onError: (error) => this.logger.error(`Watching PostgreSQL failed: ${String(error)}`),
    retry: { minMs: POLL_INTERVAL_MS, maxMs: POLL_INTERVAL_MS },
  });
  private readonly maxSilentWaitMs: number;
  /** Final once true: while this process runs, migrations are applied and not added. */
  private isMigrated = false;

  constructor(
    dataSource: DataSource,
    @Inject(WATCHED_CLIENTS) private readonly clients: WatchedClients,
    @Optional() @Inject(DATABASE_TIMEOUTS) timeouts?: Partial<DatabaseTimeouts>,
  ) {
    this.maxSilentWaitMs = timeouts?.silence ?? DATABASE_TIMEOUTS_MS.silence;
    const { url } = dataSource.options as { url?: string };
    this.pool = new Pool({
      connectionString: url,
      max: 1,
      connectionTimeoutMillis: PROBE_TIMEOUT_MS,
      query_timeout: PROBE_TIMEOUT_MS,
      idleTimeoutMillis: PROBE_IDLE_TIMEOUT_MS,
      application_name: 'holdfast-probe',
      allowExitOnIdle: true,
    });
    // An idle connection that breaks is replaced by the next query, which reports the failure.
    this.pool.on('error', () => undefined);
  }

  onModuleInit(): void {
    this.watchLoop.start();
  }

  /**
   * Asks PostgreSQL for an answer.
   * @throws a driver error when none comes within 1 s
   */
  async ping(): Promise<void> {
    await this.pool.query('SELECT 1');
  }

  /** The names of migrations that have not run; `['unknown']` when PostgreSQL cannot be asked. */
  async pendingMigrations(): Promise<string[]> {
    if (this.isMigrated) return [];
    const pending = await pendingMigrations({
      query: async (sql) => (await this.pool.query(sql)).rows,
    }).catch(() => ['unknown']);
    this.isMigrated = pending.length === 0;
    return pending;
  }

  async onApplicationShutdown(): Promise<void> {
    await this.watchLoop.stop();
    await this.pool.end();
  }

  /** One step of the watch: while SELECT 1 has no answer, cuts the connections that wait. */
  private async watch(): Promise<number> {
    const startedAt = performance.now();
    let isAnswered = false;
    const cutIfSilent = (): void => {
      const isSilent = !isAnswered && performance.now() - startedAt >= SILENT_AFTER_MS;
      if (isSilent) this.clients.cutSilent(this.maxSilentWaitMs);
    };
    const timer = setInterval(() => {
      // setImmediate: after a stall of this process, an answer that waits in a socket counts.
      setImmediate(cutIfSilent);
    }, SILENCE_CHECK_INTERVAL_MS);
    try {
      await this.ping();
      isAnswered = true;
    } catch {
      this.clients.cutSilent(this.maxSilentWaitMs);
    } finally {
      clearInterval(timer);
    }
    return POLL_INTERVAL_MS;
  }
}
