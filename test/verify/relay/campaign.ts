/**
 * Orders driven through two whole nodes over HTTP while their links to RabbitMQ are slowed and cut, RabbitMQ is killed and
 * started again, and nodes are killed with SIGKILL: then every event must be in the queue, in order within its order
 * (arrivals.ts judges).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { Link } from '../campaign/proxy.js';
import { Random } from '../campaign/random.js';
import { ADMIN, callUrl, type Reply } from '../support/app.js';
import { ORDER, PASSWORD } from '../support/factories.js';
import type { RabbitServer } from '../support/rabbitmq.js';
import { startRedis } from '../support/redis.js';
import { type Arrivals, bindQueue, judgeArrivals } from './arrivals.js';

export interface CampaignOptions {
  /** What test/campaign/compile.mjs made. */
  readonly folder: string;
  readonly databaseUrl: string;
  readonly rabbit: RabbitServer;
  readonly orders: number;
  readonly seed: number;
  /** Also kills RabbitMQ itself, which takes it some seconds. */
  readonly restarts: boolean;
}

export interface CampaignResult extends Arrivals {
  readonly orders: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly driveSeconds: number;
}

/** One node of the service in a process of its own, with its own link to RabbitMQ. */
class ServiceNode {
  url = '';
  private child: ChildProcess | undefined;

  constructor(
    private readonly folder: string,
    private readonly env: NodeJS.ProcessEnv,
    readonly link: Link,
  ) {}

  /** Serving when this resolves. On a machine that has no time for it a start may fail: somebody tries again. */
  async start(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.launch();
      } catch (error) {
        if (attempt === 10) throw error;
      }
    }
  }

  private async launch(): Promise<void> {
    const program = [process.execPath, join(this.folder, 'src/main.js')];
    const [command, ...args] = existsSync('/usr/bin/setpriv')
      ? ['/usr/bin/setpriv', '--pdeathsig', 'KILL', ...program]
      : program;
    const child = spawn(command as string, args, {
      env: this.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child = child;
    let said = '';
    child.stderr
      .setEncoding('utf8')
      .on('data', (text: string) => (said = (said + text).slice(-2_000)));
    this.url = await new Promise<string>((resolve, reject) => {
      createInterface(child.stdout).on('line', (line) => {
        const [, url] = /ready: API (\S+)\/v1/.exec(line) ?? [];
        if (url) resolve(url);
      });
      child.once('exit', () => reject(new Error(`a node does not start: ${said}`)));
    });
  }

  kill(): Promise<void> {
    const { child } = this;
    if (!child || child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
    return new Promise((resolve) => {
      child.once('exit', () => resolve());
      child.kill('SIGKILL');
    });
  }
}

/** A process-wide count of what was done to whom. */
type Faults = Record<string, number>;

/** One node dies when some of the orders are placed, whatever else happens just then, and comes back. */
async function death(
  nodes: readonly ServiceNode[],
  { orders, seed }: CampaignOptions,
  done: () => number,
  faults: Faults,
): Promise<void> {
  const random = new Random(seed).fork('death');
  const killAt = orders * (0.1 + 0.4 * random.next());
  while (done() < killAt) await sleep(2);
  const node = random.pick(nodes);
  await node.kill();
  faults['node killed with SIGKILL'] = 1;
  await sleep(random.between(100, 1_000));
  await node.start();
}

/** What happens to the links and the broker, one thing after another, until the driving is over. */
async function storm(
  nodes: readonly ServiceNode[],
  { rabbit, restarts, orders, seed }: CampaignOptions,
  done: () => number,
  faults: Faults,
): Promise<void> {
  const random = new Random(seed).fork('faults');
  const note = (what: string): void => void (faults[what] = (faults[what] ?? 0) + 1);
  let restarted = !restarts;
  while (done() < orders) {
    const node = random.pick(nodes);
    if (!restarted && done() >= orders / 2) {
      note('RabbitMQ killed and started again');
      restarted = true;
      await rabbit.restart();
      continue;
    }
    const ms = random.between(100, 700);
    switch (random.between(0, 3)) {
      case 0:
        note('link slow');
        node.link.slow(20, 60);
        await sleep(ms);
        node.link.slow(0, 0);
        break;
      case 1:
        note('link cut');
        node.link.cut(false);
        break;
      case 2:
        note('both links refused');
        for (const { link } of nodes) link.cut(true);
        await sleep(ms);
        for (const { link } of nodes) link.heal();
        break;
      default:
        note('link stalled');
        node.link.stall();
        await sleep(ms);
        node.link.resume();
    }
    await sleep(random.between(50, 400));
  }
}

/** A request that is sent until some node has answered it; which one is left to chance. */
async function insist(
  nodes: readonly ServiceNode[],
  random: Random,
  method: string,
  path: string,
  options: Parameters<typeof callUrl>[2],
): Promise<Reply> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const reply = await callUrl(random.pick(nodes).url + path, method, options).catch(
      () => undefined,
    );
    if (reply && reply.status < 500 && reply.status !== 429) return reply;
    await sleep(random.between(20, 100));
  }
  throw new Error(`${method} ${path}: no node answers`);
}

