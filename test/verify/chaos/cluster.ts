/**
 * The machinery that a round runs on: one database with an audit of what was committed, Redis (one server, or a master with a
 * replica under Sentinels), and nodes in processes of their own that reach PostgreSQL and the one Redis only through links
 * that can be hurt. It inflicts faults and remembers when. Its invariants: no process that it starts outlives it, even when it
 * is killed (the kernel kills a child with its parent), and nothing here waits without a bound.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { createClient } from 'redis';
import {
  ask,
  type RedisSentinel,
  type RedisServer,
  startRedis,
  startSentinel,
} from '../support/redis.js';
import type { Fault, LinkName } from './faults.js';
import {
  type Command,
  type Happened,
  micros,
  microsUp,
  type Plan,
  type Report,
  type Step,
} from './history.js';
import { Link } from './proxy.js';
import type { Random } from './random.js';

const AUDIT = `
  CREATE UNLOGGED TABLE campaign_audit (
    entity text, id uuid, version bigint, gone boolean, stamp text, name text, owner uuid, number bigint);
  CREATE FUNCTION campaign_note() RETURNS trigger LANGUAGE plpgsql AS $$
  DECLARE
    held jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
  BEGIN
    INSERT INTO campaign_audit VALUES (TG_TABLE_NAME, (held ->> 'id')::uuid,
      (held ->> 'version')::bigint + CASE WHEN TG_OP = 'DELETE' THEN 1 ELSE 0 END, TG_OP = 'DELETE',
      coalesce(held ->> 'note', held ->> 'user_agent', split_part(held ->> 'email', '@', 1)),
      held ->> 'username', (held ->> 'user_id')::uuid, (held ->> 'total')::bigint);
    RETURN NULL;
  END $$;
  CREATE TRIGGER campaign AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION campaign_note();
  CREATE TRIGGER campaign AFTER INSERT OR UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION campaign_note();
  CREATE TRIGGER campaign AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION campaign_note()`;

const START_MS = 60_000;
const END_MS = 30_000;
const LOOK_MS = 20_000;
/** How long a node may take to come to the step at which it is to die. */
const STEP_MS = 30_000;
const FAILOVER_MS = 20_000;
/** Until a fault that needs a Redis that just then is away can be inflicted. */
const PATIENCE_MS = 30_000;

/** Room for what the nodes keep and their connections, and for part of what a burst of evictions puts beside it. */
const REDIS_ARGS = [
  '--maxmemory',
  '12mb',
  '--maxmemory-policy',
  'allkeys-lru',
  '--maxmemory-samples',
  '1',
];
const BALLAST = { key: 'ballast:', bytes: 65_536, keys: 200 } as const;

let lives = 0;

/** One node's process over its life, deaths and returns included. */
export class Node {
  private child: ChildProcess | undefined;
  private plan: Plan | undefined;
  private waiting: {
    readonly said: Report['said'];
    readonly resolve: (report: Report | undefined) => void;
  }[] = [];
  onReport: (report: Report) => void = () => undefined;

  constructor(
    private readonly program: string,
    private readonly env: NodeJS.ProcessEnv,
    readonly links: Readonly<Partial<Record<LinkName, Link>>>,
  ) {}

  /** Resolves when it serves; with a round under way it joins in. @throws Error when it does not start in time */
  async start(): Promise<void> {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', process.execPath, this.program], {
      env: { ...this.env, CAMPAIGN_LIFE: String(++lives) },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    let said = '';
    child.stderr
      ?.setEncoding('utf8')
      .on('data', (text: string) => (said = (said + text).slice(-2_000)));
    this.child = child;
    child.on('error', (error) => (said += String(error)));
    child.on('message', (report: Report) => this.hear(report));
    child.once('close', () => {
      if (this.child !== child) return;
      this.child = undefined;
      for (const { resolve } of this.waiting.splice(0)) resolve(undefined);
    });
    if (!(await this.next('ready', START_MS))) {
      await this.kill();
      throw new Error(`a node does not start: ${said}`);
    }
    if (this.plan) this.tell({ do: 'begin', plan: this.plan });
  }

  get alive(): boolean {
    return this.child !== undefined;
  }

