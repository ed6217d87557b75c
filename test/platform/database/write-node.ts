/**
 * A node that writes: UnitOfWork over a real PostgreSQL, and a cache in memory whose steps a test
 * can stop, break and count.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Client } from 'pg';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { Session } from '../../../src/auth/sessions/session.entity.js';
import { Order } from '../../../src/orders/order.entity.js';
import { CacheMetrics } from '../../../src/platform/cache/cache-metrics.js';
import { DEFAULT_CACHE_TIMINGS } from '../../../src/platform/cache/cache-timings.js';
import { CachedEntities, CachedEntity } from '../../../src/platform/cache/cached-entity.js';
import { CachedRepository } from '../../../src/platform/cache/cached-repository.js';
import type { CacheStore } from '../../../src/platform/cache/store/cache-store.js';
import { MemoryStore } from '../../../src/platform/cache/store/memory-store.js';
import { DatabaseInvalidations } from '../../../src/platform/cache/write/database-invalidations.js';
import type { DegradedWrites } from '../../../src/platform/cache/write/invalidation.js';
import { InvalidationService } from '../../../src/platform/cache/write/invalidation.service.js';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import type { Transaction } from '../../../src/platform/database/transaction.js';
import { UnitOfWork } from '../../../src/platform/database/unit-of-work.js';
import { User } from '../../../src/users/user.entity.js';
import { eventually } from '../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import {
  openGateTo,
  PRETENDED_EPOCH,
  pretendEpoch,
  pretendMembership,
} from '../../support/pretend-epoch.js';

type Step = 'fence' | 'publish' | 'unfence';

/** A store that counts its writing steps. `before` runs first, and may wait or throw. */
export class ScriptedStore extends MemoryStore {
  readonly steps: Step[] = [];
  before: Partial<Record<Step, () => Promise<void>>> = {};

  override async fence(...args: Parameters<CacheStore['fence']>): Promise<void> {
    await this.begin('fence');
    await super.fence(...args);
  }

  override async publish(
    ...args: Parameters<CacheStore['publish']>
  ): ReturnType<CacheStore['publish']> {
    await this.begin('publish');
    return super.publish(...args);
  }

  override async unfence(...args: Parameters<CacheStore['unfence']>): Promise<void> {
    await this.begin('unfence');
    await super.unfence(...args);
  }

  private async begin(step: Step): Promise<void> {
    this.steps.push(step);
    await this.before[step]?.();
  }
}

export interface WriteNode {
  readonly dataSource: DataSource;
  readonly store: ScriptedStore;
  readonly unitOfWork: UnitOfWork;
  readonly users: CachedRepository<User>;
  /** The state of a cache key: value, none, fence, lease or absent. */
  stateOf(key: string): Promise<string>;
  /** The state of a user's row in the cache. */
  userState(id: string): Promise<string>;
}

export interface WriteNodeOptions {
  readonly degradedWrites?: DegradedWrites;
  readonly poolSize?: number;
  readonly store?: ScriptedStore;
  /** PostgreSQL's `lock_timeout` in milliseconds; 0 for none. */
  readonly lockTimeout?: number;
}

const openDataSources: DataSource[] = [];

async function createNode(url: string, options: WriteNodeOptions): Promise<WriteNode> {
  const { degradedWrites = 'wait', poolSize = 5, store = new ScriptedStore() } = options;
  const timeouts = options.lockTimeout === undefined ? {} : { lock: options.lockTimeout };
  const dataSource = await new DataSource({
    ...dataSourceOptions(url, poolSize, { timeouts }),
    entities: [User, Session, Order],
  }).initialize();
  openDataSources.push(dataSource);

  const users = new CachedEntity(User, dataSource.getRepository(User));
  const entities = new CachedEntities();
  entities.add(users);
  entities.add(new CachedEntity(Session, dataSource.getRepository(Session)));
  entities.add(new CachedEntity(Order, dataSource.getRepository(Order)));
  const epochStore = pretendEpoch(store);
  const membership = pretendMembership(epochStore, entities);
  const gate = openGateTo(epochStore);
  const metrics = new CacheMetrics(new Registry());
  const database = new DatabaseInvalidations(
    store,
    dataSource,
    gate,
    membership,
    metrics,
    DEFAULT_CACHE_TIMINGS,
  );
  const invalidation = new InvalidationService(membership, entities, degradedWrites, database);

  const stateOf = async (key: string): Promise<string> => {
    const [entry] = await epochStore.get([key]);
    return entry?.state ?? '';
  };
  return {
    dataSource,
    store,
    unitOfWork: new UnitOfWork(dataSource, invalidation),
    users: new CachedRepository(users, store, metrics, gate),
    stateOf,
    userState: (id) => stateOf(users.rowKey(id)),
  };
}

let nameCount = 0;

/** A username that no other user of this file has. */
export function uniqueName(): string {
  nameCount++;
  return `user-${nameCount}`;
}

