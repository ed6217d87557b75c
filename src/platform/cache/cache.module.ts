/**
 * Provides the cache. `CacheModule.forRoot(...)` chooses the store: Redis, or this process's
 * memory.
 * `CacheModule.forFeature([User])` provides a {@link CachedRepository} for each entity, as
 * TypeOrmModule provides repositories.
 */
import { CacheModule as NestCacheModule } from '@nestjs/cache-manager';
import {
  type DynamicModule,
  type FactoryProvider,
  Global,
  Inject,
  type InjectionToken,
  Logger,
  Module,
  type OnApplicationShutdown,
  type Type,
} from '@nestjs/common';
import { getRepositoryToken, TypeOrmModule } from '@nestjs/typeorm';
import type { Repository } from 'typeorm';
import { createKeyvStore } from './cache-manager.js';
import { CacheMetrics } from './cache-metrics.js';
import {
  CACHE_TIMING_OVERRIDES,
  CACHE_TIMINGS,
  type CacheTimings,
  DEFAULT_CACHE_TIMINGS,
} from './cache-timings.js';
import { CachedEntities, CachedEntity } from './cached-entity.js';
import { CachedRepository } from './cached-repository.js';
import { type CachedRow, cachedOptionsOf, cachedRepositoryToken } from './cached.decorator.js';
import { Membership } from './epoch/membership.js';
import { NearCache } from './near/near-cache.js';
import { DEFAULT_NEAR_OPTIONS } from './near/near-entries.js';
import { ReadGate } from './read/read-gate.js';
import { CACHE_STORE, type CacheStore } from './store/cache-store.js';
import { GuardedStore } from './store/guarded-store.js';
import { MemoryStore } from './store/memory-store.js';
import type { RedisStore } from './store/redis/redis-store.js';
import { DatabaseInvalidations } from './write/database-invalidations.js';
import type { DegradedWrites } from './write/invalidation.js';
import { DEGRADED_WRITES, InvalidationService } from './write/invalidation.service.js';

export interface CacheSettings {
  /**
   * Absent: the cache is in this process's memory. Of several such processes on one database, one
   * uses its cache and the others read PostgreSQL.
   */
  readonly redisUrl?: string | undefined;
  readonly degradedWrites: DegradedWrites;
  /** The names of the entities that have near caches; without Redis none has one. */
  readonly near?: readonly string[];
  /** Seconds until an entry expires, by entity name. Absent: the entity's own `ttl`. */
  readonly ttl: Readonly<Record<string, number>>;
}

/** The Redis connections of the cache, for other modules to share; undefined without Redis. */
export const REDIS_CLIENT = Symbol('RedisClient');
export type RedisClient = RedisStore['client'];

const SETTINGS = Symbol('CacheSettings');
const STORES = Symbol('CacheStores');

/** Milliseconds that values in CACHE_MANAGER live unless their writer says otherwise. */
const CACHE_MANAGER_TTL_MS = 30_000;

interface Stores {
  /** The store for reads and writes, behind its circuit breaker. */
  readonly store: CacheStore;
  /** The same without the breaker; undefined without Redis. */
  readonly redis: RedisStore | undefined;
}

async function createStores(
  settings: CacheSettings,
  gate: ReadGate,
  metrics: CacheMetrics,
  near: NearCache,
): Promise<Stores> {
  if (!settings.redisUrl) return { store: new MemoryStore(), redis: undefined };
  const logger = new Logger('Cache');
  // Imported here: a start without Redis need not load its client.
  const { RedisStore } = await import('./store/redis/redis-store.js');
  // Each time Redis comes back it may lack invalidations, so every change of state closes the gate.
  const redis = RedisStore.connect({
    url: settings.redisUrl,
    onStateChange: (isAvailable) => {
      gate.close();
      if (isAvailable) logger.log('Redis is available');
      else logger.warn('Redis is unavailable: reads go to PostgreSQL');
    },
    onError: (error) => logger.debug(`Redis connection error: ${error.message}`),
  });
  const handleBreaker = (isAvailable: boolean): void => {
    gate.close();
    metrics.setBreakerOpen(!isAvailable);
    if (!isAvailable) {
      logger.warn(
        'Redis failed several times in a row: reads go to PostgreSQL until a ping succeeds',
      );
    }
  };
  const store = new GuardedStore(redis, handleBreaker, () => near.agreement);
  return { store, redis };
}

