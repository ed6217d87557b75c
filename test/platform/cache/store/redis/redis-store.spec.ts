/**
 * RedisStore on real servers: the contract, the form on the wire, and what happens when Redis restarts, hangs, dies, is
 * demoted or breaks its own protocol. Each test that harms a server starts its own.
 */
import { createServer, type Socket, connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { createClient } from 'redis';
import { type CacheStore, CacheUnavailableError } from '../../src/cache/cache.store.js';
import { GuardedStore } from '../../src/cache/guarded.store.js';
import { RedisStore, type RedisStoreOptions } from '../../src/cache/redis.store.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { show, storeContract } from './store.contract.js';

const LONG = 60_000;
const cleanup: (() => unknown)[] = [];

afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
});

async function until(condition: () => boolean, within = 8_000): Promise<void> {
  for (const deadline = Date.now() + within; !condition(); await sleep(5)) {
    if (Date.now() > deadline) throw new Error(`Not within ${within} ms: ${String(condition)}`);
  }
}

async function ownServer(): Promise<RedisServer> {
  const server = await startRedis();
  cleanup.push(() => server.stop());
  return server;
}

/** A plain connection to look into a server with. */
async function inspect(url: string) {
  const client = await createClient({ url }).connect();
  cleanup.push(() => client.destroy());
  return client;
}

/** What the names of a store's keys begin with. */
const prefixOf = (store: RedisStore): string => store.nameOf('')!;

function open(url: string, options: Omit<RedisStoreOptions, 'url'> = {}): RedisStore {
  const store = RedisStore.connect({ url, ...options });
  cleanup.push(() => store.close());
  return store;
}

async function openReady(
  url: string,
  options: Omit<RedisStoreOptions, 'url'> = {},
): Promise<RedisStore> {
  const store = open(url, options);
  await until(() => store.available);
  return store;
}

