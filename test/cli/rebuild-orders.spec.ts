/**
 * `holdfast rebuild-orders`: repairs every damage of the table `orders` from the events while two
 * nodes read and write. No response misses an order, goes back in version, or gives one ETag to two
 * bodies.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { rebuild } from '../../src/cli/rebuild-orders.js';
import { compareProjection } from '../../src/orders/projection/compare-projection.js';
import { startApp, type TestApp } from '../support/app.js';
import { eventually } from '../support/eventually.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerUser,
  type TestUser,
} from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import { createTestDatabase } from '../support/postgres.js';
import { type RedisServer, startRedis } from '../support/redis.js';

interface OrderBody {
  readonly id: string;
  readonly version: number;
  readonly updatedAt: string;
}

/** Small enough that a few orders need many batches. */
const LIMITS = { maxOrders: 7, maxEvents: 11, maxLockedRows: 3 };
/** The advisory lock of a rebuild (src/cli/rebuild-orders.ts). */
const REBUILD_LOCK = '8243113919129313395';

let redis: RedisServer;
/** The first node is mostly read from, the second one written to. */
let nodes: [TestApp, TestApp];
let owner: TestUser;
let otherUser: TestUser;
let adminToken: string;
let database: pg.Client;

beforeAll(async () => {
  redis = await startRedis();
  const env = { REDIS_URL: redis.url };
  const first = await startApp(env);
  nodes = [first, await startApp(env, first.databaseUrl)];
  owner = await registerUser(first);
  otherUser = await registerUser(first);
  adminToken = await logInAsAdmin(first);
  database = await connect();
});
afterAll(async () => {
  await database?.end();
  await nodes?.[1].close();
  await nodes?.[0].close();
  await redis?.stop();
});

async function connect(url = nodes[0].databaseUrl): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

const get = (
  path: string,
  { token = owner.token, node = nodes[0], fresh = false } = {},
): Promise<Reply> =>
  node.call('GET', path, { token, headers: fresh ? { 'Cache-Control': 'no-cache' } : {} });

const place = async (): Promise<string> => (await placeOrder(nodes[1], owner.token)).id as string;

const act = (id: string, action: string, token = owner.token): Promise<Reply> =>
  nodes[1].call('POST', `/v1/orders/${id}/${action}`, { token });

/** Runs the command. @returns its exit code and what it printed */
async function run(
  scope: 'check' | 'all',
  url = nodes[0].databaseUrl,
): Promise<{ code: number; lines: string[] }> {
  const lines: string[] = [];
  const print = (line: string): void => void lines.push(line);
  return { code: await rebuild(url, scope, print, LIMITS), lines };
}

/** Runs a statement on one row without triggers, as a restored backup or a broken disk would. */
async function executeWithoutTriggers(sql: string, values: unknown[]): Promise<void> {
  await database.query('SET session_replication_role = replica');
  const { rowCount } = await database.query(sql, values);
  await database.query('SET session_replication_role = origin');
  if (rowCount !== 1) throw new Error(`${rowCount} rows instead of one: ${sql}`);
}

/** Compares all orders with their events, without the command. */
async function compareAll(): Promise<{ differences: unknown[]; isEqual: boolean }> {
  const client = await connect();
  const differences: unknown[] = [];
  const { checksums } = await compareProjection(client, {
    repair: false,
    onDifference: (difference) => void differences.push(difference),
  });
  await client.end();
  return { differences, isEqual: checksums.orders === checksums.replayed };
}

describe('a rebuild of orders that only the service wrote', () => {
  it('finds equal checksums and changes nothing', async () => {
    const id = await place();
    await act(id, 'pay');
    const check = await run('check');
    expect(check).toMatchObject({
      code: 0,
      lines: [
        expect.stringMatching(/checksums: orders ([0-9a-f]{16}), replayed \1$/),
        'Every order equals the replay of its events',
      ],
    });
    expect((await run('all')).code).toBe(0);
    expect((await get(`/v1/orders/${id}`)).body.version).toBe(2);
  });
});

interface Damage {
  readonly name: string;
  readonly sql: string;
  /** What the comparison reports. */
  readonly reason: string;
  /** Whether the triggers of the table run, which take the next version. */
  readonly hasTriggers: boolean;
}

