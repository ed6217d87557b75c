/** One node of the service by its parts: repository, store, unit of work, data source. */
import type { Provider } from '@nestjs/common';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { Order } from '../../../src/orders/order.entity.js';
import type { CachedRepository } from '../../../src/platform/cache/cached-repository.js';
import { cachedRepositoryToken } from '../../../src/platform/cache/cached.decorator.js';
import { CACHE_TIMING_OVERRIDES } from '../../../src/platform/cache/cache-timings.js';
import { Membership } from '../../../src/platform/cache/epoch/membership.js';
import { ReadGate } from '../../../src/platform/cache/read/read-gate.js';
import { deleteKeys } from '../../../src/platform/cache/store/cache-store.js';
import { UnitOfWork } from '../../../src/platform/database/unit-of-work.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';

/** The service's own times, not those of tests on a busy machine. */
const DEFAULT_TIMINGS: Provider = { provide: CACHE_TIMING_OVERRIDES, useValue: {} };

type Token<T> = string | symbol | (abstract new (...args: never[]) => T);

export class CacheNode {
  readonly orders: CachedRepository<Order>;
  readonly unitOfWork: UnitOfWork;
  private readonly gate: ReadGate;
  private readonly membership: Membership;
  readonly dataSource: DataSource;

  private constructor(readonly app: TestApp) {
    this.orders = this.part<CachedRepository<Order>>(cachedRepositoryToken(Order));
    this.gate = this.part(ReadGate);
    this.membership = this.part(Membership);
    this.unitOfWork = this.part(UnitOfWork);
    this.dataSource = this.part(DataSource);
  }

  /** Resolves when the node reads from its cache. */
  static async start(redisUrl: string, databaseUrl: string): Promise<CacheNode> {
    const env = { REDIS_URL: redisUrl };
    const app = await startApp(env, databaseUrl, undefined, [DEFAULT_TIMINGS]);
    const node = new CacheNode(app);
    await eventually('the node uses the cache', () => node.isMember);
    return node;
  }

  /** Whether this node answers from the cache and fences its writes. */
  get isMember(): boolean {
    return this.gate.isOpen && this.membership.epochStore !== undefined;
  }

  /** How many rows of orders were read from PostgreSQL so far. */
  async rowsLoaded(): Promise<number> {
    const metric = this.part(Registry).getSingleMetric('holdfast_cache_loads_total');
    const { values } = (await metric?.get()) ?? { values: [] };
    return values.find(({ labels }) => labels.entity === 'order')?.value ?? 0;
  }

  readRow(id: string): Promise<Order> {
    return this.dataSource.getRepository(Order).findOneByOrFail({ id });
  }

  async evict(id: string): Promise<void> {
    const { store } = this.gate;
    if (!store) throw new Error('The node uses no cache');
    await deleteKeys(store, [`order:id:${id}`]);
  }

  /** The statements of {@link UnitOfWork} without the cache's part. */
  async updateWithoutCache(row: Order, note: string): Promise<void> {
    const runner = this.dataSource.createQueryRunner('master');
    await runner.connect();
    try {
      await runner.startTransaction();
      await runner.manager
        .createQueryBuilder()
        .update(Order)
        .set({ note })
        .where('id = :id AND version = :version', { id: row.id, version: row.version })
        .returning('*')
        .execute();
      await runner.commitTransaction();
    } finally {
      await runner.release();
    }
  }

  async update(row: Order, note: string): Promise<void> {
    await this.unitOfWork.run((transaction) => transaction.update(row, { note }));
  }

  private part<T>(token: Token<T>): T {
    return this.app.app.get<T>(token as never, { strict: false });
  }
}
