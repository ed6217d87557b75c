/**
 * Three nodes of the whole service, in processes of their own, on one PostgreSQL database and one
 * Redis server. Every connection, also from clients, passes a link that can be disturbed.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { killProcess, type RunningProgram, startProgram } from '../../support/child-process.js';
import type { Random } from '../../support/random.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { type LinkName, nameOf } from '../chaos/faults.js';
import { disturbLink, disturbRedisLinks } from '../chaos/link-faults.js';
import { disturbRedis } from '../chaos/redis-faults.js';
import {
  type OneServerSite,
  openCacheAccess,
  startRedisSite,
  stopRedisSite,
} from '../chaos/redis-site.js';
import type { HttpFault } from './faults.js';

export const ADMIN = { username: 'register-admin', password: 'the admin of all the registers' };
const NODE_COUNT = 3;
/** Nobody listens there: the target of a client's link before its node has started. */
const NO_PORT = 1;

export class HttpNode {
  private program: RunningProgram | undefined;

  constructor(
    private readonly folder: string,
    private readonly env: Readonly<Record<string, string>>,
    readonly links: Readonly<Partial<Record<LinkName, TcpProxy>>> & { readonly client: TcpProxy },
  ) {}

  /** For clients. The same over all starts. */
  get url(): string {
    return `http://127.0.0.1:${this.links.client.port}`;
  }

  /** Resolves when the node serves requests. */
  async start(): Promise<void> {
    this.program = await startProgram({
      command: process.execPath,
      args: [join(this.folder, 'test/verify/service-process.js')],
      env: this.env,
      readyPattern: /API (http:\S+)\/v1/,
    });
    this.links.client.leadTo(Number(new URL(this.program.ready[1] as string).port));
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    if (this.program) await killProcess(this.program.child);
  }
}

export class HttpSite {
  /** How often each fault happened. */
  readonly faultCounts: Record<string, number> = {};

  private constructor(
    readonly nodes: readonly HttpNode[],
    private readonly redis: OneServerSite,
  ) {}

  /**
   * @param folder the compiled service (scripts/compile.mjs)
   * @param databaseUrl a migrated database without users
   */
  static async start(folder: string, databaseUrl: string, random: Random): Promise<HttpSite> {
    const redis = (await startRedisSite('one server')) as OneServerSite;
    const nodes: HttpNode[] = [];
    while (nodes.length < NODE_COUNT) {
      nodes.push(await createNode(folder, databaseUrl, redis, random.fork(`node ${nodes.length}`)));
    }
    const site = new HttpSite(nodes, redis);
    try {
      await Promise.all(nodes.map((node) => node.start()));
      return site;
    } catch (error) {
      await site.stop();
      throw error;
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.kill()));
    for (const link of this.links()) link.close();
    await stopRedisSite(this.redis);
  }

  /** Runs one fault from its beginning to its end. */
  async inflict(fault: HttpFault): Promise<void> {
    await this.act(fault);
    const name = fault.on === 'process' ? fault.kind : nameOf(fault);
    this.faultCounts[name] = (this.faultCounts[name] ?? 0) + 1;
  }

  private async act(fault: HttpFault): Promise<void> {
    switch (fault.on) {
      case 'link': {
        const link = this.nodes[fault.node]?.links[fault.link];
        if (link) await disturbLink(link, fault);
        return;
      }
      case 'redis':
        await disturbRedis(this.redis, fault.kind, fault.ms);
        return;
      case 'redis links': {
        const links = this.nodes.flatMap((node) => node.links.redis ?? []);
        await disturbRedisLinks(links, this.redis, fault);
        return;
      }
      case 'process': {
        const node = this.nodes[fault.node] as HttpNode;
        await node.kill();
        await sleep(fault.ms);
        await node.start();
        return;
      }
      default:
        throw new TypeError(`This site does not know the fault "${fault.kind}"`);
    }
  }

  private links(): TcpProxy[] {
    const links = this.nodes.flatMap((node) => Object.values(node.links));
    return links.filter((link) => link !== undefined);
  }
}

async function createNode(
  folder: string,
  databaseUrl: string,
  site: OneServerSite,
  random: Random,
): Promise<HttpNode> {
  const throughLink = new URL(databaseUrl);
  const postgres = await TcpProxy.start(Number(throughLink.port), random.fork('postgres'));
  throughLink.port = String(postgres.port);
  const { links, url } = await openCacheAccess(site, random.fork('redis'));
  const client = await TcpProxy.start(NO_PORT, random.fork('client'));
  const env = {
    DATABASE_URL: throughLink.href,
    REDIS_URL: url as string,
    MIGRATIONS: 'manual',
    PORT: '0',
    LOG_FORMAT: 'json',
    LOG_LEVEL: 'info',
    NODE_ENV: 'production',
    RATE_LIMIT_PER_MINUTE: '0',
    ADMIN_USERNAME: ADMIN.username,
    ADMIN_PASSWORD: ADMIN.password,
  };
  return new HttpNode(folder, env, { ...links, postgres, client });
}
