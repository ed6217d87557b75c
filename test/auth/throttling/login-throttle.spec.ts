/**
 * Failed logins: counted on all nodes together, with waits that grow to a bound, alike for existing
 * and unknown names, and without locking out devices that have logged in before.
 */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { PasswordsService } from '../../../src/auth/passwords/passwords.service.js';
import {
  FAILED_LOGIN_LIMITS,
  type FailedLoginKind,
  type LoginAttempt,
  LoginThrottle,
} from '../../../src/auth/throttling/login-throttle.service.js';
import { Problem } from '../../../src/platform/http/problems/problem.js';
import { startApp, type TestApp } from '../../support/app.js';
import { logIn, PASSWORD, registerUser, uniqueUsername } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem, withoutRequestFields } from '../../support/problem.js';
import { type RedisServer, sendRedisCommand, startRedis } from '../../support/redis.js';

const PERSONAL = FAILED_LOGIN_LIMITS.nameAndNetwork;
const COLLECTIVE = FAILED_LOGIN_LIMITS.name;
const NETWORK = FAILED_LOGIN_LIMITS.network;
const WRONG_PASSWORD = 'ten tall ships at anchor';
const NEW_PASSWORD = 'eleven tall ships at anchor';

type Headers = Readonly<Record<string, string>>;

let strangerCount = 0;
/** Headers of a device and an address that nobody else in this file has. */
function stranger(): Headers {
  strangerCount++;
  return {
    'User-Agent': `stranger/${strangerCount}`,
    'X-Forwarded-For': `198.51.100.${strangerCount}`,
  };
}

function tryLogIn(
  node: TestApp,
  username: string,
  password: string,
  headers: Headers,
): Promise<Reply> {
  return node.call('POST', '/v1/sessions', { body: { username, password }, headers });
}

/** Logs in with a wrong password, `times` times at once, at each of the nodes in turn. */
function failLogins(
  nodes: readonly TestApp[],
  username: string,
  times: number,
  headers: Headers,
): Promise<Reply[]> {
  return Promise.all(
    Array.from({ length: times }, (_, index) => {
      const node = nodes[index % nodes.length] as TestApp;
      return tryLogIn(node, username, WRONG_PASSWORD, headers);
    }),
  );
}

/** The header with which the device of this login comes back. */
const deviceOf = ({ headers }: Reply): Headers => ({
  Cookie: headers.get('set-cookie')?.split(';')[0] as string,
});

