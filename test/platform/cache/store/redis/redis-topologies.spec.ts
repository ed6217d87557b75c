/**
 * What a store owes on every topology: the contract, a bound on every wait, and the plain commands
 * that CACHE_MANAGER and the rate limit share. Here servers only hang; redis-failover.spec.ts kills
 * them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { loadConfig } from '../../../../../src/config.js';
import { createKeyvStore } from '../../../../../src/platform/cache/cache-manager.js';
import {
  type CacheStore,
  CacheUnavailableError,
} from '../../../../../src/platform/cache/store/cache-store.js';
import { RedisStore } from '../../../../../src/platform/cache/store/redis/redis-store.js';
import { RateLimit } from '../../../../../src/platform/http/rate-limit/rate-limit.service.js';
import { eventually } from '../../../../support/eventually.js';
import {
  type RedisServer,
  sendRedisCommand,
  startRedis,
  startRedisCluster,
  startRedisSentinel,
} from '../../../../support/redis.js';
import { show, storeContract } from '../store-contract.js';
import { awaitKeys, RedisFixtures, UNHURRIED_TIMEOUT_MS } from './redis-fixtures.js';

interface Servers {
  readonly url: string;
  readonly masters: readonly RedisServer[];
  /** Every server that holds data: if all of them hang, nothing takes over. */
  readonly dataServers: readonly RedisServer[];
  stop(): Promise<void>;
}

const TOPOLOGIES: Record<string, () => Promise<Servers>> = {
  'one server': async () => {
    const server = await startRedis();
    const stop = (): Promise<void> => server.stop();
    return { url: server.url, masters: [server], dataServers: [server], stop };
  },
  Sentinels: async () => {
    const { url, servers, stop } = await startRedisSentinel();
    return { url, masters: [servers[0]], dataServers: servers, stop };
  },
  'a Cluster': async () => {
    const { url, masters, replica, stop } = await startRedisCluster();
    return { url, masters, dataServers: [...masters, replica], stop };
  },
};

const LONG_MS = 60_000;
/** So many that each master of a cluster has some. */
const KEYS = Array.from({ length: 40 }, (_, index) => `key:${index}`);

const fixtures = new RedisFixtures();

async function openStore(url: string, commandTimeoutMs: number): Promise<RedisStore> {
  const store = RedisStore.connect({ url, commandTimeoutMs });
  await awaitKeys(store, KEYS);
  return store;
}

describe.each(['Sentinels', 'a Cluster'])('%s', (topology) => {
  storeContract(`RedisStore over ${topology}`, async () => {
    const servers = await TOPOLOGIES[topology]!();
    const store = await openStore(servers.url, UNHURRIED_TIMEOUT_MS);
    return {
      store,
      wait: (ms) => sleep(ms),
      flush: async () => {
        const ports = servers.masters.map(({ port }) => port);
        await Promise.all(ports.map((port) => sendRedisCommand(port, 'FLUSHALL')));
      },
      close: async () => {
        await store.close();
        await servers.stop();
      },
    };
  });
});

