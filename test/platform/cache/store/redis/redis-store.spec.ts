/**
 * RedisStore on real servers: the contract, the form on the wire, and servers that restart, hang,
 * die or send replies that nobody asked for. A test that harms a server starts its own.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createClient } from 'redis';
import {
  type CacheStore,
  CacheUnavailableError,
} from '../../../../../src/platform/cache/store/cache-store.js';
import { GuardedStore } from '../../../../../src/platform/cache/store/guarded-store.js';
import { RedisStore } from '../../../../../src/platform/cache/store/redis/redis-store.js';
import { eventually } from '../../../../support/eventually.js';
import { type RedisServer, startRedis } from '../../../../support/redis.js';
import { show, storeContract } from '../store-contract.js';
import { RedisFixtures, UNHURRIED_TIMEOUT_MS } from './redis-fixtures.js';
import { RedisRelay } from './redis-relay.js';

const LONG_MS = 60_000;
const fixtures = new RedisFixtures();

let shared: RedisServer;
beforeAll(async () => {
  shared = await startRedis();
});
afterAll(() => shared?.stop());

/** What the store's keys begin with in Redis. */
const prefixOf = (store: RedisStore): string => store.redisKeyOf('')!;

async function startRelay(server: RedisServer): Promise<RedisRelay> {
  const relay = await RedisRelay.start(server.port);
  fixtures.afterThisTest(() => relay.stop());
  return relay;
}

/** Every step of a store, started at once. */
function startEveryStep(store: CacheStore): Promise<unknown>[] {
  const value = { key: 'k', version: 1, payload: 'p', ttlMs: LONG_MS };
  return [
    store.get(['k']),
    store.lease(['k'], 't', LONG_MS),
    store.fill('t', [value]),
    store.fence(['k'], 't', LONG_MS),
    store.publish('t', [value]),
    store.unfence(['k'], 't'),
    store.ping(),
  ];
}

/** Waits until all steps have ended. Fails unless each was rejected as unavailable. */
async function expectUnavailable(steps: Promise<unknown>[]): Promise<Error[]> {
  const outcomes = await Promise.allSettled(steps);
  const errors = outcomes.map((outcome) =>
    outcome.status === 'rejected' ? (outcome.reason as Error) : undefined,
  );
  const isEachUnavailable = errors.map((error) => error instanceof CacheUnavailableError);
  expect(isEachUnavailable).toEqual(steps.map(() => true));
  return errors as Error[];
}

/** Fails unless every step is rejected as unavailable before a timer or a reply could end it. */
async function expectUnavailableAtOnce(store: CacheStore): Promise<void> {
  let settledCount = 0;
  const countSettled = (): void => {
    settledCount++;
  };
  const steps = startEveryStep(store);
  for (const step of steps) step.then(countSettled, countSettled);
  for (let microtask = 0; microtask < 100; microtask++) await Promise.resolve();
  expect(settledCount).toBe(steps.length);
  await expectUnavailable(steps);
}

storeContract('RedisStore', async () => {
  const server = await startRedis();
  const store = RedisStore.connect({ url: server.url, commandTimeoutMs: UNHURRIED_TIMEOUT_MS });
  const admin = await createClient({ url: server.url }).connect();
  await eventually('the store is available', () => store.isAvailable);
  return {
    store,
    wait: (ms) => sleep(ms),
    flush: async () => {
      await admin.flushAll();
    },
    close: async () => {
      admin.destroy();
      await store.close();
      await server.stop();
    },
  };
});

