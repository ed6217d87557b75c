/**
 * What a round runs on: one audited database, Redis, and nodes in processes of their own that reach
 * PostgreSQL, and a single Redis server, only through links that can be disturbed. It inflicts
 * faults and records when. Invariants: no process outlives this one; every wait has a bound.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import type { Random } from '../../support/random.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { createAudit } from './audit.js';
import type { FailoverKind, Fault, KillFault, ServerFault } from './faults.js';
import { beginMicros, endMicros, type FaultRecord } from './history.js';
import { NodeProcess } from './node-process.js';
import {
  disturbRedis,
  failOver,
  type RedisSite,
  startRedisSite,
  stopRedisSite,
} from './redis-faults.js';

export interface ClusterOptions {
  readonly site: RedisSite['kind'];
  /** An empty, migrated database that the cluster may keep to itself. */
  readonly databaseUrl: string;
  readonly nodes: number;
  /** How many times shorter than in production the service's long times are. */
  readonly timesDivisor: number;
  readonly random: Random;
}

const CUT_LISTEN = `
  SELECT pg_terminate_backend(pid)
    FROM pg_stat_activity
   WHERE application_name = 'holdfast-cache' AND datname = current_database()`;

export class Cluster {
  /** The faults of this round. */
  readonly faultRecords: FaultRecord[] = [];
  private isStopping = false;

  private constructor(
    readonly nodes: readonly NodeProcess[],
    /** Past the service: writes with it do not fence. */
    readonly client: Client,
    private readonly site: RedisSite,
  ) {}

  static async start(options: ClusterOptions): Promise<Cluster> {
    const client = new Client({
      connectionString: options.databaseUrl,
      application_name: 'chaos',
    });
    client.on('error', () => undefined);
    await client.connect();
    await createAudit(client);
    const site = await startRedisSite(options.site);
    const nodes: NodeProcess[] = [];
    while (nodes.length < options.nodes) nodes.push(await createNode(nodes.length, site, options));
    const cluster = new Cluster(nodes, client, site);
    try {
      // One after the other: simultaneous starts on a busy machine exceed the connection timeout.
      for (const node of nodes) await node.start();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    await Promise.all(this.nodes.map((node) => node.kill()));
    for (const link of this.links()) link.close();
    await this.client.end();
    await stopRedisSite(this.site);
  }

  /** Runs one fault from its beginning to its end and records it. */
  async inflict(fault: Fault): Promise<void> {
    if (this.isStopping) return;
    const from = beginMicros();
    const { kind, ...details } = fault;
    const hasHappened = await this.act(fault);
    if (!hasHappened) return;
    this.faultRecords.push({ kind, details: JSON.stringify(details), from, to: endMicros() });
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
  private act(fault: Fault): Promise<boolean> {
    if ('link' in fault) return this.disturbLink(fault);
    if ('step' in fault) return this.killNode(fault);
    if (fault.kind === 'SIGSTOP') return this.stopNode(fault);
    return this.disturbServers(fault);
  }

  private async disturbLink(fault: Extract<Fault, { link: unknown }>): Promise<boolean> {
    const link = this.nodes[fault.node]?.links[fault.link];
    if (!link) return false;
    switch (fault.kind) {
      case 'link delayed':
        link.setDelay(0, fault.jitterMs);
        await sleep(fault.ms);
        link.setDelay(0, 0);
        return true;
      case 'link cut':
        link.cut();
        return true;
      case 'link refused':
        link.refuse();
        await sleep(fault.ms);
        link.heal();
        return true;
      case 'link stalled':
        link.stall();
        await sleep(fault.ms);
        link.resume();
        return true;
      case 'link half-open':
        link.halfOpen(fault.direction);
        await sleep(fault.ms);
        if (fault.isSilent) link.healSilently();
        else link.heal();
        return true;
    }
  }

  private async killNode({ node: index, step, ms }: KillFault): Promise<boolean> {
    const node = this.nodes[index] as NodeProcess;
    const hasDied = await node.dieAt(step);
    await node.kill();
    await sleep(ms);
    await this.revive(node);
    return hasDied;
  }

  private async stopNode({ node: index, ms }: { node: number; ms: number }): Promise<boolean> {
    const node = this.nodes[index] as NodeProcess;
    node.signal('SIGSTOP');
    await sleep(ms);
    node.signal('SIGCONT');
    return true;
  }

  private async disturbServers(fault: ServerFault): Promise<boolean> {
    switch (fault.kind) {
      case 'LISTEN cut':
        await this.client.query(CUT_LISTEN);
        return true;
      case 'outage':
        await this.cutOffRedis(fault.ms);
        return true;
      case 'failover by command':
      case 'master killed':
      case 'master hangs': {
        const kind: FailoverKind = fault.kind;
        return this.site.kind === 'sentinels' && failOver(this.site.sentinel, kind);
      }
      default:
        return this.site.kind === 'one server' && disturbRedis(this.site, fault);
    }
  }

  /** No node reaches Redis for this long. */
  private async cutOffRedis(ms: number): Promise<void> {
    const links = this.nodes.flatMap((node) => node.links.redis ?? []);
    for (const link of links) link.refuse();
    await sleep(ms);
    for (const link of links) link.heal();
  }

  private async revive(node: NodeProcess): Promise<void> {
    // A kill that ends its pause and `heal` may both want to start the node.
    if (!this.isStopping && !node.isAlive) await node.start();
  }

  private links(): TcpProxy[] {
    return this.nodes.flatMap((node) => Object.values(node.links));
  }
}

async function createNode(
  index: number,
  site: RedisSite,
  { databaseUrl, timesDivisor, random }: ClusterOptions,
): Promise<NodeProcess> {
  const throughLink = new URL(databaseUrl);
  const postgres = await TcpProxy.start(Number(throughLink.port), random.fork(`postgres ${index}`));
  throughLink.port = String(postgres.port);
  const env = {
    PATH: process.env.PATH,
    DATABASE_URL: throughLink.href,
    DATABASE_POOL: '6',
    MIGRATIONS: 'manual',
    LOG_LEVEL: 'silent',
    NODE_ENV: 'production',
    CHAOS_TIMES_DIVISOR: String(timesDivisor),
  };
  // Sentinels name their servers themselves: connections to them cannot pass a link.
  if (site.kind === 'sentinels') {
    return new NodeProcess({ ...env, REDIS_URL: site.sentinel.url }, { postgres });
  }
  const redis = await TcpProxy.start(site.server.port, random.fork(`redis ${index}`));
  const redisUrl = `redis://127.0.0.1:${redis.port}`;
  return new NodeProcess({ ...env, REDIS_URL: redisUrl }, { postgres, redis });
}
