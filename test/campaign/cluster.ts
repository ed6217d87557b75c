/**
 * The machinery that the campaign runs on: one PostgreSQL database with an audit of what was committed, one Redis, and nodes in
 * processes of their own that reach both only through links that can be hurt. It does what a schedule of faults says and
 * remembers when; whatever it started ends with it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { createClient } from 'redis';
import { type RedisServer, startRedis } from '../support/redis.js';
import type { Fault } from './faults.js';
import { type Command, micros, microsUp, type Plan, type Report } from './history.js';
import { Link } from './proxy.js';
import { Random } from './random.js';

/** A fault as it happened: between these two times it was begun and was over. */
export interface Happened {
  readonly kind: Fault['kind'];
  readonly what: string;
  readonly from: number;
  readonly to: number;
}

const AUDIT = `
  CREATE UNLOGGED TABLE campaign_audit (
    entity text, id uuid, version bigint, gone boolean, stamp text, aliases text[], owner uuid);
  CREATE FUNCTION campaign_note() RETURNS trigger LANGUAGE plpgsql AS $$
  DECLARE
    held jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
  BEGIN
    INSERT INTO campaign_audit VALUES (TG_TABLE_NAME, (held ->> 'id')::uuid,
      (held ->> 'version')::bigint + CASE WHEN TG_OP = 'DELETE' THEN 1 ELSE 0 END, TG_OP = 'DELETE',
      coalesce(held ->> 'note', held ->> 'user_agent', split_part(held ->> 'email', '@', 1)),
      ARRAY[held ->> 'username', lower(held ->> 'email')], (held ->> 'user_id')::uuid);
    RETURN NULL;
  END $$;
  CREATE TRIGGER campaign AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION campaign_note();
  CREATE TRIGGER campaign AFTER INSERT OR UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION campaign_note();
  CREATE TRIGGER campaign AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION campaign_note()`;

/** How often a node is started until the campaign gives up. */
const MOST_STARTS = 20;

/** One node's process over its life, deaths and returns included. */
class Node {
  private child: ChildProcess | undefined;
  private serial: number;
  private plan: Plan | undefined;
  private waiting: { readonly kind: Report['kind']; readonly resolve: (report: Report | undefined) => void }[] = [];
  onDeath: () => void = () => undefined;

  constructor(
    private readonly program: string,
    private readonly env: NodeJS.ProcessEnv,
    readonly links: { readonly redis: Link; readonly postgres: Link },
    index: number,
  ) {
    this.serial = 1 + index;
  }

  /** Resolves when it serves; with a plan under way it joins in. */
  async start(): Promise<void> {
    const [command, ...rest] = existsSync('/usr/bin/setpriv')
      ? ['/usr/bin/setpriv', '--pdeathsig', 'KILL', process.execPath, this.program]
      : [process.execPath, this.program];
    const child = spawn(command as string, rest, {
      env: { ...this.env, CAMPAIGN_SERIAL: String(this.serial) },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    // A node that starts while its links are down says so and ends: of interest only when it never starts.
    let said = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (process.env.CAMPAIGN_LOG) process.stderr.write(text);
      said = (said + text).slice(-2_000);
    });
    // Each life has stamps of its own.
    this.serial += 100;
    this.child = child;
    child.on('error', () => undefined);
    child.on('message', (report: Report) => this.hear(report));
    child.on('exit', () => {
      if (this.child !== child) return;
      this.child = undefined;
      for (const { resolve } of this.waiting.splice(0)) resolve(undefined);
      this.onDeath();
    });
    const ready = await this.next('ready', 30_000);
    if (!ready) {
      await this.kill();
      throw new Error(`a node does not start: ${said}`);
    }
    if (this.plan) this.tell({ kind: 'begin', plan: this.plan });
  }

  get alive(): boolean {
    return this.child !== undefined;
  }

