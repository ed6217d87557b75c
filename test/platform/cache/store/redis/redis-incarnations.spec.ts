/**
 * A server that was something else in between (demoted, failed over to and back, given a slot back)
 * never shows what it still holds from before, and no two processes use two incarnations of a key
 * at once. Each test caches an old row, checks that it still exists under its old name, and reads
 * it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { CacheUnavailableError } from '../../../../../src/platform/cache/store/cache-store.js';
import {
  RedisCluster,
  slotOf,
} from '../../../../../src/platform/cache/store/redis/redis-cluster.js';
import type { RedisStore } from '../../../../../src/platform/cache/store/redis/redis-store.js';
import { moveSlot } from '../../../../support/cluster-slots.js';
import { parseRedisUrl } from '../../../../../src/platform/cache/store/redis/redis-url.js';
import { eventually } from '../../../../support/eventually.js';
import {
  type RedisServer,
  sendRedisCommand,
  startRedisCluster,
  startRedis,
  startRedisSentinel,
} from '../../../../support/redis.js';
import { show } from '../store-contract.js';
import { holdsKey, RedisFixtures } from './redis-fixtures.js';

const LONG_MS = 60_000;
/** Longer than Redis itself waits for the end of a failover by hand: 5 s. */
const MANUAL_FAILOVER_MS = 6_000;
const fixtures = new RedisFixtures();

/** Caches version 1 of a row. @returns the key's name in Redis */
async function fillRow(store: RedisStore, key: string, payload: string): Promise<string> {
  await eventually('the row is cached', async () => {
    await store.publish('test', [{ key, absent: true }]);
    await store.lease([key], 'test', LONG_MS);
    const [isFilled] = await store.fill('test', [{ key, version: 1, payload, ttlMs: LONG_MS }]);
    return isFilled;
  });
  return store.redisKeyOf(key)!;
}

/** Reads until the key is absent. On the way the store may reject, but not show `oldEntry`. */
async function expectNeverShown(store: RedisStore, key: string, oldEntry: string): Promise<void> {
  const shown = new Set<string>();
  await eventually('the key is absent', async () => {
    const [entry] = await store.get([key]);
    shown.add(show(entry!));
    return shown.has('absent');
  });
  expect(shown).not.toContain(oldEntry);
}

const runIdIn = (redisKey: string): string => /^hf:(\w{16})\./.exec(redisKey)![1]!;

/** The run_id in the current name of a key; undefined while its server is unknown. */
function currentRunId(store: RedisStore, key: string): string | undefined {
  const redisKey = store.redisKeyOf(key);
  return redisKey === undefined ? undefined : runIdIn(redisKey);
}

const awaitOtherRunId = (store: RedisStore, key: string, runId: string): Promise<boolean> =>
  eventually('the store uses the other server', () => {
    const current = currentRunId(store, key);
    return current !== undefined && current !== runId;
  });

const awaitRunId = (store: RedisStore, key: string, runId: string): Promise<boolean> =>
  eventually('the store uses the first server again', () => currentRunId(store, key) === runId);

const awaitReply = (server: RedisServer, command: string, text: string): Promise<boolean> =>
  eventually(`${command} replies ${text}`, async () => {
    return (await sendRedisCommand(server.port, command)).includes(text);
  });

/** Makes a master a replica for a moment, so that it begins another incarnation. */
async function beginIncarnation(server: RedisServer): Promise<void> {
  await sendRedisCommand(server.port, 'REPLICAOF 127.0.0.1 1');
  await sendRedisCommand(server.port, 'REPLICAOF NO ONE');
}

