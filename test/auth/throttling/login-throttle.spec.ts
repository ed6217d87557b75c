/**
 * Failed logins: counted on all nodes together, with waits that grow, alike for existing and
 * unknown names, and without locking out devices that have logged in before.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { PasswordsService } from '../../../src/auth/passwords/passwords.service.js';
import {
  FAILED_LOGIN_WINDOWS,
  type LoginAttempt,
  LoginThrottle,
} from '../../../src/auth/throttling/login-throttle.service.js';
import { RedisStore } from '../../../src/platform/cache/store/redis/redis-store.js';
import { Problem } from '../../../src/platform/http/problems/problem.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { logIn, PASSWORD, registerUser, uniqueUsername } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem, withoutRequestFields } from '../../support/problem.js';
import { type RedisServer, sendRedisCommand, startRedis } from '../../support/redis.js';

const [MINUTE, QUARTER_HOUR, TWO_WEEKS] = FAILED_LOGIN_WINDOWS.account;
const [NETWORK_MINUTE] = FAILED_LOGIN_WINDOWS.address;
const THIRTEEN_DAYS_SECONDS = 13 * 24 * 3600;
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

describe('failed logins at one node', () => {
  let app: TestApp;

  beforeAll(async () => {
    app = await startApp({ TRUST_PROXY: '127.0.0.1' });
  });
  afterAll(() => app.close());

  it('past the limit, a correct password is rejected like a wrong one', async () => {
    const { username } = await registerUser(app);
    const headers = stranger();
    await failLogins([app], username, MINUTE.maxFailures, headers);
    const reply = await tryLogIn(app, username, PASSWORD, headers);
    expectProblem(reply, 429, 'too-many-attempts');
  });

  it('failed logins do not reveal whether the name exists', async () => {
    /** All that a client sees of failed logins, past the limit as well. */
    async function observe(name: string): Promise<unknown[]> {
      const headers = stranger();
      const observed: unknown[] = [];
      for (let count = 0; count < MINUTE.maxFailures + 2; count++) {
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
      ...Array<number>(MINUTE.maxFailures).fill(401),
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
        const table = /\b(?:FROM|INTO|UPDATE) "?(users|credentials|known_devices)\b/.exec(sql)?.[1];
        if (table !== undefined) tables.push(table);
      };
      await tryLogIn(app, name, WRONG_PASSWORD, stranger());
      logger.logQuery = logQuery;
      return tables;
    }
    const ofUsername = await tablesOf(username);
    expect([...ofUsername].sort()).toEqual(['credentials', 'known_devices', 'users']);
    expect(await tablesOf(email)).toEqual(ofUsername);
    expect(await tablesOf(uniqueUsername())).toEqual(ofUsername);
    expect(await tablesOf(`${uniqueUsername()}@example.com`)).toEqual(ofUsername);
  });

  it('the hash that is verified for an unknown name has the parameters of new hashes', async () => {
    const passwords = app.app.get(PasswordsService, { strict: false });
    const { decoyHash } = passwords as unknown as { decoyHash: Promise<string> };
    const parametersOf = (hash: string): string => hash.split('$').slice(0, 4).join('$');
    const newHash = await passwords.hash(
      { lane: 'login', caller: 'test' },
      'any password whatever',
    );
    expect(parametersOf(await decoyHash)).toBe(parametersOf(newHash));
  });

  it('failed logins of strangers neither lock out a known device nor end a session', async () => {
    const user = await registerUser(app);
    const home = stranger();
    const session = await tryLogIn(app, user.username, PASSWORD, home);
    const elsewhere = stranger();
    await failLogins([app], user.username, MINUTE.maxFailures + 1, elsewhere);
    const lockedOut = await tryLogIn(app, user.username, PASSWORD, elsewhere);
    expectProblem(lockedOut, 429, 'too-many-attempts');
    expect((await tryLogIn(app, user.username, PASSWORD, home)).status).toBe(201);
    expect((await tryLogIn(app, user.email, PASSWORD, home)).status).toBe(201);
    const me = await app.call('GET', '/v1/users/me', { token: session.body.token as string });
    expect(me.status).toBe(200);
  });

  it('failed logins of a known device count for the device, under both names', async () => {
    const user = await registerUser(app);
    const home = stranger();
    await tryLogIn(app, user.username, PASSWORD, home);
    await failLogins([app], user.username, MINUTE.maxFailures / 2, home);
    await failLogins([app], user.email, MINUTE.maxFailures / 2, home);
    const reply = await tryLogIn(app, user.username, PASSWORD, home);
    expectProblem(reply, 429, 'too-many-attempts');
    const elsewhere = await tryLogIn(app, user.username, PASSWORD, stranger());
    expect(elsewhere.status).toBe(201);
  });

  it('another user agent at a known address is another device', async () => {
    const user = await registerUser(app);
    const home = stranger();
    await tryLogIn(app, user.username, PASSWORD, home);
    await failLogins([app], user.username, MINUTE.maxFailures, stranger());
    const otherDevice = { ...home, 'User-Agent': '' };
    const reply = await tryLogIn(app, user.username, PASSWORD, otherDevice);
    expectProblem(reply, 429, 'too-many-attempts');
  });

  it('a correct password resets the counters of the name, not of the address', async () => {
    const { username } = await registerUser(app);
    const attacker = stranger();
    const address = attacker['X-Forwarded-For'] as string;
    const rounds = 3;
    const failuresPerRound = MINUTE.maxFailures - 1;
    const statuses: Record<string, number>[] = [];
    for (let round = 0; round < rounds; round++) {
      statuses.push(countStatuses(await failLogins([app], username, failuresPerRound, attacker)));
      const newDevice = { ...stranger(), 'X-Forwarded-For': address };
      statuses.push(countStatuses([await tryLogIn(app, username, PASSWORD, newDevice)]));
    }
    const expected = [{ 401: failuresPerRound }, { 201: 1 }];
    expect(statuses).toEqual([...expected, ...expected, ...expected]);
    const left = NETWORK_MINUTE.maxFailures - rounds * failuresPerRound;
    expect(await countPassed(throttleOf(app), { address }, left + 5)).toBe(left);
  });

  it('an IPv6 network of 64 bits counts as one address, whatever the names', async () => {
    const from = (ip: string): Promise<Reply> =>
      tryLogIn(app, uniqueUsername(), WRONG_PASSWORD, { ...stranger(), 'X-Forwarded-For': ip });
    expectProblem(await from('2001:db8:1:2::1'), 401, 'invalid-credentials');
    const left = NETWORK_MINUTE.maxFailures - 1;
    const network = { address: '2001:db8:1:2::/64' };
    expect(await countPassed(throttleOf(app), network, left)).toBe(left);
    expectProblem(await from('2001:db8:1:2:ffff:eeee:dddd:cccc'), 429, 'too-many-attempts');
    expectProblem(await from('2001:db8:1:3::1'), 401, 'invalid-credentials');
  });
});

