/** Faults of the Redis servers themselves, inflicted past all links. */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from 'redis';
import { eventually } from '../../support/eventually.js';
import {
  type RedisSentinel,
  type RedisServer,
  sendRedisCommand,
  startRedis,
  startRedisSentinel,
} from '../../support/redis.js';
import type { FailoverKind, ServerFault } from './faults.js';

/** Room for the nodes' entries and connections, and for some of the ballast of `evictions`. */
const REDIS_ARGS = [
  ...['--maxmemory', '12mb', '--maxmemory-policy', 'allkeys-lru'],
  ...['--maxmemory-samples', '1'],
];
const BALLAST = { keyPrefix: 'ballast:', bytes: 65_536, keys: 200 } as const;
/** A fault waits this long for a Redis that is away because of another fault. */
const AVAILABLE_TIMEOUT_MS = 60_000;
const FAILOVER_TIMEOUT_MS = 60_000;
/** Until both servers may believe to be the master, before the old one is told otherwise. */
const SPLIT_MS = 1_000;

/** One server behind links, or a master and a replica that Sentinels name to the nodes. */
export type RedisSite =
  | { readonly kind: 'one server'; readonly server: RedisServer; readonly dumpFile: string }
  | { readonly kind: 'sentinels'; readonly sentinel: RedisSentinel };

export async function startRedisSite(kind: RedisSite['kind']): Promise<RedisSite> {
  if (kind === 'sentinels') return { kind, sentinel: await startRedisSentinel() };
  const server = await startRedis({ args: REDIS_ARGS });
  const settings = await withClient(server, (client) => client.configGet(['dir', 'dbfilename']));
  return { kind, server, dumpFile: join(String(settings.dir), String(settings.dbfilename)) };
}

export const stopRedisSite = (site: RedisSite): Promise<void> =>
  site.kind === 'sentinels' ? site.sentinel.stop() : site.server.stop();

type RedisClient = ReturnType<typeof createClient>;

async function withClient<T>(
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
  { server, dumpFile }: Extract<RedisSite, { kind: 'one server' }>,
  { kind, ms }: ServerFault,
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
    default:
      return false;
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

/**
 * Makes the replica the master. Resolves when every Sentinel names it and the old master is its
 * replica.
 * @returns whether the replica was promoted in time
 */
export async function failOver(
  { servers, sentinels }: RedisSentinel,
  kind: FailoverKind,
): Promise<boolean> {
  const [first, second] = servers;
  const isFirstMaster = (await roleOf(first)) === 'master';
  const [oldMaster, newMaster] = isFirstMaster ? [first, second] : [second, first];

  await beginFailover(kind, oldMaster, sentinels);
  const wasPromoted = await inTime(async () => (await roleOf(newMaster)) === 'master');
  await inTime(async () => {
    const names = sentinels.map((sentinel) => isNamedBy(sentinel, newMaster));
    return (await Promise.all(names)).every(Boolean);
  });
  if (kind === 'master killed') await oldMaster.restart();
  if (kind === 'master hangs') oldMaster.resume();
  // A Sentinel would demote the old master after 8 s: the round does not wait for that.
  await sleep(SPLIT_MS);
  await tryCommand(oldMaster, `REPLICAOF 127.0.0.1 ${newMaster.port}`);
  await inTime(async () =>
    (await tryCommand(newMaster, 'INFO replication')).includes('state=online'),
  );
  return wasPromoted;
}

async function beginFailover(
  kind: FailoverKind,
  master: RedisServer,
  sentinels: readonly RedisServer[],
): Promise<void> {
  switch (kind) {
    case 'master killed':
      await master.kill();
      return;
    case 'master hangs':
      master.pause();
      return;
    case 'failover by command':
      // Refused while an earlier failover is in progress.
      await inTime(async () => {
        const sentinel = sentinels[0] as RedisServer;
        return (await tryCommand(sentinel, 'SENTINEL FAILOVER holdfast')) !== '';
      });
  }
}

async function roleOf(server: RedisServer): Promise<string> {
  const reply = await tryCommand(server, 'INFO replication');
  return /^role:(\w+)/m.exec(reply)?.[1] ?? '';
}

async function isNamedBy(sentinel: RedisServer, { port }: RedisServer): Promise<boolean> {
  const reply = await tryCommand(sentinel, 'SENTINEL GET-MASTER-ADDR-BY-NAME holdfast');
  return reply.includes(`\r\n${port}\r\n`);
}

/** The reply; empty when there is none or it is an error. */
const tryCommand = ({ port }: RedisServer, command: string): Promise<string> =>
  sendRedisCommand(port, command).catch(() => '');

/** @returns whether the condition became true within the time that a failover may take */
function inTime(condition: () => Promise<boolean>): Promise<boolean> {
  return eventually('the failover proceeds', condition, FAILOVER_TIMEOUT_MS).catch(() => false);
}