  begin(plan: Plan): void {
    this.plan = plan;
    this.tell({ do: 'begin', plan });
  }

  /** Undefined when it does not answer. */
  async end(): Promise<Extract<Report, { said: 'ended' }> | undefined> {
    this.plan = undefined;
    return this.request({ do: 'end' }, 'ended', END_MS);
  }

  async look(): Promise<readonly number[] | undefined> {
    return (await this.request({ do: 'look' }, 'looked', LOOK_MS))?.versions;
  }

  /** It kills itself when a write of its own comes to this step. @returns whether it did in time */
  async dieAt(step: Step): Promise<boolean> {
    this.tell({ do: 'die', step });
    for (const deadline = Date.now() + STEP_MS; this.alive && Date.now() < deadline;)
      await sleep(5);
    return !this.alive;
  }

  signal(name: NodeJS.Signals): void {
    this.child?.kill(name);
  }

  /** Resolves when the process is gone and all that it had told was heard. */
  async kill(): Promise<void> {
    const { child } = this;
    if (!child) return;
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    child.kill('SIGKILL');
    await closed;
  }

  private tell(command: Command): void {
    if (this.child?.connected) this.child.send(command, () => undefined);
  }

  private request<S extends Report['said']>(
    command: Command,
    said: S,
    ms: number,
  ): Promise<Extract<Report, { said: S }> | undefined> {
    this.tell(command);
    return this.next(said, ms);
  }

  private hear(report: Report): void {
    this.onReport(report);
    const index = this.waiting.findIndex(({ said }) => said === report.said);
    if (index >= 0) this.waiting.splice(index, 1)[0]?.resolve(report);
  }

  private next<S extends Report['said']>(
    said: S,
    ms: number,
  ): Promise<Extract<Report, { said: S }> | undefined> {
    return new Promise((resolve) => {
      if (!this.child) return resolve(undefined);
      const timer = setTimeout(() => resolve(undefined), ms);
      this.waiting.push({
        said,
        resolve: (report) => (clearTimeout(timer), resolve(report as never)),
      });
    });
  }
}

/** The Redis of a cluster: one server behind links, or Sentinels, which name their servers themselves. */
export type RedisSite =
  | { readonly kind: 'one server'; readonly server: RedisServer; readonly dump: string }
  | { readonly kind: 'sentinels'; readonly sentinels: RedisSentinel };

export interface ClusterOptions {
  readonly site: RedisSite['kind'];
  /** What compile.mjs made. */
  readonly folder: string;
  /** An empty, migrated database, given away for good. */
  readonly databaseUrl: string;
  readonly nodes: number;
  readonly random: Random;
}

export class Cluster {
  readonly happened: Happened[] = [];
  private ending = false;

  private constructor(
    readonly nodes: readonly Node[],
    /** Whoever writes in psql: without a word about fences. */
    readonly psql: Client,
    private readonly site: RedisSite,
  ) {}

