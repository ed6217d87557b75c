/**
 * The cache's door. `CacheModule.forRoot(...)` chooses the store (Redis, or this process's memory) and its settings;
 * `CacheModule.forFeature([User])` provides a {@link CachedRepository} for each entity, as TypeOrmModule does repositories.
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
import { keyvStore } from './cache-manager.js';
import { CacheMetrics } from './cache.metrics.js';
import { CACHE_STORE, type CacheStore } from './cache.store.js';
import { CachedEntity, CachedRepository } from './cached-repository.js';
import { type CachedRow, cachedOptionsOf, cachedRepositoryToken } from './cached.decorator.js';
import { DatabaseInvalidations } from './database-invalidations.js';
import { GuardedStore } from './guarded.store.js';
import { ReadGate } from './read-gate.js';
import {
  CachedEntities,
  DEGRADED_WRITES,
  type DegradedWrites,
  InvalidationService,
} from './invalidation.service.js';
import { MemoryStore } from './memory.store.js';
import type { RedisStore } from './redis.store.js';

export interface CacheSettings {
  /** Absent: the protocol runs in this process's memory, for one process only. */
  readonly redisUrl?: string | undefined;
  readonly degradedWrites: DegradedWrites;
  /** Seconds by entity name; the entity's own number when absent. */
  readonly ttl: Readonly<Record<string, number>>;
}

/** The connection that the cache uses, for others to share; undefined without Redis. */
export const REDIS_CLIENT = Symbol('RedisClient');
export type RedisClient = RedisStore['client'];

const SETTINGS = Symbol('CacheSettings');
const STORES = Symbol('CacheStores');

/** The store, and the connection under it that others share. */
interface Stores {
  readonly store: CacheStore;
  readonly redis: RedisStore | undefined;
}

/** A store that is reached over a network may have missed invalidations each time it comes back: the gate closes. */
async function makeStores(
  settings: CacheSettings,
  gate: ReadGate,
  metrics: CacheMetrics,
): Promise<Stores> {
  if (!settings.redisUrl) return { store: new MemoryStore(), redis: undefined };
  const logger = new Logger('Cache');
  // Loaded where it is used: a start without Redis need not wait for its client.
  const { RedisStore } = await import('./redis.store.js');
  const redis = RedisStore.connect({
    url: settings.redisUrl,
    onStateChange: (available) => {
      gate.close();
      if (available) logger.log('Redis is available');
      else logger.warn('Redis is unavailable: reads go to PostgreSQL');
    },
    onError: (error) => logger.debug(`Redis: ${error.message}`),
  });
  const store = new GuardedStore(redis, (available) => {
    gate.close();
    metrics.breakerOpen(!available);
    if (!available) logger.warn('Redis fails: it is skipped until a probe gets through');
  });
  return { store, redis };
}

/** Closes the store when nothing uses it any more: after the listener has closed. */
class CacheStoreOwner implements OnApplicationShutdown {
  constructor(@Inject(CACHE_STORE) private readonly store: CacheStore) {}

  onApplicationShutdown(): Promise<void> {
    return this.store.close();
  }
}

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
      imports: [
        NestCacheModule.registerAsync({
          inject: [REDIS_CLIENT],
          useFactory: async (client: RedisClient | undefined) => ({
            stores: await keyvStore(client),
            ttl: 30_000,
          }),
        }),
      ],
      providers: [
        settings,
        { provide: STORES, inject: [SETTINGS, ReadGate, CacheMetrics], useFactory: makeStores },
        { provide: CACHE_STORE, inject: [STORES], useFactory: ({ store }: Stores) => store },
        {
          provide: REDIS_CLIENT,
          inject: [STORES],
          useFactory: ({ redis }: Stores) => redis?.client,
        },
        {
          provide: DEGRADED_WRITES,
          inject: [SETTINGS],
          useFactory: ({ degradedWrites }: CacheSettings) => degradedWrites,
        },
        CacheStoreOwner,
        CacheMetrics,
        CachedEntities,
        DatabaseInvalidations,
        InvalidationService,
        ReadGate,
      ],
      exports: [
        SETTINGS,
        CACHE_STORE,
        REDIS_CLIENT,
        CacheMetrics,
        CachedEntities,
        InvalidationService,
        ReadGate,
        NestCacheModule,
      ],
    };
  }

  static forFeature(entities: Type<CachedRow>[]): DynamicModule {
    const providers = entities.map((entity): FactoryProvider => ({
      provide: cachedRepositoryToken(entity),
      inject: [
        getRepositoryToken(entity),
        CACHE_STORE,
        CacheMetrics,
        ReadGate,
        CachedEntities,
        SETTINGS,
      ],
      useFactory: (
        repository: Repository<CachedRow>,
        store: CacheStore,
        metrics: CacheMetrics,
        gate: ReadGate,
        all: CachedEntities,
        { ttl }: CacheSettings,
      ) => {
        const cached = new CachedEntity(entity, repository, ttl[cachedOptionsOf(entity).name]);
        all.add(cached);
        return new CachedRepository(cached, store, metrics, gate);
      },
    }));
    return {
      module: class CacheFeatureModule {},
      imports: [TypeOrmModule.forFeature(entities)],
      providers,
      exports: providers,
    };
  }
}