describe('the form on the wire', () => {
  it('a key begins with run_id and master_replid of its server', async () => {
    const store = await fixtures.openReadyStore(shared.url);
    const admin = await fixtures.openAdmin(shared.url);
    const prefix = /^hf:([0-9a-f]{16})\.([0-9a-f]{8}):$/.exec(prefixOf(store));
    const [, runId, replicationId] = prefix as RegExpExecArray;
    expect(await admin.info('server')).toContain(`run_id:${runId}`);
    expect(await admin.info('replication')).toContain(`master_replid:${replicationId}`);
  });

  it('a key is one string whose first byte is its state', async () => {
    const store = await fixtures.openReadyStore(shared.url);
    const readText = () => store.client.get(store.redisKeyOf('wire')!);

    await store.lease(['wire'], 'reader', LONG_MS);
    expect(await readText()).toBe('Lreader');
    await store.fill('reader', [{ key: 'wire', version: 7, payload: '{"a":1}', ttlMs: LONG_MS }]);
    expect(await readText()).toBe('V00000000000000000007{"a":1}');
    await store.fence(['wire'], 'w1', LONG_MS);
    await store.fence(['wire'], 'w2', LONG_MS);
    expect(await readText()).toMatch(/^F00000000000000000007\d{13}:w1,\d{13}:w2,$/);
    await store.publish('w1', [{ key: 'wire', version: 9, payload: 'p', ttlMs: LONG_MS }]);
    expect(await readText()).toMatch(/^F00000000000000000009\d{13}:w2,$/);
    await store.publish('w2', [{ key: 'wire', version: 10, payload: null, ttlMs: LONG_MS }]);
    expect(await readText()).toBe('N00000000000000000010');
  });

  it('a key expires with its entry, a fence with the last of its deadlines', async () => {
    const store = await fixtures.openReadyStore(shared.url);
    const admin = await fixtures.openAdmin(shared.url);
    const readExpiryMs = () => admin.pExpireTime(store.redisKeyOf('expiry')!);
    const deadlinesIn = (text: string | null): number[] =>
      [...text!.matchAll(/(\d{13}):/g)].map(([, deadline]) => Number(deadline));

    await store.fence(['expiry'], 'long', LONG_MS);
    await store.fence(['expiry'], 'short', LONG_MS / 2);
    const deadlines = deadlinesIn(await store.client.get(store.redisKeyOf('expiry')!));
    expect(await readExpiryMs()).toBe(Math.max(...deadlines));
    await store.unfence(['expiry'], 'long');
    expect(await readExpiryMs()).toBe(Math.min(...deadlines));
    const publication = { key: 'expiry', version: 1, payload: null, ttlMs: 1_234.5 };
    await store.publish('short', [publication]);
    expect(await admin.pTTL(store.redisKeyOf('expiry')!)).toBeLessThanOrEqual(1_235);
  });

  const GARBAGE: readonly (readonly [name: string, text: string | null])[] = [
    ['an unknown state', 'X00000000000000000007'],
    ['a value with a short version', 'V123'],
    ['a value with letters for a version', 'Vabcdefghijklmnopqrstpayload'],
    ['a value beyond every version', `V${'9'.repeat(20)}p`],
    ['a negative entry without a version', 'N'],
    ['a fence without a floor', 'F17'],
    ['an empty text', ''],
    ['a list', null],
  ];

  /** A store, and a key under which Redis holds garbage. */
  async function openOverGarbage(
    text: string | null,
  ): Promise<{ store: RedisStore; key: string; admin: { exists(key: string): Promise<number> } }> {
    const store = await fixtures.openReadyStore(shared.url);
    const admin = await fixtures.openAdmin(shared.url);
    const key = `garbage:${expect.getState().currentTestName}`;
    if (text === null) await admin.rPush(store.redisKeyOf(key)!, 'x');
    else await admin.set(store.redisKeyOf(key)!, text);
    return { store, key, admin };
  }

  it.each(GARBAGE)('%s reads as absent and is replaced by a fill', async (_, text) => {
    const { store, key } = await openOverGarbage(text);
    expect((await store.get([key])).map(show)).toEqual(['absent']);
    expect((await store.lease([key], 'me', LONG_MS)).map(show)).toEqual(['absent']);
    const fill = { key, version: 1, payload: 'p', ttlMs: LONG_MS };
    expect(await store.fill('me', [fill])).toEqual([true]);
    expect((await store.get([key])).map(show)).toEqual(['p@1']);
  });

  it.each(GARBAGE)('%s is deleted by a publication', async (_, text) => {
    const { store, key, admin } = await openOverGarbage(text);
    await store.publish('me', [{ key, version: 2, payload: 'p', ttlMs: LONG_MS }]);
    expect(await admin.exists(store.redisKeyOf(key)!)).toBe(0);
  });

  it.each(GARBAGE)('%s is replaced by a fence with floor 0', async (_, text) => {
    const { store, key } = await openOverGarbage(text);
    await store.fence([key], 'me', LONG_MS);
    await store.publish('me', [{ key, version: 0, payload: 'p', ttlMs: LONG_MS }]);
    expect((await store.get([key])).map(show)).toEqual(['p@0']);
  });

  it.each(['a,1:b', ''])(
    'the token "%s", which a fence could not separate, is rejected',
    async (token) => {
      const store = await fixtures.openReadyStore(shared.url);
      await expect(store.fence(['k'], token, LONG_MS)).rejects.toThrow(RangeError);
    },
  );

  it('one invalid value in a call → none of the call is sent', async () => {
    const store = await fixtures.openReadyStore(shared.url);
    const valid = { key: 'valid', version: 1, payload: 'p', ttlMs: LONG_MS };
    await store.fence(['valid'], 'me', LONG_MS);
    const publishing = store.publish('me', [valid, { ...valid, version: -1 }]);
    await expect(publishing).rejects.toThrow(RangeError);
    expect((await store.get(['valid'])).map(show)).toEqual(['fence']);
  });

  it('Redis forgets its scripts → the steps go on', async () => {
    const store = await fixtures.openReadyStore(shared.url);
    const admin = await fixtures.openAdmin(shared.url);
    await admin.scriptFlush();
    const keys = ['flushed:1', 'flushed:2', 'flushed:3'];
    const entries = await store.lease(keys, 'me', LONG_MS);
    expect(entries.map(show)).toEqual(['absent', 'absent', 'absent']);
  });
});

