/**
 * Provides the connection to PostgreSQL (DATABASE_URL, or an embedded server that runs as long as
 * this process) and what uses it: {@link UnitOfWork}, {@link Replicas}, {@link DatabaseProbe}.
 * Invariant: with MIGRATIONS=auto the database is migrated before anything uses it.
 */
import {
  type FactoryProvider,
  Global,
  Injectable,
  Logger,
  Module,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { ModuleRef } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Histogram, Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { Config } from '../../config.js';
import { DATABASE_TIMEOUTS, type DatabaseTimeouts, dataSourceOptions } from './data-source.js';
import { DatabaseProbe, WATCHED_CLIENTS } from './database-probe.js';
import { startEmbeddedPostgres } from './embedded/embedded-postgres.js';
import { migrateDatabase } from './migrate.js';
import { Replicas } from './replicas.js';
import { UnitOfWork } from './unit-of-work.js';
import { watchClients, type WatchedClients } from './watched-client.js';

/** Knows the URL of PostgreSQL, and starts the embedded server when DATABASE_URL is not set. */
@Injectable()
class DatabaseServer implements OnApplicationShutdown {
  private readonly logger = new Logger('Database');
  private stopEmbedded: (() => Promise<void>) | undefined;

  constructor(
    private readonly config: Config,
    private readonly moduleRef: ModuleRef,
  ) {}

  /** @returns the URL to connect to */
  async start(): Promise<string> {
    if (this.config.databaseUrl) return this.config.databaseUrl;
    const embedded = await startEmbeddedPostgres({
      dataDir: this.config.dataDir,
      log: (line) => this.logger.debug(line),
    });
    this.stopEmbedded = () => embedded.stop();
    void embedded.exited.then((reason) => this.logger.fatal(reason));
    this.logger.log(
      `Embedded PostgreSQL on port ${embedded.port}, files in ${this.config.dataDir}`,
    );
    return embedded.url;
  }

  async onApplicationShutdown(): Promise<void> {
    // The connections first: the embedded server would otherwise break them and log errors.
    const dataSource = this.moduleRef.get(DataSource, { strict: false });
    if (dataSource.isInitialized) await dataSource.destroy();
    await this.stopEmbedded?.();
  }
}

const watchedClients: FactoryProvider<WatchedClients> = {
  provide: WATCHED_CLIENTS,
  inject: [Registry],
  useFactory: (registry: Registry) => {
    const duration = new Histogram({
      name: 'db_client_operation_duration_seconds',
      help: 'Seconds from sending a query to PostgreSQL until its answer, by SQL command',
      labelNames: ['operation'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      registers: [registry],
    });
    return watchClients((operation, seconds) => duration.observe({ operation }, seconds));
  },
};

/**
 * While a process starts, it loads much code and is often short of CPU: it may notice the timeout
 * of a connection before the connection that was ready in time.
 */
const isConnectTimeout = (error: unknown): boolean =>
  error instanceof Error && /timeout/.test(error.message);
const MAX_CONNECT_ATTEMPTS = 4;
const CONNECT_RETRY_MS = 100;

async function migrateBeforeUse(url: string): Promise<void> {
  const applied = await migrateDatabase(url);
  if (applied.length > 0) new Logger('Database').log(`Applied migrations: ${applied.join(', ')}`);
}

@Module({ providers: [DatabaseServer, watchedClients], exports: [DatabaseServer, watchedClients] })
class DatabaseServerModule {}

@Global()
@Module({
  imports: [
    DatabaseServerModule,
    TypeOrmModule.forRootAsync({
      imports: [DatabaseServerModule],
      inject: [
        DatabaseServer,
        Config,
        WATCHED_CLIENTS,
        { token: DATABASE_TIMEOUTS, optional: true },
      ],
      useFactory: async (
        server: DatabaseServer,
        config: Config,
        { Client }: WatchedClients,
        timeouts?: Partial<DatabaseTimeouts>,
      ) => {
        const url = await server.start();
        if (config.migrations === 'auto') await migrateBeforeUse(url);
        return {
          ...dataSourceOptions(url, config.databasePool, { Client, timeouts }),
          autoLoadEntities: true,
          // Any other failure ends the start at once, and main.ts says what to do about it.
          toRetry: isConnectTimeout,
          retryAttempts: MAX_CONNECT_ATTEMPTS,
          retryDelay: CONNECT_RETRY_MS,
        };
      },
    }),
  ],
  providers: [UnitOfWork, DatabaseProbe, Replicas],
  exports: [UnitOfWork, DatabaseProbe, Replicas],
})
export class DatabaseModule {}
