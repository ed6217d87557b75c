/**
 * Rights that end while they are used: two nodes, requests without pause in every session, and at a seeded moment one of the ways
 * in which a session ends or a role goes, with Redis there, gone, flushed, or out of reach for one of the nodes. A request that
 * begins after the answer and is accepted is late, and so is an order that is committed after it. None may be.
 *
 * `HOLDFAST_REVOCATIONS=120 npm test -- test/auth/revocations` goes on for two minutes; HOLDFAST_SEED repeats a run.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import pg from 'pg';
import { SESSIONS_OF_A_USER, SessionsService } from '../../src/auth/sessions.service.js';
import { DatabaseInvalidations } from '../../src/cache/database-invalidations.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { UnitOfWork } from '../../src/database/unit-of-work.js';
import { Link } from '../campaign/proxy.js';
import { Random } from '../campaign/random.js';
import { ADMIN, type Call, type Reply, startApp, type TestApp } from '../support/app.js';
import { logIn, ORDER, PASSWORD, uniqueName } from '../support/factories.js';
import { ask, type RedisServer, startRedis } from '../support/redis.js';

const SECONDS = Number(process.env.HOLDFAST_REVOCATIONS ?? 6);
const SEED = Number(process.env.HOLDFAST_SEED ?? Date.now() % 1_000_000);
const SESSIONS = 3;

/** How a right ends: the request, by a session of the user or by the admin, and which of the sessions it ends. */
interface Ending {
  readonly weight: number;
  readonly ends: 'first' | 'others' | 'all' | 'role';
  readonly call: (ids: {
    user: string;
    session: string;
  }) => readonly [method: string, path: string, call?: Call];
}
const ENDINGS: Readonly<Record<string, Ending>> = {
  'log out': { weight: 4, ends: 'first', call: () => ['DELETE', '/v1/sessions/current'] },
  'end by id': {
    weight: 4,
    ends: 'first',
    call: ({ session }) => ['DELETE', `/v1/sessions/${session}`],
  },
  'end all': { weight: 4, ends: 'all', call: () => ['DELETE', '/v1/sessions'] },
  'end others': { weight: 4, ends: 'others', call: () => ['DELETE', '/v1/sessions?keep=current'] },
  'change the password': {
    weight: 1,
    ends: 'others',
    call: ({ user }) => [
      'PUT',
      `/v1/users/${user}/password`,
      { body: { currentPassword: PASSWORD, newPassword: 'eleven tall ships at anchor' } },
    ],
  },
  'delete the user': {
    weight: 2,
    ends: 'all',
    call: ({ user }) => ['DELETE', `/v1/users/${user}`],
  },
  'take the role': {
    weight: 3,
    ends: 'role',
    call: ({ user }) => ['PUT', `/v1/users/${user}/roles`, { body: { roles: ['user'] } }],
  },
};
const WEATHER = [
  'calm',
  'calm',
  'first node cut off',
  'second node cut off',
  'Redis gone',
  'flush',
] as const;
const SUMMARY = '/v1/orders/summary?from=2026-01-01&to=2026-01-02';

const random = new Random(SEED);
let redis: RedisServer;
let links: [Link, Link];
let nodes: [TestApp, TestApp];
let database: pg.Client;

beforeAll(async () => {
  redis = await startRedis();
  links = [
    await Link.to(redis.port, random.fork('first')),
    await Link.to(redis.port, random.fork('second')),
  ];
  const urls = links.map(({ port }) => `redis://127.0.0.1:${port}`) as [string, string];
  const first = await startApp({ REDIS_URL: urls[0] });
  nodes = [first, await startApp({ REDIS_URL: urls[1] }, first.databaseUrl)];
  database = new pg.Client({ connectionString: first.databaseUrl });
  await database.connect();
});
afterAll(async () => {
  await database.end();
  await nodes[1].close();
  await nodes[0].close();
  links.forEach((link) => link.close());
  await redis.stop();
});

