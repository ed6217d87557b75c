/**
 * Reads that may be older than the primary, on the replicas of DATABASE_REPLICA_URLS. Invariants:
 * no decision and no cache entry depends on what is read here; a server is asked only after it has
 * shown that it is a replica of this primary, and how old its data is; one that fails costs time
 * only, because the primary answers instead.
 */
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  Optional,
} from '@nestjs/common';
import { DataSource, type EntityManager } from 'typeorm';
import { Config } from '../../config.js';
import { DATABASE_TIMEOUTS, type DatabaseTimeouts, dataSourceOptions } from './data-source.js';
import {
  findReplicaProblem,
  freshnessOf,
  readServerState,
  type ServerState,
} from './replica-state.js';

/** Connections to one replica: these reads are few and long. */
const REPLICA_POOL_SIZE = 2;
/** A replica that failed or was not fit is not asked again before this time has passed. */
const RETRY_AFTER_MS = 2_000;

/** Beyond every position: a pg_lsn has 64 bits. */
const UNKNOWN_POSITION = 2n ** 64n;

/**
 * @param asOf milliseconds since 1970: what was committed before this moment is visible
 */
type Read<T> = (manager: EntityManager, asOf: number) => Promise<T>;

class Replica {
  /** Without the password that the URL may contain. */
  readonly name: string;
  /** Why the server is not used; undefined while it is. */
  problem: string | undefined;
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

  get manager(): EntityManager {
    return this.dataSource.manager;
  }

  get isDue(): boolean {
    return performance.now() >= this.retryAt;
  }

  postpone(): void {
    this.retryAt = performance.now() + RETRY_AFTER_MS;
  }

  async readState(): Promise<ServerState> {
    await this.open();
    return readServerState(this.dataSource);
  }

  /** Connects at the first use: a replica that is down must not delay the start. */
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

/** A replica that is fit to answer, and the state in which it was found. */
interface FitReplica {
  readonly replica: Replica;
  readonly position: bigint;
  readonly asOf: number;
}

/**
 * Reads of one long task. None sees less than the first one did, whichever server answers: a row
 * that was committed before the first read, and is not changed, is found by every later read.
 */
export interface RepeatedReads {
  read<T>(work: Read<T>): Promise<T>;
}

@Injectable()
export class Replicas implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Database');
  private readonly replicas: readonly Replica[];
  private readCount = 0;
  /** When it last answered. */
  private primaryState: ServerState | undefined;
  private firstInspection: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly primary: DataSource,
    config: Config,
    @Optional() @Inject(DATABASE_TIMEOUTS) timeouts?: Partial<DatabaseTimeouts>,
  ) {
    this.replicas = config.databaseReplicaUrls.map((url) => new Replica(url, primary, timeouts));
  }

  get count(): number {
    return this.replicas.length;
  }

  /** How many replicas were not fit, or failed, when they were last asked. */
  get unusedCount(): number {
    return this.replicas.filter(({ problem }) => problem !== undefined).length;
  }

  /** Not awaited: a wrong URL is reported, and a replica that hangs does not delay the start. */
  onApplicationBootstrap(): void {
    this.firstInspection = Promise.all(this.replicas.map((replica) => this.inspect(replica)));
  }

  /**
   * Runs `work` on the next fit replica, or on the primary when none is configured, fit or able to
   * answer. So `work` may run twice.
   * @throws whatever `work` throws on the primary
   */
  read<T>(work: Read<T>): Promise<T> {
    return this.repeatedReads().read(work);
  }

  /** @see RepeatedReads */
  repeatedReads(): RepeatedReads {
    /** The server of the last read; undefined before the first. */
    let current: Replica | 'primary' | undefined;
    /** What every server of these reads must have. */
    let minPosition = 0n;
    return {
      read: async (work) => {
        if (current === 'primary') return this.readPrimary(work);
        const found = await this.findFit(current, minPosition);
        if (found) {
          const result = await this.tryRead(found, work);
          if (result) {
            if (current === undefined) minPosition = found.position;
            current = found.replica;
            return result.value;
          }
        }
        // After a failover that lost transactions, even the primary may have less.
        if (current !== undefined) await this.requirePosition(minPosition);
        current = 'primary';
        return this.readPrimary(work);
      },
    };
  }

  private readPrimary<T>(work: Read<T>): Promise<T> {
    return work(this.primary.manager, Date.now());
  }

  /** @throws Error when the primary lacks what a replica had */
  private async requirePosition(position: bigint): Promise<void> {
    const state = await readServerState(this.primary);
    if (state.position < position) {
      throw new Error('The primary lacks what the replica of the first read had');
    }
  }

  /** @returns undefined when the replica fails */
  private async tryRead<T>(
    { replica, asOf }: FitReplica,
    work: Read<T>,
  ): Promise<{ readonly value: T } | undefined> {
    try {
      return { value: await work(replica.manager, asOf) };
    } catch (error) {
      this.reportFailure(replica, error);
      return undefined;
    }
  }

  /** The first replica that is fit and has this position, beginning with `preferred`. */
  private async findFit(
    preferred: Replica | undefined,
    minPosition: bigint,
  ): Promise<FitReplica | undefined> {
    for (const replica of this.candidates(preferred)) {
      const found = await this.inspect(replica);
      if (found && found.position >= minPosition) return found;
    }
    return undefined;
  }

  private candidates(preferred: Replica | undefined): Replica[] {
    const due = this.replicas.filter((replica) => replica !== preferred && replica.isDue);
    const first = due.length === 0 ? 0 : this.readCount % due.length;
    this.readCount++;
    const rotated = [...due.slice(first), ...due.slice(0, first)];
    return preferred ? [preferred, ...rotated] : rotated;
  }

  /** @returns undefined when the server cannot be used; the reason is logged once */
  private async inspect(replica: Replica): Promise<FitReplica | undefined> {
    const askedAt = Date.now();
    try {
      const state = await replica.readState();
      // Afterwards, so that a replica cannot be ahead of what the primary says.
      const primary = await this.findPrimaryState();
      if (!primary) return undefined;
      const problem = findReplicaProblem(state, primary);
      this.report(replica, problem);
      if (problem !== undefined) return undefined;
      return { replica, position: state.position, asOf: freshnessOf(state, primary, askedAt) };
    } catch (error) {
      this.reportFailure(replica, error);
      return undefined;
    }
  }

  /** Of a primary that is gone, only the position is unknown. Undefined when it never answered. */
  private async findPrimaryState(): Promise<ServerState | undefined> {
    try {
      this.primaryState = await readServerState(this.primary);
      return this.primaryState;
    } catch {
      return this.primaryState && { ...this.primaryState, position: UNKNOWN_POSITION };
    }
  }

  private reportFailure(replica: Replica, error: unknown): void {
    this.report(replica, `failed: ${String(error)}`);
  }

  /** @param problem undefined when the replica is fit */
  private report(replica: Replica, problem: string | undefined): void {
    if (problem !== undefined) replica.postpone();
    if (problem === replica.problem) return;
    replica.problem = problem;
    if (problem === undefined) {
      this.logger.log(`${replica.name} is used again`);
    } else {
      this.logger.warn(
        `${replica.name} ${problem}; reading the primary or another replica instead`,
      );
    }
  }

  async onApplicationShutdown(): Promise<void> {
    await this.firstInspection;
    await Promise.all(this.replicas.map((replica) => replica.close()));
  }
}
