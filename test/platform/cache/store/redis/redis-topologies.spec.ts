/**
 * What a store owes is the same on every topology: the contract, a bound on every wait, and the plain commands that
 * CACHE_MANAGER and the rate limit share. Here nothing fails but by being slow; redis-failover.spec.ts kills.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { keyvStore } from '../../src/cache/cache-manager.js';
import { CacheUnavailableError } from '../../src/cache/cache.store.js';
import { RedisStore } from '../../src/cache/redis.store.js';
import { loadConfig } from '../../src/config.js';
import { RateLimit } from '../../src/http/rate-limit.js';
import {
  ask,
  type RedisServer,
  startCluster,
  startRedis,
  startSentinel,
} from '../support/redis.js';
import { show, storeContract } from './store.contract.js';

interface Servers {
  readonly url: string;
  readonly masters: readonly RedisServer[];
  /** What to hang, so that nothing takes over. */
  readonly all: readonly RedisServer[];
  stop(): Promise<void>;
}

const TOPOLOGIES: Record<string, () => Promise<Servers>> = {
  'one server': async () => {
    const server = await startRedis();
    return { url: server.url, masters: [server], all: [server], stop: () => server.stop() };
  },
  Sentinels: async () => {
    const { url, servers, stop } = await startSentinel();
    return { url, masters: [servers[0]], all: servers, stop };
  },
  'a Cluster': async () => {
    const { url, masters, replica, stop } = await startCluster();
    return { url, masters, all: [...masters, replica], stop };
  },
};

/** Enough to have some on each node. */
const KEYS = Array.from({ length: 40 }, (_, i) => `key:${i}`);

async function openReady(url: string, commandTimeoutMs: number): Promise<RedisStore> {
  const store = RedisStore.connect({ url, commandTimeoutMs });
  while (!KEYS.every((key) => store.nameOf(key))) await sleep(5);
  return store;
}

describe.each(Object.entries(TOPOLOGIES).slice(1))('%s', (name, start) => {
  storeContract(`RedisStore over ${name}`, async () => {
    const servers = await start();
    const store = await openReady(servers.url, 2_000);
    return {
      store,
      wait: (ms) => sleep(ms),
      flush: async () =>
        void (await Promise.all(servers.masters.map(({ port }) => ask(port, 'FLUSHALL')))),
      close: async () => {
        await store.close();
        await servers.stop();
      },
    };
  });
});

describe.each(Object.entries(TOPOLOGIES))('over %s', (_, start) => {
  let servers: Servers;
  let store: RedisStore;
  beforeAll(async () => {
    servers = await start();
    store = await openReady(servers.url, 200);
  });
  afterAll(async () => {
    await store?.close();
    await servers?.stop();
  });

  it('the plain commands reach the server of their key', async () => {
    const { client } = store;
    for (const key of KEYS) {
      await client.set(key, `of ${key}`, { PX: 60_000 });
      expect(await client.get(key)).toBe(`of ${key}`);
      expect(
        await client.eval('return {KEYS[1], ARGV[1]}', { keys: [key], arguments: ['1'] }),
      ).toEqual([key, '1']);
    }
    expect(await client.del(KEYS[0]!)).toBe(1);
    expect(await client.get(KEYS[0]!)).toBeNull();
  });

  it('the eventual cache keeps what it is given', async () => {
    const keyv = await keyvStore(store.client);
    await Promise.all(KEYS.map((key) => keyv.set(key, { key }, 60_000)));
    expect(await Promise.all(KEYS.map((key) => keyv.get(key)))).toEqual(
      KEYS.map((key) => ({ key })),
    );
    await keyv.delete(KEYS[0]!);
    expect(await keyv.get(KEYS[0]!)).toBeUndefined();
  });

  it('requests are counted together, and in time where Redis hangs', async () => {
    const limits = [0, 1].map(
      () => new RateLimit(loadConfig({ RATE_LIMIT_PER_MINUTE: '8' }), store.client),
    );
    const left = async (limit: RateLimit, ip: string): Promise<number> => {
      let told = '';
      const reply = {
        header: (name: string, value: string) => (name === 'RateLimit' && (told = value), reply),
      };
      await limit.consume({ ip } as FastifyRequest, reply as unknown as FastifyReply);
      return Number(/r=(\d+)/.exec(told)![1]);
    };
    for (const ip of ['192.0.2.1', '192.0.2.2', '192.0.2.3']) {
      expect([await left(limits[0]!, ip), await left(limits[1]!, ip)]).toEqual([7, 6]);
    }
    for (const server of servers.all) server.pause();
    try {
      const began = performance.now();
      expect(await Promise.all(limits.map((limit) => left(limit, '192.0.2.1')))).toEqual([7, 7]);
      expect(performance.now() - began).toBeLessThan(400);
    } finally {
      for (const server of servers.all) server.resume();
    }
  });

  it('a server that hangs holds no caller longer than the command timeout, and is found again', async () => {
    while (!KEYS.every((key) => store.nameOf(key))) await sleep(5);
    const value = { key: KEYS[0]!, version: 1, payload: 'p', ttlMs: 60_000 };
    for (const server of servers.all) server.pause();
    const began = performance.now();
    const steps = [
      store.get(KEYS),
      store.lease(KEYS, 't', 60_000),
      store.fill('t', [value]),
      store.fence(KEYS, 't', 60_000),
      store.publish('t', [value]),
      store.unfence(KEYS, 't'),
      store.ping(),
      store.client.get('k'),
    ];
    for (const outcome of await Promise.allSettled(steps)) {
      expect(outcome.status).toBe('rejected');
      expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(CacheUnavailableError);
    }
    expect(performance.now() - began).toBeLessThan(400);
    for (const server of servers.all) server.resume();
    while (!KEYS.every((key) => store.nameOf(key))) await sleep(5);
    await store.ping();
    await store.publish(
      't',
      KEYS.map((key) => ({ key, absent: true })),
    );
    expect((await store.get(KEYS)).map(show)).toEqual(KEYS.map(() => 'absent'));
  });
});

describe('a password', () => {
  it('is shown to the master, and to Sentinels that ask for one', async () => {
    const master = await startRedis();
    const config = `sentinel monitor main 127.0.0.1 ${master.port} 1`;
    const [open, shut] = [
      await startRedis({ config, args: ['--sentinel'] }),
      await startRedis({ config, args: ['--sentinel'] }),
    ];
    const stores: RedisStore[] = [];
    try {
      await ask(master.port, 'CONFIG SET requirepass s:e/c@r%t');
      await ask(shut.port, 'ACL SETUSER default resetpass >s:e/c@r%t');
      for (const { port } of [open, shut]) {
        const connect = (password: string) =>
          RedisStore.connect({ url: `redis+sentinel://${password}127.0.0.1:${port}/main` });
        const [knowing, ignorant] = [connect(':s:e/c@r%t@'), connect('')];
        stores.push(knowing, ignorant);
        while (!knowing.available) await sleep(5);
        expect((await knowing.get(['k'])).map(show)).toEqual(['absent']);
        expect(ignorant.available).toBe(false);
      }
    } finally {
      await Promise.all(stores.map((store) => store.close()));
      await Promise.all([master, open, shut].map((server) => server.stop()));
    }
  });
});