  begin(plan: Plan): void {
    this.plan = plan;
    this.tell({ kind: 'begin', plan });
  }

  /** Its clients have stopped, or it does not answer. */
  async end(): Promise<void> {
    this.plan = undefined;
    this.tell({ kind: 'end' });
    await this.next('ended', 5_000);
  }

  async look(): Promise<Readonly<Record<string, number>> | undefined> {
    this.tell({ kind: 'look' });
    const report = await this.next('seen', 10_000);
    return report?.kind === 'seen' ? report.rows : undefined;
  }

  tell(command: Command): void {
    if (this.child?.connected) this.child.send(command, () => undefined);
  }

  signal(name: NodeJS.Signals): void {
    this.child?.kill(name);
  }

  /** Resolves when the process is gone, by itself or killed. */
  async kill(): Promise<void> {
    const { child } = this;
    if (!child) return;
    await new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      child.kill('SIGKILL');
    });
  }

  private hear(report: Report): void {
    const index = this.waiting.findIndex(({ kind }) => kind === report.kind);
    if (index >= 0) this.waiting.splice(index, 1)[0]?.resolve(report);
  }

  private next(kind: Report['kind'], ms: number): Promise<Report | undefined> {
    return new Promise((resolve) => {
      if (!this.child) return resolve(undefined);
      const timer = setTimeout(() => resolve(undefined), ms);
      this.waiting.push({ kind, resolve: (report) => (clearTimeout(timer), resolve(report)) });
    });
  }
}

export class Cluster {
  readonly happened: Happened[] = [];
  private ending = false;

  private constructor(
    readonly nodes: readonly Node[],
    readonly database: Client,
    readonly redis: RedisServer,
    private readonly dump: string,
  ) {}

