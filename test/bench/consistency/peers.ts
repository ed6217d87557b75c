/**
 * The ways of caching a row that are compared. Each follows its documentation, with the settings
 * that it recommends against staleness. All read the same row by its primary key through TypeORM
 * and write it in the same transaction (lock, UPDATE, COMMIT). Their invalidation starts after the
 * COMMIT; a write is acknowledged when it has resolved.
 */
import 'reflect-metadata';
import { CACHE_MANAGER, CacheInterceptor, CacheModule } from '@nestjs/cache-manager';
import { Controller, Get, Inject, Module, Param, UseInterceptors } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { BentoCache, bentostore } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis';
import { type Cache, createCache, KeyvAdapter } from 'cache-manager';
import { redisStore } from 'cache-manager-redis-yet';
import { Keyv } from 'keyv';
import { createClient } from 'redis';
import { DataSource, type Repository } from 'typeorm';
import { AppModule } from '../../../src/app.module.js';
import type { CachedRepository } from '../../../src/platform/cache/cached-repository.js';
import { cachedRepositoryToken } from '../../../src/platform/cache/cached.decorator.js';
import { ReadGate } from '../../../src/platform/cache/read/read-gate.js';
import { loadConfig } from '../../../src/config.js';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { UnitOfWork } from '../../../src/platform/database/unit-of-work.js';
import { Order } from '../../../src/orders/order.entity.js';
import { eventually } from '../../support/eventually.js';

/** Of every peer. Longer than a run: no row is fresh only because its entry expired. */
export const TTL_MS = 300_000;
/** Connections to PostgreSQL of one node: as many as it has readers. */
const POOL_SIZE = 20;

export interface Servers {
  readonly postgres: string;
  readonly redis: { readonly host: string; readonly port: number; readonly url: string };
}

/** One node of a peer. */
export interface PeerNode {
  readonly dataSource: DataSource;
  /** Resolves with the row's version as this node shows it. */
  read(id: string): Promise<number>;
  /** Resolves with the new version when the write may be acknowledged. */
  write(id: string): Promise<number>;
}

export interface Peer {
  readonly title: string;
  /** How it was set up, for the page. */
  readonly settings: string;
  open(servers: Servers): Promise<PeerNode>;
}

/** A cache that its caller keeps in step with the database: the cache-aside pattern. */
interface CacheAside {
  read(id: string): Promise<{ version: number }>;
  /** Called after the COMMIT. */
  invalidate(id: string): Promise<unknown>;
}

function connect(
  postgresUrl: string,
  queryCache?: { type: 'redis'; options: { url: string } },
): Promise<DataSource> {
  const options = { ...dataSourceOptions(postgresUrl, POOL_SIZE), entities: [Order] };
  return new DataSource({ ...options, ...(queryCache && { cache: queryCache }) }).initialize();
}

async function cacheAside(
  dataSource: DataSource,
  create: (rows: Repository<Order>) => CacheAside | Promise<CacheAside>,
): Promise<PeerNode> {
  const { read, invalidate } = await create(dataSource.getRepository(Order));
  return {
    dataSource,
    read: async (id) => (await read(id)).version,
    write: async (id) => {
      const version = await dataSource.transaction(async (manager) => {
        const row = await manager.findOneOrFail(Order, {
          where: { id },
          lock: { mode: 'pessimistic_write' },
        });
        await manager.update(Order, { id }, { note: `after version ${row.version}` });
        return row.version + 1; // a trigger of the table increments it
      });
      await invalidate(id);
      return version;
    },
  };
}

/** Redis through cache-manager-redis-yet, as cache-manager documents it. */
const redisKeyv = async ({ redis }: Servers): Promise<Keyv> =>
  new Keyv({ store: new KeyvAdapter((await redisStore({ url: redis.url })) as never) });

/**
 * Without grace no expired value is served; without timeouts no read is answered early; a failed
 * delete is an error, not a log line.
 */
const BENTOCACHE_OPTIONS = {
  ttl: TTL_MS,
  grace: false,
  hardTimeout: null,
  suppressL2Errors: false,
} as const;

const bentocache = (store: ReturnType<typeof bentostore>) => (rows: Repository<Order>) => {
  const cache = new BentoCache({ default: 'rows', stores: { rows: store }, ...BENTOCACHE_OPTIONS });
  return {
    read: (id: string) => cache.getOrSet({ key: id, factory: () => rows.findOneByOrFail({ id }) }),
    invalidate: (id: string) => cache.delete({ key: id }),
  };
};

const ROWS = Symbol('Rows');

/** A controller as in Nest's documentation: the interceptor caches its responses by their URL. */
@Controller('orders')
@UseInterceptors(CacheInterceptor)
class OrdersByUrl {
  constructor(@Inject(ROWS) private readonly rows: Repository<Order>) {}

  @Get(':id')
  get(@Param('id') id: string): Promise<Order> {
    return this.rows.findOneByOrFail({ id });
  }
}

@Module({})
class InterceptedModule {}

