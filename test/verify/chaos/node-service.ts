/** The part of the service that a node runs: configuration, database, cache, unit of work. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Global, type INestApplicationContext, Module, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Registry } from 'prom-client';
import { Session } from '../../../src/auth/sessions/session.entity.js';
import { Config, loadConfig } from '../../../src/config.js';
import { Order } from '../../../src/orders/order.entity.js';
import {
  CACHE_TIMING_OVERRIDES,
  DEFAULT_CACHE_TIMINGS,
} from '../../../src/platform/cache/cache-timings.js';
import { CacheModule } from '../../../src/platform/cache/cache.module.js';
import {
  type CachedRow,
  cachedRepositoryToken,
} from '../../../src/platform/cache/cached.decorator.js';
import { REFRESH_POLICY } from '../../../src/platform/cache/read/key-loader.js';
import type { CachedRepository } from '../../../src/platform/cache/cached-repository.js';
import type { DegradedWrites } from '../../../src/platform/cache/write/invalidation.js';
import { InvalidationService } from '../../../src/platform/cache/write/invalidation.service.js';
import {
  DATABASE_TIMEOUTS,
  DATABASE_TIMEOUTS_MS,
  type DatabaseTimeouts,
} from '../../../src/platform/database/data-source.js';
import { DatabaseModule } from '../../../src/platform/database/database.module.js';
import { UnitOfWork } from '../../../src/platform/database/unit-of-work.js';
import { User } from '../../../src/users/user.entity.js';

const START_RETRY_MS = 100;
const COUNTED_METRICS = [
  'holdfast_cache_requests_total',
  'holdfast_cache_refreshes_total',
  'holdfast_cache_near_hits_total',
];

const divisor = Number(process.env.CHAOS_TIMES_DIVISOR);
const config = loadConfig();
const registry = new Registry();

/** Seconds of a round then show what otherwise takes half a minute. */
const cacheTimings = {
  fenceMs: DEFAULT_CACHE_TIMINGS.fenceMs / divisor,
  leaseMs: DEFAULT_CACHE_TIMINGS.leaseMs / divisor,
};
/** Few readers then suffice to make a row hot. */
Object.assign(REFRESH_POLICY, { window: 0.5, reads: 2 });
const databaseTimeouts: Partial<DatabaseTimeouts> = {
  statement: DATABASE_TIMEOUTS_MS.statement / divisor,
  lock: DATABASE_TIMEOUTS_MS.lock / divisor,
  idleInTransaction: DATABASE_TIMEOUTS_MS.idleInTransaction / divisor,
  query: DATABASE_TIMEOUTS_MS.query / divisor,
};

@Global()
@Module({
  providers: [
    { provide: Config, useValue: config },
    { provide: Registry, useValue: registry },
    { provide: DATABASE_TIMEOUTS, useValue: databaseTimeouts },
    { provide: CACHE_TIMING_OVERRIDES, useValue: cacheTimings },
  ],
  exports: [Config, Registry, DATABASE_TIMEOUTS, CACHE_TIMING_OVERRIDES],
})
class SettingsModule {}

@Module({
  imports: [
    SettingsModule,
    DatabaseModule,
    CacheModule.forRoot({
      inject: [Config],
      useFactory: ({ redisUrl, cacheDegradedWrites, cacheNear, cacheTtl }: Config) => ({
        redisUrl,
        degradedWrites: cacheDegradedWrites,
        near: cacheNear,
        ttl: cacheTtl,
      }),
    }),
    CacheModule.forFeature([Order, Session, User]),
  ],
})
class NodeModule {}

export class NodeService {
  readonly orders: CachedRepository<Order>;
  readonly sessions: CachedRepository<Session>;
  readonly users: CachedRepository<User>;
  readonly unitOfWork: UnitOfWork;
  private readonly invalidations: InvalidationService;

  private constructor(private readonly app: INestApplicationContext) {
    const repositoryOf = <E extends CachedRow>(entity: Type<E>): CachedRepository<E> =>
      app.get<CachedRepository<E>>(cachedRepositoryToken(entity), { strict: false });
    this.orders = repositoryOf(Order);
    this.sessions = repositoryOf(Session);
    this.users = repositoryOf(User);
    this.unitOfWork = app.get(UnitOfWork, { strict: false });
    this.invalidations = app.get(InvalidationService, { strict: false });
  }

  /** Tries until it succeeds: a node may start while its links are down. */
  static async start(): Promise<NodeService> {
    for (;;) {
      try {
        const options = { logger: false, abortOnError: false } as const;
        return new NodeService(await NestFactory.createApplicationContext(NodeModule, options));
      } catch (error) {
        console.error(error);
        registry.clear();
        await sleep(START_RETRY_MS);
      }
    }
  }

  close(): Promise<void> {
    return this.app.close();
  }

  /** Rounds differ in this setting; the nodes go on. */
  setDegradedWrites(degradedWrites: DegradedWrites): void {
    Object.assign(this.invalidations, { degradedWrites });
  }

  /** How the cache answered, and how refreshes ended, since the last call, by outcome. */
  async takeOutcomes(): Promise<Record<string, number>> {
    const outcomes: Record<string, number> = {};
    for (const name of COUNTED_METRICS) {
      const metric = await registry.getSingleMetric(name)?.get();
      for (const { labels, value } of metric?.values ?? []) {
        const { outcome = 'near' } = labels as { outcome?: string };
        outcomes[outcome] = (outcomes[outcome] ?? 0) + value;
      }
    }
    registry.resetMetrics();
    return outcomes;
  }
}
