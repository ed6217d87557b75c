/**
 * A server that has been something else in between (demoted, failed over to and back, given a slot back) never shows what it
 * still holds from before, and nobody uses two lives of one key at once. Each test puts an old row where it could be met,
 * makes sure that it is still there under its old name, and then asks for it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from '@jest/globals';
import { CacheUnavailableError } from '../../src/cache/cache.store.js';
import { slotOf } from '../../src/cache/redis.cluster.js';
import { RedisStore } from '../../src/cache/redis.store.js';
import {
  ask,
  type RedisServer,
  startCluster,
  startRedis,
  startSentinel,
} from '../support/redis.js';
import { show } from './store.contract.js';

const LONG = 60_000;
const cleanup: (() => unknown)[] = [];
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
});

async function started<Servers extends { stop(): Promise<void> }>(
  start: Promise<Servers>,
): Promise<Servers> {
  const servers = await start;
  cleanup.push(() => servers.stop());
  return servers;
}

function open(url: string): RedisStore {
  const store = RedisStore.connect({ url });
  cleanup.push(() => store.close());
  return store;
}

async function until(condition: () => unknown): Promise<void> {
  for (const deadline = Date.now() + 12_000; !(await condition()); await sleep(5)) {
    if (Date.now() > deadline) throw new Error(`Not in time: ${String(condition)}`);
  }
}

async function fill(store: RedisStore, key: string, payload: string): Promise<string> {
  await until(() => store.nameOf(key));
  await store.publish('it', [{ key, absent: true }]);
  await store.lease([key], 'it', LONG);
  expect(await store.fill('it', [{ key, version: 1, payload, ttlMs: LONG }])).toEqual([true]);
  return store.nameOf(key)!;
}

/** What is told of `key` while the store comes to terms with what happened: it may refuse, but never show the old row. */
async function neverShows(store: RedisStore, key: string, old: string): Promise<void> {
  let seen: string | undefined;
  await until(async () => {
    const [entry] = await store.get([key]).catch(() => [undefined]);
    seen = entry && show(entry);
    expect(seen).not.toBe(old);
    return seen === 'absent';
  });
}

const runIdOf = (name: string) => /^hf:(\w{16})\./.exec(name)![1];
const holds = async (server: RedisServer, name: string) =>
  (await ask(server.port, `EXISTS ${name}`)) === ':1\r\n';

describe('one server', () => {
  it('that was a replica for a moment, under an open connection, is another from the next command on', async () => {
    const server = await started(startRedis());
    const store = open(server.url);
    const old = await fill(store, 'row', 'old');
    await ask(server.port, 'REPLICAOF 127.0.0.1 1');
    await ask(server.port, 'REPLICAOF NO ONE');
    expect(await holds(server, old)).toBe(true);
    expect(store.nameOf('row')).toBe(old);
    expect((await store.get(['row'])).map(show)).toEqual(['absent']);
    expect(store.nameOf('row')).not.toBe(old);
    expect(runIdOf(store.nameOf('row')!)).toBe(runIdOf(old));
  });

  it('counts no write to a life that has ended, not even one whose script it does not know yet', async () => {
    const server = await started(startRedis());
    const store = open(server.url);
    const old = await fill(store, 'row', 'old');
    await ask(server.port, 'SCRIPT FLUSH');
    await ask(server.port, 'REPLICAOF 127.0.0.1 1');
    await ask(server.port, 'REPLICAOF NO ONE');
    await store.fence(['row'], 'it', LONG);
    expect(store.nameOf('row')).not.toBe(old);
    expect(await holds(server, store.nameOf('row')!)).toBe(true);
  });

  it('is no longer used from the next command on when it has become a replica', async () => {
    const server = await started(startRedis());
    const store = open(server.url);
    await fill(store, 'row', 'old');
    await ask(server.port, 'REPLICAOF 127.0.0.1 1');
    await expect(store.get(['row'])).rejects.toThrow(CacheUnavailableError);
    expect(store.available).toBe(false);
  });
});