describe('failed logins at two nodes', () => {
  /**
   * Milliseconds. On a busy machine, Redis may need more than the 200 ms of the service. Each node
   * would count alone then.
   */
  const PATIENT_TIMEOUT_MS = 20_000;
  let redis: RedisServer;
  let nodes: [TestApp, TestApp];
  let stores: [RedisStore, RedisStore];
  let throttles: [LoginThrottle, LoginThrottle];

  beforeAll(async () => {
    redis = await startRedis();
    const env = { REDIS_URL: redis.url, TRUST_PROXY: '127.0.0.1' };
    const first = await startApp(env);
    nodes = [first, await startApp(env, first.databaseUrl)];
    stores = [await connectPatiently(), await connectPatiently()];
    throttles = [new LoginThrottle(stores[0].client), new LoginThrottle(stores[1].client)];
    // The nodes count through the patient clients, too.
    Object.assign(throttleOf(nodes[0]), throttles[0]);
    Object.assign(throttleOf(nodes[1]), throttles[1]);
  });
  afterAll(async () => {
    await Promise.all(stores.map((store) => store.close()));
    await nodes[1].close();
    await nodes[0].close();
    await redis.stop();
  });

  async function connectPatiently(): Promise<RedisStore> {
    const store = RedisStore.connect({ url: redis.url, commandTimeoutMs: PATIENT_TIMEOUT_MS });
    await eventually('the store is connected', () => store.isAvailable);
    return store;
  }

  /** Deletes the counters of a window, as if it had ended. */
  async function endWindow({ seconds }: { readonly seconds: number }): Promise<void> {
    const reply = await sendRedisCommand(redis.port, `KEYS hf:guess:account:${seconds}:*`);
    for (const key of reply.match(/hf:guess\S+/g) ?? []) {
      await sendRedisCommand(redis.port, `DEL ${key}`);
    }
  }

  it('logins at two nodes at once fail as often as the window allows, then wait', async () => {
    const { username } = await registerUser(nodes[0]);
    const headers = stranger();
    const replies = await failLogins(nodes, username, 30, headers);
    expect(countStatuses(replies)).toEqual({
      401: MINUTE.maxFailures,
      429: 30 - MINUTE.maxFailures,
    });
    const rejected = replies.filter(({ status }) => status === 429);
    rejected.forEach((reply) => expectProblem(reply, 429, 'too-many-attempts'));
    expect(Math.max(...rejected.map(retryAfterOf))).toBeLessThanOrEqual(MINUTE.seconds);
    const later = await Promise.all(
      nodes.map((node) => tryLogIn(node, username, PASSWORD, headers)),
    );
    expect(later.map(({ status }) => status)).toEqual([429, 429]);
  });

  it('each further series of failures waits longer', async () => {
    const { username } = await registerUser(nodes[0]);
    /** Fails at both nodes in turn until an attempt is rejected. */
    async function failUntilRejected(): Promise<{ failures: number; waitSeconds: number }> {
      for (let failures = 0; ; failures++) {
        const throttle = throttles[failures % 2] as LoginThrottle;
        const problem = await throttle
          .recordAttempt({ account: username })
          .catch((error: unknown) => error as Problem);
        if (!problem) continue;
        return { failures, waitSeconds: Number(problem.details.headers?.['Retry-After']) };
      }
    }
    const series = [await failUntilRejected()];
    await endWindow(MINUTE);
    series.push(await failUntilRejected());
    await endWindow(MINUTE);
    series.push(await failUntilRejected());
    await endWindow(MINUTE);
    await endWindow(QUARTER_HOUR);
    series.push(await failUntilRejected());
    await endWindow(MINUTE);
    series.push(await failUntilRejected());
    await endWindow(MINUTE);
    series.push(await failUntilRejected());

    const failures = series.map((one) => one.failures);
    expect(failures).toEqual([10, 10, 5, 10, 10, 5]);
    expect(failures.reduce((sum, count) => sum + count)).toBe(TWO_WEEKS.maxFailures);
    const waits = series.map(({ waitSeconds }) => waitSeconds);
    expect(Math.max(...[0, 1, 3, 4].map((index) => waits[index] ?? 0))).toBeLessThanOrEqual(
      MINUTE.seconds,
    );
    expect(waits[2]).toBeGreaterThan(MINUTE.seconds);
    expect(waits[2]).toBeLessThanOrEqual(QUARTER_HOUR.seconds);
    expect(waits[5]).toBeGreaterThan(THIRTEEN_DAYS_SECONDS);
    const reply = await tryLogIn(nodes[1], username, PASSWORD, stranger());
    expectProblem(reply, 429, 'too-many-attempts');
    expect(retryAfterOf(reply)).toBeGreaterThan(THIRTEEN_DAYS_SECONDS);
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
      Array.from({ length: MINUTE.maxFailures + 5 }, (_, index) =>
        change(nodes[index % 2] as TestApp, user.token, WRONG_PASSWORD),
      ),
    );
    expect(countStatuses(replies)).toEqual({ 403: MINUTE.maxFailures, 429: 5 });
    const correct = await change(nodes[1], user.token, PASSWORD);
    expectProblem(correct, 429, 'too-many-attempts');
    expect((await change(nodes[1], otherToken, PASSWORD)).status).toBe(204);
  });

  it('login names are not stored in Redis: a user may have typed a password there', async () => {
    const typed = 'my-password-in-the-wrong-field';
    await tryLogIn(nodes[0], typed, WRONG_PASSWORD, stranger());
    const keys = await sendRedisCommand(redis.port, 'KEYS *');
    expect(keys).toContain('hf:guess:account');
    expect(keys).not.toContain(typed);
  });
});