/** Sessions without a login each: hashing is not under test, and would be most of the time. */
async function sessionOf(userId: string): Promise<{ id: string; token: string }> {
  const { app } = random.pick(nodes);
  const { session, token } = await app
    .get(UnitOfWork, { strict: false })
    .run((transaction) =>
      app
        .get(SessionsService, { strict: false })
        .start(transaction, userId, { ip: '127.0.0.1', userAgent: null }),
    );
  return { id: session.id, token };
}

/** Until both nodes answer from the cache again. */
async function bothInUse(): Promise<void> {
  for (const until = Date.now() + 3_000; Date.now() < until; await sleep(20)) {
    const opened = nodes.map(({ app }) => app.get(ReadGate, { strict: false }).isOpen);
    if (opened.every(Boolean)) return;
  }
}

interface Attempt {
  readonly session: number;
  readonly began: number;
  readonly status: number;
}

it(
  `has no effect that is late (seed ${SEED}, ${SECONDS} s)`,
  async () => {
    const admin = await logIn(nodes[0], ADMIN.username, ADMIN.password);
    const late: string[] = [];
    const totals = { endings: 0, attempts: 0, accepted: 0, behind: 0 };
    const tried = new Set<string>();
    const people: { id: string; fresh: boolean }[] = [];

    const round = async (): Promise<void> => {
      const [name, ending] = random.pick(
        Object.entries(ENDINGS).flatMap((one) => Array<typeof one>(one[1].weight).fill(one)),
      );
      const weather = random.pick(WEATHER);
      let someone = people.pop();
      if (!someone || (name === 'change the password' && !someone.fresh)) {
        const username = uniqueName();
        const body = { username, email: `${username}@example.com`, password: PASSWORD };
        someone = {
          id: (await nodes[0].call('POST', '/v1/users', { body })).body.id as string,
          fresh: true,
        };
      }
      const user = someone.id;
      const isRole = ending.ends === 'role';
      if (isRole)
        await nodes[0].call('PUT', `/v1/users/${user}/roles`, {
          token: admin,
          body: { roles: ['user', 'support'] },
        });
      const sessions = await Promise.all(Array.from({ length: SESSIONS }, () => sessionOf(user)));

      if (weather === 'first node cut off' || weather === 'Redis gone') links[0].cut(true);
      if (weather === 'second node cut off' || weather === 'Redis gone') links[1].cut(true);
      if (weather === 'flush') await ask(redis.port, 'FLUSHALL');

      const attempts: Attempt[] = [];
      let going = true;
      const request = (session: number, node: TestApp): Promise<Reply> => {
        const { token } = sessions[session] as { token: string };
        if (isRole) return node.call('GET', SUMMARY, { token });
        if (random.chance(0.6))
          return node.call('GET', random.pick(['/v1/users/me', '/v1/sessions/current']), { token });
        return node.call('POST', '/v1/orders', {
          token,
          body: { ...ORDER, note: String(session) },
          headers: { 'Idempotency-Key': randomUUID() },
        });
      };
      const users = sessions.flatMap((_, session) =>
        nodes.map(async (node) => {
          while (going) {
            const began = performance.now();
            const { status } = await request(session, node);
            attempts.push({ session, began, status });
          }
        }),
      );
      await sleep(random.between(5, 60));

      const byItself = ['log out', 'end all'].includes(name);
      const by = isRole
        ? admin
        : (sessions[byItself ? 0 : SESSIONS - 1] as { token: string }).token;
      const [method, path, call] = ending.call({
        user,
        session: (sessions[0] as { id: string }).id,
      });
      const { status, text } = await random.pick(nodes).call(method, path, { ...call, token: by });
      const answered = performance.now();
      const ended = sessions
        .map((_, session) => session)
        .filter((session) => {
          if (ending.ends === 'first') return session === 0;
          return ending.ends === 'others' ? session !== SESSIONS - 1 : true;
        });
      const orders = async (): Promise<string> => {
        const { rows } = await database.query(
          `SELECT count(*) FROM orders WHERE user_id = $1 AND note = ANY($2)`,
          [user, ended.map(String)],
        );
        return (rows[0] as { count: string }).count;
      };
      const committed = await orders();
      await sleep(random.between(20, 80));
      going = false;
      await Promise.all(users);
      if (!isRole && (await orders()) !== committed) late.push(`${name}, ${weather}: an order`);
      expect([name, weather, status, text && status >= 400 ? text : '']).toEqual([
        name,
        weather,
        isRole ? 200 : 204,
        '',
      ]);

      const refusal = isRole ? 403 : 401;
      for (const { session, began, status: given } of attempts) {
        totals.attempts++;
        if (given < 300) totals.accepted++;
        if (began <= answered || !ended.includes(session)) continue;
        totals.behind++;
        if (given !== refusal)
          late.push(
            `${name}, ${weather}: ${given} ${Math.round(began - answered)} ms behind the answer`,
          );
      }
      totals.endings++;
      tried.add(name).add(weather);
      links.forEach((link) => link.heal());
      // Half of the time the next one meets nodes that are just coming back.
      if (weather !== 'calm' && random.chance(0.5)) await bothInUse();
      if (name !== 'delete the user')
        people.push({ id: user, fresh: someone.fresh && name !== 'change the password' });
    };

    for (const until = Date.now() + SECONDS * 1000; Date.now() < until;) await round();
    if (SECONDS > 10)
      console.log(
        `${JSON.stringify({ seed: SEED, ...totals, late: late.length })}\n${[...tried].sort().join(', ')}`,
      );
    expect(late).toEqual([]);
    expect(totals.endings).toBeGreaterThan(SECONDS / 2);
    expect(totals.behind).toBeGreaterThan(totals.endings);
    expect(totals.accepted).toBeGreaterThan(totals.endings);
  },
  (SECONDS + 60) * 1_000,
);