  static async start({
    site: kind,
    folder,
    databaseUrl,
    nodes: count,
    random,
  }: ClusterOptions): Promise<Cluster> {
    const psql = new Client({ connectionString: databaseUrl, application_name: 'campaign' });
    psql.on('error', () => undefined);
    const [site] = await Promise.all([
      startSite(kind),
      psql.connect().then(() => psql.query(AUDIT)),
    ]);
    const nodes: Node[] = [];
    for (let index = 0; index < count; index++) {
      const postgres = await Link.to(
        Number(new URL(databaseUrl).port),
        random.fork(`postgres ${index}`),
      );
      const through = new URL(databaseUrl);
      through.port = String(postgres.port);
      const redis =
        site.kind === 'one server'
          ? await Link.to(site.server.port, random.fork(`redis ${index}`))
          : undefined;
      const env = {
        PATH: process.env.PATH,
        DATABASE_URL: through.href,
        REDIS_URL:
          site.kind === 'sentinels' ? site.sentinels.url : `redis://127.0.0.1:${redis?.port}`,
        DATABASE_POOL: '6',
        MIGRATIONS: 'manual',
        LOG_LEVEL: 'silent',
        NODE_ENV: 'production',
      };
      nodes.push(
        new Node(join(folder, 'test/campaign/node.js'), env, {
          postgres,
          ...(redis ? { redis } : {}),
        }),
      );
    }
    const cluster = new Cluster(nodes, psql, site);
    try {
      // One after the other: on a busy machine they would otherwise take each other's time to connect.
      for (const node of nodes) await node.start();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  async stop(): Promise<void> {
    this.ending = true;
    await Promise.all(this.nodes.map((node) => node.kill()));
    for (const { links } of this.nodes) Object.values(links).forEach((link) => link.close());
    await this.psql.end();
    await (this.site.kind === 'sentinels' ? this.site.sentinels.stop() : this.site.server.stop());
  }

  /** Runs one fault from its beginning to its end; it is over, and noted, when this resolves. */
  async inflict(fault: Fault): Promise<void> {
    if (this.ending) return;
    const from = micros();
    const { kind, ...rest } = fault;
    const done = await this.act(fault);
    if (done) this.happened.push({ kind, what: JSON.stringify(rest), from, to: microsUp() });
  }

  /** Everything works again; nodes that died are back. @throws Error when one does not start */
  async heal(): Promise<void> {
    if (this.site.kind === 'one server') this.site.server.resume();
    await Promise.all(
      this.nodes.map(async (node) => {
        for (const link of Object.values(node.links)) link.heal();
        node.signal('SIGCONT');
        await this.revive(node);
      }),
    );
  }

  /** @returns whether it has happened, wholly or in part */
  private async act(fault: Fault): Promise<boolean> {
    const node = 'node' in fault ? (this.nodes[fault.node] as Node) : undefined;
    const link = node && 'link' in fault ? node.links[fault.link] : undefined;
    switch (fault.kind) {
      case 'link delayed':
        link?.slow(0, fault.jitterMs);
        await sleep(fault.ms);
        link?.slow(0, 0);
        return true;
      case 'link cut':
        link?.cut(false);
        return true;
      case 'link refused':
        link?.cut(true);
        await sleep(fault.ms);
        link?.heal();
        return true;
      case 'link stalled':
        link?.stall();
        await sleep(fault.ms);
        link?.resume();
        return true;
      case 'link half-open':
        link?.halfOpen(fault.direction);
        await sleep(fault.ms);
        link?.heal(fault.silently);
        return true;
      case 'SIGSTOP':
        node?.signal('SIGSTOP');
        await sleep(fault.ms);
        node?.signal('SIGCONT');
        return true;
      case 'outage': {
        const links = this.nodes.map((each) => each.links.redis as Link);
        for (const each of links) each.cut(true);
        await sleep(fault.ms);
        for (const each of links) each.heal();
        return true;
      }
      case 'LISTEN cut':
        await this.psql.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'holdfast-invalidations' AND datname = current_database()`,
        );
        return true;
      case 'Redis hangs':
      case 'Redis back empty':
      case 'Redis back with an old dataset':
      case 'FLUSHALL':
      case 'evictions':
        return (
          this.site.kind === 'one server' && this.hurtRedis(this.site.server, this.site.dump, fault)
        );
      case 'failover by hand':
      case 'master killed':
      case 'master hangs':
        return this.site.kind === 'sentinels' && failOver(this.site.sentinels, fault.kind);
      default: {
        const died = await (node as Node).dieAt(fault.step);
        await node?.kill();
        await sleep(fault.ms);
        await this.revive(node as Node);
        return died;
      }
    }
  }

  private async revive(node: Node): Promise<void> {
    // Two at the end of a round, when a fault's own return and the healing meet.
    if (!this.ending && !node.alive) await node.start();
  }

  private async hurtRedis(
    server: RedisServer,
    dump: string,
    { kind, ms }: Fault,
  ): Promise<boolean> {
    switch (kind) {
      case 'Redis hangs':
        server.pause();
        await sleep(ms);
        server.resume();
        return true;
      case 'Redis back empty':
        await server.kill();
        rmSync(dump, { force: true });
        await sleep(ms);
        await server.restart();
        return true;
      case 'Redis back with an old dataset':
        await patiently(() => withRedis(server, (redis) => redis.sendCommand(['SAVE'])));
        // What is written between the snapshot and the crash is what the old dataset does not know.
        await sleep(ms);
        await server.kill();
        await server.restart();
        return existsSync(dump);
      case 'FLUSHALL':
        await patiently(() => withRedis(server, (redis) => redis.flushAll()));
        return true;
      default:
        return patiently(() => withRedis(server, (redis) => evict(redis, ms)));
    }
  }
}

async function startSite(kind: RedisSite['kind']): Promise<RedisSite> {
  if (kind === 'sentinels') return { kind, sentinels: await startSentinel() };
  const server = await startRedis({ args: REDIS_ARGS });
  const settings = await withRedis(server, (redis) => redis.configGet(['dir', 'dbfilename']));
  return { kind, server, dump: join(String(settings.dir), String(settings.dbfilename)) };
}

type RedisConnection = ReturnType<typeof createClient>;

/** Past all links. */
async function withRedis<T>(
  { url }: RedisServer,
  act: (client: RedisConnection) => Promise<T>,
): Promise<T> {
  const client = createClient({
    url,
    socket: { reconnectStrategy: false, connectTimeout: 1_000, socketTimeout: 2_000 },
  });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await act(client as RedisConnection);
  } finally {
    client.destroy();
  }
}

async function patiently<T>(act: () => Promise<T>): Promise<T> {
  for (const deadline = Date.now() + PATIENCE_MS; ; await sleep(50)) {
    try {
      return await act();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

/** Fills the memory with ballast for a while, so that Redis evicts whatever it likes. @returns whether it did */
async function evict(redis: RedisConnection, ms: number): Promise<boolean> {
  const evicted = async (): Promise<number> =>
    Number(/^evicted_keys:(\d+)/m.exec(String(await redis.info('stats')))?.[1]);
  const before = await evicted();
  const end = Date.now() + ms;
  const ballast = 'x'.repeat(BALLAST.bytes);
  let count = 0;
  do {
    for (let index = 0; index < BALLAST.keys; index++)
      await redis.set(`${BALLAST.key}${index}`, ballast);
    count = (await evicted()) - before;
  } while (Date.now() < end);
  await redis.del(Array.from({ length: BALLAST.keys }, (_, index) => `${BALLAST.key}${index}`));
  return count > 0;
}

const roleOf = async (server: RedisServer): Promise<string> =>
  /^role:(\w+)/m.exec(await ask(server.port, 'INFO replication').catch(() => ''))?.[1] ?? '';

/** From one master to the other, until Sentinels name the other and the old one is its replica. */
async function failOver(
  { servers, sentinels }: RedisSentinel,
  kind: Fault['kind'],
): Promise<boolean> {
  const deadline = Date.now() + FAILOVER_MS;
  const until = async (condition: () => Promise<boolean>): Promise<boolean> => {
    while (!(await condition())) {
      if (Date.now() > deadline) return false;
      await sleep(50);
    }
    return true;
  };
  const [first, second] = servers;
  const [old, next] = (await roleOf(first)) === 'master' ? [first, second] : [second, first];
  if (kind === 'master killed') await old.kill();
  else if (kind === 'master hangs') old.pause();
  else {
    const [sentinel] = sentinels as [RedisServer];
    await until(() =>
      ask(sentinel.port, 'SENTINEL FAILOVER holdfast').then(
        () => true,
        () => false,
      ),
    );
  }
  const promoted = await until(async () => (await roleOf(next)) === 'master');
  const named = async ({ port }: RedisServer): Promise<boolean> =>
    (await ask(port, 'SENTINEL GET-MASTER-ADDR-BY-NAME holdfast').catch(() => '')).includes(
      `\r\n${next.port}\r\n`,
    );
  await until(async () => (await Promise.all(sentinels.map(named))).every(Boolean));
  if (kind === 'master killed') await old.restart();
  else if (kind === 'master hangs') old.resume();
  // A Sentinel would do so after 8 s; until then the two may both believe that they are masters.
  await sleep(1_000);
  await ask(old.port, `REPLICAOF 127.0.0.1 ${next.port}`).catch(() => undefined);
  await until(async () =>
    (await ask(next.port, 'INFO replication').catch(() => '')).includes('state=online'),
  );
  return promoted;
}