describe('round trips', () => {
  it('many callers read in one tick → one MGET with each key once', async () => {
    const store = new GuardedStore(await fixtures.openReadyStore(shared.url), () => undefined);
    const watcher = await fixtures.openAdmin(shared.url);
    const commands: string[] = [];
    await watcher.monitor((line) => {
      commands.push(String(line));
    });
    await Promise.all(Array.from({ length: 60 }, (_, index) => store.get([`tick:${index % 20}`])));
    await store.ping();
    await eventually('the ping is seen', () => commands.some((line) => /"PING"/i.test(line)));
    const reads = commands.filter((line) => /"M?GET"/.test(line));
    expect(reads).toHaveLength(1);
    expect(reads[0]!.match(/tick:/g)).toHaveLength(20);
  });

  const keys = Array.from({ length: 100 }, (_, index) => `trip:${index}`);
  const values = keys.map((key) => ({ key, version: 1, payload: 'p', ttlMs: LONG_MS }));
  const replacements = values.map((value) => ({ ...value, seen: { version: 1, payload: 'p' } }));
  const STEPS: Record<string, (store: RedisStore) => Promise<unknown>> = {
    lease: (store) => store.lease(keys, 'me', LONG_MS),
    fill: (store) => store.fill('me', values),
    replace: (store) => store.replace(replacements),
    fence: (store) => store.fence(keys, 'me', LONG_MS),
    publish: (store) => store.publish('me', values),
    unfence: (store) => store.unfence(keys, 'me'),
  };

  it.each(Object.keys(STEPS))(
    '%s of a hundred keys sends all before the first reply',
    async (step) => {
      const relay = await startRelay(shared);
      const store = await fixtures.openReadyStore(relay.url);
      relay.holdReplies();
      const running = STEPS[step]!(store);
      await eventually('all commands are sent', () => relay.countCommands('EVALSHA') === 100);
      relay.releaseReplies();
      await running;
    },
  );

  it('get of a hundred keys sends one command', async () => {
    const relay = await startRelay(shared);
    const store = await fixtures.openReadyStore(relay.url);
    relay.holdReplies();
    const reading = store.get(keys);
    await eventually('the command is sent', () => relay.countCommands('MGET') > 0);
    relay.releaseReplies();
    await reading;
    expect(relay.countCommands('MGET')).toBe(1);
  });
});

