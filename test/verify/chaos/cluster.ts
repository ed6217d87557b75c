/**
 * What a round runs on: one audited database, one Redis site, and nodes in processes of their own
 * that reach them through links that can be disturbed. It inflicts faults and records when.
 * Invariants: no process outlives this one; every wait has a bound.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from 'pg';
import type { Random } from '../../support/random.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { Database } from './database.js';
import { type Fault, type LinkFault, nameOf, type NodeFault } from './faults.js';
import { beginMicros, endMicros, type FaultRecord } from './history.js';
import { disturbLink, disturbRedisLinks } from './link-faults.js';
import { NodeProcess } from './node-process.js';
import { disturbRedis } from './redis-faults.js';
import {
  openCacheAccess,
  type RedisSite,
  type SiteKind,
  startRedisSite,
  stopRedisSite,
} from './redis-site.js';
import { failOver } from './sentinel-faults.js';
import { disturbShard } from './shard-faults.js';

export interface ClusterOptions {
  readonly site: SiteKind;
  readonly nodes: number;
  /** Whether it has a PostgreSQL server of its own, which may be killed. */
  readonly ownsPostgres: boolean;
  /** How many times shorter than in production the service's long times are. */
  readonly timesDivisor: number;
  /** The value of CACHE_NEAR. */
  readonly near: string;
  readonly random: Random;
}

/** So short that rows expire, and are refreshed before, within a round. Sessions stay. */
const TTL_SECONDS = { CACHE_TTL_USERS: '1', CACHE_TTL_ORDERS: '2' } as const;

export class Cluster {
  /** The faults of this round. */
  readonly faultRecords: FaultRecord[] = [];
  private isStopping = false;

  private constructor(
    readonly nodes: readonly NodeProcess[],
    private readonly database: Database,
    private readonly site: RedisSite,
  ) {}

  static async start(options: ClusterOptions): Promise<Cluster> {
    const database = await Database.start(options.ownsPostgres);
    const site = await startRedisSite(options.site);
    const nodes: NodeProcess[] = [];
    while (nodes.length < options.nodes) {
      nodes.push(await createNode(nodes.length, site, database, options));
    }
    const cluster = new Cluster(nodes, database, site);
    try {
      // One after the other: simultaneous starts on a busy machine exceed the connection timeout.
      for (const node of nodes) await node.start();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  /** Past the service: writes with it do not fence. Not to be kept: it may be replaced. */
  get client(): Client {
    return this.database.client;
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    await Promise.all(this.nodes.map((node) => node.kill()));
    for (const link of this.links()) link.close();
    await stopRedisSite(this.site);
    await this.database.stop();
  }

  /** Runs one fault from its beginning to its end and records it. */
  async inflict(fault: Fault): Promise<void> {
    if (this.isStopping) return;
    const from = beginMicros();
    const hasHappened = await this.act(fault);
    if (!hasHappened) return;
    const details = JSON.stringify({ ...fault, on: undefined, kind: undefined });
    this.faultRecords.push({ kind: nameOf(fault), details, from, to: endMicros() });
  }

  /**
   * Ends every disturbance and starts the nodes that died.
   * @throws Error when a node does not start
   */
  async heal(): Promise<void> {
    if (this.site.kind === 'one server') this.site.server.resume();
    for (const link of this.links()) link.heal();
    await Promise.all(
      this.nodes.map(async (node) => {
        node.signal('SIGCONT');
        await this.revive(node);
      }),
    );
  }

  /** @returns whether the fault happened, at least in part */
  private async act(fault: Fault): Promise<boolean> {
    const { site } = this;
    switch (fault.on) {
      case 'link':
        return this.disturbLink(fault);
      case 'redis links': {
        if (site.kind !== 'one server') return false;
        const links = this.nodes.flatMap((node) => node.links.redis ?? []);
        await disturbRedisLinks(links, site, fault);
        return true;
      }
      case 'node':
        return this.disturbNode(this.nodes[fault.node] as NodeProcess, fault);
      case 'redis':
        return site.kind === 'one server' && disturbRedis(site, fault.kind, fault.ms);
      case 'sentinels':
        return site.kind === 'sentinels' && failOver(site.sentinel, fault.kind);
      case 'cluster':
        return site.kind === 'cluster' && disturbShard(site.cluster, fault);
      case 'database':
        return this.database.disturb(fault);
    }
  }

  private async disturbLink(fault: LinkFault): Promise<boolean> {
    const link = this.nodes[fault.node]?.links[fault.link];
    if (link) await disturbLink(link, fault);
    return link !== undefined;
  }

  private async disturbNode(node: NodeProcess, fault: NodeFault): Promise<boolean> {
    switch (fault.kind) {
      case 'SIGSTOP':
        node.signal('SIGSTOP');
        await sleep(fault.ms);
        node.signal('SIGCONT');
        return true;
      case 'clock jump':
        node.jumpClock(fault.jumpMs);
        await sleep(fault.ms);
        node.jumpClock(0);
        return true;
      case 'other database':
      case 'other server':
      case 'no REDIS_URL':
        await (fault.isOrderly ? node.leave() : node.kill());
        await this.revive(node, { REDIS_URL: node.otherUrls[fault.kind] });
        await sleep(fault.ms);
        await (fault.isOrderly ? node.leave() : node.kill());
        await this.revive(node);
        return true;
      default: {
        const hasDied = await node.dieAt(fault.step);
        await node.kill();
        await sleep(fault.ms);
        await this.revive(node);
        return hasDied;
      }
    }
  }

  private async revive(node: NodeProcess, env?: NodeJS.ProcessEnv): Promise<void> {
    // A kill that ends its pause and `heal` may both want to start the node.
    if (!this.isStopping && !node.isAlive) await node.start(env);
  }

  private links(): TcpProxy[] {
    const links = this.nodes.flatMap((node) => Object.values(node.links));
    return links.filter((link) => link !== undefined);
  }
}

async function createNode(
  index: number,
  site: RedisSite,
  database: Database,
  { timesDivisor, near, random }: ClusterOptions,
): Promise<NodeProcess> {
  const throughLink = new URL(database.url);
  const postgres = await TcpProxy.start(Number(throughLink.port), random.fork(`postgres ${index}`));
  throughLink.port = String(postgres.port);
  const { links, url, otherUrls } = await openCacheAccess(site, random.fork(`redis ${index}`));
  const env = {
    PATH: process.env.PATH,
    DATABASE_URL: throughLink.href,
    DATABASE_POOL: '6',
    REDIS_URL: url,
    CACHE_NEAR: near,
    MIGRATIONS: 'manual',
    LOG_LEVEL: 'silent',
    NODE_ENV: 'production',
    CHAOS_TIMES_DIVISOR: String(timesDivisor),
    ...TTL_SECONDS,
  };
  return new NodeProcess(env, { postgres, ...links }, otherUrls);
}