describe('Sentinels', () => {
  it('that fail over to the replica and back show no row of the first life, though no server was restarted', async () => {
    const { url, servers, sentinels } = await started(startSentinel());
    const [a, b] = servers;
    const store = open(url);
    const first = await fill(store, 'row', 'old');
    await until(() => holds(b, first));

    await until(() => ask(sentinels[0]!.port, 'SENTINEL FAILOVER holdfast').catch(() => false));
    await until(() => store.nameOf('row') && runIdOf(store.nameOf('row')!) !== runIdOf(first));
    await neverShows(store, 'row', 'old@1');
    await fill(store, 'row', 'new');
    // What a Sentinel does 8 s after, where the old master still runs.
    await ask(a.port, `REPLICAOF 127.0.0.1 ${b.port}`);
    await until(async () => (await ask(b.port, 'INFO replication')).includes('state=online'));

    await until(() =>
      ask(sentinels[0]!.port, 'SENTINEL FAILOVER holdfast').catch(() => sleep(100, false)),
    );
    await until(() => store.nameOf('row') && runIdOf(store.nameOf('row')!) === runIdOf(first));
    expect(await holds(a, first)).toBe(true);
    await neverShows(store, 'row', 'old@1');
    expect(store.nameOf('row')).not.toBe(first);
  });

  it('never lead two processes to different masters at once, though the old one goes on answering', async () => {
    const { url, servers, sentinels } = await started(startSentinel());
    const stores: RedisStore[] = [];
    for (let i = 0; i < 4; i++) stores.push(await sleep(230, open(url)));
    for (const store of stores) await until(() => store.nameOf('row'));
    const old = stores[0]!.nameOf('row');
    const clashes: string[][] = [];
    const watch = setInterval(() => {
      const names = [
        ...new Set(stores.map((store) => store.nameOf('row')).filter((name) => name !== undefined)),
      ];
      if (names.length > 1) clashes.push(names);
    }, 1);
    cleanup.push(() => clearInterval(watch));
    await until(() => ask(sentinels[0]!.port, 'SENTINEL FAILOVER holdfast').catch(() => false));
    const began = performance.now();
    for (const store of stores) await until(() => ![undefined, old].includes(store.nameOf('row')));
    expect(performance.now() - began).toBeLessThan(8_000);
    expect(await ask(servers[0].port, 'INFO replication')).toContain('role:master');
    expect(clashes).toEqual([]);
  });

  it('of which too few can be reached leave the master unused', async () => {
    const { url, sentinels } = await started(startSentinel());
    const store = open(url);
    await until(() => store.available);
    await sentinels[0]!.kill();
    await sleep(2_500);
    expect(store.available).toBe(true);
    sentinels[1]!.pause();
    await until(() => !store.available);
    sentinels[1]!.resume();
    await until(() => store.available);
  });
});