it('failed logins are still limited, in each process, while Redis is gone', async () => {
  const redis = await startRedis();
  const app = await startApp({ REDIS_URL: redis.url });
  try {
    const { username } = await registerUser(app);
    await redis.kill();
    const replies = await failLogins([app], username, MINUTE.maxFailures + 5, {
      'User-Agent': 'stranger/1.0',
    });
    expect(countStatuses(replies)).toEqual({ 401: MINUTE.maxFailures, 429: 5 });
  } finally {
    await app.close();
    await redis.stop();
  }
});

describe('LoginThrottle', () => {
  it('of a thousand attempts at once, exactly as many pass as the window allows', async () => {
    const throttle = new LoginThrottle(undefined);
    expect(await countPassed(throttle, { account: 'ada' }, 1_000)).toBe(MINUTE.maxFailures);
  });

  it('each kind and each key has counters of its own', async () => {
    const throttle = new LoginThrottle(undefined);
    const attempts: LoginAttempt[] = [
      { account: 'ada' },
      { account: 'ida' },
      { device: 'ada' },
      { session: 'ada' },
    ];
    const passed = await Promise.all(attempts.map((attempt) => countPassed(throttle, attempt, 50)));
    expect(passed).toEqual(attempts.map(() => MINUTE.maxFailures));
  });

  it('rejected attempts are not counted', async () => {
    const throttle = new LoginThrottle(undefined);
    await countPassed(throttle, { account: 'ada', address: '192.0.2.1' }, 1_000);
    const left = NETWORK_MINUTE.maxFailures - MINUTE.maxFailures;
    expect(await countPassed(throttle, { address: '192.0.2.1' }, 1_000)).toBe(left);
  });
});