describe('a server with another incarnation', () => {
  it('a server restarts → the keys of its earlier incarnation cannot be reached', async () => {
    const server = await fixtures.startServer();
    const states: boolean[] = [];
    const store = await fixtures.openReadyStore(server.url, {
      onStateChange: (isAvailable) => states.push(isAvailable),
    });
    const oldPrefix = prefixOf(store);
    await server.restart();
    await eventually('the store sees another incarnation', () => {
      return store.isAvailable && prefixOf(store) !== oldPrefix;
    });
    // As a server would hold it that has loaded its data from disk.
    await store.client.set(`${oldPrefix}row`, 'V00000000000000000001old');
    expect((await store.get(['row'])).map(show)).toEqual(['absent']);
    expect((await store.lease(['row'], 'me', LONG_MS)).map(show)).toEqual(['absent']);
    expect(states).toEqual([true, false, true]);
  });

  it('an address leads to another server → no command reaches the wrong server', async () => {
    const [serverA, serverB] = [await fixtures.startServer(), await fixtures.startServer()];
    const relay = await startRelay(serverA);
    const store = await fixtures.openReadyStore(relay.url);
    const prefixA = prefixOf(store);
    let isRunning = true;
    let leases = 0;
    let failures = 0;
    fixtures.afterThisTest(() => {
      isRunning = false;
    });
    const leaseInLoop = async (clientNumber: number): Promise<void> => {
      for (let round = 0; isRunning; round++) {
        const keys = [1, 2, 3].map((index) => `${clientNumber}:${round}:${index}`);
        try {
          await store.lease(keys, 'me', LONG_MS);
          leases++;
        } catch {
          failures++;
          await sleep(1);
        }
      }
    };
    const clients = [1, 2, 3, 4, 5, 6, 7, 8].map(leaseInLoop);
    const prefixes = [prefixA];
    for (const { port } of [serverB, serverA, serverB]) {
      const leasesBefore = leases;
      await eventually('the clients are busy', () => leases > leasesBefore + 50);
      relay.moveTo(port);
      await eventually('the store sees the other server', () => {
        return store.isAvailable && prefixOf(store) !== prefixes.at(-1);
      });
      prefixes.push(prefixOf(store));
    }
    const leasesBefore = leases;
    await eventually('the clients are busy', () => leases > leasesBefore + 50);
    isRunning = false;
    await Promise.all(clients);

    const [, prefixB] = prefixes as [string, string];
    expect(prefixes).toEqual([prefixA, prefixB, prefixA, prefixB]);
    expect(failures).toBeGreaterThan(0);
    const readKeys = async ({ url }: RedisServer): Promise<string[]> =>
      (await fixtures.openAdmin(url)).keys('*');
    const [keysOfA, keysOfB] = [await readKeys(serverA), await readKeys(serverB)];
    expect(Math.min(keysOfA.length, keysOfB.length)).toBeGreaterThan(10);
    expect(keysOfA.filter((key) => !key.startsWith(prefixA))).toEqual([]);
    expect(keysOfB.filter((key) => !key.startsWith(prefixB))).toEqual([]);
  });

  it('a server restarts → it gets no command that was still waiting to be written', async () => {
    const server = await fixtures.startServer();
    const store = await fixtures.openReadyStore(server.url);
    const oldPrefix = prefixOf(store);
    server.pause();
    // More than the socket takes, so that most of it waits in this process.
    const keys = Array.from({ length: 60 }, (_, index) => `${index}:`.padEnd(300_000, 'x'));
    const leasing = expectUnavailable([store.lease(keys, 'me', LONG_MS)]);
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    await server.restart();
    await leasing;
    await eventually('the store sees another incarnation', () => {
      return store.isAvailable && prefixOf(store) !== oldPrefix;
    });
    await store.ping();
    const admin = await fixtures.openAdmin(server.url);
    expect(await admin.dbSize()).toBe(0);
  });

  it('a server becomes a replica → it is not used until it is a master again', async () => {
    const server = await fixtures.startServer();
    const errors: string[] = [];
    const store = await fixtures.openReadyStore(server.url, {
      onError: (error) => errors.push(error.message),
    });
    const admin = await fixtures.openAdmin(server.url);
    await admin.replicaOf('127.0.0.1', 1);
    await eventually('the store is unavailable', () => !store.isAvailable);
    expect(errors).toContain('Redis is a replica');
    await admin.sendCommand(['REPLICAOF', 'NO', 'ONE']);
    await eventually('the store is available', () => store.isAvailable);
    await store.lease(['k'], 'me', LONG_MS);
  });
});