async function drive(
  nodes: readonly ServiceNode[],
  orders: number,
  seed: number,
  placed: (count: number) => void,
): Promise<void> {
  const random = new Random(seed).fork('clients');
  const logIn = async (username: string, password: string): Promise<string> => {
    const reply = await insist(nodes, random, 'POST', '/v1/sessions', {
      body: { username, password },
    });
    return reply.body.token as string;
  };
  const admin = await logIn(ADMIN.username, ADMIN.password);
  const username = `driver-${seed}`;
  await insist(nodes, random, 'POST', '/v1/users', {
    body: { username, email: `${username}@example.com`, password: PASSWORD },
  });
  const token = await logIn(username, PASSWORD);
  let left = orders;
  let count = 0;
  const client = async (own: Random): Promise<void> => {
    while (left-- > 0) {
      const headers = { 'Idempotency-Key': randomUUID() };
      const { status, body, text } = await insist(nodes, own, 'POST', '/v1/orders', {
        token,
        body: ORDER,
        headers,
      });
      if (status !== 201) throw new Error(`placing: ${status} ${text}`);
      const life = own.pick([
        [],
        ['pay'],
        ['cancel'],
        ['pay', 'ship'],
        ['pay', 'ship', 'deliver', 'refund'],
      ]);
      for (const action of life) {
        const as = action === 'pay' || action === 'cancel' ? token : admin;
        // A node that dies may have done it and not said so: then the repeat is refused, which is as good.
        await insist(nodes, own, 'POST', `/v1/orders/${body.id}/${action}`, {
          token: as,
          body: {},
        });
      }
      placed(++count);
    }
  };
  await Promise.all(
    Array.from({ length: 12 }, (_, index) => client(random.fork(`client ${index}`))),
  );
}

/** @throws Error when the service does not take the orders, or the outbox does not become empty within a minute */
export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const { folder, databaseUrl, rabbit, orders, seed } = options;
  await bindQueue(rabbit);
  const running = await startNodes({ folder, databaseUrl, rabbit, count: 2, seed });
  const psql = new Client({ connectionString: databaseUrl });
  await psql.connect();
  const { nodes } = running;
  const faults: Faults = {};
  try {
    let done = 0;
    const began = performance.now();
    const driving = drive(nodes, orders, seed, (count) => (done = count)).finally(
      () => (done = orders),
    );
    const progress = (): number => done;
    await Promise.all([
      driving,
      storm(nodes, options, progress, faults),
      death(nodes, options, progress, faults),
    ]);
    const driven = performance.now();
    for (const { link } of nodes) link.heal();
    const arrivals = await judgeArrivals(psql, rabbit);
    const seconds = (ms: number): number => Math.round(ms / 100) / 10;
    return {
      ...arrivals,
      orders,
      faults,
      driveSeconds: seconds(driven - began),
      drainSeconds: seconds(arrivals.drainSeconds * 1000),
    };
  } finally {
    await running.stop();
    await psql.end();
  }
}

/** Nodes of the service on one database, each with its own link to RabbitMQ, serving when this resolves. */
export async function startNodes({
  folder,
  databaseUrl,
  rabbit,
  count,
  seed = 0,
}: Pick<CampaignOptions, 'folder' | 'databaseUrl' | 'rabbit'> & {
  readonly count: number;
  readonly seed?: number;
}) {
  const random = new Random(seed);
  const redis = await startRedis();
  const nodes = await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const link = await Link.to(rabbit.port, random.fork(`link ${index}`));
      const address = new URL(rabbit.url);
      address.port = String(link.port);
      const env = {
        PATH: process.env.PATH,
        DATABASE_URL: databaseUrl,
        REDIS_URL: redis.url,
        RABBITMQ_URL: address.href,
        PORT: '0',
        LOG_FORMAT: 'json',
        NODE_ENV: 'production',
        RATE_LIMIT_PER_MINUTE: '0',
        ADMIN_USERNAME: ADMIN.username,
        ADMIN_PASSWORD: ADMIN.password,
      };
      return new ServiceNode(folder, env, link);
    }),
  );
  const stop = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.kill()));
    for (const { link } of nodes) link.close();
    await redis.stop();
  };
  try {
    await Promise.all(nodes.map((node) => node.start()));
  } catch (error) {
    await stop();
    throw error;
  }
  return { nodes, stop };
}
