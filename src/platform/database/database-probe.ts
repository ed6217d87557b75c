/**
 * Whether PostgreSQL answers and is migrated, asked over a connection of its own: a pool that is busy with requests must not
 * look like a database that is gone.
 */
import { Inject, Injectable, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { Pool } from 'pg';
import { DataSource } from 'typeorm';
import { pendingMigrations } from './migrate.js';
import type { WatchedClients } from './watched-client.js';

export const WATCHED_CLIENTS = Symbol('WatchedClients');

const PROBE_MS = 1_000;
/**
 * How a silent PostgreSQL is told from a slow statement, in milliseconds: looked at this often, silent when even SELECT 1 takes
 * this long, and then whoever has waited this long is cut off. Together they stay below the second in which callers get a 503.
 */
const WATCH = { everyMs: 200, silentMs: 450, waitedMs: 600 } as const;

@Injectable()
export class DatabaseProbe implements OnModuleInit, OnApplicationShutdown {
  private readonly pool: Pool;
  /** Migrations only ever become fewer while this process runs, so none pending is final. */
  private migrated = false;

  private timer: NodeJS.Timeout | undefined;

  constructor(
    dataSource: DataSource,
    @Inject(WATCHED_CLIENTS) private readonly clients: WatchedClients,
  ) {
    const { url } = dataSource.options as { url?: string };
    this.pool = new Pool({
      connectionString: url,
      max: 1,
      connectionTimeoutMillis: PROBE_MS,
      query_timeout: PROBE_MS,
      idleTimeoutMillis: 60_000,
      application_name: 'holdfast-probe',
      allowExitOnIdle: true,
    });
    // An idle connection that breaks is replaced at the next probe, which then tells.
    this.pool.on('error', () => undefined);
  }

  onModuleInit(): void {
    this.watch();
  }

  private watch(): void {
    this.timer = setTimeout(
      () => void this.look().finally(() => this.timer && this.watch()),
      WATCH.everyMs,
    ).unref();
  }

  private async look(): Promise<void> {
    const began = performance.now();
    const silence = setInterval(() => {
      if (performance.now() - began < WATCH.silentMs) return;
      // One more turn of the event loop first: a stall of this process's own is not PostgreSQL's.
      setImmediate(() => !answered && this.clients.cutSilent(WATCH.waitedMs));
    }, WATCH.silentMs / 5).unref();
    let answered = false;
    try {
      await this.ping();
      answered = true;
    } catch {
      this.clients.cutSilent(WATCH.waitedMs);
    } finally {
      clearInterval(silence);
    }
  }

  async ping(): Promise<void> {
    await this.pool.query('SELECT 1');
  }

  async pendingMigrations(): Promise<string[]> {
    if (this.migrated) return [];
    const pending = await pendingMigrations({
      query: async (sql) => (await this.pool.query(sql)).rows,
    }).catch(() => ['unknown']);
    this.migrated = pending.length === 0;
    return pending;
  }

  async onApplicationShutdown(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    await this.pool.end();
  }
}
