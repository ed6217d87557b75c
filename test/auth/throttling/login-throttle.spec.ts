/**
 * Wrong passwords: counted on all nodes together, with waits that grow, told alike for names that exist and names that do not,
 * and never in the way of a device that has logged in before.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { GUESS_WINDOWS, type Guess, Guesses } from '../../src/auth/guesses.js';
import { ARGON2ID, Passwords } from '../../src/auth/passwords.js';
import { counter, MOST_KEYS, networkOf } from '../../src/http/counters.js';
import { Problem } from '../../src/http/problem.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { logIn, PASSWORD, person, uniqueName } from '../support/factories.js';
import { anonymous, expectProblem } from '../support/problem.js';
import { ask, type RedisServer, startRedis } from '../support/redis.js';

const [MINUTE, QUARTER, LONG] = GUESS_WINDOWS.account;
const WRONG = 'ten tall ships at anchor';
const STRANGER = { 'User-Agent': 'stranger/1.0' };

describe('guessing', () => {
  let redis: RedisServer;
  let nodes: [TestApp, TestApp];

  beforeAll(async () => {
    redis = await startRedis();
    const env = { REDIS_URL: redis.url, TRUST_PROXY: '127.0.0.1' };
    const first = await startApp(env);
    nodes = [first, await startApp(env, first.databaseUrl)];
  });
  afterAll(async () => {
    await nodes[1].close();
    await nodes[0].close();
    await redis.stop();
  });

  const tryIt = (
    node: TestApp,
    username: string,
    password: string,
    headers: Record<string, string> = {},
  ): Promise<Reply> => node.call('POST', '/v1/sessions', { body: { username, password }, headers });
  /** As many wrong passwords as a window lets pass, on both nodes in turn, at once. */
  const guess = (username: string, times: number, headers = STRANGER): Promise<Reply[]> =>
    Promise.all(
      Array.from({ length: times }, (_, turn) =>
        tryIt(nodes[turn % 2] as TestApp, username, WRONG, headers),
      ),
    );
  const statuses = (replies: Reply[]): Record<string, number> => {
    const counts: Record<string, number> = {};
    for (const { status } of replies) counts[status] = (counts[status] ?? 0) + 1;
    return counts;
  };
  const retryAfter = (reply: Reply): number => Number(reply.headers.get('retry-after'));
  /** As if a window had ended. */
  const forget = async (kind: string, seconds: number): Promise<void> => {
    const keys =
      (await ask(redis.port, `KEYS hf:guess:${kind}:${seconds}:*`)).match(/hf:guess\S+/g) ?? [];
    for (const key of keys) await ask(redis.port, `DEL ${key}`);
  };

  it('stops after as many as the window has, sent at once to two nodes, and then asks to wait', async () => {
    const { username } = await person(nodes[0]);
    const replies = await guess(username, 30);
    expect(statuses(replies)).toEqual({ 401: MINUTE.failures, 429: 30 - MINUTE.failures });
    for (const refused of replies.filter(({ status }) => status === 429)) {
      expectProblem(refused, 429, 'too-many-attempts');
      expect(retryAfter(refused)).toBeLessThanOrEqual(MINUTE.seconds);
    }
    // The right one too: else a refusal would tell which it is.
    for (const node of nodes)
      expectProblem(await tryIt(node, username, PASSWORD, STRANGER), 429, 'too-many-attempts');
  });

  it('makes every further series wait longer', async () => {
    const guesses = nodes.map(({ app }) => app.get(Guesses, { strict: false }));
    const name = uniqueName();
    let passed = 0;
    const untilRefused = async (): Promise<number> => {
      for (;;) {
        const refusal = await guesses[passed % 2]
          ?.count({ account: name })
          .catch((error: unknown) => error as Problem);
        if (refusal) return Number(refusal.details.headers?.['Retry-After']);
        passed++;
      }
    };
    const waits: [number, number][] = [];
    while (passed < LONG.failures) {
      waits.push([await untilRefused(), passed]);
      await forget('account', MINUTE.seconds);
      if ((waits.at(-1)?.[0] ?? 0) > MINUTE.seconds) await forget('account', QUARTER.seconds);
    }
    const [first, second, third] = waits as [[number, number], [number, number], [number, number]];
    expect([first[1], second[1], third[1]]).toEqual([10, 20, 25]);
    expect(first[0]).toBeLessThanOrEqual(MINUTE.seconds);
    expect(third[0]).toBeGreaterThan(MINUTE.seconds);
    expect(third[0]).toBeLessThanOrEqual(QUARTER.seconds);
    expect(await untilRefused()).toBeGreaterThan(13 * 86_400);
    const { username } = await person(nodes[0]);
    for (let times = 0; times < LONG.failures; times++) {
      await guesses[0]?.count({ account: username }).catch(() => undefined);
      if (times % 10 === 9) await forget('account', MINUTE.seconds);
      if (times % 25 === 24) await forget('account', QUARTER.seconds);
    }
    expect(retryAfter(await tryIt(nodes[1], username, PASSWORD, STRANGER))).toBeGreaterThan(
      13 * 86_400,
    );
  });

  it('tells nothing about whether there is such a user', async () => {
    const { username } = await person(nodes[0]);
    const told = async (name: string): Promise<unknown[]> => {
      const seen: unknown[] = [];
      for (let times = 0; times < MINUTE.failures + 2; times++) {
        const reply = await tryIt(nodes[0], name, WRONG, STRANGER);
        const headers = [...reply.headers.keys()].filter((header) => header !== 'date').sort();
        seen.push([reply.status, anonymous(reply), headers, reply.headers.get('www-authenticate')]);
      }
      return seen;
    };
    const known = await told(username);
    await forget('address', 60);
    expect(known.map((it) => (it as unknown[])[0])).toEqual([
      ...Array<number>(MINUTE.failures).fill(401),
      429,
      429,
    ]);
    expect(await told(`${uniqueName()}@example.com`)).toEqual(known);
    await forget('address', 60);
  });

  it('takes the same queries and the same hashing for a name that nobody has', async () => {
    const { username, email } = await person(nodes[0]);
    const queries = async (): Promise<number> => {
      const { text } = await nodes[0].call('GET', '/metrics');
      return Number(
        /db_client_operation_duration_seconds_count\{operation="SELECT"\} (\d+)/.exec(text)?.[1],
      );
    };
    const costs = new Set<number>();
    for (const name of [username, uniqueName(), email, `${uniqueName()}@example.com`, username]) {
      // Timers of the service query too: the least of a few is the login's own.
      const each: number[] = [];
      for (let times = 0; times < 3; times++) {
        const before = await queries();
        await tryIt(nodes[0], name, WRONG, { 'User-Agent': uniqueName() });
        each.push((await queries()) - before);
        await forget('account', 60);
      }
      costs.add(Math.min(...each));
    }
    expect(costs.size).toBe(1);
    expect(Math.max(...costs)).toBeGreaterThanOrEqual(3);

    const passwords = nodes[0].app.get(Passwords, { strict: false });
    const { decoy } = passwords as unknown as { decoy: Promise<string> };
    const parameters = (hash: string): string => hash.split('$').slice(0, 4).join('$');
    expect(parameters(await decoy)).toBe(parameters(await passwords.hash('any password whatever')));
    let turns = 0;
    const nobody = (): Promise<{ passwordHash: undefined }> =>
      Promise.resolve({ passwordHash: void turns++ });
    expect(await passwords.verify('the password of nobody at all', nobody)).toMatchObject({
      right: false,
    });
    expect(turns).toBe(1);
  });

  it('never keeps out a device that has logged in before, nor ends a session', async () => {
    const someone = await person(nodes[0]);
    const home = { 'User-Agent': 'home/1.0' };
    const { body } = await tryIt(nodes[0], someone.username, PASSWORD, home);
    await guess(someone.username, MINUTE.failures + 1);
    expectProblem(
      await tryIt(nodes[1], someone.username, PASSWORD, STRANGER),
      429,
      'too-many-attempts',
    );
    for (const node of nodes) {
      expect((await tryIt(node, someone.username, PASSWORD, home)).status).toBe(201);
      expect((await tryIt(node, someone.email, PASSWORD, home)).status).toBe(201);
      expect((await node.call('GET', '/v1/users/me', { token: body.token as string })).status).toBe(
        200,
      );
    }
    // Its own wrong passwords count for itself, under whichever name.
    for (const name of [someone.username, someone.email])
      await guess(name, MINUTE.failures / 2, home);
    expectProblem(
      await tryIt(nodes[0], someone.username, PASSWORD, home),
      429,
      'too-many-attempts',
    );
    expect((await tryIt(nodes[0], someone.username, PASSWORD, { 'User-Agent': '' })).status).toBe(
      429,
    );
    await forget('address', 60);
  });

  it('starts afresh after a right password, for the name and not for the address', async () => {
    const { username } = await person(nodes[0]);
    const from = { ...STRANGER, 'X-Forwarded-For': '203.0.113.9' };
    for (let round = 0; round < 3; round++) {
      const newcomer = { 'User-Agent': uniqueName(), 'X-Forwarded-For': '203.0.113.9' };
      expect(statuses(await guess(username, MINUTE.failures - 1, from))).toEqual({
        401: MINUTE.failures - 1,
      });
      expect((await tryIt(nodes[0], username, PASSWORD, newcomer)).status).toBe(201);
    }
    const guesses = nodes[1].app.get(Guesses, { strict: false });
    const counted = 3 * (MINUTE.failures - 1);
    const left = GUESS_WINDOWS.address[0].failures - counted;
    const more = await Promise.allSettled(
      Array.from({ length: left + 5 }, () => guesses.count({ address: '203.0.113.9' })),
    );
    expect(more.filter(({ status }) => status === 'fulfilled')).toHaveLength(left);
  });

  it('counts an IPv6 network of 64 bits as one address, whatever the names', async () => {
    const guesses = nodes[0].app.get(Guesses, { strict: false });
    const filled = { address: networkOf('2001:db8:1:2::1') };
    for (let times = 0; times < GUESS_WINDOWS.address[0].failures; times++)
      await guesses.count(filled);
    const from = (ip: string): Promise<Reply> =>
      tryIt(nodes[1], uniqueName(), WRONG, { ...STRANGER, 'X-Forwarded-For': ip });
    expectProblem(await from('2001:db8:1:2:ffff:eeee:dddd:cccc'), 429, 'too-many-attempts');
    expectProblem(await from('2001:db8:1:3::1'), 401, 'invalid-credentials');
  });

  it('counts guesses of the current password for the session that makes them', async () => {
    const someone = await person(nodes[0]);
    const other = await logIn(nodes[0], someone.username);
    const change = (node: TestApp, token: string, currentPassword: string): Promise<Reply> =>
      node.call('PUT', `/v1/users/${someone.id}/password`, {
        token,
        body: { currentPassword, newPassword: 'eleven tall ships at anchor' },
      });
    const replies = await Promise.all(
      Array.from({ length: MINUTE.failures + 5 }, (_, turn) =>
        change(nodes[turn % 2] as TestApp, someone.token, WRONG),
      ),
    );
    expect(statuses(replies)).toEqual({ 403: MINUTE.failures, 429: 5 });
    expectProblem(await change(nodes[1], someone.token, PASSWORD), 429, 'too-many-attempts');
    expect((await change(nodes[1], other, PASSWORD)).status).toBe(204);
  });

  it('leaves no name in Redis: a password may have been typed there', async () => {
    const typed = 'my-password-in-the-wrong-field';
    await tryIt(nodes[0], typed, WRONG, STRANGER);
    const keys = await ask(redis.port, 'KEYS *');
    expect(keys).toContain('hf:guess:account');
    expect(keys).not.toContain(typed);
  });

  it('goes on in each process while Redis is gone', async () => {
    const { username } = await person(nodes[0]);
    await redis.kill();
    try {
      for (const node of nodes) {
        const replies = await Promise.all(
          Array.from({ length: MINUTE.failures + 5 }, () => tryIt(node, username, WRONG, STRANGER)),
        );
        expect(statuses(replies)).toEqual({ 401: MINUTE.failures, 429: 5 });
      }
    } finally {
      await redis.restart();
    }
  });
});