  /** @param folder what compile.mjs made. @param databaseUrl an empty, migrated database, given away for good */
  static async start(folder: string, databaseUrl: string, count: number, seed: number): Promise<Cluster> {
    const random = new Random(seed);
    const redis = await startRedis();
    const database = new Client({ connectionString: databaseUrl, application_name: 'campaign' });
    database.on('error', () => undefined);
    await database.connect();
    await database.query(AUDIT);
    const url = new URL(databaseUrl);
    const nodes = await Promise.all(
      Array.from({ length: count }, async (_, index) => {
        const links = {
          redis: await Link.to(redis.port, random.fork(`redis ${index}`)),
          postgres: await Link.to(Number(url.port), random.fork(`postgres ${index}`)),
        };
        const through = new URL(databaseUrl);
        through.port = String(links.postgres.port);
        const env = {
          PATH: process.env.PATH,
          CAMPAIGN_LOG: process.env.CAMPAIGN_LOG,
          DATABASE_URL: through.href,
          REDIS_URL: `redis://127.0.0.1:${links.redis.port}`,
          MIGRATIONS: 'manual',
          LOG_LEVEL: 'silent',
          NODE_ENV: 'production',
        };
        return new Node(join(folder, 'test/campaign/node.js'), env, links, index);
      }),
    );
    const dump = join(await configured(redis, 'dir'), await configured(redis, 'dbfilename'));
    const cluster = new Cluster(nodes, database, redis, dump);
    try {
      await Promise.all(nodes.map((node) => cluster.revive(node)));
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
    await this.database.end();
    await this.redis.stop();
  }

  /** Runs one fault from its beginning to its end; it is over, and noted, when this resolves. */
  async inflict(fault: Fault): Promise<void> {
    if (this.ending) return;
    const from = micros();
    const { kind, ...rest } = fault;
    // A fault that fails (the server is down already) has happened as far as it went.
    await this.act(fault).catch(() => undefined);
    this.happened.push({ kind, what: JSON.stringify(rest), from, to: microsUp() });
  }

  /** Everything works again; nodes that died are back. */
  async heal(): Promise<void> {
    this.redis.resume();
    for (const node of this.nodes) {
      for (const link of Object.values(node.links)) link.heal();
      node.signal('SIGCONT');
      await this.revive(node);
    }
  }

  /** A command to Redis itself, past all links. */
  async withRedis<T>(act: (client: ReturnType<typeof createClient>) => Promise<T>): Promise<T> {
    return withClient(this.redis, act);
  }

  private async act(fault: Fault): Promise<void> {
    const node = 'node' in fault ? (this.nodes[fault.node] as Node) : undefined;
    const link = node && 'link' in fault ? node.links[fault.link] : undefined;
    switch (fault.kind) {
      case 'delay':
        link?.slow(0, fault.jitterMs);
        await sleep(fault.ms);
        return link?.slow(0, 0);
      case 'cut':
        return link?.cut(false);
      case 'refuse':
        link?.cut(true);
        await sleep(fault.ms);
        return link?.heal();
      case 'stall':
        link?.stall();
        await sleep(fault.ms);
        return link?.resume();
      case 'half-open':
        link?.halfOpen(fault.direction);
        await sleep(fault.ms);
        return link?.heal(fault.silently);
      case 'die':
        return this.dying(node as Node, fault);
      case 'kill':
        await node?.kill();
        await sleep(fault.ms);
        return this.revive(node as Node);
      case 'stop':
        node?.signal('SIGSTOP');
        await sleep(fault.ms);
        node?.signal('SIGCONT');
        return;
      case 'outage':
        for (const { links } of this.nodes) links.redis.cut(true);
        await sleep(fault.ms);
        for (const { links } of this.nodes) links.redis.heal();
        return;
      case 'redis hangs':
        this.redis.pause();
        await sleep(fault.ms);
        return this.redis.resume();
      case 'redis restarts empty':
      case 'redis restarts old':
        return this.restartRedis(fault.kind === 'redis restarts old', fault.ms);
      case 'flush':
        await this.withRedis((client) => client.flushAll());
        return;
      case 'evict':
        return this.evict(fault.ms);
      case 'listeners cut':
        await this.database.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'holdfast-invalidations' AND datname = current_database()`,
        );
    }
  }

  private async dying(node: Node, fault: Fault & { kind: 'die' }): Promise<void> {
    node.tell({ kind: 'die', step: fault.step });
    for (const deadline = Date.now() + 1_000; node.alive && Date.now() < deadline;) await sleep(5);
    await node.kill();
    await sleep(fault.ms);
    await this.revive(node);
  }

  private async revive(node: Node): Promise<void> {
    for (let attempt = 1; !this.ending && !node.alive; attempt++) {
      try {
        await node.start();
      } catch (error) {
        // It may come back while its own links are down, or on a machine that has no time for it: somebody tries again.
        if (attempt === MOST_STARTS) throw error;
        await sleep(100);
      }
    }
  }

  private async restartRedis(old: boolean, ms: number): Promise<void> {
    if (old) await this.withRedis((client) => client.sendCommand(['SAVE']));
    // What is written between the snapshot and the crash is what the old dataset does not know.
    if (old) await sleep(ms);
    await this.redis.kill();
    if (!old) rmSync(this.dump, { force: true });
    await sleep(ms);
    await this.redis.restart();
  }

  private async evict(ms: number): Promise<void> {
    const end = Date.now() + ms;
    await this.withRedis(async (client) => {
      do {
        const key = await client.randomKey();
        if (key) await client.del(String(key));
      } while (Date.now() < end);
    });
  }
}

async function withClient<T>(
  { url }: RedisServer,
  act: (client: ReturnType<typeof createClient>) => Promise<T>,
): Promise<T> {
  const client = createClient({ url, socket: { reconnectStrategy: false, connectTimeout: 1_000 } });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await act(client as never);
  } finally {
    client.destroy();
  }
}

const configured = (redis: RedisServer, name: string): Promise<string> =>
  withClient(redis, async (client) => String((await client.configGet(name))[name]));
