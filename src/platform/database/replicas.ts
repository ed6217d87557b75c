/**
 * Reads that may lag, on the replicas of DATABASE_REPLICA_URLS where there are some. Invariants: nothing is decided by what is read
 * here and nothing of it goes into the fenced cache; and a replica that is gone, or fails for whatever reason, costs time only: the
 * primary answers instead.
 */
import { Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import { DataSource, type EntityManager } from 'typeorm';
import { Config } from '../config.js';
import { dataSourceOptions } from './data-source.js';

/** Connections to one replica: these reads are few and long. */
const POOL = 2;
/** A replica that failed is left alone for this long. */
const REST_MS = 2_000;

class Replica {
  private readonly dataSource: DataSource;
  private opening: Promise<DataSource> | undefined;
  private restsUntil = 0;

  constructor(
    url: string,
    primary: DataSource,
    readonly name: string,
  ) {
    const options = dataSourceOptions(url, POOL);
    // Whatever the URL leads to, nothing is written there.
    const extra = { ...(options.extra as object), options: '-c default_transaction_read_only=on' };
    this.dataSource = new DataSource({
      ...options,
      extra,
      entities: primary.options.entities ?? [],
      migrations: [],
    });
  }

  get rests(): boolean {
    return performance.now() < this.restsUntil;
  }

  rest(): void {
    this.restsUntil = performance.now() + REST_MS;
  }

  async read<T>(work: (manager: EntityManager) => Promise<T>): Promise<T> {
    if (!this.dataSource.isInitialized) {
      this.opening ??= this.dataSource.initialize().finally(() => (this.opening = undefined));
      await this.opening;
    }
    return work(this.dataSource.manager);
  }

  async close(): Promise<void> {
    await this.opening?.catch(() => undefined);
    if (this.dataSource.isInitialized) await this.dataSource.destroy();
  }
}

@Injectable()
export class Replicas implements OnApplicationShutdown {
  private readonly logger = new Logger('Database');
  private readonly replicas: readonly Replica[];
  private turn = 0;

  constructor(
    private readonly primary: DataSource,
    config: Config,
  ) {
    const nameOf = (url: string): string => `replica ${new URL(url).host}`;
    this.replicas = config.databaseReplicaUrls.map((url) => new Replica(url, primary, nameOf(url)));
  }

  /**
   * What `work` reads on a replica, each in its turn; on the primary when there is none that works. `work` may run twice.
   * @throws what it throws on the primary
   */
  async read<T>(work: (manager: EntityManager) => Promise<T>): Promise<T> {
    const awake = this.replicas.filter(({ rests }) => !rests);
    const replica = awake[this.turn++ % awake.length];
    if (replica) {
      try {
        return await replica.read(work);
      } catch (error) {
        replica.rest();
        this.logger.warn(`${replica.name} failed, the primary is read: ${String(error)}`);
      }
    }
    return work(this.primary.manager);
  }

  async onApplicationShutdown(): Promise<void> {
    await Promise.all(this.replicas.map((replica) => replica.close()));
  }
}