/** Each way in which a row can differ from its events. */
const DAMAGES: readonly Damage[] = [
  {
    name: 'written by hand',
    sql: `UPDATE orders SET status = 'refunded', note = 'oops' WHERE id = $1`,
    reason: 'status, note, version, updated_at',
    hasTriggers: true,
  },
  {
    name: 'written by hand without a change',
    sql: 'UPDATE orders SET note = note WHERE id = $1',
    reason: 'version, updated_at',
    hasTriggers: true,
  },
  {
    name: 'changed without a new version',
    sql: `UPDATE orders SET note = 'other' WHERE id = $1`,
    reason: 'note',
    hasTriggers: false,
  },
  {
    name: 'with other items',
    sql: `UPDATE orders SET items = jsonb_set(items, '{0,quantity}', '3'), total = 14997
           WHERE id = $1`,
    reason: 'items, total',
    hasTriggers: false,
  },
  {
    name: 'set back to an older version',
    sql: `UPDATE orders SET status = 'placed', version = 1, updated_at = created_at
           WHERE id = $1`,
    reason: 'status, version, updated_at',
    hasTriggers: false,
  },
  {
    name: 'moved to another day',
    sql: `UPDATE orders SET created_at = created_at - interval '1 day' WHERE id = $1`,
    reason: 'created_at',
    hasTriggers: false,
  },
  {
    name: 'given to another user',
    sql: `UPDATE orders SET user_id = (SELECT id FROM users
                                        WHERE id <> user_id AND username LIKE 'u%' LIMIT 1)
           WHERE id = $1`,
    reason: 'user_id',
    hasTriggers: false,
  },
  {
    name: 'in another currency',
    sql: `UPDATE orders SET currency = 'CHF' WHERE id = $1`,
    reason: 'currency',
    hasTriggers: false,
  },
  {
    name: 'lost',
    sql: 'DELETE FROM orders WHERE id = $1',
    reason: 'no row',
    hasTriggers: false,
  },
];
const DAMAGE_NAMES = DAMAGES.map(({ name }) => name);
/** The damaged orders, and one more: {@link placeOrderWithGap}. */
const DIFFERENCES = DAMAGES.length + 1;

/** An order with a version that has no event: one by hand, and then a write of the service. */
async function placeOrderWithGap(): Promise<string> {
  const id = await place();
  await database.query('UPDATE orders SET note = note WHERE id = $1', [id]);
  await act(id, 'pay');
  return id;
}

/**
 * Two clients that read all orders again and again, each from one node, and one that writes. They
 * record every violation that they see.
 */
class Traffic {
  readonly violations: string[] = [];
  /** The newest version that any client has seen, by order. */
  readonly newestVersions = new Map<string, number>();
  private readonly rounds = [0, 0];
  private writes = 0;
  private isStopping = false;
  private readonly running: Promise<unknown>;
  /** Order → version → body. */
  private readonly bodies = new Map<string, Map<number, string>>();

  /**
   * @param intactIds orders that every list must contain
   * @param missingId an order whose row does not exist at first
   */
  constructor(
    private readonly damagedIds: readonly string[],
    private readonly intactIds: readonly string[],
    private readonly missingId: string,
  ) {
    this.running = Promise.all([this.read(0), this.read(1), this.write()]);
  }

  /** Resolves when both readers have read everything and some writes have been made, once more. */
  async awaitRounds(): Promise<void> {
    const [first = 0, second = 0] = this.rounds;
    const { writes } = this;
    await eventually('all clients have made another round', () => {
      const [firstNow = 0, secondNow = 0] = this.rounds;
      return firstNow > first + 1 && secondNow > second + 1 && this.writes > writes + 5;
    });
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    await this.running;
  }

  /** One client: what it sees of an order only moves forward. */
  private async read(nodeIndex: 0 | 1): Promise<void> {
    const seenVersions = new Map<string, number>();
    const node = nodes[nodeIndex];
    while (!this.isStopping) {
      const page = await get('/v1/orders?limit=100', { node });
      const listed = new Set((page.body.data as OrderBody[]).map(({ id }) => id));
      const unlisted = this.intactIds.filter((id) => !listed.has(id));
      this.violations.push(...unlisted.map((id) => `a list without ${id}`));
      for (const id of [...this.damagedIds, ...this.intactIds]) {
        const reply = await get(`/v1/orders/${id}`, { token: adminToken, node });
        this.check(id, reply, seenVersions);
      }
      this.rounds[nodeIndex] = (this.rounds[nodeIndex] ?? 0) + 1;
    }
  }

  private check(id: string, { status, body, text }: Reply, seen: Map<string, number>): void {
    const isNotRepairedYet = status === 404 && id === this.missingId && !seen.has(id);
    if (isNotRepairedYet) return;
    if (status !== 200) {
      this.violations.push(`${status} for ${id}`);
      return;
    }
    const { version } = body as OrderBody;
    const seenVersion = seen.get(id) ?? 0;
    if (version < seenVersion) {
      this.violations.push(`${id} went back from version ${seenVersion} to ${version}`);
    }
    seen.set(id, version);
    this.newestVersions.set(id, Math.max(this.newestVersions.get(id) ?? 0, version));
    const bodies = this.bodies.get(id) ?? new Map<number, string>();
    this.bodies.set(id, bodies);
    const knownBody = bodies.get(version) ?? text;
    if (knownBody !== text) this.violations.push(`two bodies of ${id} version ${version}`);
    bodies.set(version, text);
  }