const ENDED: Readonly<Record<string, { path: string; refusal: number; end: Ending['call'] }>> = {
  'of a session': {
    path: '/v1/users/me',
    refusal: 401,
    end: (ENDINGS['end by id'] as Ending).call,
  },
  'of a role': { path: SUMMARY, refusal: 403, end: (ENDINGS['take the role'] as Ending).call },
};
it.each(Object.keys(ENDED))(
  '%s is answered by a node that cannot reach Redis once no other node’s cache has it any more',
  async (what) => {
    const { path: used, refusal, end } = ENDED[what] as (typeof ENDED)[string];
    const username = uniqueName();
    const body = { username, email: `${username}@example.com`, password: PASSWORD };
    const { id } = (await nodes[0].call('POST', '/v1/users', { body })).body as { id: string };
    const statusAt = async (node: TestApp, token: string): Promise<number> =>
      (await node.call('GET', used, { token })).status;
    const admin = await logIn(nodes[0], ADMIN.username, ADMIN.password);
    await nodes[0].call('PUT', `/v1/users/${id}/roles`, {
      token: admin,
      body: { roles: ['user', 'support'] },
    });
    await bothInUse();
    const [one, other] = [await sessionOf(id), await sessionOf(id)];
    for (const node of nodes) expect(await statusAt(node, one.token)).toBe(200);

    const path = nodes[1].app.get(DatabaseInvalidations, { strict: false }) as unknown as {
      applyBatch: (after: string) => Promise<string[]>;
    };
    const applyBatch = path.applyBatch.bind(path);
    let goOn = (): void => undefined;
    const held = new Promise<void>((resolve) => (goOn = resolve));
    path.applyBatch = async (after) => {
      await held;
      return applyBatch(after);
    };
    let answered = false;
    let ending: Promise<number> | undefined;
    try {
      links[0].cut(true);
      const [method, target, call] = end({ user: id, session: one.id });
      ending = nodes[0]
        .call(method, target, { ...call, token: refusal === 403 ? admin : other.token })
        .then((reply) => {
          answered = true;
          return reply.status;
        });
      await sleep(500);
      // The second node has not heard of it yet, and shows why the first must not answer.
      expect([answered, await statusAt(nodes[1], one.token)]).toEqual([false, 200]);
    } finally {
      goOn();
      path.applyBatch = applyBatch;
    }
    expect(await ending).toBeLessThan(300);
    expect([await statusAt(nodes[0], one.token), await statusAt(nodes[1], one.token)]).toEqual([
      refusal,
      refusal,
    ]);

    // Where no node reads the cache, nobody is waited for.
    links[1].cut(true);
    while (nodes.some(({ app }) => app.get(ReadGate, { strict: false }).isOpen))
      await statusAt(nodes[1], other.token);
    await sleep(200);
    const began = performance.now();
    expect(
      (await nodes[1].call('DELETE', '/v1/sessions/current', { token: other.token })).status,
    ).toBe(204);
    expect(performance.now() - began).toBeLessThan(2_000);
    expect([await statusAt(nodes[0], other.token), await statusAt(nodes[1], other.token)]).toEqual([
      401, 401,
    ]);
    links.forEach((link) => link.heal());
  },
);