export const PEERS: Readonly<Record<string, Peer>> = {
  none: {
    title: 'no cache (control)',
    settings: 'every read goes to PostgreSQL',
    open: async ({ postgres }) =>
      cacheAside(await connect(postgres), (rows) => ({
        read: (id) => rows.findOneByOrFail({ id }),
        invalidate: async () => undefined,
      })),
  },

  'by-hand': {
    title: 'GET / SET / DEL by hand',
    settings: 'node-redis: GET; on a miss SELECT and SET PX; DEL after the COMMIT',
    open: async ({ postgres, redis }) =>
      cacheAside(await connect(postgres), async (rows) => {
        const client = await createClient({ url: redis.url }).connect();
        return {
          read: async (id) => {
            const text = await client.get(id);
            if (text !== null) return JSON.parse(text) as Order;
            const row = await rows.findOneByOrFail({ id });
            await client.set(id, JSON.stringify(row), { PX: TTL_MS });
            return row;
          },
          invalidate: (id) => client.del(id),
        };
      }),
  },

  'cache-manager': {
    title: 'cache-manager',
    settings: '`wrap` and, after the COMMIT, `del`; one Redis store, blocking, no refreshThreshold',
    open: async (servers) =>
      cacheAside(await connect(servers.postgres), async (rows) => {
        const cache = createCache({
          stores: [await redisKeyv(servers)],
          ttl: TTL_MS,
          nonBlocking: false,
        });
        return {
          read: (id) => cache.wrap(id, () => rows.findOneByOrFail({ id })),
          invalidate: (id) => cache.del(id),
        };
      }),
  },

  'nest-interceptor': {
    title: 'Nest CacheInterceptor',
    settings:
      '`@nestjs/cache-manager`, on a controller, called in process; `del` of its URL after COMMIT',
    open: async (servers) =>
      cacheAside(await connect(servers.postgres), async (rows) => {
        const cacheModule = CacheModule.register({
          stores: [await redisKeyv(servers)],
          ttl: TTL_MS,
        });
        const app = await NestFactory.create<NestFastifyApplication>(
          {
            module: InterceptedModule,
            imports: [cacheModule],
            controllers: [OrdersByUrl],
            providers: [{ provide: ROWS, useValue: rows }],
          },
          new FastifyAdapter(),
          { logger: ['error'] },
        );
        await app.init();
        const cache = app.get<Cache>(CACHE_MANAGER);
        return {
          read: async (id) => {
            const reply = await app.inject({ method: 'GET', url: `/orders/${id}` });
            if (reply.statusCode !== 200) throw new Error(`${reply.statusCode} ${reply.payload}`);
            return reply.json<Order>();
          },
          invalidate: (id) => cache.del(`/orders/${id}`),
        };
      }),
  },

  'bentocache-l2': {
    title: 'bentocache, L2',
    settings:
      '`getOrSet` and, after the COMMIT, `delete`; Redis; grace and timeouts off, L2 errors thrown',
    open: async ({ postgres, redis: { host, port } }) =>
      cacheAside(
        await connect(postgres),
        bentocache(bentostore().useL2Layer(redisDriver({ connection: { host, port } }))),
      ),
  },

  'bentocache-l1-l2': {
    title: 'bentocache, L1 + L2 + bus',
    settings: 'the same, with the memory driver in front and the Redis bus with its retry queue',
    open: async ({ postgres, redis: { host, port } }) =>
      cacheAside(
        await connect(postgres),
        bentocache(
          bentostore()
            .useL1Layer(memoryDriver({ maxItems: 10_000 }))
            .useL2Layer(redisDriver({ connection: { host, port } }))
            .useBus(redisBusDriver({ connection: { host, port }, retryQueue: { enabled: true } })),
        ),
      ),
  },

  'typeorm-cache': {
    title: 'TypeORM query cache',
    settings:
      '`cache: { id, milliseconds }` on reads, Redis; `queryResultCache.remove` after the COMMIT',
    open: async ({ postgres, redis }) => {
      const dataSource = await connect(postgres, { type: 'redis', options: { url: redis.url } });
      return cacheAside(dataSource, (rows) => ({
        read: (id) => rows.findOneOrFail({ where: { id }, cache: { id, milliseconds: TTL_MS } }),
        invalidate: async (id) => dataSource.queryResultCache?.remove([id]),
      }));
    },
  },

  holdfast: {
    title: 'Holdfast',
    settings:
      'the service: `CachedRepository.findById` and `UnitOfWork.run`; every default but the TTL',
    open: async ({ postgres, redis }) => {
      const config = loadConfig({
        DATABASE_URL: postgres,
        DATABASE_POOL: String(POOL_SIZE),
        MIGRATIONS: 'manual',
        REDIS_URL: redis.url,
        CACHE_TTL_ORDERS: String(TTL_MS / 1000),
        LOG_LEVEL: 'silent',
      });
      const app = await NestFactory.createApplicationContext(AppModule.with(config), {
        logger: ['error'],
      });
      const orders = app.get<CachedRepository<Order>>(cachedRepositoryToken(Order), {
        strict: false,
      });
      const unitOfWork = app.get(UnitOfWork, { strict: false });
      const gate = app.get(ReadGate, { strict: false });
      await eventually('the read gate opens', () => gate.isOpen);
      return {
        dataSource: app.get(DataSource, { strict: false }),
        read: async (id) => requireRow(await orders.findById(id)).version,
        write: (id) =>
          unitOfWork.run(async (transaction) => {
            const row = requireRow(await transaction.lock(Order, id));
            return requireRow(
              await transaction.update(row, { note: `after version ${row.version}` }),
            ).version;
          }),
      };
    },
  },
};

function requireRow<T>(row: T | null): T {
  if (row === null) throw new Error('The row does not exist');
  return row;
}
