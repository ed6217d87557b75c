/**
 * Servers die while the protocol runs over them: two stores, as two processes have them, read and write rows of a "database"
 * that is a Map, and each read checks that it is no older than what was acknowledged before it began. Nobody helps: what
 * comes back must come back by itself.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from '@jest/globals';
import { CacheUnavailableError } from '../../src/cache/cache.store.js';
import { slotOf } from '../../src/cache/redis.cluster.js';
import { RedisStore } from '../../src/cache/redis.store.js';
import { ask, startCluster, startSentinel } from '../support/redis.js';
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

function open(
  url: string,
  onStateChange: (available: boolean) => void = () => undefined,
): RedisStore {
  const store = RedisStore.connect({ url, onStateChange });
  cleanup.push(() => store.close());
  return store;
}

async function until(condition: () => unknown): Promise<void> {
  for (const deadline = Date.now() + 12_000; !(await condition()); await sleep(5)) {
    if (Date.now() > deadline) throw new Error(`Not in time: ${String(condition)}`);
  }
}

/** Reads and writes through `stores` until stopped. A write that Redis refuses before its COMMIT is not made. */
function traffic(stores: readonly RedisStore[], keys: readonly string[]) {
  const rows = new Map(keys.map((key) => [key, 1]));
  const acknowledged = new Map(rows);
  const writing = new Set<string>();
  const counts = { hits: 0, misses: 0, writes: 0, unavailable: 0 };
  const stale: string[] = [];
  let running = true;
  let tokens = 0;
  const pick = <T>(all: readonly T[]): T => all[Math.floor(Math.random() * all.length)]!;
  const value = (key: string, version: number) => ({
    key,
    version,
    payload: String(version),
    ttlMs: LONG,
  });

  async function read(store: RedisStore, key: string): Promise<void> {
    const due = acknowledged.get(key)!;
    const [entry] = await store.get([key]);
    if (entry!.state === 'value') {
      counts.hits++;
      if (entry!.version < due)
        stale.push(`${key}: ${entry!.version} < ${due} under ${store.nameOf(key)}`);
      return;
    }
    const token = `r${++tokens}`;
    const [leased] = await store.lease([key], token, LONG);
    if (leased!.state !== 'absent') return;
    counts.misses++;
    const version = rows.get(key)!;
    await sleep(Math.random() * 3);
    await store.fill(token, [value(key, version)]);
  }

  async function write(store: RedisStore, key: string): Promise<void> {
    if (writing.has(key)) return;
    writing.add(key);
    const token = `w${++tokens}`;
    try {
      await store.fence([key], token, LONG);
      await sleep(Math.random() * 3);
      const version = rows.get(key)! + 1;
      rows.set(key, version);
      // What the database's own path does for a publish that fails: deletes the key as soon as that is possible.
      await store.publish(token, [value(key, version)]).catch(async () => {
        while (
          running &&
          !(await store.publish(token, [{ key, absent: true }]).then(
            () => true,
            () => false,
          ))
        )
          await sleep(5);
      });
      acknowledged.set(key, version);
      counts.writes++;
    } finally {
      writing.delete(key);
    }
  }

  const lanes = Array.from({ length: 16 }, async (_, lane) => {
    while (running) {
      const step = lane < 4 ? write : read;
      await step(pick(stores), pick(keys)).catch((error: unknown) => {
        expect(error).toBeInstanceOf(CacheUnavailableError);
        counts.unavailable++;
        return sleep(2);
      });
      await sleep(0);
    }
  });
  return {
    counts,
    async stop() {
      running = false;
      await Promise.all(lanes);
      expect(stale).toEqual([]);
      return counts;
    },
  };
}

/** Resolves once both have hits and writes again. */
async function busy({ counts }: ReturnType<typeof traffic>): Promise<void> {
  const { hits, writes } = counts;
  await until(() => counts.hits > hits + 200 && counts.writes > writes + 50);
}

const KEYS = Array.from({ length: 30 }, (_, i) => `row:${i}`);

describe('a failover by Sentinels under load', () => {
  it.each(['kill', 'pause'] as const)(
    'after a %s shows nothing old and ends by itself within seconds',
    async (harm) => {
      const { url, servers } = await started(startSentinel());
      const states: boolean[] = [];
      const stores = [open(url, (state) => states.push(state)), open(url)];
      for (const store of stores) await until(() => store.available);
      const before = stores[0]!.nameOf('row');
      const load = traffic(stores, KEYS);
      await busy(load);
      await servers[0][harm]();
      const began = performance.now();
      await until(() =>
        stores.every((store) => ![undefined, before].includes(store.nameOf('row'))),
      );
      expect(performance.now() - began).toBeLessThan(10_000);
      await busy(load);
      // What still thinks itself a master comes back into the middle of it.
      if (harm === 'pause') servers[0].resume();
      else await servers[0].restart();
      await sleep(500);
      await busy(load);
      const counts = await load.stop();
      expect(counts.unavailable).toBeGreaterThan(0);
      expect(states).toEqual([true, false, true]);
    },
  );
});

