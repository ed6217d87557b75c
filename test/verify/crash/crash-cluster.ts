/**
 * Two nodes of the service on one PostgreSQL and one Redis, and customers who buy. Each node takes
 * steps from a list of deaths: it dies at the step, starts again, and dies at the next one. At the
 * end every key is sent once more to both nodes, and the audit judges the database.
 */
import { Client } from 'pg';
import { eventually } from '../../support/eventually.js';
import { requestBody } from '../../support/http-client.js';
import type { RabbitmqServer } from '../../support/rabbitmq.js';
import type { Random } from '../../support/random.js';
import { type RedisServer, startRedis } from '../../support/redis.js';
import { audit, type Violation } from './audit.js';
import { CrashNode } from './crash-node.js';
import { Customers, type Purchase } from './customers.js';
import type { Defect, Step } from './steps.js';

const ADMIN = { username: 'crash-admin', password: 'the admin of all the crashes' };
const CUSTOMER = {
  username: 'customer',
  email: 'customer@example.com',
  password: 'nine tall ships at anchor',
};
const CUSTOMERS_AT_ONCE = 6;
/** Within this time a node must pass the step that it is to die at. */
const STEP_TIMEOUT_MS = 120_000;
/** A node dies after up to this many further passes of its step. */
const MAX_PASSES = 8;

const COUNT_ORDERS_AND_EVENTS = `
  SELECT count(DISTINCT id)::int AS orders, count(*)::int AS events
    FROM orders JOIN order_events ON order_id = id
   WHERE note = ANY ($1)`;

export interface RoundOptions {
  /** Decides when nodes die and what customers do. */
  readonly random: Random;
  /** Unique within the database. */
  readonly name: string;
  readonly deaths: readonly Step[];
  /** Customers buy until there are so many orders, also without deaths. */
  readonly minOrders?: number;
  /** Share of the requests that go to both nodes at once; 0.3 by default. */
  readonly raceShare?: number;
  /** A node that has died stays down: saves a start in a round of one death. */
  readonly leavesNodesDown?: boolean;
}

export interface RoundResult {
  /** How often a node died at each step. */
  readonly crashes: Readonly<Partial<Record<Step, number>>>;
  readonly orders: number;
  readonly events: number;
  readonly counts: Customers['counts'];
  /** What customers and nodes should not have done, besides the violations. */
  readonly problems: readonly string[];
  readonly violations: readonly Violation[];
  readonly purchases: readonly Purchase[];
  readonly seconds: number;
}

/** So many deaths: every step once in random order, then every step again. */
export function chooseDeaths(count: number, steps: readonly Step[], random: Random): Step[] {
  const deaths: Step[] = [];
  while (deaths.length < count) deaths.push(...random.shuffled(steps));
  return deaths.slice(0, count);
}

export class CrashCluster {
  private constructor(
    private readonly nodes: readonly CrashNode[],
    private readonly redis: RedisServer,
    readonly database: Client,
    readonly customer: { readonly id: string; readonly token: string },
  ) {}

  /**
   * @param folder the compiled service (scripts/compile.mjs)
   * @param databaseUrl a migrated database without users
   * @param rabbitmq without it, events stay in the outbox
   */
  static async start(
    folder: string,
    databaseUrl: string,
    rabbitmq?: RabbitmqServer,
  ): Promise<CrashCluster> {
    const redis = await startRedis();
    const database = new Client({ connectionString: databaseUrl });
    const env = {
      DATABASE_URL: databaseUrl,
      REDIS_URL: redis.url,
      ADMIN_USERNAME: ADMIN.username,
      ADMIN_PASSWORD: ADMIN.password,
      ...(rabbitmq ? { RABBITMQ_URL: rabbitmq.url } : {}),
    };
    const nodes = [new CrashNode(folder, env), new CrashNode(folder, env)] as const;
    try {
      await database.connect();
      await Promise.all(nodes.map((node) => node.start()));
      const { username, password } = CUSTOMER;
      const { id } = await requestBody(`${nodes[0].url}/v1/users`, 'POST', { body: CUSTOMER });
      const { token } = await requestBody(`${nodes[0].url}/v1/sessions`, 'POST', {
        body: { username, password },
      });
      return new CrashCluster(nodes, redis, database, { id, token });
    } catch (error) {
      await new CrashCluster(nodes, redis, database, { id: '', token: '' }).stop();
      throw error;
    }
  }

  /** Makes both nodes break a guard, and no other. Starts a node that is down. */
  async inject(defect: Defect): Promise<void> {
    await this.startDeadNodes();
    for (const node of this.nodes) node.inject(defect);
  }

  async runRound(options: RoundOptions): Promise<RoundResult> {
    const { random, name, deaths, minOrders = 0, raceShare = 0.3 } = options;
    const startedAt = performance.now();
    const { token } = this.customer;
    const customerOptions = { token, round: name, raceShare };
    const customers = new Customers(this.nodes, random.fork('customers'), customerOptions);
    const crashes: Partial<Record<Step, number>> = {};
    const deathsLeft = [...deaths];
    const dieAndReturn = async (node: CrashNode): Promise<void> => {
      for (let step = deathsLeft.shift(); step !== undefined; step = deathsLeft.shift()) {
        const passes = random.between(0, MAX_PASSES);
        const hasDied = await node.dieAt(step, passes, STEP_TIMEOUT_MS);
        if (hasDied) {
          crashes[step] = (crashes[step] ?? 0) + 1;
        } else {
          customers.problems.push(`no node passed "${step}" in ${STEP_TIMEOUT_MS} ms`);
          await node.kill();
        }
        if (options.leavesNodesDown) return;
        await node.start();
      }
    };
    customers.start(CUSTOMERS_AT_ONCE);
    try {
      await Promise.all(this.nodes.map(dieAndReturn));
      await eventually(
        `${minOrders} orders are placed`,
        () => customers.purchases.length >= minOrders,
        STEP_TIMEOUT_MS,
      );
    } catch (error) {
      // Without nodes, the customers would wait for answers in vain.
      await customers.stop(0);
      throw error;
    }
    const seconds = (performance.now() - startedAt) / 1_000;
    await customers.stop();
    await customers.repeatAll();
    return { ...(await this.judge(customers)), crashes, seconds };
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.kill()));
    await this.database.end().catch(() => undefined);
    await this.redis.stop();
  }

  private async judge({
    purchases,
    problems,
    counts,
  }: Customers): Promise<Omit<RoundResult, 'crashes' | 'seconds'>> {
    const violations = await audit(this.database, this.customer.id, purchases);
    const { rows } = await this.database.query<{ orders: number; events: number }>(
      COUNT_ORDERS_AND_EVENTS,
      [purchases.map(({ tag }) => tag)],
    );
    const { orders, events } = rows[0] as { orders: number; events: number };
    return { orders, events, counts, problems, violations, purchases };
  }

  private async startDeadNodes(): Promise<void> {
    const deadNodes = this.nodes.filter(({ url }) => url === undefined);
    await Promise.all(deadNodes.map((node) => node.start()));
  }
}
