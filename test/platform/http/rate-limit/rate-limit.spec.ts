/** The general limit: so many requests a minute for a user, or for an address without one, told in every answer. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { person, type Person } from '../support/factories.js';
import { expectProblem } from '../support/problem.js';
import { startRedis } from '../support/redis.js';

const LIMIT = 5;

describe('the rate limit', () => {
  let app: TestApp;
  let first: Person;
  let second: Person;

  beforeAll(async () => {
    app = await startApp({ RATE_LIMIT_PER_MINUTE: String(LIMIT) });
    // Four of the address's five.
    [first, second] = [await person(app), await person(app)];
  });
  afterAll(() => app.close());

  const told = ({ headers }: Reply): { policy: string | null; left: number; seconds: number } => {
    const [, left, seconds] =
      /^"default";r=(\d+);t=(\d+)$/.exec(headers.get('ratelimit') ?? '') ?? [];
    return {
      policy: headers.get('ratelimit-policy'),
      left: Number(left),
      seconds: Number(seconds),
    };
  };

  it('counts down, then refuses with 429 and says when to come back', async () => {
    for (let left = LIMIT - 1; left >= 0; left--) {
      const reply = await app.call('GET', '/v1/users/me', { token: first.token });
      expect(reply.status).toBe(200);
      const { policy, seconds, ...rest } = told(reply);
      expect([policy, rest.left]).toEqual([`"default";q=${LIMIT};w=60`, left]);
      expect(seconds).toBeGreaterThan(0);
      expect(seconds).toBeLessThanOrEqual(60);
    }
    for (let times = 0; times < 2; times++) {
      const refused = await app.call('GET', '/v1/users/me', { token: first.token });
      expectProblem(refused, 429, 'rate-limited');
      expect(told(refused)).toMatchObject({ policy: `"default";q=${LIMIT};w=60`, left: 0 });
      expect(Number(refused.headers.get('retry-after'))).toBe(told(refused).seconds);
    }
  });

  it('is each user’s own', async () => {
    const reply = await app.call('GET', '/v1/users/me', { token: second.token });
    expect([reply.status, told(reply).left]).toEqual([200, LIMIT - 1]);
  });

  it('is counted for whoever has no session by the address, refused tokens and logins alike', async () => {
    const fifth = await app.call('GET', '/v1/users/me', { token: 'nobody' });
    expectProblem(fifth, 401, 'unauthenticated');
    expect(told(fifth).left).toBe(0);
    expectProblem(await app.call('GET', '/v1/users/me'), 429, 'rate-limited');
    const body = { username: first.username, password: 'whatever it may be' };
    expectProblem(await app.call('POST', '/v1/sessions', { body }), 429, 'rate-limited');
    const proxied = await app.call('GET', '/v1/users/me', {
      headers: { 'X-Forwarded-For': '192.0.2.7' },
    });
    expectProblem(proxied, 429, 'rate-limited');
  });

  it('does not hold for probes and metrics', async () => {
    for (let times = 0; times < 3 * LIMIT; times++)
      for (const path of ['/health/live', '/health/ready', '/health/startup', '/metrics']) {
        const reply = await app.call('GET', path);
        expect([path, reply.status === 429, reply.headers.get('ratelimit')]).toEqual([
          path,
          false,
          null,
        ]);
      }
  });
});

describe('a thousand requests at once', () => {
  const LIMITED = { RATE_LIMIT_PER_MINUTE: String(LIMIT) };
  const passed = async (apps: TestApp[], token: string): Promise<number> => {
    const replies = await Promise.all(
      Array.from({ length: 1_000 }, (_, turn) =>
        (apps[turn % apps.length] as TestApp).call('GET', '/v1/users/me', { token }),
      ),
    );
    expect(new Set(replies.map(({ status }) => status))).toEqual(new Set([200, 429]));
    return replies.filter(({ status }) => status === 200).length;
  };

  it('are let through as often as the limit says, on two nodes together', async () => {
    const redis = await startRedis();
    const first = await startApp({ ...LIMITED, REDIS_URL: redis.url });
    const second = await startApp({ ...LIMITED, REDIS_URL: redis.url }, first.databaseUrl);
    try {
      const { token } = await person(first);
      expect(await passed([first, second], token)).toBe(LIMIT);
      await redis.kill();
      // Each process counts for itself then, and goes on doing so.
      expect(await passed([first, second], token)).toBe(2 * LIMIT);
    } finally {
      await second.close();
      await first.close();
      await redis.stop();
    }
  });

  it('are let through as often as the limit says, on one node without Redis', async () => {
    const app = await startApp(LIMITED);
    try {
      expect(await passed([app], (await person(app)).token)).toBe(LIMIT);
    } finally {
      await app.close();
    }
  });
});
