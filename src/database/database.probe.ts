/**
 * Whether PostgreSQL answers and is migrated, asked over a connection of its own: a pool that is busy with requests must not
 * look like a database that is gone.
 */
import { Injectable, type OnApplicationShutdown } from '@nestjs/common';
import { Pool } from 'pg';
import { DataSource } from 'typeorm';
import { pendingMigrations } from './migrate.js';

const PROBE_MS = 1_000;

@Injectable()
export class DatabaseProbe implements OnApplicationShutdown {
  private readonly pool: Pool;
  /** Migrations only ever become fewer while this process runs, so none pending is final. */
  private migrated = false;

  constructor(dataSource: DataSource) {
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

  async ping(): Promise<void> {
    await this.pool.query('SELECT 1');
  }

  async pendingMigrations(): Promise<string[]> {
    if (this.migrated) return [];
    const pending = await pendingMigrations({ query: async (sql) => (await this.pool.query(sql)).rows }).catch(() => [
      'unknown',
    ]);
    this.migrated = pending.length === 0;
    return pending;
  }

  async onApplicationShutdown(): Promise<void> {
    await this.pool.end();
  }
}
