/**
 * Reads that may be older than the primary, on the replicas of DATABASE_REPLICA_URLS. Invariants:
 * no decision and no cache entry depends on what is read here; a replica that fails costs time
 * only, because the primary answers instead.
 */
import { Inject, Injectable, Logger, type OnApplicationShutdown, Optional } from '@nestjs/common';
import { DataSource, type EntityManager } from 'typeorm';
import { Config } from '../../config.js';
import { DATABASE_TIMEOUTS, type DatabaseTimeouts, dataSourceOptions } from './data-source.js';

/** Connections to one replica: these reads are few and long. */
const REPLICA_POOL_SIZE = 2;
/** A replica that failed is not asked again before this time has passed. */
const RETRY_AFTER_MS = 2_000;

type Read<T> = (manager: EntityManager) => Promise<T>;

class Replica {
  /** Without the password that the URL may contain. */
  readonly name: string;
  private readonly dataSource: DataSource;
  private opening: Promise<DataSource> | undefined;
  private retryAt = 0;

  constructor(url: string, primary: DataSource, timeouts: Partial<DatabaseTimeouts> | undefined) {
    this.name = `replica ${new URL(url).host}`;
    const options = dataSourceOptions(url, REPLICA_POOL_SIZE, { timeouts });
    // The URL may lead to a primary by mistake: nothing may be written there either.
    const readOnly = { options: '-c default_transaction_read_only=on' };
    this.dataSource = new DataSource({
      ...options,
      extra: { ...(options.extra as object), ...readOnly },
      entities: primary.options.entities ?? [],
      migrations: [],
    });
  }

  get isUsable(): boolean {
    return performance.now() >= this.retryAt;
  }

  markFailed(): void {
    this.retryAt = performance.now() + RETRY_AFTER_MS;
  }

  async read<T>(work: Read<T>): Promise<T> {
    await this.open();
    return work(this.dataSource.manager);
  }

  /** Connects at the first read: a replica that is down must not delay the start. */
  private async open(): Promise<void> {
    if (this.dataSource.isInitialized) return;
    this.opening ??= this.dataSource.initialize().finally(() => {
      this.opening = undefined;
    });
    await this.opening;
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
  private readCount = 0;

  constructor(
    private readonly primary: DataSource,
    config: Config,
    @Optional() @Inject(DATABASE_TIMEOUTS) timeouts?: Partial<DatabaseTimeouts>,
  ) {
    this.replicas = config.databaseReplicaUrls.map((url) => new Replica(url, primary, timeouts));
  }

  /**
   * Runs `work` on the next usable replica, or on the primary when no replica is configured, usable
   * or able to answer. So `work` may run twice.
   * @throws whatever `work` throws on the primary
   */
  async read<T>(work: Read<T>): Promise<T> {
    const replica = this.nextUsable();
    if (replica) {
      try {
        return await replica.read(work);
      } catch (error) {
        replica.markFailed();
        this.logger.warn(`${replica.name} failed, reading the primary instead: ${String(error)}`);
      }
    }
    return work(this.primary.manager);
  }

  private nextUsable(): Replica | undefined {
    const usable = this.replicas.filter(({ isUsable }) => isUsable);
    const next = usable[this.readCount % usable.length];
    this.readCount++;
    return next;
  }

  async onApplicationShutdown(): Promise<void> {
    await Promise.all(this.replicas.map((replica) => replica.close()));
  }
}
