/** Faults of a single Redis server, inflicted past all links. */
import { existsSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from 'redis';
import { eventually } from '../../support/eventually.js';
import type { RedisServer } from '../../support/redis.js';
import type { ServerFaultKind } from './faults.js';
import type { OneServerSite } from './redis-site.js';

const BALLAST = { keyPrefix: 'ballast:', bytes: 65_536, keys: 200 } as const;
/** A fault waits this long for a Redis that is away because of another fault. */
const AVAILABLE_TIMEOUT_MS = 60_000;

type RedisClient = ReturnType<typeof createClient>;

export async function withClient<T>(
  { url }: RedisServer,
  act: (client: RedisClient) => Promise<T>,
): Promise<T> {
  const socket = { reconnectStrategy: false, connectTimeout: 1_000, socketTimeout: 2_000 } as const;
  const client = createClient({ url, socket });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await act(client as RedisClient);
  } finally {
    client.destroy();
  }
}

/** Tries again while the server is away. */
async function whenAvailable<T>(
  server: RedisServer,
  act: (client: RedisClient) => Promise<T>,
): Promise<T> {
  let result: T | undefined;
  const tryToAct = async (): Promise<boolean> => {
    result = await withClient(server, act);
    return true;
  };
  await eventually('Redis is available', tryToAct, AVAILABLE_TIMEOUT_MS);
  return result as T;
}

/** @returns whether the fault happened */
export async function disturbRedis(
  { server, dumpFile }: OneServerSite,
  kind: ServerFaultKind,
  ms: number,
): Promise<boolean> {
  switch (kind) {
    case 'Redis hangs':
      server.pause();
      await sleep(ms);
      server.resume();
      return true;
    case 'Redis back empty':
      await server.kill();
      rmSync(dumpFile, { force: true });
      await sleep(ms);
      await server.restart();
      return true;
    case 'Redis back with an old dataset':
      await whenAvailable(server, (client) => client.sendCommand(['SAVE']));
      // The old dataset lacks what is written between the snapshot and the crash.
      await sleep(ms);
      await server.kill();
      await server.restart();
      return existsSync(dumpFile);
    case 'FLUSHALL':
      await whenAvailable(server, (client) => client.flushAll());
      return true;
    case 'evictions':
      return whenAvailable(server, (client) => causeEvictions(client, ms));
  }
}

/**
 * Fills the memory with ballast for `ms`, so that Redis evicts whatever it chooses.
 * @returns whether it evicted anything
 */
async function causeEvictions(client: RedisClient, ms: number): Promise<boolean> {
  const keys = Array.from({ length: BALLAST.keys }, (_, index) => `${BALLAST.keyPrefix}${index}`);
  const value = 'x'.repeat(BALLAST.bytes);
  const end = Date.now() + ms;
  const countBefore = await evictionCount(client);
  do {
    for (const key of keys) await client.set(key, value);
  } while (Date.now() < end);
  const hasEvicted = (await evictionCount(client)) > countBefore;
  await client.del(keys);
  return hasEvicted;
}

async function evictionCount(client: RedisClient): Promise<number> {
  return Number(/^evicted_keys:(\d+)/m.exec(String(await client.info('stats')))?.[1]);
}