describe.each(Object.keys(TOPOLOGIES))('over %s', (topology) => {
  let servers: Servers;
  /** Waits for replies as long as a busy machine needs. */
  let store: RedisStore;

  beforeAll(async () => {
    servers = await TOPOLOGIES[topology]!();
    store = await openStore(servers.url, UNHURRIED_TIMEOUT_MS);
  });
  afterAll(async () => {
    await store?.close();
    await servers?.stop();
  });

  /** Until the test is over, no server answers. */
  const pauseServers = (): void => {
    for (const server of servers.dataServers) server.pause();
    fixtures.afterThisTest(async () => {
      for (const server of servers.dataServers) server.resume();
      await awaitKeys(store, KEYS);
    });
  };

  /** A store that gives up soon. */
  async function openHurriedStore(): Promise<RedisStore> {
    const hurriedStore = await openStore(servers.url, 200);
    fixtures.afterThisTest(() => hurriedStore.close());
    return hurriedStore;
  }

  it('the plain commands reach the server of their key', async () => {
    const { client } = store;
    const sendAll = async (key: string): Promise<unknown[]> => {
      await client.set(key, `of ${key}`, { PX: LONG_MS });
      const script = 'return {KEYS[1], ARGV[1]}';
      return [
        await client.get(key),
        await client.eval(script, { keys: [key], arguments: ['1'] }),
        await client.del(key),
        await client.get(key),
      ];
    };
    const replies = await Promise.all(KEYS.map(sendAll));
    expect(replies).toEqual(KEYS.map((key) => [`of ${key}`, [key, '1'], 1, null]));
  });

  it('CACHE_MANAGER keeps its values and deletes them', async () => {
    const keyv = await createKeyvStore(store.client);
    // Repeated, because CACHE_MANAGER gives up after 200 ms.
    await eventually('every value is kept', async () => {
      await Promise.all(KEYS.map((key) => keyv.set(key, { key }, LONG_MS)));
      const values = await Promise.all(KEYS.map((key) => keyv.get<{ key: string }>(key)));
      return values.every((value, index) => value?.key === KEYS[index]);
    });
    await eventually('the value is deleted', async () => {
      await keyv.delete(KEYS[0]!);
      return (await store.client.get(`hf:eventual:${KEYS[0]}`)) === null;
    });
    expect(await keyv.get(KEYS[0]!)).toBeUndefined();
  });

  /** Counts one request. @returns how many are left to this address */
  async function consume(rateLimit: RateLimit, ip: string): Promise<number> {
    const headers: Record<string, string> = {};
    const reply = {
      header: (name: string, value: string) => {
        headers[name] = value;
        return reply;
      },
    };
    await rateLimit.consume({ ip } as FastifyRequest, reply as unknown as FastifyReply);
    return Number(/r=(\d+)/.exec(headers['RateLimit'] as string)![1]);
  }

  const createRateLimit = (over: RedisStore): RateLimit =>
    new RateLimit(loadConfig({ RATE_LIMIT_PER_MINUTE: '8' }), over.client);

  it('two nodes count the requests of an address together', async () => {
    const [nodeA, nodeB] = [createRateLimit(store), createRateLimit(store)];
    const addresses = ['192.0.2.1', '192.0.2.2', '192.0.2.3'];
    const left = await Promise.all(
      addresses.map(async (ip) => [await consume(nodeA, ip), await consume(nodeB, ip)]),
    );
    expect(left).toEqual(addresses.map(() => [7, 6]));
  });

  it('Redis hangs → each node counts requests alone, while Redis still hangs', async () => {
    const hurriedStore = await openHurriedStore();
    const [nodeA, nodeB] = [createRateLimit(hurriedStore), createRateLimit(hurriedStore)];
    pauseServers();
    expect(await consume(nodeA, '192.0.2.9')).toBe(7);
    expect(await consume(nodeB, '192.0.2.9')).toBe(7);
  });

  const value = { key: KEYS[0]!, version: 1, payload: 'p', ttlMs: LONG_MS };
  const STEPS: Record<string, (over: RedisStore) => Promise<unknown>> = {
    get: (over) => over.get(KEYS),
    lease: (over) => over.lease(KEYS, 't', LONG_MS),
    fill: (over) => over.fill('t', [value]),
    fence: (over) => over.fence(KEYS, 't', LONG_MS),
    publish: (over) => over.publish('t', [value]),
    unfence: (over) => over.unfence(KEYS, 't'),
    ping: (over) => over.ping(),
    'a plain command': (over) => over.client.get('k'),
  };

  it('Redis hangs → every step is rejected while it hangs, and works afterwards', async () => {
    const hurriedStore = await openHurriedStore();
    for (const server of servers.dataServers) server.pause();
    const outcomes = await Promise.allSettled(
      Object.values(STEPS).map((runStep) => runStep(hurriedStore)),
    );
    for (const server of servers.dataServers) server.resume();
    const isEachUnavailable = outcomes.map(
      (outcome) => outcome.status === 'rejected' && outcome.reason instanceof CacheUnavailableError,
    );
    expect(isEachUnavailable).toEqual(Object.keys(STEPS).map(() => true));
    await awaitKeys(store, KEYS);
    await deleteAllKeys(store);
    expect((await store.get(KEYS)).map(show)).toEqual(KEYS.map(() => 'absent'));
  });
});

/** Repeated, because a server that was paused may be judged dead for a moment. */
const deleteAllKeys = (store: CacheStore): Promise<boolean> =>
  eventually('every key is deleted', async () => {
    await store.ping();
    await store.publish(
      't',
      KEYS.map((key) => ({ key, absent: true })),
    );
    return true;
  });

describe('a password in the URL', () => {
  const PASSWORD = 's:e/c@r%t';
  let master: RedisServer;
  let openSentinel: RedisServer;
  let lockedSentinel: RedisServer;

  beforeAll(async () => {
    master = await startRedis();
    const config = `sentinel monitor main 127.0.0.1 ${master.port} 1`;
    openSentinel = await startRedis({ config, args: ['--sentinel'] });
    lockedSentinel = await startRedis({ config, args: ['--sentinel'] });
    await sendRedisCommand(master.port, `CONFIG SET requirepass ${PASSWORD}`);
    await sendRedisCommand(lockedSentinel.port, `ACL SETUSER default resetpass >${PASSWORD}`);
  });
  afterAll(async () => {
    await Promise.all([master, openSentinel, lockedSentinel].map((server) => server?.stop()));
  });

  it.each([
    ['without authentication', () => openSentinel],
    ['with authentication', () => lockedSentinel],
  ])(
    'a store reaches the master through a Sentinel %s only with the password',
    async (_, sentinel) => {
      const { port } = sentinel();
      const urlWith = (credentials: string): string =>
        `redis+sentinel://${credentials}127.0.0.1:${port}/main`;
      const storeWithout = fixtures.openStore(urlWith(''));
      const storeWith = await fixtures.openReadyStore(urlWith(`:${PASSWORD}@`));
      expect((await storeWith.get(['k'])).map(show)).toEqual(['absent']);
      expect(storeWithout.isAvailable).toBe(false);
    },
  );
});