describe('a Cluster under load', () => {
  /** The keys of each master. */
  const [firsts, seconds, thirds] = [0, 1, 2].map((master) =>
    KEYS.filter((key) => Math.floor(slotOf(`{${key}}`) / 5_461.5) === master),
  ) as [string[], string[], string[]];

  it('that fails over a shard shows nothing old, serves the others meanwhile, and is whole again by itself', async () => {
    const { url, masters } = await started(startCluster());
    const states: boolean[] = [];
    const stores = [open(url, (state) => states.push(state)), open(url)];
    for (const store of stores) await until(() => KEYS.every((key) => store.nameOf(key)));
    const before = stores[0]!.nameOf(firsts[0]!);
    const load = traffic(stores, KEYS);
    await busy(load);
    await masters[0].kill();
    const began = performance.now();
    await busy(load);
    await until(() =>
      stores.every((store) => ![undefined, before].includes(store.nameOf(firsts[0]!))),
    );
    expect(performance.now() - began).toBeLessThan(10_000);
    await busy(load);
    await masters[0].restart();
    await sleep(500);
    await busy(load);
    expect((await load.stop()).unavailable).toBeGreaterThan(0);
    expect(states).not.toContain(false);
  });

  it('that moves slots shows nothing old and refuses hardly anything', async () => {
    const { url, masters } = await started(startCluster());
    const [a, b, c] = masters;
    const stores = [open(url), open(url)];
    for (const store of stores) await until(() => KEYS.every((key) => store.nameOf(key)));
    const load = traffic(stores, KEYS);
    await busy(load);
    const ids = await Promise.all(
      [a, b].map(async ({ port }) => /\w{40}/.exec(await ask(port, 'CLUSTER MYID'))![0]),
    );
    for (const [from, to, source, target] of [
      [a, b, ids[0], ids[1]],
      [b, a, ids[1], ids[0]],
      [a, b, ids[0], ids[1]],
    ] as const) {
      for (const slot of new Set(firsts.map((key) => slotOf(`{${key}}`)))) {
        await ask(to.port, `CLUSTER SETSLOT ${slot} IMPORTING ${source}`);
        await ask(from.port, `CLUSTER SETSLOT ${slot} MIGRATING ${target}`);
        for (let done = false; !done;) {
          const found = await ask(from.port, `CLUSTER GETKEYSINSLOT ${slot} 100`);
          const names = found.match(/hf:\S+/g) ?? [];
          for (const name of names)
            await ask(from.port, `MIGRATE 127.0.0.1 ${to.port} ${name} 0 1000`);
          done = names.length === 0;
        }
        for (const { port } of [to, from, c])
          await ask(port, `CLUSTER SETSLOT ${slot} NODE ${target}`);
      }
      await busy(load);
    }
    await load.stop();
  });

  it('that loses a master without a replica loses its keys alone, and gets them back', async () => {
    const { url, masters } = await started(startCluster());
    const states: boolean[] = [];
    const store = open(url, (state) => states.push(state));
    await until(() => KEYS.every((key) => store.nameOf(key)));
    expect(states).toEqual([true, true, true]);
    await store.lease(KEYS, 't', LONG);
    await store.fill(
      't',
      KEYS.map((key, version) => ({ key, version, payload: 'p', ttlMs: LONG })),
    );
    await masters[1].kill();
    await until(() => !store.nameOf(seconds[0]!));
    expect(store.available).toBe(true);
    await store.ping();
    const expected = KEYS.map((key, version) => (seconds.includes(key) ? 'fence' : `p@${version}`));
    expect((await store.get(KEYS)).map(show)).toEqual(expected);
    expect((await store.lease(KEYS, 't', LONG)).map(show)).toEqual(expected);
    await store.fence([...firsts, ...thirds], 'w', LONG);
    await expect(store.fence(seconds, 'w', LONG)).rejects.toThrow(CacheUnavailableError);
    await expect(store.client.get(`{${seconds[0]}}`)).rejects.toThrow(CacheUnavailableError);

    await masters[1].restart();
    await until(() => store.nameOf(seconds[0]!));
    // Whoever listens may have to look for what was missed.
    expect(states).toEqual([true, true, true, true]);
    await until(async () => (await store.get(seconds)).every((entry) => entry.state === 'absent'));
    await store.fence(seconds, 'w', LONG);
  });

  it('of which one node hangs holds no caller longer than the command timeout, and then no caller of the others', async () => {
    const { url, masters } = await started(startCluster());
    const store = open(url);
    await until(() => KEYS.every((key) => store.nameOf(key)));
    masters[1].pause();
    const began = performance.now();
    await expect(store.get(KEYS)).rejects.toThrow(CacheUnavailableError);
    expect(performance.now() - began).toBeLessThan(400);
    await store.get([...firsts, ...thirds]);
    await until(() => !store.nameOf(seconds[0]!));
    expect((await store.get(seconds)).map(show)).toEqual(seconds.map(() => 'fence'));
    await store.get(KEYS);
    masters[1].resume();
    await until(() => store.nameOf(seconds[0]!));
  });
});