/** A TCP relay in front of a server: it can delay, break the reply stream, and move everyone to another server. */
async function relay(target: number, delayMs = 0) {
  let port = target;
  const sockets = new Set<Socket>();
  const clients = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    clients.add(client);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from);
      from.on('data', (data) =>
        delayMs > 0 ? setTimeout(() => to.write(data), delayMs) : to.write(data),
      );
      from.on('error', () => undefined);
      from.on('close', () => {
        to.destroy();
        sockets.delete(from);
        clients.delete(client);
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address() as { port: number };
  cleanup.push(() => {
    sockets.forEach((socket) => socket.destroy());
    return new Promise((resolve) => server.close(resolve));
  });
  return {
    url: `redis://127.0.0.1:${address.port}`,
    inject: (bytes: string) => clients.forEach((client) => client.write(bytes)),
    moveTo(other: number) {
      port = other;
      sockets.forEach((socket) => socket.destroy());
    },
  };
}

function everyStep(store: CacheStore): Promise<unknown>[] {
  const value = { key: 'k', version: 1, payload: 'p', ttlMs: LONG };
  return [
    store.get(['k']),
    store.lease(['k'], 't', LONG),
    store.fill('t', [value]),
    store.fence(['k'], 't', LONG),
    store.publish('t', [value]),
    store.unfence(['k'], 't'),
    store.ping(),
  ];
}

/** How long each step took to be refused; fails if one was not, or by another error. */
async function refusals(store: CacheStore): Promise<number> {
  const start = performance.now();
  for (const outcome of await Promise.allSettled(everyStep(store))) {
    expect(outcome.status).toBe('rejected');
    expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(CacheUnavailableError);
  }
  return performance.now() - start;
}

let shared: RedisServer;
beforeAll(async () => {
  shared = await startRedis();
});
afterAll(() => shared.stop());

storeContract('RedisStore', async () => {
  const server = await startRedis();
  const store = RedisStore.connect({ url: server.url, commandTimeoutMs: 2_000 });
  const admin = await createClient({ url: server.url }).connect();
  await until(() => store.available);
  return {
    store,
    wait: (ms) => sleep(ms),
    flush: async () => void (await admin.flushAll()),
    close: async () => {
      admin.destroy();
      await store.close();
      await server.stop();
    },
  };
});

describe('on the wire', () => {
  it('a key is one string under the incarnation, whose first byte is its state', async () => {
    const store = await openReady(shared.url);
    const admin = await inspect(shared.url);
    const raw = (key: string) => store.client.get(prefixOf(store) + key);
    const [, runId, replicationId] = /^hf:([0-9a-f]{16})\.([0-9a-f]{8}):$/.exec(prefixOf(store))!;
    expect(await admin.info('server')).toContain(`run_id:${runId}`);
    expect(await admin.info('replication')).toContain(`master_replid:${replicationId}`);

    await store.lease(['wire'], 'reader', 5_000);
    expect(await raw('wire')).toBe('Lreader');
    await store.fill('reader', [{ key: 'wire', version: 7, payload: '{"a":1}', ttlMs: 5_000 }]);
    expect(await raw('wire')).toBe('V00000000000000000007{"a":1}');
    await store.fence(['wire'], 'w1', 9_000);
    await store.fence(['wire'], 'w2', 3_000);
    expect(await raw('wire')).toMatch(/^F00000000000000000007\d{13}:w1,\d{13}:w2,$/);
    expect(await admin.pTTL(store.nameOf('wire')!)).toBeGreaterThan(8_000);
    await store.publish('w1', [{ key: 'wire', version: 9, payload: 'p', ttlMs: LONG }]);
    expect(await raw('wire')).toMatch(/^F00000000000000000009\d{13}:w2,$/);
    expect(await admin.pTTL(store.nameOf('wire')!)).toBeLessThanOrEqual(3_000);
    await store.publish('w2', [{ key: 'wire', version: 10, payload: null, ttlMs: 1_234.5 }]);
    expect(await raw('wire')).toBe('N00000000000000000010');
    expect(await admin.pTTL(store.nameOf('wire')!)).toBeLessThanOrEqual(1_235);
  });

  it.each([
    ['an unknown state', 'X00000000000000000007'],
    ['a value with a short version', 'V123'],
    ['a value with letters for a version', 'Vabcdefghijklmnopqrstpayload'],
    ['a value beyond every version', `V${'9'.repeat(20)}p`],
    ['a negative entry without a version', 'N'],
    ['a fence without a floor', 'F17'],
    ['nothing at all', ''],
    ['another type', null],
  ])('%s is a miss, and heals', async (name, garbage) => {
    const store = await openReady(shared.url);
    const admin = await inspect(shared.url);
    const key = `garbage:${name}`;
    const other = `${key}:other`;
    const poison = (it: string) =>
      garbage === null
        ? admin.rPush(store.nameOf(it)!, 'x')
        : admin.set(store.nameOf(it)!, garbage, { expiration: { type: 'PX', value: LONG } });

    await poison(key);
    expect((await store.get([key])).map(show)).toEqual(['absent']);
    expect((await store.lease([key], 'me', LONG)).map(show)).toEqual(['absent']);
    expect(await store.fill('me', [{ key, version: 1, payload: 'p', ttlMs: LONG }])).toEqual([
      true,
    ]);
    expect((await store.get([key])).map(show)).toEqual(['p@1']);

    await poison(other);
    await store.publish('me', [{ key: other, version: 2, payload: 'p', ttlMs: LONG }]);
    expect(await admin.exists(store.nameOf(other)!)).toBe(0);
    await poison(other);
    await store.fence([other], 'me', LONG);
    await store.publish('me', [{ key: other, version: 0, payload: 'p', ttlMs: LONG }]);
    expect((await store.get([other])).map(show)).toEqual(['p@0']);
  });

  it('a token that could be taken for two is refused', async () => {
    const store = await openReady(shared.url);
    await expect(store.fence(['k'], 'a,1:b', LONG)).rejects.toThrow(RangeError);
    await expect(store.fence(['k'], '', LONG)).rejects.toThrow(RangeError);
  });

  it('a refused value leaves the others of its call unsent', async () => {
    const store = await openReady(shared.url);
    const good = { key: 'good', version: 1, payload: 'p', ttlMs: LONG };
    await store.fence(['good'], 'me', LONG);
    await expect(store.publish('me', [good, { ...good, version: -1 }])).rejects.toThrow(RangeError);
    expect((await store.get(['good'])).map(show)).toEqual(['fence']);
  });

  it('the steps survive a SCRIPT FLUSH', async () => {
    const store = await openReady(shared.url);
    await (await inspect(shared.url)).scriptFlush();
    const keys = ['flushed:1', 'flushed:2', 'flushed:3'];
    expect((await store.lease(keys, 'me', LONG)).map(show)).toEqual(['absent', 'absent', 'absent']);
  });
});

describe('round trips', () => {
  it('gets of one tick by many callers are one MGET, each key in it once', async () => {
    const store = new GuardedStore(await openReady(shared.url), () => undefined);
    const watcher = await inspect(shared.url);
    const lines: string[] = [];
    await watcher.monitor((line) => void lines.push(String(line)));
    await Promise.all(Array.from({ length: 60 }, (_, i) => store.get([`tick:${i % 20}`])));
    await store.ping();
    await until(() => lines.some((line) => /"PING"/i.test(line)));
    const reads = lines.filter((line) => /"M?GET"/.test(line));
    expect(reads).toHaveLength(1);
    expect(reads[0]!.match(/tick:/g)).toHaveLength(20);
  });

  it('every step for a hundred keys costs one', async () => {
    const delayMs = 60;
    const store = await openReady((await relay(shared.port, delayMs)).url, {
      commandTimeoutMs: 2_000,
    });
    const keys = Array.from({ length: 100 }, (_, i) => `trip:${i}`);
    const values = keys.map((key) => ({ key, version: 1, payload: 'p', ttlMs: LONG }));
    for (const step of [
      () => store.get(keys),
      () => store.lease(keys, 'me', LONG),
      () => store.fill('me', values),
      () => store.fence(keys, 'me', LONG),
      () => store.publish('me', values),
      () => store.unfence(keys, 'me'),
    ]) {
      const start = performance.now();
      await step();
      const trips = (performance.now() - start) / (2 * delayMs);
      expect(trips).toBeGreaterThan(0.9);
      expect(trips).toBeLessThan(1.9);
    }
  });
});

describe('a server that is another one', () => {
  it('after a restart has another incarnation, under which the old keys cannot be reached', async () => {
    const server = await ownServer();
    const states: boolean[] = [];
    const store = await openReady(server.url, { onStateChange: (state) => states.push(state) });
    const old = prefixOf(store);
    await server.restart();
    await until(() => store.available && prefixOf(store) !== old);
    // As a server that has loaded its data from disk would hold it.
    await store.client.set(`${old}row`, 'V00000000000000000001old');
    expect((await store.get(['row'])).map(show)).toEqual(['absent']);
    expect((await store.lease(['row'], 'me', LONG)).map(show)).toEqual(['absent']);
    expect(states).toEqual([true, false, true]);
  });

  it('never sees a command that was meant for the one before it', async () => {
    const [a, b] = [await ownServer(), await ownServer()];
    const switchable = await relay(a.port);
    const store = await openReady(switchable.url);
    const prefixes = [prefixOf(store)];
    let running = true;
    let refused = 0;
    cleanup.push(() => (running = false));
    const traffic = Array.from({ length: 8 }, async (_, lane) => {
      for (let i = 0; running; i++) {
        const keys = Array.from({ length: 5 }, (_, k) => `${lane}:${i}:${k}`);
        await store.lease(keys, 'me', LONG).catch(() => sleep(1, refused++));
      }
    });
    for (const port of [b.port, a.port, b.port]) {
      await sleep(150);
      switchable.moveTo(port);
      await until(() => store.available && prefixOf(store) !== prefixes.at(-1));
      prefixes.push(prefixOf(store));
    }
    await sleep(100);
    running = false;
    await Promise.all(traffic);

    expect(new Set(prefixes).size).toBe(2);
    expect(refused).toBeGreaterThan(0);
    for (const [server, prefix] of [
      [a, prefixes[0]!],
      [b, prefixes[1]!],
    ] as const) {
      const keys = await (await inspect(server.url)).keys('*');
      expect(keys.length).toBeGreaterThan(10);
      expect(keys.filter((key) => !key.startsWith(prefix))).toEqual([]);
    }
  });

  it('never sees a command that was still waiting to be written to the one before it', async () => {
    const server = await ownServer();
    const store = await openReady(server.url, { commandTimeoutMs: 5_000 });
    const old = prefixOf(store);
    server.pause();
    // More than the socket takes, so that most of it waits in this process.
    const keys = Array.from({ length: 60 }, (_, i) => `${i}:`.padEnd(300_000, 'x'));
    const stuck = expect(store.lease(keys, 'me', LONG)).rejects.toThrow(CacheUnavailableError);
    await sleep(50);
    await server.restart();
    await stuck;
    await until(() => store.available && prefixOf(store) !== old);
    await store.ping();
    expect(await (await inspect(server.url)).dbSize()).toBe(0);
  });

  it('is left when it has become a replica, and taken again when it is a master', async () => {
    const server = await ownServer();
    const errors: string[] = [];
    const store = await openReady(server.url, { onError: (error) => errors.push(error.message) });
    const admin = await inspect(server.url);
    await admin.replicaOf('127.0.0.1', 1);
    await until(() => !store.available);
    expect(errors).toContain('Redis is a replica');
    await admin.sendCommand(['REPLICAOF', 'NO', 'ONE']);
    await until(() => store.available);
    await store.lease(['k'], 'me', LONG);
  });
});

describe('a server that does not answer', () => {
  it('when it hangs, holds no caller longer than the command timeout, then is avoided, and is found again', async () => {
    const server = await ownServer();
    const store = await openReady(server.url, { commandTimeoutMs: 100 });
    server.pause();
    const waited = await refusals(store);
    expect(waited).toBeGreaterThan(90);
    expect(waited).toBeLessThan(250);
    await until(() => !store.available);
    expect(await refusals(store)).toBeLessThan(50);
    server.resume();
    await until(() => store.available);
    await store.ping();
  });

  it('refuses at once what would be too many commands waiting for it', async () => {
    const server = await ownServer();
    const store = await openReady(server.url, { commandTimeoutMs: 500, maxQueuedCommands: 50 });
    await sleep(50);
    server.pause();
    const keys = Array.from({ length: 51 }, (_, i) => `k${i}`);
    const start = performance.now();
    await expect(store.fence(keys, 'me', LONG)).rejects.toThrow(/queue is full/);
    expect(performance.now() - start).toBeLessThan(100);
    server.resume();
  });

  it('when it dies, fails what is under way and everything after at once, and is found again by itself', async () => {
    const server = await ownServer();
    const errors: Error[] = [];
    const store = await openReady(server.url, {
      onError: (error) => errors.push(error),
      commandTimeoutMs: 3_000,
    });
    server.pause();
    const underWay = refusals(store);
    await sleep(20);
    await server.kill();
    expect(await underWay).toBeLessThan(1_000);
    await until(() => !store.available);
    expect(await refusals(store)).toBeLessThan(50);
    expect(errors.length).toBeGreaterThan(0);
    await server.restart();
    await until(() => store.available);
    await store.ping();
  });

  it('when it is not there yet, does not hinder the start, and is found when it comes', async () => {
    const server = await ownServer();
    await server.kill();
    const store = open(server.url);
    expect(store.available).toBe(false);
    expect(await refusals(store)).toBeLessThan(50);
    await server.restart();
    await until(() => store.available);
    expect((await store.get(['k'])).map(show)).toEqual(['absent']);
  });

  it('when its replies cannot be decoded, never answers one command with the reply to another', async () => {
    const broken = await relay(shared.port, 20);
    const states: boolean[] = [];
    const store = await openReady(broken.url, { onStateChange: (state) => states.push(state) });
    const keys = Array.from({ length: 20 }, (_, i) => `sense:${i}`);
    await store.fence(keys, 'me', LONG);
    await store.publish(
      'me',
      keys.map((key, version) => ({ key, version, payload: 'p', ttlMs: LONG })),
    );
    states.length = 0;
    const reads = keys.map(async (key) => sleep(Math.random() * 20).then(() => store.get([key])));
    await sleep(25);
    broken.inject('?junk\r\n');
    const outcomes = await Promise.allSettled(reads);
    outcomes.forEach((outcome, i) => {
      if (outcome.status === 'fulfilled') expect(show(outcome.value[0]!)).toBe(`p@${i}`);
      else expect(outcome.reason).toBeInstanceOf(CacheUnavailableError);
    });
    expect(outcomes.some((outcome) => outcome.status === 'rejected')).toBe(true);
    await until(() => states.includes(false) && store.available);
    expect((await store.get(keys)).map(show)).toEqual(keys.map((_, i) => `p@${i}`));
  });

  it('when a reply too many shifts all the others, is left', async () => {
    const broken = await relay(shared.port, 20);
    const store = await openReady(broken.url);
    const read = store.get(['shift:a', 'shift:b']);
    await sleep(10);
    broken.inject('*1\r\n$-1\r\n');
    await expect(read).rejects.toThrow(CacheUnavailableError);
    await until(() => store.available);
    expect((await store.get(['shift:a', 'shift:b'])).map(show)).toEqual(['absent', 'absent']);
  });

  it('when it was closed by us, stays closed, even in the middle of connecting', async () => {
    const server = await ownServer();
    const store = RedisStore.connect({ url: server.url });
    await store.close();
    await store.close();
    const ready = await openReady(server.url);
    await ready.close();
    await sleep(100);
    expect((await (await inspect(server.url)).clientList()).length).toBe(1);
    for (const closed of [store, ready]) {
      expect(closed.available).toBe(false);
      await expect(closed.client.get('k')).rejects.toThrow(CacheUnavailableError);
      expect(await refusals(closed)).toBeLessThan(50);
    }
  });
});
