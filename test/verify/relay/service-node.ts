/** Nodes of the service, each a process with links of its own to RabbitMQ and PostgreSQL. */
import { join } from 'node:path';
import type { PartitionTimeouts } from '../../../src/platform/outbox/outbox-partitions.js';
import { ADMIN } from '../../support/app.js';
import { killProcess, type RunningProgram, startProgram } from '../../support/child-process.js';
import type { RabbitmqServer } from '../../support/rabbitmq.js';
import { Random } from '../../support/random.js';
import { type RedisServer, startRedis } from '../../support/redis.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

export class ServiceNode {
  /** Whether the node serves requests. */
  isUp = false;
  private program: RunningProgram | undefined;

  /**
   * @param folder the compiled service (scripts/compile.mjs)
   * @param brokerLink between this node and RabbitMQ
   * @param databaseLink between this node and PostgreSQL
   */
  constructor(
    private readonly folder: string,
    private readonly env: Readonly<Record<string, string>>,
    readonly brokerLink: TcpProxy,
    readonly databaseLink: TcpProxy,
  ) {}

  get url(): string {
    return this.program?.ready[1] ?? 'http://127.0.0.1:1';
  }

  /** Resolves when the node serves requests. */
  async start(): Promise<void> {
    this.program = await startProgram({
      command: process.execPath,
      args: [join(this.folder, 'test/verify/service-process.js')],
      env: this.env,
      readyPattern: /API (http:\S+)\/v1/,
    });
    this.isUp = true;
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    this.isUp = false;
    if (this.program) await killProcess(this.program.child);
  }
}

export interface ServiceNodesOptions {
  /** The compiled service (scripts/compile.mjs). */
  readonly folder: string;
  /** A migrated database. */
  readonly databaseUrl: string;
  readonly rabbitmq: RabbitmqServer;
  readonly count: number;
  readonly random?: Random;
  /** The relay's own when absent. */
  readonly relayTimeouts?: Partial<PartitionTimeouts> | undefined;
}

/** Several nodes on one database and one Redis. */
export class ServiceNodes {
  private constructor(
    readonly all: readonly ServiceNode[],
    private readonly redis: RedisServer,
  ) {}

  /** Resolves when every node serves requests. */
  static async start(options: ServiceNodesOptions): Promise<ServiceNodes> {
    const { folder, databaseUrl, rabbitmq, count, random = new Random(1) } = options;
    const redis = await startRedis();
    const createNode = async (index: number): Promise<ServiceNode> => {
      const database = new URL(databaseUrl);
      const broker = new URL(rabbitmq.url);
      const [databaseLink, brokerLink] = await Promise.all([
        TcpProxy.start(Number(database.port), random.fork(`database link ${index}`)),
        TcpProxy.start(rabbitmq.port, random.fork(`link ${index}`)),
      ]);
      database.port = String(databaseLink.port);
      broker.port = String(brokerLink.port);
      const env = {
        DATABASE_URL: database.href,
        REDIS_URL: redis.url,
        RABBITMQ_URL: broker.href,
        MIGRATIONS: 'manual',
        PORT: '0',
        LOG_FORMAT: 'json',
        NODE_ENV: 'production',
        RATE_LIMIT_PER_MINUTE: '0',
        ADMIN_USERNAME: ADMIN.username,
        ADMIN_PASSWORD: ADMIN.password,
        TEST_RELAY_TIMEOUTS: JSON.stringify(options.relayTimeouts ?? {}),
      };
      return new ServiceNode(folder, env, brokerLink, databaseLink);
    };
    const all = await Promise.all(Array.from({ length: count }, (_, index) => createNode(index)));
    const nodes = new ServiceNodes(all, redis);
    try {
      await Promise.all(all.map((node) => node.start()));
      return nodes;
    } catch (error) {
      await nodes.stop();
      throw error;
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.all.map((node) => node.kill()));
    for (const { brokerLink, databaseLink } of this.all) {
      brokerLink.close();
      databaseLink.close();
    }
    await this.redis.stop();
  }
}
