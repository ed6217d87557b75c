/**
 * The database's door: the connection (to DATABASE_URL, or to an embedded PostgreSQL that lives and dies with this process),
 * migrated before anyone uses it, and the {@link UnitOfWork}.
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
import { Config } from '../config.js';
import { dataSourceOptions } from './data-source.js';
import { DatabaseProbe, WATCHED_CLIENTS } from './database.probe.js';
import { startEmbeddedPostgres } from './embedded-postgres.js';
import { migrateDatabase } from './migrate.js';
import { Replicas } from './replicas.js';
import { UnitOfWork } from './unit-of-work.js';
import { watchClients, type WatchedClients } from './watched-client.js';

/** Where PostgreSQL is; starts the embedded one when nothing else is configured. */
@Injectable()
class DatabaseServer implements OnApplicationShutdown {
  private readonly logger = new Logger('Database');
  private stop: (() => Promise<void>) | undefined;

  constructor(
    private readonly config: Config,
    private readonly modules: ModuleRef,
  ) {}

  async start(): Promise<string> {
    if (this.config.databaseUrl) return this.config.databaseUrl;
    const embedded = await startEmbeddedPostgres({
      dataDir: this.config.dataDir,
      log: (line) => this.logger.debug(line),
    });
    this.stop = () => embedded.stop();
    void embedded.exited.then((line) => this.logger.fatal(line));
    this.logger.log(
      `Embedded PostgreSQL on port ${embedded.port}, files in ${this.config.dataDir}`,
    );
    return embedded.url;
  }

  async onApplicationShutdown(): Promise<void> {
    const dataSource = this.modules.get(DataSource, { strict: false });
    if (dataSource.isInitialized) await dataSource.destroy();
    await this.stop?.();
  }
}

const watchedClients: FactoryProvider<WatchedClients> = {
  provide: WATCHED_CLIENTS,
  inject: [Registry],
  useFactory: (registry: Registry) => {
    const duration = new Histogram({
      name: 'db_client_operation_duration_seconds',
      help: 'Time from sending a query to PostgreSQL to its answer, by SQL command',
      labelNames: ['operation'],
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      registers: [registry],
    });
    return watchClients((operation, seconds) => duration.observe({ operation }, seconds));
  },
};

@Module({ providers: [DatabaseServer, watchedClients], exports: [DatabaseServer, watchedClients] })
class DatabaseServerModule {}

@Global()
@Module({
  imports: [
    DatabaseServerModule,
    TypeOrmModule.forRootAsync({
      imports: [DatabaseServerModule],
      inject: [DatabaseServer, Config, WATCHED_CLIENTS],
      useFactory: async (server: DatabaseServer, config: Config, { Client }: WatchedClients) => {
        const url = await server.start();
        if (config.migrations === 'auto') {
          const names = await migrateDatabase(url);
          if (names.length > 0) new Logger('Database').log(`Migrated: ${names.join(', ')}`);
        }
        return {
          ...dataSourceOptions(url, config.databasePool, Client),
          autoLoadEntities: true,
          retryAttempts: 0,
        };
      },
    }),
  ],
  providers: [UnitOfWork, DatabaseProbe, Replicas],
  exports: [UnitOfWork, DatabaseProbe, Replicas],
})
export class DatabaseModule {}
