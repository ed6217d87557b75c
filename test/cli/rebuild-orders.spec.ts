/**
 * `npm run orders:rebuild`: whatever happened to the rows of orders, they are made again what their events make of them, while
 * two nodes read and write. No answer misses a row that was there, and no entity tag goes back or names two bodies.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { compareProjection } from '../../scripts/projection.js';
import { rebuild } from '../../scripts/rebuild.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { startRedis, type RedisServer } from '../support/redis.js';
import { adminToken, ORDER, person, type Person, placeOrder } from '../support/factories.js';

interface Seen {
  readonly id: string;
  readonly version: number;
  readonly status: string;
}

let redis: RedisServer;
let nodes: [TestApp, TestApp];
let owner: Person;
let admin: string;
let psql: pg.Client;
let other: Person;

beforeAll(async () => {
  redis = await startRedis();
  const first = await startApp({ REDIS_URL: redis.url });
  nodes = [first, await startApp({ REDIS_URL: redis.url }, first.databaseUrl)];
  [owner, other, admin] = [await person(first), await person(first), await adminToken(first)];
  psql = new pg.Client({ connectionString: first.databaseUrl });
  await psql.connect();
});
afterAll(async () => {
  await psql?.end();
  await nodes?.[1].close();
  await nodes?.[0].close();
  await redis?.stop();
});

const [READ, WRITE] = [0, 1] as const;
const get = (path: string, token = owner.token, node: 0 | 1 = READ): Promise<Reply> =>
  nodes[node].call('GET', path, { token });
const place = async (): Promise<string> =>
  (await placeOrder(nodes[WRITE], owner.token)).id as string;
const act = (id: string, action: string, token = owner.token): Promise<Reply> =>
  nodes[WRITE].call('POST', `/v1/orders/${id}/${action}`, { token });

/** As what is past every guard of the database leaves it: a restored backup, a broken disk. */
async function pastTriggers(sql: string, values: unknown[]): Promise<void> {
  await psql.query(`SET session_replication_role = replica`);
  const { rowCount } = await psql.query(sql, values);
  await psql.query(`SET session_replication_role = origin`);
  expect(rowCount).toBe(1);
}

/** Each way in which a row can differ from its events, and what the comparison says of it. */
const DAMAGES: readonly [what: string, sql: string, found: string][] = [
  [
    'written by hand',
    `UPDATE orders SET status = 'refunded', note = 'oops' WHERE id = $1`,
    'status, note, version, updated_at',
  ],
  [
    'written by hand, nothing changed',
    `UPDATE orders SET note = note WHERE id = $1`,
    'version, updated_at',
  ],
  ['changed under its version', `UPDATE orders SET note = 'other' WHERE id = $1`, 'note'],
  [
    'with other items',
    `UPDATE orders SET items = jsonb_set(items, '{0,quantity}', '3'), total = 14997 WHERE id = $1`,
    'items, total',
  ],
  [
    'set back to an older copy',
    `UPDATE orders SET status = 'placed', version = 1, updated_at = created_at WHERE id = $1`,
    'status, version, updated_at',
  ],
  [
    'moved in time',
    `UPDATE orders SET created_at = created_at - interval '1 day' WHERE id = $1`,
    'created_at',
  ],
  [
    'given to another',
    `UPDATE orders SET user_id = (SELECT id FROM users WHERE id <> user_id AND username LIKE 'u%' LIMIT 1) WHERE id = $1`,
    'user_id',
  ],
  ['in another currency', `UPDATE orders SET currency = 'CHF' WHERE id = $1`, 'currency'],
  ['lost', `DELETE FROM orders WHERE id = $1`, 'no row'],
];
const BY_HAND = 2;

/** So that even a few orders take many batches. */
const SMALL = { orders: 7, events: 11, locked: 3 };

const run = async (mode: 'check' | 'all'): Promise<{ code: number; lines: string[] }> => {
  const lines: string[] = [];
  const code = await rebuild(nodes[0].databaseUrl, mode, (line) => void lines.push(line), SMALL);
  return { code, lines };
};

/** Every column and the count of events, as they must be, from the database. */
async function expectWhole(): Promise<void> {
  const found: unknown[] = [];
  const client = new pg.Client({ connectionString: nodes[0].databaseUrl });
  await client.connect();
  const { live, replayed, different } = await compareProjection(
    client,
    false,
    (difference) => void found.push(difference),
  );
  await client.end();
  expect({ found, different, live }).toEqual({ found: [], different: 0, live: replayed });
  const { rows } = await psql.query(
    `SELECT id FROM orders AS o WHERE version <> (SELECT count(*) FROM order_events WHERE order_id = o.id)`,
  );
  expect(rows).toEqual([]);
}