  private async write(): Promise<void> {
    while (!this.isStopping) {
      const id = this.intactIds[this.writes % this.intactIds.length] as string;
      const { status } = await nodes[1].call('PATCH', `/v1/orders/${id}`, {
        token: owner.token,
        body: { note: `note ${this.writes}` },
        headers: { 'If-Match': '*' },
      });
      if (status !== 200) this.violations.push(`${status} for a write to ${id}`);
      this.writes++;
      if (this.writes % 5 === 0) await place();
    }
  }
}

describe('a rebuild of damaged orders while two nodes read and write', () => {
  /** By the name of the damage. */
  const damagedIds = new Map<string, string>();
  const bodiesBefore = new Map<string, object>();
  let gapId: string;
  let check: { code: number; lines: string[] };
  let repair: { code: number; lines: string[] };
  let traffic: Traffic;
  const idOf = (name: string): string => damagedIds.get(name) as string;

  beforeAll(async () => {
    for (const { name } of DAMAGES) {
      const id = await place();
      await act(id, 'pay');
      await act(id, 'ship', adminToken);
      damagedIds.set(name, id);
      bodiesBefore.set(name, (await get(`/v1/orders/${id}`)).body as object);
    }
    const intactIds: string[] = [];
    while (intactIds.length < 20) intactIds.push(await place());
    for (const { name, sql, hasTriggers } of DAMAGES) {
      if (hasTriggers) await database.query(sql, [idOf(name)]);
      else await executeWithoutTriggers(sql, [idOf(name)]);
    }
    gapId = await placeOrderWithGap();
    check = await run('check');

    traffic = new Traffic([...damagedIds.values()], intactIds, idOf('lost'));
    await traffic.awaitRounds();
    repair = await run('all');
    await traffic.awaitRounds();
    await traffic.stop();
  });

  it('with "check" → reports every difference, repairs none, and exits with 1', () => {
    expect(check.code).toBe(1);
    expect(check.lines).toEqual(
      expect.arrayContaining([
        ...DAMAGES.map(({ name, reason }) => `${idOf(name)}: ${reason}`),
        `${gapId}: gaps`,
      ]),
    );
    expect(check.lines.at(-1)).toBe(`${DIFFERENCES} orders differed, 0 repaired`);
  });

  it('repairs every difference and exits with 0', async () => {
    expect(repair.code).toBe(0);
    expect(repair.lines).toContain(`${DIFFERENCES} orders differed, ${DIFFERENCES} repaired`);
    expect(await compareAll()).toEqual({ differences: [], isEqual: true });
  });

  it('lets no client miss an order, go back in version, or see two bodies of a version', () => {
    expect(traffic.violations).toEqual([]);
  });

  it('leaves as many events as versions to every order', async () => {
    const { rows } = await database.query(
      `SELECT id FROM orders
        WHERE version <> (SELECT count(*) FROM order_events WHERE order_id = orders.id)`,
    );
    expect(rows).toEqual([]);
  });

  it.each(DAMAGE_NAMES)('an order %s → is as before on both nodes', async (name) => {
    const id = idOf(name);
    const { body } = await get(`/v1/orders/${id}`, { fresh: true });
    await eventually('both nodes show the repaired order', async () => {
      const replies = await Promise.all(nodes.map((node) => get(`/v1/orders/${id}`, { node })));
      return replies.every((reply) => JSON.stringify(reply.body) === JSON.stringify(body));
    });
    const { version, updatedAt, ...order } = body as OrderBody;
    expect(bodiesBefore.get(name)).toMatchObject(order);
    expect(version).toBeGreaterThanOrEqual(traffic.newestVersions.get(id) ?? 0);
    const { data } = (await get(`/v1/orders/${id}/events?limit=100`)).body;
    const events = data as { version: number; type: string; occurredAt: string }[];
    expect(events.map((event) => event.version)).toEqual(
      Array.from({ length: version }, (_, index) => index + 1),
    );
    expect(events.at(-1)?.occurredAt).toBe(updatedAt);
    const atVersion = await get(`/v1/orders/${id}?at=${version}`);
    expect(atVersion.body).toEqual(body);
  });

  it.each(DAMAGE_NAMES.filter((name) => name !== 'lost'))(
    'an order %s → ends with the event order.rebuilt, which the outbox has too',
    async (name) => {
      const id = idOf(name);
      const { data } = (await get(`/v1/orders/${id}/events?limit=100`)).body;
      const event = (data as { version: number; type: string }[]).at(-1);
      const { rows } = await database.query<{ data: Record<string, unknown> }>(
        `SELECT data FROM outbox WHERE subject = $1 AND type = 'order.rebuilt'`,
        [`orders/${id}`],
      );
      const { userId, status, currency, total, createdAt } = (
        await get(`/v1/orders/${id}`, { fresh: true })
      ).body;
      expect(event?.type).toBe('order.rebuilt');
      expect(rows.map((row) => row.data)).toEqual([
        {
          version: event?.version,
          userId,
          status,
          currency,
          total,
          createdAt,
          previous: { status, total },
        },
      ]);
    },
  );

  it('corrects the cached lists of the owner and of the wrong owner', async () => {
    const { body: mine } = await get('/v1/orders?limit=100', { fresh: true });
    await eventually("the owner's list equals the database", async () => {
      const { body } = await get('/v1/orders?limit=100');
      return JSON.stringify(body.data) === JSON.stringify(mine.data);
    });
    await eventually("the other user's list is empty", async () => {
      const { body } = await get('/v1/orders', { token: otherUser.token });
      return (body.data as unknown[]).length === 0;
    });
  });
});