describe('a server that does not answer', () => {
  it('a server hangs → its callers are rejected, later ones at once', async () => {
    const server = await fixtures.startServer();
    const store = await fixtures.openReadyStore(server.url, { commandTimeoutMs: 100 });
    server.pause();
    await expectUnavailable(startEveryStep(store));
    await eventually('the store is unavailable', () => !store.isAvailable);
    await expectUnavailableAtOnce(store);
    server.resume();
    await eventually('the store answers a ping', async () => {
      await store.ping();
      return true;
    });
  });

  it('more commands wait than allowed → further ones are rejected at once', async () => {
    const server = await fixtures.startServer();
    const store = await fixtures.openReadyStore(server.url, { maxQueuedCommands: 50 });
    await store.ping();
    server.pause();
    const keys = Array.from({ length: 51 }, (_, index) => `k${index}`);
    // The reason is the queue, not the deadline.
    await expect(store.fence(keys, 'me', LONG_MS)).rejects.toThrow(/queue is full/);
    server.resume();
  });

  it('a server dies → commands under way are rejected at once, and it is found again', async () => {
    const server = await fixtures.startServer();
    const errors: Error[] = [];
    const store = await fixtures.openReadyStore(server.url, {
      onError: (error) => errors.push(error),
      commandTimeoutMs: 10 * LONG_MS,
    });
    server.pause();
    const steps = startEveryStep(store);
    const ended = expectUnavailable(steps);
    await server.kill();
    const reasons = (await ended).map(({ message }) => message);
    expect(reasons.filter((reason) => reason.includes('did not finish within'))).toEqual([]);
    await eventually('the store is unavailable', () => !store.isAvailable);
    await expectUnavailableAtOnce(store);
    expect(errors.length).toBeGreaterThan(0);
    await server.restart();
    await eventually('the store answers a ping', async () => {
      await store.ping();
      return true;
    });
  });

  it('a server does not run yet → the store opens all the same and finds it later', async () => {
    const server = await fixtures.startServer();
    await server.kill();
    const store = fixtures.openStore(server.url);
    expect(store.isAvailable).toBe(false);
    await expectUnavailableAtOnce(store);
    await server.restart();
    await eventually('the store is available', () => store.isAvailable);
    expect((await store.get(['k'])).map(show)).toEqual(['absent']);
  });

  it('the store is closed, even while it connects → it stays closed', async () => {
    const server = await fixtures.startServer();
    const connectingStore = RedisStore.connect({ url: server.url });
    await connectingStore.close();
    await connectingStore.close();
    const readyStore = await fixtures.openReadyStore(server.url);
    await readyStore.close();
    const admin = await fixtures.openAdmin(server.url);
    await eventually('only the admin is connected', async () => {
      return (await admin.clientList()).length === 1;
    });
    for (const closedStore of [connectingStore, readyStore]) {
      expect(closedStore.isAvailable).toBe(false);
      await expect(closedStore.client.get('k')).rejects.toThrow(CacheUnavailableError);
      await expectUnavailableAtOnce(closedStore);
    }
  });
});

describe('a stream of replies that is broken', () => {
  it('bytes are no reply → no command is answered with the reply to another', async () => {
    const relay = await startRelay(shared);
    const states: boolean[] = [];
    const store = await fixtures.openReadyStore(relay.url, {
      onStateChange: (isAvailable) => states.push(isAvailable),
    });
    const keys = Array.from({ length: 20 }, (_, index) => `broken:${index}`);
    await store.fence(keys, 'me', LONG_MS);
    await store.publish(
      'me',
      keys.map((key, version) => ({ key, version, payload: 'p', ttlMs: LONG_MS })),
    );
    relay.holdReplies();
    const reads = keys.map((key) => store.get([key]));
    await eventually('all commands are sent', () => relay.countCommands('MGET') === keys.length);
    relay.inject('?junk\r\n');
    relay.releaseReplies();
    await expectUnavailable(reads);
    await eventually('the store has a new connection', () => {
      return states.includes(false) && store.isAvailable;
    });
    expect((await store.get(keys)).map(show)).toEqual(keys.map((_, version) => `p@${version}`));
  });

  it('one reply too many shifts the others → the connection is replaced', async () => {
    const relay = await startRelay(shared);
    const store = await fixtures.openReadyStore(relay.url);
    relay.holdReplies();
    const reading = store.get(['shift:a', 'shift:b']);
    await eventually('the command is sent', () => relay.countCommands('MGET') === 1);
    relay.inject('*1\r\n$-1\r\n');
    relay.releaseReplies();
    await expectUnavailable([reading]);
    await eventually('the store is available', () => store.isAvailable);
    expect((await store.get(['shift:a', 'shift:b'])).map(show)).toEqual(['absent', 'absent']);
  });
});