/** Closes the store at shutdown, when the HTTP server has closed and nothing uses it any more. */
class CacheStoreOwner implements OnApplicationShutdown {
  constructor(@Inject(CACHE_STORE) private readonly store: CacheStore) {}

  onApplicationShutdown(): Promise<void> {
    return this.store.close();
  }
}

const ROOT_PROVIDERS = [
  {
    provide: STORES,
    inject: [SETTINGS, ReadGate, CacheMetrics, NearCache],
    useFactory: createStores,
  },
  { provide: CACHE_STORE, inject: [STORES], useFactory: ({ store }: Stores) => store },
  { provide: REDIS_CLIENT, inject: [STORES], useFactory: ({ redis }: Stores) => redis?.client },
  {
    provide: DEGRADED_WRITES,
    inject: [SETTINGS],
    useFactory: ({ degradedWrites }: CacheSettings) => degradedWrites,
  },
  {
    provide: CACHE_TIMINGS,
    inject: [{ token: CACHE_TIMING_OVERRIDES, optional: true }],
    useFactory: (overrides?: Partial<CacheTimings>) => ({ ...DEFAULT_CACHE_TIMINGS, ...overrides }),
  },
  CacheStoreOwner,
  CacheMetrics,
  CachedEntities,
  DatabaseInvalidations,
  InvalidationService,
  Membership,
  NearCache,
  ReadGate,
];

const cacheManagerModule = (): DynamicModule =>
  NestCacheModule.registerAsync({
    inject: [REDIS_CLIENT],
    useFactory: async (client: RedisClient | undefined) => ({
      stores: await createKeyvStore(client),
      ttl: CACHE_MANAGER_TTL_MS,
    }),
  });

const cachedRepositoryProvider = (entity: Type<CachedRow>): FactoryProvider => ({
  provide: cachedRepositoryToken(entity),
  inject: [
    getRepositoryToken(entity),
    CACHE_STORE,
    CacheMetrics,
    ReadGate,
    CachedEntities,
    SETTINGS,
    CACHE_TIMINGS,
    NearCache,
  ],
  useFactory: (
    repository: Repository<CachedRow>,
    store: CacheStore,
    metrics: CacheMetrics,
    gate: ReadGate,
    entities: CachedEntities,
    settings: CacheSettings,
    { leaseMs }: CacheTimings,
    nearCache: NearCache,
  ) => {
    const { name, near: nearOptions = DEFAULT_NEAR_OPTIONS } = cachedOptionsOf(entity);
    const isNear = settings.redisUrl !== undefined && settings.near?.includes(name);
    const near = isNear ? nearCache.add(name, nearOptions) : undefined;
    const cached = new CachedEntity(entity, repository, settings.ttl[name]);
    entities.add(cached);
    return new CachedRepository(cached, store, metrics, gate, leaseMs, near);
  },
});

@Global()
@Module({})
export class CacheModule {
  static forRoot(options: {
    inject: InjectionToken[];
    useFactory: (...injected: never[]) => CacheSettings;
  }): DynamicModule {
    const settings: FactoryProvider = {
      provide: SETTINGS,
      inject: options.inject,
      useFactory: options.useFactory as (...injected: unknown[]) => CacheSettings,
    };
    return {
      module: CacheModule,
      imports: [cacheManagerModule()],
      providers: [settings, ...ROOT_PROVIDERS],
      exports: [
        SETTINGS,
        CACHE_STORE,
        CACHE_TIMINGS,
        REDIS_CLIENT,
        CacheMetrics,
        CachedEntities,
        InvalidationService,
        Membership,
        NearCache,
        ReadGate,
        NestCacheModule,
      ],
    };
  }

  static forFeature(entities: Type<CachedRow>[]): DynamicModule {
    const providers = entities.map(cachedRepositoryProvider);
    return {
      module: class CacheFeatureModule {},
      imports: [TypeOrmModule.forFeature(entities)],
      providers,
      exports: providers,
    };
  }
}
