/**
 * The database's door: the connection (to DATABASE_URL, or to an embedded PostgreSQL that lives and dies with this process),
 * migrated before anyone uses it, and the {@link UnitOfWork}.
 */
import { Global, Injectable, Logger, Module, type OnApplicationShutdown } from '@nestjs/common';
import { ModuleRef } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { Config } from '../config.js';
import { dataSourceOptions } from './data-source.js';
import { DatabaseProbe } from './database.probe.js';
import { startEmbeddedPostgres } from './embedded-postgres.js';
import { migrateDatabase } from './migrate.js';
import { UnitOfWork } from './unit-of-work.js';

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
    this.logger.log(`Embedded PostgreSQL on port ${embedded.port}, files in ${this.config.dataDir}`);
    return embedded.url;
  }

  async onApplicationShutdown(): Promise<void> {
    const dataSource = this.modules.get(DataSource, { strict: false });
    if (dataSource.isInitialized) await dataSource.destroy();
    await this.stop?.();
  }
}

@Module({ providers: [DatabaseServer], exports: [DatabaseServer] })
class DatabaseServerModule {}

@Global()
@Module({
  imports: [
    DatabaseServerModule,
    TypeOrmModule.forRootAsync({
      imports: [DatabaseServerModule],
      inject: [DatabaseServer, Config],
      useFactory: async (server: DatabaseServer, config: Config) => {
        const url = await server.start();
        if (config.migrations === 'auto') {
          const names = await migrateDatabase(url);
          if (names.length > 0) new Logger('Database').log(`Migrated: ${names.join(', ')}`);
        }
        return { ...dataSourceOptions(url, config.databasePool), autoLoadEntities: true, retryAttempts: 0 };
      },
    }),
  ],
  providers: [UnitOfWork, DatabaseProbe],
  exports: [UnitOfWork, DatabaseProbe],
})
export class DatabaseModule {}