describe('a device of a user', () => {
  it('is forgotten when 20 others were used since, and with the user', async () => {
    const app = await startApp();
    try {
      const someone = await person(app);
      const from = (userAgent: string, password: string): Promise<Reply> =>
        app.call('POST', '/v1/sessions', {
          body: { username: someone.username, password },
          headers: { 'User-Agent': userAgent },
        });
      for (let device = 0; device <= 20; device++)
        expect((await from(`device/${device}`, PASSWORD)).status).toBe(201);
      for (let times = 0; times < MINUTE.failures; times++) await from('stranger/1.0', WRONG);
      expect((await from('device/20', PASSWORD)).status).toBe(201);
      expect((await from('device/1', PASSWORD)).status).toBe(201);
      expectProblem(await from('device/0', PASSWORD), 429, 'too-many-attempts');
      expect(
        (await app.call('DELETE', `/v1/users/${someone.id}`, { token: someone.token })).status,
      ).toBe(204);
    } finally {
      await app.close();
    }
  });
});

describe('the counts of guesses', () => {
  const passes = async (guesses: Guesses, guess: Guess, times: number): Promise<number> => {
    const results = await Promise.allSettled(
      Array.from({ length: times }, () => guesses.count(guess)),
    );
    for (const result of results)
      if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(Problem);
    return results.filter(({ status }) => status === 'fulfilled').length;
  };

  it('let exactly as many pass as the window has, of a thousand at once', async () => {
    expect(await passes(new Guesses(undefined), { account: 'ada' }, 1_000)).toBe(MINUTE.failures);
  });

  it('are each one’s own', async () => {
    const guesses = new Guesses(undefined);
    for (const guess of [
      { account: 'ada' },
      { account: 'ida' },
      { device: 'ada' },
      { session: 'ada' },
    ])
      expect(await passes(guesses, guess, 50)).toBe(MINUTE.failures);
  });

  it('do not count what is refused', async () => {
    const guesses = new Guesses(undefined);
    await passes(guesses, { account: 'ada', address: '192.0.2.1' }, 1_000);
    const left = GUESS_WINDOWS.address[0].failures - MINUTE.failures;
    expect(await passes(guesses, { address: '192.0.2.1' }, 1_000)).toBe(left);
  });

  it('hold a bounded number of keys in a process', async () => {
    const one = counter(undefined, { keyPrefix: 'test', points: 1, duration: 60 });
    await one.consume('first');
    for (let key = 0; key < MOST_KEYS; key++) await one.consume(key);
    expect(await one.get('first')).toBeNull();
    expect(await one.get(String(MOST_KEYS - 1))).not.toBeNull();
  });

  it('are of an IPv4 address however it is written, and of an IPv6 network', () => {
    for (const ip of [
      '192.0.2.7',
      '::ffff:192.0.2.7',
      '::ffff:c000:207',
      '0:0:0:0:0:FFFF:192.0.2.7',
    ])
      expect(networkOf(ip)).toBe('192.0.2.7');
    for (const ip of [
      '2001:db8:0:1::',
      '2001:DB8::1:0:0:0:9',
      '2001:0db8:0000:0001:ffff::1%eth0',
      '2001:db8:0:1:2:3:4:5',
    ])
      expect(networkOf(ip)).toBe('2001:db8:0:1::/64');
    expect(networkOf('::1')).toBe('0:0:0:0::/64');
    expect(networkOf('2001:db8:0:2::')).not.toBe(networkOf('2001:db8:0:1::'));
  });

  it('are of hashes that are as strong as they must be', () => {
    expect(ARGON2ID.memoryCost).toBeGreaterThanOrEqual(19_456);
    expect(ARGON2ID.timeCost).toBeGreaterThanOrEqual(2);
  });
});