describe('one server', () => {
  it('a server was a replica for a moment → the next command notices', async () => {
    const server = await fixtures.startServer();
    const store = fixtures.openStore(server.url);
    const oldRedisKey = await fillRow(store, 'row', 'old');
    await beginIncarnation(server);
    expect(await holdsKey(server, oldRedisKey)).toBe(true);
    // The store may notice by its heartbeat first; otherwise by this very command.
    expect((await store.get(['row'])).map(show)).toEqual(['absent']);
    expect(store.redisKeyOf('row')).not.toBe(oldRedisKey);
    expect(runIdIn(store.redisKeyOf('row')!)).toBe(runIdIn(oldRedisKey));
  });

  it('a server has a new incarnation and no scripts → a write counts only there', async () => {
    const server = await fixtures.startServer();
    const store = fixtures.openStore(server.url);
    const oldRedisKey = await fillRow(store, 'row', 'old');
    await sendRedisCommand(server.port, 'SCRIPT FLUSH');
    await beginIncarnation(server);
    await store.fence(['row'], 'test', LONG_MS);
    expect(store.redisKeyOf('row')).not.toBe(oldRedisKey);
    expect(await holdsKey(server, store.redisKeyOf('row')!)).toBe(true);
  });

  it('a server becomes a replica → the next command is rejected', async () => {
    const server = await fixtures.startServer();
    const store = fixtures.openStore(server.url);
    await fillRow(store, 'row', 'old');
    await sendRedisCommand(server.port, 'REPLICAOF 127.0.0.1 1');
    await expect(store.get(['row'])).rejects.toThrow(CacheUnavailableError);
    expect(store.isAvailable).toBe(false);
  });
});

describe('Sentinels', () => {
  /** A Sentinel refuses for a while after a failover. */
  const failOver = (sentinel: RedisServer): Promise<string> =>
    eventually('the Sentinel accepts a failover', () =>
      sendRedisCommand(sentinel.port, 'SENTINEL FAILOVER holdfast'),
    );

  it('Sentinels fail over to the replica and back → no old row is shown', async () => {
    const { url, servers, sentinels } = await fixtures.keep(startRedisSentinel());
    const [serverA, serverB] = servers;
    const store = fixtures.openStore(url);
    const firstRedisKey = await fillRow(store, 'row', 'old');
    const firstRunId = runIdIn(firstRedisKey);
    await eventually('the row is replicated', () => holdsKey(serverB, firstRedisKey));

    await failOver(sentinels[0]!);
    await awaitOtherRunId(store, 'row', firstRunId);
    await expectNeverShown(store, 'row', 'old@1');
    await fillRow(store, 'row', 'new');
    // What a Sentinel itself does after 8 s.
    await sendRedisCommand(serverA.port, `REPLICAOF 127.0.0.1 ${serverB.port}`);
    await awaitReply(serverB, 'INFO replication', 'state=online');

    await failOver(sentinels[0]!);
    await awaitRunId(store, 'row', firstRunId);
    expect(await holdsKey(serverA, firstRedisKey)).toBe(true);
    await expectNeverShown(store, 'row', 'old@1');
    expect(store.redisKeyOf('row')).not.toBe(firstRedisKey);
  });

  it('two Sentinels name two masters → the master of the majority is used, and no other', async () => {
    const [masterA, masterB] = [await fixtures.startServer(), await fixtures.startServer()];
    const startSentinel = ({ port }: RedisServer): Promise<RedisServer> =>
      fixtures.keep(
        startRedis({
          config: `sentinel monitor main 127.0.0.1 ${port} 1`,
          args: ['--sentinel'],
        }),
      );
    const namesA = await startSentinel(masterA);
    const namesB = await startSentinel(masterB);
    const changing = await startSentinel(masterA);
    await sendRedisCommand(changing.port, 'SENTINEL REMOVE main');
    const sentinels = [namesA, namesB, changing];
    const addresses = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',');
    const wereAvailable: boolean[] = [];
    const store = fixtures.openStore(`redis+sentinel://${addresses}/main`, {
      onStateChange: (isAvailable) => wereAvailable.push(isAvailable),
    });
    // Others ask one of the Sentinels meanwhile, and use the master that it names.
    for (const { port } of [namesA, namesB, namesA]) {
      await fixtures.openReadyStore(`redis+sentinel://127.0.0.1:${port}/main`);
    }
    expect([store.isAvailable, ...wereAvailable]).not.toContain(true);

    await sendRedisCommand(changing.port, `SENTINEL MONITOR main 127.0.0.1 ${masterB.port} 1`);
    await eventually('the store is available', () => store.isAvailable);
    const infoOfB = await sendRedisCommand(masterB.port, 'INFO server');
    expect(infoOfB).toContain(`run_id:${runIdIn(store.redisKeyOf('row')!)}`);
  });

  it('one of three Sentinels is down → the master is used; two are down → it is not', async () => {
    const { url, sentinels } = await fixtures.keep(startRedisSentinel());
    const store = fixtures.openStore(url);
    await eventually('the store is available', () => store.isAvailable);
    await sentinels[0]!.kill();
    // Longer than the lease of the master: without a majority the store would not get it back.
    await sleep(2_500);
    await eventually('the store is available', () => store.isAvailable);
    sentinels[1]!.pause();
    await eventually('the store is unavailable', () => !store.isAvailable);
    sentinels[1]!.resume();
    await eventually('the store is available', () => store.isAvailable);
  });
});

