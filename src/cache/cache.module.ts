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
import { APP_INTERCEPTOR } from '@nestjs/core';
import { getRepositoryToken, TypeOrmModule } from '@nestjs/typeorm';
import type { Repository } from 'typeorm';
import { CacheInterceptor } from './cache.interceptor.js';
import { keyvStore } from './cache-manager.js';
import { CacheMetrics } from './cache.metrics.js';
import { CACHE_STORE, type CacheStore } from './cache.store.js';
import { CachedEntity, CachedRepository } from './cached-repository.js';
import { type CachedRow, cachedOptionsOf, cachedRepositoryToken } from './cached.decorator.js';
import { CachedEntities, DEGRADED_WRITES, type DegradedWrites, InvalidationService } from './invalidation.service.js';
import { MemoryStore } from './memory.store.js';
import { RedisStore } from './redis.store.js';

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

function makeStore(settings: CacheSettings): CacheStore {
  if (!settings.redisUrl) return new MemoryStore();
  const logger = new Logger('Cache');
  return RedisStore.connect({
    url: settings.redisUrl,
    onStateChange: (available) =>
      available ? logger.log('Redis is available') : logger.warn('Redis is unavailable: reads go to PostgreSQL'),
    onError: (error) => logger.debug(`Redis: ${error.message}`),
  });
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
          useFactory: (client: RedisClient | undefined) => ({ stores: keyvStore(client), ttl: 30_000 }),
        }),
      ],
      providers: [
        settings,
        { provide: CACHE_STORE, inject: [SETTINGS], useFactory: makeStore },
        {
          provide: REDIS_CLIENT,
          inject: [CACHE_STORE],
          useFactory: (store: CacheStore) => (store instanceof RedisStore ? store.client : undefined),
        },
        {
          provide: DEGRADED_WRITES,
          inject: [SETTINGS],
          useFactory: ({ degradedWrites }: CacheSettings) => degradedWrites,
        },
        { provide: APP_INTERCEPTOR, useClass: CacheInterceptor },
        CacheStoreOwner,
        CacheMetrics,
        CachedEntities,
        InvalidationService,
      ],
      exports: [
        SETTINGS,
        CACHE_STORE,
        REDIS_CLIENT,
        CacheMetrics,
        CachedEntities,
        InvalidationService,
        NestCacheModule,
      ],
    };
  }

  static forFeature(entities: Type<CachedRow>[]): DynamicModule {
    const providers = entities.map((entity): FactoryProvider => ({
      provide: cachedRepositoryToken(entity),
      inject: [getRepositoryToken(entity), CACHE_STORE, CacheMetrics, CachedEntities, SETTINGS],
      useFactory: (
        repository: Repository<CachedRow>,
        store: CacheStore,
        metrics: CacheMetrics,
        all: CachedEntities,
        { ttl }: CacheSettings,
      ) => {
        const cached = new CachedEntity(entity, repository, ttl[cachedOptionsOf(entity).name]);
        all.add(cached);
        return new CachedRepository(cached, store, metrics);
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