describe('orders:rebuild', () => {
  it('finds nothing in a database that only the service has written', async () => {
    const id = await place();
    await act(id, 'pay');
    expect(await run('check')).toMatchObject({
      code: 0,
      lines: [
        expect.stringMatching(/checksums: orders ([0-9a-f]{16}), replayed \1$/),
        'Every order is what its events make of it',
      ],
    });
    expect((await run('all')).code).toBe(0);
    expect((await get(`/v1/orders/${id}`)).body.version).toBe(2);
  });

  it('mends every damage while both nodes read and write', async () => {
    const victims: string[] = [];
    for (let n = 0; n < DAMAGES.length; n++) {
      victims.push(await place());
      await act(victims[n] as string, 'pay');
      await act(victims[n] as string, 'ship', admin);
    }
    const sound = await Promise.all(Array.from({ length: 20 }, place));
    const before = new Map<string, object>();
    for (const id of [...victims, ...sound]) before.set(id, (await get(`/v1/orders/${id}`)).body);
    for (const [n, [, sql]] of DAMAGES.entries()) {
      if (n < BY_HAND) await psql.query(sql, [victims[n]]);
      else await pastTriggers(sql, [victims[n]]);
    }
    // Another write on top of a hand's: the hand's version has no event.
    const gap = await place();
    await psql.query(`UPDATE orders SET note = note WHERE id = $1`, [gap]);
    expect((await act(gap, 'pay')).body.version).toBe(3);
    const clean = await run('check');
    expect(clean.code).toBe(1);
    for (const [n, [, , found]] of DAMAGES.entries())
      expect(clean.lines).toContain(`${victims[n]}: ${found}`);
    expect(clean.lines).toContain(`${gap}: gaps`);
    expect(clean.lines.at(-1)).toBe(`${DAMAGES.length + 1} differed, 0 mended`);

    const faults: string[] = [];
    const tags = new Map<string, Map<number, string>>();
    const newest = new Map<string, number>();
    let stop = false;
    let reads = 0;
    /** Reads one after another by one client: what it sees of an order only moves forward. */
    const reader = async (node: 0 | 1): Promise<void> => {
      const seen = new Map<string, number>();
      while (!stop) {
        const page = await get('/v1/orders?limit=100', owner.token, node);
        const ids = new Set((page.body.data as Seen[]).map(({ id }) => id));
        for (const id of sound) if (!ids.has(id)) faults.push(`a list without ${id}`);
        for (const id of [...victims, ...sound]) {
          const { status, body, text } = await get(`/v1/orders/${id}`, admin, node);
          reads++;
          if (status === 404 && id === victims.at(-1) && !seen.has(id)) continue;
          if (status !== 200) faults.push(`${status} for ${id}`);
          const { version } = body as Seen;
          if (version < (seen.get(id) ?? 0))
            faults.push(`${id} went back from ${seen.get(id)} to ${version}`);
          seen.set(id, version);
          newest.set(id, Math.max(newest.get(id) ?? 0, version));
          const bodies = tags.get(id) ?? new Map<number, string>();
          tags.set(id, bodies);
          if ((bodies.get(version) ?? text) !== text)
            faults.push(`two bodies of ${id} version ${version}`);
          bodies.set(version, text);
        }
      }
    };
    let writes = 0;
    const writer = async (): Promise<void> => {
      for (let n = 0; !stop; n++) {
        const id = sound[n % sound.length] as string;
        const { status } = await nodes[WRITE].call('PATCH', `/v1/orders/${id}`, {
          token: owner.token,
          body: { note: `note ${n}` },
          headers: { 'If-Match': '*' },
        });
        if (status !== 200) faults.push(`${status} for a write to ${id}`);
        writes++;
        if (n % 5 === 0) await place();
      }
    };
    const others = [reader(0), reader(1), writer()];
    await sleep(300);
    const mended = await run('all');
    await sleep(1_200);
    stop = true;
    await Promise.all(others);

    expect(mended.code).toBe(0);
    expect(mended.lines.at(-2)).toBe(
      `${DAMAGES.length + 1} differed, ${DAMAGES.length + 1} mended`,
    );
    expect(faults).toEqual([]);
    expect(reads).toBeGreaterThan(50);
    expect(writes).toBeGreaterThan(5);
    await expectWhole();
    for (const [n, id] of victims.entries()) {
      for (const node of [READ, WRITE] as const) {
        const { body } = await get(`/v1/orders/${id}`, owner.token, node);
        const { version, updatedAt, ...order } = body as Seen & { updatedAt: string };
        expect(before.get(id)).toMatchObject(order);
        expect(version).toBeGreaterThanOrEqual(newest.get(id) as number);
        const { data } = (await get(`/v1/orders/${id}/events?limit=100`, owner.token, node)).body;
        expect(data.map((event: Seen) => event.version)).toEqual(
          Array.from({ length: version }, (_, at) => at + 1),
        );
        expect(data.at(-1).occurredAt).toBe(updatedAt);
        if (n < DAMAGES.length - 1) expect(data.at(-1).type).toBe('order.rebuilt');
        expect((await get(`/v1/orders/${id}?at=${version}`, owner.token, node)).body).toEqual(body);
      }
    }
    // The list of who has lost one, and of who had it for a while.
    const mine = (await get('/v1/orders?limit=100', owner.token)).body.data as Seen[];
    const fresh = await nodes[READ].call('GET', '/v1/orders?limit=100', {
      token: owner.token,
      headers: { 'Cache-Control': 'no-cache' },
    });
    expect(mine).toEqual(fresh.body.data);
    expect((await get('/v1/orders', other.token)).body.data).toEqual([]);
    // Life goes on from there.
    expect((await act(victims[0] as string, 'deliver', admin)).body.status).toBe('delivered');
    const { rows } = await psql.query(
      `SELECT count(*)::int AS told FROM outbox AS m JOIN orders AS o ON m.subject = 'orders/' || o.id
        WHERE m.type = 'order.rebuilt' AND (m.data ->> 'version')::bigint <= o.version`,
    );
    expect(rows).toEqual([{ told: DAMAGES.length }]);
  });

  it('tells what it cannot mend, touches none of it, and ends with 1', async () => {
    const [orphan, strange, headless] = ['1', '2', '3'].map(
      (n) => `0198c5a2-7d1e-7c3a-9f00-00000000000${n}`,
    );
    const row = `INSERT INTO orders (id, user_id, status, currency, items, total) VALUES ($1, $2, 'placed', 'EUR', $3, 9998)`;
    for (const id of [orphan, strange])
      await psql.query(row, [id, owner.id, JSON.stringify(ORDER.items)]);
    const event = `INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at) VALUES ($1, $2, $3, 2, '{}', $4, now())`;
    await psql.query(event, [strange, 1, 'order.paid', owner.id]);
    await psql.query(`SET session_replication_role = replica`);
    await psql.query(event, [headless, 2, 'order.placed', owner.id]);
    await psql.query(`SET session_replication_role = origin`);
    const rows = (): Promise<pg.QueryResult> => psql.query('SELECT * FROM orders ORDER BY id');
    const before = (await rows()).rows;
    const { code, lines } = await run('all');
    expect([code, lines.slice(0, 3), lines.at(-2)]).toEqual([
      1,
      [
        `${orphan}: no events`,
        `${strange}: begins with order.paid as version 1`,
        `${headless}: begins with order.placed as version 2`,
      ],
      '3 differed, 0 mended',
    ]);
    expect((await rows()).rows).toEqual(before);
    await psql.query('DELETE FROM orders WHERE id = $1', [orphan]);
  });

  it('leaves a row that another holds to the next run', async () => {
    const id = await place();
    await psql.query(`UPDATE orders SET note = 'by hand' WHERE id = $1`, [id]);
    const holder = new pg.Client({ connectionString: nodes[0].databaseUrl });
    await holder.connect();
    await holder.query('BEGIN');
    await holder.query('SELECT FROM orders WHERE id = $1 FOR UPDATE', [id]);
    const waiting = await run('all');
    expect([waiting.code, waiting.lines]).toEqual([
      1,
      expect.arrayContaining([`${id}: note, version, updated_at`]),
    ]);
    await holder.query('ROLLBACK');
    await holder.end();
    expect((await run('all')).lines).toContain(`${id}: note, version, updated_at, mended`);
  });

  it('runs once at a time', async () => {
    const results = await Promise.allSettled([run('check'), run('check')]);
    const [refused] = results.flatMap((result) =>
      result.status === 'rejected' ? [String(result.reason)] : [],
    );
    if (refused !== undefined) expect(refused).toContain('another rebuild runs on this database');
    const holder = new pg.Client({ connectionString: nodes[0].databaseUrl });
    await holder.connect();
    await holder.query('SELECT pg_advisory_lock(8243113919129313395)');
    await expect(run('check')).rejects.toThrow('another rebuild runs on this database');
    await holder.end();
  });
});