it('comes to the sessions used longest ago, and to no others, when a user at the cap logs in on two nodes at once', async () => {
  const LOGINS = 16;
  const username = uniqueName();
  const body = { username, email: `${username}@example.com`, password: PASSWORD };
  const { id } = (await nodes[0].call('POST', '/v1/users', { body })).body as { id: string };
  // Oldest first.
  const before = Array.from({ length: SESSIONS_OF_A_USER }, () => randomBytes(8).toString('hex'));
  await database.query(
    `INSERT INTO sessions (id, user_id, token_hash, created_at, last_seen_at, expires_at)
     SELECT gen_random_uuid(), $1, hash, now() - interval '40 minutes', now() - interval '30 minutes' + make_interval(secs => ordinal::int), now() + interval '1 day'
     FROM unnest($2::text[]) WITH ORDINALITY AS one (hash, ordinal)`,
    [id, before.map((token) => createHash('sha256').update(token).digest('hex'))],
  );
  await bothInUse();
  const alive = async (token: string): Promise<boolean[]> => {
    const replies = await Promise.all(
      nodes.map((node) => node.call('GET', '/v1/sessions/current', { token })),
    );
    expect(replies.filter(({ status }) => status !== 200 && status !== 401)).toEqual([]);
    return replies.map(({ status }) => status === 200);
  };
  const counts: number[] = [];
  let going = true;
  const watch = (async () => {
    while (going) {
      const { rows } = await database.query(
        'SELECT count(*)::int AS alive FROM sessions WHERE user_id = $1',
        [id],
      );
      counts.push((rows[0] as { alive: number }).alive);
    }
  })();
  // Nobody can remove the oldest one until two logins are in the middle of it.
  const holder = new pg.Client({ connectionString: nodes[0].databaseUrl });
  await holder.connect();
  await holder.query('BEGIN');
  await holder.query(
    'SELECT FROM sessions WHERE user_id = $1 ORDER BY last_seen_at LIMIT 1 FOR UPDATE',
    [id],
  );
  const letGo = (async () => {
    const waiting = `SELECT count(*)::int AS logins FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`;
    while (((await database.query(waiting)).rows[0] as { logins: number }).logins < 2)
      await sleep(5);
    await holder.end();
  })();
  const tokens = await Promise.all(
    Array.from({ length: LOGINS }, async (_, turn) => {
      // Of devices of their own: what is remembered of one device would line its logins up.
      const headers = { 'User-Agent': `device ${turn}` };
      const login = { body: { username, password: PASSWORD }, headers };
      const { token } = (await (nodes[turn % 2] as TestApp).call('POST', '/v1/sessions', login))
        .body as {
        token: string;
      };
      // Each new one works at once, on both nodes, while the others are still being made.
      expect(await alive(token)).toEqual([true, true]);
      return token;
    }),
  );
  going = false;
  await Promise.all([watch, letGo]);
  expect(counts.length).toBeGreaterThan(LOGINS);
  expect([Math.max(...counts), counts.at(-1)]).toEqual([SESSIONS_OF_A_USER, SESSIONS_OF_A_USER]);
  const expected = before.map((_, turn) => (turn < LOGINS ? [false, false] : [true, true]));
  expect(await Promise.all(before.map(alive))).toEqual(expected);
  expect(await Promise.all(tokens.map(alive))).toEqual(tokens.map(() => [true, true]));
});