/** How many of the replies have each status. */
function countStatuses(replies: readonly Reply[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { status } of replies) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

const retryAfterOf = (reply: Reply): number => Number(reply.headers.get('retry-after'));

const throttleOf = ({ app }: TestApp): LoginThrottle => app.get(LoginThrottle, { strict: false });

/** How many of so many attempts at once the throttle lets pass. */
async function countPassed(
  throttle: LoginThrottle,
  attempt: LoginAttempt,
  times: number,
): Promise<number> {
  const results = await Promise.allSettled(
    Array.from({ length: times }, () => throttle.recordAttempt(attempt)),
  );
  const rejected = results.filter((result) => result.status === 'rejected');
  expect(rejected.filter(({ reason }) => !(reason instanceof Problem))).toEqual([]);
  return times - rejected.length;
}

/** Records attempts until one is rejected. */
async function recordUntilRejected(
  throttle: LoginThrottle,
  attempt: LoginAttempt,
): Promise<{ failures: number; waitSeconds: number }> {
  for (let failures = 0; ; failures++) {
    const problem = await throttle.recordAttempt(attempt).catch((error: unknown) => error);
    if (problem === undefined) continue;
    return { failures, waitSeconds: Number((problem as Problem).details.headers?.['Retry-After']) };
  }
}

/** The key of a counter in the table. */
const keyOf = (kind: string, text: string): Buffer =>
  createHash('sha256').update(`${kind} ${text}`).digest().subarray(0, 16);

/** Counts as if so many seconds had passed. */
async function letPass(database: pg.Client, seconds: number): Promise<void> {
  await database.query(
    `UPDATE failed_logins SET short_drained_at = short_drained_at - make_interval(secs => $1),
                              long_drained_at = long_drained_at - make_interval(secs => $1)`,
    [seconds],
  );
}

describe('failed logins at one node', () => {
  let app: TestApp;
  let database: pg.Client;

  beforeAll(async () => {
    app = await startApp({ TRUST_PROXY: '127.0.0.1' });
    database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
  });
  afterAll(async () => {
    await database.end();
    await app.close();
  });

  it('past the limit, a correct password is rejected like a wrong one', async () => {
    const { username } = await registerUser(app);
    const headers = stranger();
    // All spellings of a name count together.
    await failLogins([app], username, PERSONAL.short.burst / 2, headers);
    await failLogins([app], username.toUpperCase(), PERSONAL.short.burst / 2, headers);
    const reply = await tryLogIn(app, username, PASSWORD, headers);
    expectProblem(reply, 429, 'too-many-attempts');
  });

  it('a device of one user is a stranger to the account of another', async () => {
    const [owner, other] = [await registerUser(app), await registerUser(app)];
    const headers = stranger();
    const session = await tryLogIn(app, owner.username, PASSWORD, headers);
    const ownersDevice = { ...headers, ...deviceOf(session) };
    // Few at once: a device has few places in the hashing queue.
    for (let count = 0; count < PERSONAL.short.burst; count++) {
      await failLogins([app], other.username, 1, ownersDevice);
    }
    const reply = await tryLogIn(app, other.username, PASSWORD, headers);
    expectProblem(reply, 429, 'too-many-attempts');
    expect((await tryLogIn(app, owner.username, PASSWORD, ownersDevice)).status).toBe(201);
  });

  it('failed logins do not reveal whether the name exists', async () => {
    /** All that a client sees of failed logins, past the limit as well. */
    async function observe(name: string): Promise<unknown[]> {
      const headers = stranger();
      const observed: unknown[] = [];
      for (let count = 0; count < PERSONAL.short.burst + 2; count++) {
        const reply = await tryLogIn(app, name, WRONG_PASSWORD, headers);
        observed.push({
          status: reply.status,
          body: withoutRequestFields(reply),
          headers: [...reply.headers.keys()].filter((header) => header !== 'date').sort(),
          challenge: reply.headers.get('www-authenticate'),
        });
      }
      return observed;
    }
    const { username } = await registerUser(app);
    const ofExisting = await observe(username);
    expect(ofExisting.map((seen) => (seen as { status: number }).status)).toEqual([
      ...Array<number>(PERSONAL.short.burst).fill(401),
      429,
      429,
    ]);
    expect(await observe(uniqueUsername())).toEqual(ofExisting);
    expect(await observe(`${uniqueUsername()}@example.com`)).toEqual(ofExisting);
  });

  it('a failed login takes the same queries whether the name exists or not', async () => {
    const { username, email } = await registerUser(app);
    const { logger } = app.app.get(DataSource);
    /** The tables that one failed login reads or writes, in order. Others belong to timers. */
    async function tablesOf(name: string): Promise<string[]> {
      const tables: string[] = [];
      const { logQuery } = logger;
      logger.logQuery = (sql) => {
        const table =
          /\b(?:FROM|INTO|UPDATE|SELECT) "?(users|credentials|count_failed_login)\b/.exec(sql)?.[1];
        if (table !== undefined) tables.push(table);
      };
      await tryLogIn(app, name, WRONG_PASSWORD, stranger());
      logger.logQuery = logQuery;
      return tables;
    }
    const ofUsername = await tablesOf(username);
    expect(ofUsername).toEqual(['users', 'credentials', 'count_failed_login']);
    expect(await tablesOf(email)).toEqual(ofUsername);
    expect(await tablesOf(uniqueUsername())).toEqual(ofUsername);
    expect(await tablesOf(`${uniqueUsername()}@example.com`)).toEqual(ofUsername);
  });

  it('the hash that is verified for an unknown name has the form of new hashes', async () => {
    const passwords = app.app.get(PasswordsService, { strict: false });
    const { decoyHash } = passwords as unknown as { decoyHash: string };
    const formOf = (hash: string): (string | number)[] => {
      const [, algorithm = '', version = '', parameters = '', ...parts] = hash.split('$');
      return [algorithm, version, parameters, ...parts.map(({ length }) => length)];
    };
    const newHash = await passwords.hash(
      { lane: 'login', caller: 'test' },
      'any password whatever',
    );
    expect(formOf(decoyHash)).toEqual(formOf(newHash));
  });

  it('failed logins of strangers neither lock out a known device nor end a session', async () => {
    const user = await registerUser(app);
    const session = await tryLogIn(app, user.username, PASSWORD, stranger());
    await recordUntilRejected(throttleOf(app), { name: user.username });
    await recordUntilRejected(throttleOf(app), { name: user.email });
    const lockedOut = await tryLogIn(app, user.username, PASSWORD, stranger());
    expectProblem(lockedOut, 429, 'too-many-attempts');
    // Its browser has been updated meanwhile, and it is in another network.
    const device = { ...stranger(), ...deviceOf(session) };
    const again = await tryLogIn(app, user.username, PASSWORD, device);
    expect(again.status).toBe(201);
    const withNewestToken = { ...stranger(), ...deviceOf(again) };
    expect((await tryLogIn(app, user.email, PASSWORD, withNewestToken)).status).toBe(201);
    const me = await app.call('GET', '/v1/users/me', { token: session.body.token as string });
    expect(me.status).toBe(200);
  });

  it('failed logins of a known device count for the device, under both names', async () => {
    const user = await registerUser(app);
    const home = { ...stranger(), ...deviceOf(await tryLogIn(app, user.username, PASSWORD, {})) };
    await failLogins([app], user.username, PERSONAL.short.burst / 2, home);
    await failLogins([app], user.email, PERSONAL.short.burst / 2, home);
    const reply = await tryLogIn(app, user.username, PASSWORD, home);
    expectProblem(reply, 429, 'too-many-attempts');
    const elsewhere = await tryLogIn(app, user.username, PASSWORD, stranger());
    expect(elsewhere.status).toBe(201);
  });

  it('failed logins with many devices of one user are bounded together', async () => {
    const user = await registerUser(app);
    const session = await tryLogIn(app, user.username, PASSWORD, stranger());
    const { burst } = COLLECTIVE.short;
    expect(await countPassed(throttleOf(app), { devicesOfUser: user.id }, burst + 5)).toBe(burst);
    const device = { ...stranger(), ...deviceOf(session) };
    const reply = await tryLogIn(app, user.username, PASSWORD, device);
    expectProblem(reply, 429, 'too-many-attempts');
  });

  it('failed logins from one network lock out nobody in another one', async () => {
    const { username } = await registerUser(app);
    const attacker = stranger();
    for (let minutes = 0; minutes < 20; minutes++) {
      await letPass(database, 60);
      await failLogins([app], username, PERSONAL.short.burst + 1, attacker);
    }
    const fromAttacker = await tryLogIn(app, username, PASSWORD, attacker);
    expectProblem(fromAttacker, 429, 'too-many-attempts');
    expect((await tryLogIn(app, username, PASSWORD, stranger())).status).toBe(201);
  });

  it.each([
    ['one network', { nameAndNetwork: 'ada 192.0.2.1' }, PERSONAL.long.intervalSeconds],
    ['many networks', { name: 'ada' }, COLLECTIVE.long.intervalSeconds],
  ])('however many fail from %s, the wait has a bound of minutes', async (_, attempt, bound) => {
    const throttle = throttleOf(app);
    for (let hours = 0; hours < 24; hours++) {
      await recordUntilRejected(throttle, attempt);
      await letPass(database, 3_600);
    }
    for (let minutes = 0; minutes < 10; minutes++) {
      await recordUntilRejected(throttle, attempt);
      await letPass(database, 60);
    }
    const { waitSeconds } = await recordUntilRejected(throttle, attempt);
    expect(bound).toBeLessThanOrEqual(15 * 60);
    expect(waitSeconds).toBeLessThanOrEqual(bound);
    await letPass(database, waitSeconds);
    expect((await recordUntilRejected(throttle, attempt)).failures).toBeGreaterThan(0);
  });

  it('a login takes two statements of the throttle, a failed one takes one', async () => {
    const user = await registerUser(app);
    const { logger } = app.app.get(DataSource);
    const { logQuery } = logger;
    async function countStatements(password: string): Promise<number> {
      let statements = 0;
      logger.logQuery = (sql) => {
        if (/failed_login/.test(sql) && !sql.includes('DELETE')) statements++;
      };
      await tryLogIn(app, user.username, password, stranger());
      logger.logQuery = logQuery;
      return statements;
    }
    expect([await countStatements(PASSWORD), await countStatements(WRONG_PASSWORD)]).toEqual([
      2, 1,
    ]);
  });

  it('a correct password empties the counter of name and network, not of the network', async () => {
    const { username } = await registerUser(app);
    const attacker = stranger();
    const address = attacker['X-Forwarded-For'] as string;
    const rounds = 3;
    const failuresPerRound = PERSONAL.short.burst - 1;
    const statuses: Record<string, number>[] = [];
    for (let round = 0; round < rounds; round++) {
      statuses.push(countStatuses(await failLogins([app], username, failuresPerRound, attacker)));
      const newDevice = { ...stranger(), 'X-Forwarded-For': address };
      statuses.push(countStatuses([await tryLogIn(app, username, PASSWORD, newDevice)]));
    }
    const expected = [{ 401: failuresPerRound }, { 201: 1 }];
    expect(statuses).toEqual([...expected, ...expected, ...expected]);
    const { rows } = await database.query<{ failures: number }>(
      `SELECT round(max(extract(epoch FROM long_drained_at - now())) / $1)::int AS failures
         FROM failed_logins WHERE key = $2`,
      [NETWORK.long.intervalSeconds, keyOf('network', address)],
    );
    expect(rows).toEqual([{ failures: rounds * failuresPerRound }]);
  });

  it('an IPv6 network of 64 bits counts as one address, whatever the names', async () => {
    const from = (ip: string): Promise<Reply> =>
      tryLogIn(app, uniqueUsername(), WRONG_PASSWORD, { ...stranger(), 'X-Forwarded-For': ip });
    expectProblem(await from('2001:db8:1:2::1'), 401, 'invalid-credentials');
    await recordUntilRejected(throttleOf(app), { network: '2001:db8:1:2::/64' });
    await recordUntilRejected(throttleOf(app), { network: '2001:db8:1:2::/64' });
    expectProblem(await from('2001:db8:1:2:ffff:eeee:dddd:cccc'), 429, 'too-many-attempts');
    expectProblem(await from('2001:db8:1:3::1'), 401, 'invalid-credentials');
  });
});

describe('failed logins at two nodes', () => {
  let redis: RedisServer;
  let nodes: [TestApp, TestApp];
  let database: pg.Client;

  beforeAll(async () => {
    redis = await startRedis();
    const env = { REDIS_URL: redis.url, TRUST_PROXY: '127.0.0.1' };
    const first = await startApp(env);
    nodes = [first, await startApp(env, first.databaseUrl)];
    database = new pg.Client({ connectionString: first.databaseUrl });
    await database.connect();
  });
  afterAll(async () => {
    await database.end();
    await nodes[1].close();
    await nodes[0].close();
    await redis.stop();
  });

  it('logins at two nodes at once fail as often as the window allows, then wait', async () => {
    const { username } = await registerUser(nodes[0]);
    const headers = stranger();
    const replies = await failLogins(nodes, username, 30, headers);
    expect(countStatuses(replies)).toEqual({
      401: PERSONAL.short.burst,
      429: 30 - PERSONAL.short.burst,
    });
    const rejected = replies.filter(({ status }) => status === 429);
    rejected.forEach((reply) => expectProblem(reply, 429, 'too-many-attempts'));
    expect(Math.max(...rejected.map(retryAfterOf))).toBeLessThanOrEqual(
      PERSONAL.short.intervalSeconds,
    );
    const later = await Promise.all(
      nodes.map((node) => tryLogIn(node, username, PASSWORD, headers)),
    );
    expect(later.map(({ status }) => status)).toEqual([429, 429]);
  });

  it('each further series of failures waits longer', async () => {
    const attempt = { nameAndNetwork: uniqueUsername() };
    const series: { failures: number; waitSeconds: number }[] = [];
    for (let round = 0; round < 4; round++) {
      series.push(await recordUntilRejected(throttleOf(nodes[round % 2] as TestApp), attempt));
      await letPass(database, 10 * PERSONAL.short.intervalSeconds);
    }
    const waits = series.map(({ waitSeconds }) => waitSeconds);
    expect(series.map(({ failures }) => failures)).toEqual([10, 10, 10, 2]);
    expect(Math.max(...waits.slice(0, 3))).toBeLessThanOrEqual(PERSONAL.short.intervalSeconds);
    expect(waits[3]).toBeGreaterThan(PERSONAL.short.intervalSeconds);
    expect(waits[3]).toBeLessThanOrEqual(PERSONAL.long.intervalSeconds);
  });

  it('failed logins still count when Redis has evicted everything', async () => {
    const { username } = await registerUser(nodes[0]);
    const headers = stranger();
    const replies: Reply[] = [];
    for (let attempt = 0; attempt < 60; attempt++) {
      await sendRedisCommand(redis.port, 'FLUSHALL');
      replies.push(...(await failLogins([nodes[attempt % 2] as TestApp], username, 1, headers)));
    }
    const { 401: failed } = countStatuses(replies);
    // The bucket drains while the test runs.
    expect(failed).toBeLessThanOrEqual(PERSONAL.long.burst);
    expect(failed).toBeGreaterThanOrEqual(PERSONAL.short.burst);
  });

  it('wrong current passwords count for the session that sends them', async () => {
    const user = await registerUser(nodes[0]);
    const otherToken = await logIn(nodes[0], user.username);
    const change = (node: TestApp, token: string, currentPassword: string): Promise<Reply> =>
      node.call('PUT', `/v1/users/${user.id}/password`, {
        token,
        body: { currentPassword, newPassword: NEW_PASSWORD },
      });
    const replies = await Promise.all(
      Array.from({ length: PERSONAL.short.burst + 5 }, (_, index) =>
        change(nodes[index % 2] as TestApp, user.token, WRONG_PASSWORD),
      ),
    );
    expect(countStatuses(replies)).toEqual({ 403: PERSONAL.short.burst, 429: 5 });
    const correct = await change(nodes[1], user.token, PASSWORD);
    expectProblem(correct, 429, 'too-many-attempts');
    expect((await change(nodes[1], otherToken, PASSWORD)).status).toBe(204);
  });

  it('login names are not stored: a user may have typed a password there', async () => {
    const typed = 'my-password-in-the-wrong-field';
    await tryLogIn(nodes[0], typed, WRONG_PASSWORD, stranger());
    const { rows } = await database.query<{ text: string }>(
      `SELECT encode(key, 'escape') AS text FROM failed_logins`,
    );
    expect(rows.length).toBeGreaterThan(0);
    expect(rows.map(({ text }) => text).join()).not.toContain(typed);
    expect(await sendRedisCommand(redis.port, 'KEYS *')).not.toContain(typed);
  });
});

it('failed logins are still limited, on all nodes together, while Redis is gone', async () => {
  const redis = await startRedis();
  const first = await startApp({ REDIS_URL: redis.url });
  const second = await startApp({ REDIS_URL: redis.url }, first.databaseUrl);
  try {
    const { username } = await registerUser(first);
    await redis.kill();
    const times = PERSONAL.short.burst + 5;
    const replies = await failLogins([first, second], username, times, {});
    expect(countStatuses(replies)).toEqual({ 401: PERSONAL.short.burst, 429: 5 });
  } finally {
    await second.close();
    await first.close();
    await redis.stop();
  }
});

describe('LoginThrottle', () => {
  let app: TestApp;
  let throttle: LoginThrottle;
  let database: pg.Client;

  beforeAll(async () => {
    app = await startApp();
    throttle = throttleOf(app);
    database = new pg.Client({ connectionString: app.databaseUrl });
    await database.connect();
  });
  afterAll(async () => {
    await database.end();
    await app.close();
  });

  const countRows = async (): Promise<number> => {
    const { rows } = await database.query<{ rows: number }>(
      'SELECT count(*)::int AS rows FROM failed_logins',
    );
    return rows[0]?.rows as number;
  };

  it('of many attempts at once, exactly as many pass as the limit allows', async () => {
    const attempt = { session: 'ada', device: 'ida' };
    expect(await countPassed(throttle, attempt, 500)).toBe(PERSONAL.short.burst);
  });

  it('attempts at once with common counters in any order do not deadlock', async () => {
    const names = Array.from({ length: 8 }, (_, index) => `name ${index}`);
    const attempts = Array.from({ length: 200 }, (_, index) => {
      const [name, network, device] = [1, 3, 5].map((step) => names[(index * step) % names.length]);
      return { name, network, device } as LoginAttempt;
    });
    const results = await Promise.allSettled(
      attempts.map(async (attempt) => {
        await throttle.recordAttempt(attempt);
        await throttle.recordSuccess(attempt);
      }),
    );
    const errors = results.flatMap((result) =>
      result.status === 'rejected' ? [result.reason] : [],
    );
    expect(errors.filter((error) => !(error instanceof Problem))).toEqual([]);
  });

  it('a correct password takes its attempt from shared counters and empties others', async () => {
    const kinds = Object.keys(FAILED_LOGIN_LIMITS) as FailedLoginKind[];
    const attempt = Object.fromEntries(kinds.map((kind) => [kind, 'grace']));
    expect(await countPassed(throttle, attempt, 3)).toBe(3);
    await throttle.recordSuccess(attempt);
    const counts: Record<string, number | undefined> = {};
    for (const kind of kinds) {
      const { rows } = await database.query<{ failures: number }>(
        `SELECT ceil(greatest(0, extract(epoch FROM long_drained_at - now())) / $1)::int AS failures
           FROM failed_logins WHERE key = $2`,
        [FAILED_LOGIN_LIMITS[kind].long.intervalSeconds, keyOf(kind, 'grace')],
      );
      counts[kind] = rows[0]?.failures;
    }
    expect(counts).toEqual({
      ...{ name: 2, network: 2, devicesOfUser: 2 },
      ...{ nameAndNetwork: 0, device: 0, session: 0 },
    });
  });

  it('a wait of less than a second is one of a second', async () => {
    const { waitSeconds } = await recordUntilRejected(throttle, { network: '192.0.2.77' });
    expect(waitSeconds).toBe(1);
  });

  it('each kind and each key has counters of its own', async () => {
    const attempts: LoginAttempt[] = [
      { nameAndNetwork: 'eve' },
      { nameAndNetwork: 'eva' },
      { device: 'eve' },
      { session: 'eve' },
    ];
    const passed = await Promise.all(attempts.map((attempt) => countPassed(throttle, attempt, 30)));
    expect(passed).toEqual(attempts.map(() => PERSONAL.short.burst));
  });

  it('rejected attempts are not counted, and leave no row', async () => {
    await recordUntilRejected(throttle, { nameAndNetwork: 'carol' });
    const rows = await countRows();
    const attempt = { nameAndNetwork: 'carol', network: '192.0.2.1', name: 'carol' };
    expect(await countPassed(throttle, attempt, 100)).toBe(0);
    expect(await countRows()).toBe(rows);
  });

  it('counters are deleted when they are empty, in bounded batches', async () => {
    await letPass(database, 365 * 24 * 3_600);
    await database.query(
      `INSERT INTO failed_logins (key, short_drained_at, long_drained_at)
       SELECT decode(md5(number::text), 'hex'), now(), now() - make_interval(secs => number)
         FROM generate_series(1, 10500) AS number`,
    );
    await countPassed(throttle, { nameAndNetwork: 'dave' }, 1);
    // The counter of one limit is empty, and that of the other is not.
    await database.query(
      `INSERT INTO failed_logins (key, short_drained_at, long_drained_at)
       VALUES ($1, now() - interval '1 s', now() + interval '1 h'),
              ($2, now() + interval '1 h', now() - interval '1 s')`,
      [keyOf('name', 'short'), keyOf('name', 'long')],
    );
    const before = await countRows();
    await throttle.purge();
    expect(await countRows()).toBe(before - 10_000);
    await throttle.purge();
    expect(await countRows()).toBe(3);
  });

  it('the statements of a login and of the purge use indexes', async () => {
    const { rows } = await database.query<{ indexdef: string }>(
      `SELECT indexdef FROM pg_indexes WHERE tablename = 'failed_logins' ORDER BY indexname`,
    );
    expect(rows.map(({ indexdef }) => indexdef.replace(/^.*USING /, ''))).toEqual([
      'btree (long_drained_at)',
      'btree (key)',
    ]);
  });
});