describe('a rebuild of orders that cannot be repaired', () => {
  /** A row without events; events without order.placed; events that begin with version 2. */
  const [rowOnly, withoutPlaced, withoutFirst] = ['1', '2', '3'].map(
    (digit) => `0198c5a2-7d1e-7c3a-9f00-00000000000${digit}`,
  );
  const USER_ID = '0198c5a2-7d1e-7c3a-9f00-0000000000aa';
  const INSERT_USER = 'INSERT INTO users (id, created_at, deleted_at) VALUES ($1, now(), now())';
  const INSERT_ORDER = `
    INSERT INTO orders (id, user_id, status, currency, items, total)
    VALUES ($1, $2, 'placed', 'EUR', $3, 9998)`;
  const INSERT_EVENT = `
    INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
    VALUES ($1, $2, $3, 2, '{}', $4, now())`;
  const SELECT_ORDERS = 'SELECT * FROM orders ORDER BY id';

  it('reports them, changes nothing, and exits with 1', async () => {
    // A database of its own: events cannot be deleted again.
    const { url, drop } = await createTestDatabase();
    const client = await connect(url);
    const items = JSON.stringify(ORDER.items);
    await client.query(INSERT_USER, [USER_ID]);
    await client.query(INSERT_ORDER, [rowOnly, USER_ID, items]);
    await client.query(INSERT_ORDER, [withoutPlaced, USER_ID, items]);
    await client.query(INSERT_EVENT, [withoutPlaced, 1, 'order.paid', USER_ID]);
    await client.query('SET session_replication_role = replica');
    await client.query(INSERT_EVENT, [withoutFirst, 2, 'order.placed', USER_ID]);
    const { rows: before } = await client.query(SELECT_ORDERS);
    const { code, lines } = await run('all', url);
    const { rows: after } = await client.query(SELECT_ORDERS);
    await client.end();
    await drop();
    expect(code).toBe(1);
    expect(lines.slice(0, 3)).toEqual([
      `${rowOnly}: no events`,
      `${withoutPlaced}: begins with order.paid as version 1`,
      `${withoutFirst}: begins with order.placed as version 2`,
    ]);
    expect(lines).toContain('3 orders differed, 0 repaired');
    expect(after).toEqual(before);
  });
});

describe('a rebuild', () => {
  it('of a damaged order → lets the order continue its life', async () => {
    const id = await place();
    await database.query(`UPDATE orders SET status = 'refunded' WHERE id = $1`, [id]);
    expect((await run('all')).code).toBe(0);
    expect((await act(id, 'pay')).body).toMatchObject({ status: 'paid', version: 4 });
  });

  it('of a row that another transaction locks → leaves the row to the next run', async () => {
    const id = await place();
    await database.query(`UPDATE orders SET note = 'by hand' WHERE id = $1`, [id]);
    const locker = await connect();
    await locker.query('BEGIN');
    await locker.query('SELECT FROM orders WHERE id = $1 FOR UPDATE', [id]);
    const blocked = await run('all');
    await locker.query('ROLLBACK');
    await locker.end();
    const unblocked = await run('all');
    expect(blocked.code).toBe(1);
    expect(blocked.lines).toContain(`${id}: note, version, updated_at`);
    expect(unblocked.lines).toContain(`${id}: note, version, updated_at, repaired`);
  });

  it('beside another rebuild of the database → is rejected', async () => {
    const locker = await connect();
    await locker.query('SELECT pg_advisory_lock($1)', [REBUILD_LOCK]);
    await expect(run('check')).rejects.toThrow('another rebuild runs on this database');
    await locker.end();
  });
});
