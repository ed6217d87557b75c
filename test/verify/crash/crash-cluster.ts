/**
 * Two nodes of the service over one PostgreSQL and one Redis, customers who buy, and a list of deaths: each node dies at the
 * steps that are its own, comes back, and dies again, often both at once. At the end every key is sent once more to both nodes,
 * and the audit judges what is in the database.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { Random } from '../../campaign/random.js';
import { callUrl } from '../../support/app.js';
import type { RabbitServer } from '../../support/rabbitmq.js';
import { type RedisServer, startRedis } from '../../support/redis.js';
import { audit, type Violation } from './audit.js';
import { Customers, type Purchase } from './customers.js';
import { Node } from './node.js';
import type { Breakage, Step } from './steps.js';

const ADMIN = { username: 'crash-admin', password: 'the admin of all the crashes' };
const CUSTOMER = {
  username: 'customer',
  email: 'customer@example.com',
  password: 'nine tall ships at anchor',
};
const CUSTOMERS = 6;
/** How long a node may live after it was told to die. */
const PASSED_MS = 60_000;

export interface Result {
  readonly crashes: Readonly<Partial<Record<Step, number>>>;
  readonly orders: number;
  readonly events: number;
  readonly counts: Customers['counts'];
  /** What the customers or the nodes did that they should not have. */
  readonly faults: readonly string[];
  readonly violations: readonly Violation[];
  readonly purchases: readonly Purchase[];
  readonly seconds: number;
}

/** Every one of the steps in turn, shuffled by the seed, until there are that many. */
export function deathsOf(crashes: number, random: Random, steps: readonly Step[]): Step[] {
  const deaths: Step[] = [];
  while (deaths.length < crashes) {
    const round = [...steps];
    while (round.length > 0 && deaths.length < crashes)
      deaths.push(...round.splice(random.between(0, round.length - 1), 1));
  }
  return deaths;
}

export class Shop {
  private constructor(
    private readonly nodes: readonly Node[],
    private readonly redis: RedisServer,
    readonly database: Client,
    readonly customer: { readonly id: string; readonly token: string },
  ) {}

  /** @param folder the compiled service @param databaseUrl a migrated database of its own @param rabbit without it, events wait */
  static async open(folder: string, databaseUrl: string, rabbit?: RabbitServer): Promise<Shop> {
    const redis = await startRedis();
    const database = new Client({ connectionString: databaseUrl });
    const env = {
      DATABASE_URL: databaseUrl,
      REDIS_URL: redis.url,
      ADMIN_USERNAME: ADMIN.username,
      ADMIN_PASSWORD: ADMIN.password,
      ...(rabbit ? { RABBITMQ_URL: rabbit.url } : {}),
    };
    const nodes = [new Node(folder, env), new Node(folder, env)] as const;
    try {
      await database.connect();
      await Promise.all(nodes.map((node) => node.start()));
      const call = async (
        path: string,
        body: object,
      ): Promise<{ id: string; userId: string; token: string }> => {
        const {
          status,
          text,
          body: answer,
        } = await callUrl(`${nodes[0].url}${path}`, 'POST', { body });
        if (status !== 201) throw new Error(`${path}: ${status} ${text}`);
        return answer as { id: string; userId: string; token: string };
      };
      const { id } = await call('/v1/users', CUSTOMER);
      const { username, password } = CUSTOMER;
      const { token } = await call('/v1/sessions', { username, password });
      return new Shop(nodes, redis, database, { id, token });
    } catch (error) {
      await new Shop(nodes, redis, database, { id: '', token: '' }).close();
      throw error;
    }
  }

  /** For this and every later round: nobody repairs it. */
  break(breakage: Breakage): void {
    for (const node of this.nodes) node.break(breakage);
  }

  /**
   * @param orders customers go on until they have placed so many, also when nobody dies
   * @param forGood whoever dies stays dead, which spares a start: for one death, in a last round
   */
  async round(
    seed: number,
    deaths: readonly Step[],
    { orders = 0, forGood = false } = {},
  ): Promise<Result> {
    const began = performance.now();
    const random = new Random(seed);
    const customers = new Customers(
      this.nodes,
      this.customer.token,
      random.fork('customers'),
      `round ${seed}`,
    );
    const crashes: Partial<Record<Step, number>> = {};
    const left = [...deaths];
    customers.begin(CUSTOMERS);
    const suffer = async (node: Node): Promise<void> => {
      for (let step = left.shift(); step !== undefined; step = left.shift()) {
        if (!(await node.dieAt(step, random.between(0, 8), PASSED_MS))) {
          customers.faults.push(`nothing passed "${step}" in ${PASSED_MS} ms`);
          await node.kill();
        } else crashes[step] = (crashes[step] ?? 0) + 1;
        if (forGood) return;
        await node.start();
      }
    };
    try {
      await Promise.all(this.nodes.map(suffer));
      const deadline = Date.now() + PASSED_MS;
      while (customers.purchases.length < orders && Date.now() < deadline) await sleep(20);
    } catch (error) {
      // Without nodes nobody answers: the customers must not wait for them.
      await customers.end(0);
      throw error;
    }
    const seconds = (performance.now() - began) / 1000;
    await customers.end();
    await customers.repeatAll();
    const { purchases, faults, counts } = customers;
    const violations = await audit(this.database, this.customer.id, purchases);
    const { rows } = await this.database.query<{ orders: number; events: number }>(
      `SELECT count(DISTINCT id)::int AS orders, count(*)::int AS events FROM orders JOIN order_events ON order_id = id WHERE note = ANY ($1)`,
      [purchases.map(({ tag }) => tag)],
    );
    return {
      ...(rows[0] as { orders: number; events: number }),
      crashes,
      counts,
      faults,
      violations,
      purchases,
      seconds,
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.kill()));
    await this.database.end().catch(() => undefined);
    await this.redis.stop();
  }
}
