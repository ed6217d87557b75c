/** The Redis that the nodes of one lane share, and the addresses at which each reaches it. */
import { join } from 'node:path';
import type { Random } from '../../support/random.js';
import {
  type RedisCluster,
  type RedisSentinel,
  type RedisServer,
  startRedis,
  startRedisCluster,
  startRedisSentinel,
} from '../../support/redis.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import type { ConfigurationFaultKind, LinkName } from './faults.js';
import { withClient } from './redis-faults.js';

export interface OneServerSite {
  readonly kind: 'one server';
  readonly server: RedisServer;
  readonly dumpFile: string;
  /** Another server, for a node that has a wrong address. */
  readonly otherServer: RedisServer;
}

export type RedisSite =
  | OneServerSite
  | { readonly kind: 'sentinels'; readonly sentinel: RedisSentinel }
  | { readonly kind: 'cluster'; readonly cluster: RedisCluster }
  /** Each node has a cache in its own memory. */
  | { readonly kind: 'memory' };

export type SiteKind = RedisSite['kind'];

/** How one node reaches its cache. */
export interface CacheAccess {
  readonly links: Readonly<Partial<Record<LinkName, TcpProxy>>>;
  /** The value of REDIS_URL. */
  readonly url: string | undefined;
  /** The value of REDIS_URL with which the node uses another cache. */
  readonly otherUrls: Readonly<Partial<Record<ConfigurationFaultKind, string>>>;
}

/** Room for the nodes' entries and connections, and for some of the ballast of `evictions`. */
const REDIS_ARGS = [
  ...['--maxmemory', '12mb', '--maxmemory-policy', 'allkeys-lru'],
  ...['--maxmemory-samples', '1'],
];

export async function startRedisSite(kind: SiteKind): Promise<RedisSite> {
  switch (kind) {
    case 'one server': {
      const server = await startRedis({ args: REDIS_ARGS });
      const otherServer = await startRedis();
      const settings = await withClient(server, (client) =>
        client.configGet(['dir', 'dbfilename']),
      );
      const dumpFile = join(String(settings.dir), String(settings.dbfilename));
      return { kind, server, dumpFile, otherServer };
    }
    case 'sentinels':
      return { kind, sentinel: await startRedisSentinel() };
    case 'cluster':
      return { kind, cluster: await startRedisCluster() };
    case 'memory':
      return { kind };
  }
}

export async function stopRedisSite(site: RedisSite): Promise<void> {
  switch (site.kind) {
    case 'one server':
      await Promise.all([site.server.stop(), site.otherServer.stop()]);
      return;
    case 'sentinels':
      return site.sentinel.stop();
    case 'cluster':
      return site.cluster.stop();
    case 'memory':
  }
}

/**
 * Sentinels and clusters name their servers themselves: connections to those cannot pass a link,
 * but connections to the Sentinels can.
 */
export async function openCacheAccess(site: RedisSite, random: Random): Promise<CacheAccess> {
  switch (site.kind) {
    case 'one server': {
      const redis = await TcpProxy.start(site.server.port, random);
      const url = `redis://127.0.0.1:${redis.port}`;
      const otherUrls = { 'other database': `${url}/1`, 'other server': site.otherServer.url };
      return { links: { redis }, url, otherUrls };
    }
    case 'sentinels': {
      const { sentinels } = site.sentinel;
      const proxies = await Promise.all(
        sentinels.map(({ port }) => TcpProxy.start(port, random.fork(String(port)))),
      );
      const hosts = proxies.map(({ port }) => `127.0.0.1:${port}`);
      const links = Object.fromEntries(
        proxies.map((proxy, index) => [`sentinel ${index + 1}`, proxy]),
      );
      return { links, url: `redis+sentinel://${hosts.join(',')}/holdfast`, otherUrls: {} };
    }
    case 'cluster':
      return { links: {}, url: site.cluster.url, otherUrls: {} };
    case 'memory':
      return { links: {}, url: undefined, otherUrls: {} };
  }
}