describe('a Cluster', () => {
  const everySlot = Array.from({ length: 60 }, (_, i) => `row:${i}`);
  /** A key of the first, second or third master. */
  const keyOf = (master: 0 | 1 | 2) =>
    everySlot.find((key) => Math.floor(slotOf(`{${key}}`) / 5_461.5) === master)!;
  const idOf = async ({ port }: RedisServer) =>
    /[0-9a-f]{40}/.exec(await ask(port, 'CLUSTER MYID'))![0];
  const move = async (
    slot: number,
    from: RedisServer,
    to: RedisServer,
    others: readonly RedisServer[],
  ) => {
    const [source, target] = [await idOf(from), await idOf(to)];
    await ask(to.port, `CLUSTER SETSLOT ${slot} IMPORTING ${source}`);
    await ask(from.port, `CLUSTER SETSLOT ${slot} MIGRATING ${target}`);
    const found = await ask(from.port, `CLUSTER GETKEYSINSLOT ${slot} 100`);
    for (const name of found.match(/hf:\S+/g) ?? [])
      await ask(from.port, `MIGRATE 127.0.0.1 ${to.port} ${name} 0 1000`);
    for (const { port } of [to, from, ...others])
      await ask(port, `CLUSTER SETSLOT ${slot} NODE ${target}`);
  };

  it('computes slots as Redis does', async () => {
    const { masters } = await started(startCluster());
    for (const name of [
      'foo',
      '',
      'a{b}c',
      'a{}c',
      'a{b',
      '{ż}',
      'hf:1.2:{row:{1}}',
      'a}b{c}d{e}',
      ...everySlot,
    ]) {
      const said = name === '' ? ':0\r\n' : await ask(masters[0].port, `CLUSTER KEYSLOT ${name}`);
      expect([name, `:${slotOf(name)}\r\n`]).toEqual([name, said]);
    }
  });

  it('finds a slot that was moved at once, and shows nothing that came back with it', async () => {
    const { url, masters } = await started(startCluster());
    const [a, b, c] = masters;
    const [store, other] = [open(url), open(url)];
    const key = keyOf(0);
    const slot = slotOf(`{${key}}`);
    const first = await fill(store, key, 'old');
    await until(() => other.nameOf(key) === first);

    await move(slot, a, b, [c]);
    expect(await holds(b, first)).toBe(true);
    // One round for each: it learns by a MOVED, and asks again under the new node's incarnation.
    expect((await Promise.all([store.get([key]), other.get([key])])).flat().map(show)).toEqual([
      'absent',
      'absent',
    ]);
    await store.fence([key], 'writer', LONG);
    await store.publish('writer', [{ key, version: 2, payload: 'new', ttlMs: LONG }]);
    expect((await other.get([key])).map(show)).toEqual(['new@2']);

    await move(slot, b, a, [c]);
    expect(await holds(a, first)).toBe(true);
    await neverShows(store, key, 'old@1');
    await neverShows(other, key, 'old@1');
    expect(runIdOf(store.nameOf(key)!)).toBe(runIdOf(first));
  });

  it('whose node enters another life under an open connection lets nobody use the one before', async () => {
    const { url, masters } = await started(startCluster());
    const store = open(url);
    const key = keyOf(0);
    const first = await fill(store, key, 'old');
    expect(await ask(masters[0].port, 'CLUSTER BUMPEPOCH')).toContain('BUMPED');
    expect(store.nameOf(key)).toBe(first);
    await store.fence([key], 'it', LONG);
    expect(store.nameOf(key)).not.toBe(first);
    expect(await holds(masters[0], store.nameOf(key)!)).toBe(true);
    expect(await holds(masters[0], first)).toBe(true);
    expect(await ask(masters[0].port, 'CLUSTER BUMPEPOCH')).toContain('STILL');
  });

  it('whose node comes back with an older snapshot, in the same epoch, shows nothing of it', async () => {
    const { url, masters } = await started(startCluster());
    const store = open(url);
    const key = keyOf(1);
    const first = await fill(store, key, 'old');
    await ask(masters[1].port, 'SAVE');
    await fill(store, key, 'new');
    await masters[1].restart();
    await until(() => holds(masters[1], first).catch(() => false));
    await neverShows(store, key, 'old@1');
    expect(store.nameOf(key)!.split('.')[1]).toBe(first.split('.')[1]);
  });

  it('that fails over to a replica and back shows no row of the first life, though no server was restarted', async () => {
    const { url, masters, replica } = await started(startCluster());
    const store = open(url);
    const key = keyOf(0);
    const first = await fill(store, key, 'old');
    await until(async () => (await ask(replica.port, 'DBSIZE')) === ':1\r\n');

    await ask(replica.port, 'CLUSTER FAILOVER');
    await until(() => store.nameOf(key) && runIdOf(store.nameOf(key)!) !== runIdOf(first));
    await neverShows(store, key, 'old@1');
    await until(async () =>
      (await ask(masters[0].port, 'INFO replication')).includes('master_link_status:up'),
    );

    await ask(masters[0].port, 'CLUSTER FAILOVER');
    await until(() => store.nameOf(key) && runIdOf(store.nameOf(key)!) === runIdOf(first));
    expect(await holds(masters[0], first)).toBe(true);
    await neverShows(store, key, 'old@1');
    expect(store.nameOf(key)).not.toBe(first);
  });
});