describe('a Cluster', () => {
  /** The identity of all these stores, once it is the same, and none that it was before. */
  const agreedIdentity = (
    stores: readonly RedisStore[],
    before: readonly string[] = [],
  ): Promise<string> =>
    eventually('the stores agree', () => {
      const [first, ...others] = stores.map(({ identity }) => identity);
      const isAgreed = others.every((identity) => identity === first);
      return isAgreed && first !== undefined && !before.includes(first) ? first : '';
    });

  const SLOTS_PER_MASTER = 16_384 / 3;
  const KEYS = Array.from({ length: 60 }, (_, index) => `row:${index}`);
  const keyOfMaster = (master: 0 | 1 | 2): string =>
    KEYS.find((key) => Math.floor(slotOf(`{${key}}`) / SLOTS_PER_MASTER) === master)!;

  /** On a busy machine, a failover by hand may time out; Redis does not try again. */
  const failOverTo = (server: RedisServer): Promise<boolean> =>
    eventually('the server is a master', async () => {
      await sendRedisCommand(server.port, 'CLUSTER FAILOVER');
      const isMaster = async (): Promise<boolean> =>
        (await sendRedisCommand(server.port, 'INFO replication')).includes('role:master');
      return eventually('the failover ends', isMaster, MANUAL_FAILOVER_MS);
    });

  it('slotOf computes the slots that Redis computes', async () => {
    const { masters } = await fixtures.keep(startRedisCluster());
    const names = ['foo', 'a{b}c', 'a{}c', 'a{b', '{ż}', 'hf:1.2:{row:{1}}', 'a}b{c}d{e}', ...KEYS];
    const replies = await Promise.all(
      names.map((name) => sendRedisCommand(masters[0].port, `CLUSTER KEYSLOT ${name}`)),
    );
    expect(names.map((name) => `:${slotOf(name)}\r\n`)).toEqual(replies);
    expect(slotOf('')).toBe(0);
  });

  it('a slot moves to another master and back → no old row is shown', async () => {
    const { url, masters } = await fixtures.keep(startRedisCluster());
    const [serverA, serverB, serverC] = masters;
    const [storeA, storeB] = [fixtures.openStore(url), fixtures.openStore(url)];
    const key = keyOfMaster(0);
    const slot = slotOf(`{${key}}`);
    const firstRedisKey = await fillRow(storeA, key, 'old');
    await eventually(
      'both stores use the same name',
      () => storeB.redisKeyOf(key) === firstRedisKey,
    );
    const identities = [await agreedIdentity([storeA, storeB])];

    await moveSlot(slot, serverA, serverB, [serverC]);
    expect(await holdsKey(serverB, firstRedisKey)).toBe(true);
    // Each store learns from a MOVED reply and asks again, under the new node's incarnation.
    const entries = await Promise.all([storeA.get([key]), storeB.get([key])]);
    expect(entries.flat().map(show)).toEqual(['absent', 'absent']);
    await storeA.fence([key], 'writer', LONG_MS);
    await storeA.publish('writer', [{ key, version: 2, payload: 'new', ttlMs: LONG_MS }]);
    expect((await storeB.get([key])).map(show)).toEqual(['new@2']);
    identities.push(await agreedIdentity([storeA, storeB], identities));

    await moveSlot(slot, serverB, serverA, [serverC]);
    expect(await holdsKey(serverA, firstRedisKey)).toBe(true);
    await expectNeverShown(storeA, key, 'old@1');
    await expectNeverShown(storeB, key, 'old@1');
    expect(currentRunId(storeA, key)).toBe(runIdIn(firstRedisKey));
    identities.push(await agreedIdentity([storeA, storeB], identities));
  });

  it('a key has moved → the cluster has no identity until its masters are known', async () => {
    const { url, masters } = await fixtures.keep(startRedisCluster());
    const options = { commandTimeoutMs: 10_000 };
    const cluster = new RedisCluster(parseRedisUrl(url)!, options, () => undefined);
    fixtures.afterThisTest(() => cluster.close());
    const name = `{${keyOfMaster(0)}}`;
    await eventually('the masters are known', () => cluster.identity !== undefined);

    const moved = new Error(`MOVED ${slotOf(name)} 127.0.0.1:${masters[1].port}`);
    expect(cluster.followRedirect(name, moved)).toBe(true);

    expect(cluster.identity).toBeUndefined();
    await eventually('the masters are known again', () => cluster.identity !== undefined);
  });

  it('a node raises its config epoch → the next command uses its new incarnation', async () => {
    const { url, masters } = await fixtures.keep(startRedisCluster());
    const store = fixtures.openStore(url);
    const key = keyOfMaster(0);
    const firstRedisKey = await fillRow(store, key, 'old');
    expect(await sendRedisCommand(masters[0].port, 'CLUSTER BUMPEPOCH')).toContain('BUMPED');
    await store.fence([key], 'test', LONG_MS);
    expect(store.redisKeyOf(key)).not.toBe(firstRedisKey);
    expect(await holdsKey(masters[0], store.redisKeyOf(key)!)).toBe(true);
    expect(await holdsKey(masters[0], firstRedisKey)).toBe(true);
    // It has the greatest epoch of all nodes now.
    expect(await sendRedisCommand(masters[0].port, 'CLUSTER BUMPEPOCH')).toContain('STILL');
  });

  it('a node restarts with an older snapshot in the same epoch → no old row is shown', async () => {
    const { url, masters } = await fixtures.keep(startRedisCluster());
    const store = fixtures.openStore(url);
    const key = keyOfMaster(1);
    const firstRedisKey = await fillRow(store, key, 'old');
    await sendRedisCommand(masters[1].port, 'SAVE');
    await fillRow(store, key, 'new');
    await masters[1].restart();
    await eventually('the snapshot is loaded', () => holdsKey(masters[1], firstRedisKey));
    await expectNeverShown(store, key, 'old@1');
    const epochIn = (redisKey: string): string => redisKey.split('.')[1]!;
    expect(epochIn(store.redisKeyOf(key)!)).toBe(epochIn(firstRedisKey));
  });

  it('a shard fails over to its replica and back → no old row is shown', async () => {
    const { url, masters, replica } = await fixtures.keep(startRedisCluster());
    const store = fixtures.openStore(url);
    const key = keyOfMaster(0);
    const firstRedisKey = await fillRow(store, key, 'old');
    const firstRunId = runIdIn(firstRedisKey);
    await awaitReply(replica, 'DBSIZE', ':1\r\n');

    await failOverTo(replica);
    await awaitOtherRunId(store, key, firstRunId);
    await expectNeverShown(store, key, 'old@1');
    await awaitReply(masters[0], 'INFO replication', 'master_link_status:up');

    await failOverTo(masters[0]);
    await awaitRunId(store, key, firstRunId);
    expect(await holdsKey(masters[0], firstRedisKey)).toBe(true);
    await expectNeverShown(store, key, 'old@1');
    expect(store.redisKeyOf(key)).not.toBe(firstRedisKey);
  });
});