/** The values of a new user. */
export function newUser(username = uniqueName()): Partial<User> & { id: string; username: string } {
  return {
    id: randomUUID(),
    username,
    email: `${username}@example.com`,
    roles: ['user'],
    deletedAt: null,
  };
}

/** A promise that a test resolves by hand. */
export class Gate {
  open: () => void = () => undefined;
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });
}

/** @returns what the promise rejects with; fails when it resolves */
export async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('The promise resolved');
}

/** A database with a node, for the tests of one file. Call at the top level. */
export class WriteTest {
  database!: TestDatabase;
  node!: WriteNode;
  /** Another program's connection. */
  psql!: Client;

  constructor() {
    beforeAll(async () => {
      Logger.overrideLogger(false);
      this.database = await createTestDatabase();
      this.psql = new Client({ connectionString: this.database.url });
      await this.psql.connect();
      this.node = await createNode(this.database.url, {});
    });
    // A test may have started a whole service, which begins epochs of its own.
    beforeEach(async () => {
      await this.psql.query('DELETE FROM cache_readers');
      await this.psql.query('UPDATE cache_epoch SET epoch = $1', [PRETENDED_EPOCH]);
    });
    afterEach(async () => {
      this.node.store.before = {};
      await this.psql.query('SELECT pg_advisory_unlock_all()');
      await this.psql.query('DROP TRIGGER IF EXISTS zz_at_commit ON users');
      await this.psql.query('TRUNCATE cache_invalidations');
    });
    afterAll(async () => {
      await Promise.all(openDataSources.splice(0).map((dataSource) => dataSource.destroy()));
      await this.psql.end();
      await this.database.drop();
    });
  }

  /** Another node, over `url` or the same database. Each has a cache of its own. */
  createNode(options: WriteNodeOptions, url = this.database.url): Promise<WriteNode> {
    return createNode(url, options);
  }

  createUser(values = newUser()): Promise<User> {
    return this.node.unitOfWork.run((transaction) => transaction.insert(User, values));
  }

  rename(user: User, username: string, node = this.node): Promise<User | null> {
    return node.unitOfWork.run((transaction) => transaction.update(user, { username }));
  }

  /** The user's row in the database; undefined when it does not exist. */
  async rowOf(id: string): Promise<{ username: string; version: number } | undefined> {
    const { rows } = await this.psql.query<{ username: string; version: number }>(
      'SELECT username, version::int FROM users WHERE id = $1',
      [id],
    );
    return rows[0];
  }

  /**
   * Runs PL/pgSQL inside each COMMIT that changes a user, as a deferred constraint does. Triggers
   * run in the order of their names: this one after the cache's, whose notice would otherwise end a
   * transaction that has lost its client.
   */
  async atCommit(body: string): Promise<void> {
    await this.psql.query(`
      CREATE OR REPLACE FUNCTION zz_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        ${body}
        RETURN NULL;
      END $$`);
    await this.psql.query(`
      CREATE CONSTRAINT TRIGGER zz_at_commit AFTER INSERT OR UPDATE OR DELETE ON users
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION zz_at_commit()`);
  }

  /** From now on each COMMIT that changes a user waits until {@link resumeCommits}. */
  async pauseCommits(): Promise<void> {
    await this.psql.query('SELECT pg_advisory_lock(7)');
    await this.atCommit('PERFORM pg_advisory_xact_lock(7);');
  }

  async resumeCommits(): Promise<void> {
    await this.psql.query('SELECT pg_advisory_unlock(7)');
  }

  /** The process id of a backend that waits for a lock, once there is one. */
  async waitingBackend(): Promise<number> {
    const find = async (): Promise<number | undefined> => {
      const { rows } = await this.psql.query<{ pid: number }>(
        `SELECT pid FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return rows[0]?.pid;
    };
    return (await eventually('a backend waits for a lock', find)) as number;
  }

  /** Time for everything that does not wait for the test: round trips, not milliseconds. */
  async makeRoundTrips(): Promise<void> {
    for (let trip = 0; trip < 20; trip++) await this.psql.query('SELECT 1');
  }

  /** The keys that transactions left to the database, sorted. */
  async enqueuedKeys(): Promise<string[]> {
    const { rows } = await this.psql.query<{ key: string }>(
      'SELECT DISTINCT unnest(keys) AS key FROM cache_invalidations ORDER BY 1',
    );
    return rows.map(({ key }) => key);
  }
}

/** The process id of the transaction's backend. */
export async function backendOf({ manager }: Transaction): Promise<number> {
  const [row] = await manager.query<[{ pid: number }]>('SELECT pg_backend_pid() AS pid');
  return row.pid;
}

const QUICK_TIMEOUT_MS = 100;

/** The driver gives up soon on answers of this connection: the test makes sure that none come. */
export function giveUpSoon({ manager }: Transaction): void {
  const { databaseConnection } = manager.queryRunner as unknown as {
    databaseConnection: { connectionParameters: { query_timeout: number } };
  };
  databaseConnection.connectionParameters.query_timeout = QUICK_TIMEOUT_MS;
}
