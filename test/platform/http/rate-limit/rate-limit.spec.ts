/** The limit of requests per minute: for a user, or for an address without a session. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { RedisStore } from '../../../../src/platform/cache/store/redis/redis-store.js';
import { RateLimit } from '../../../../src/platform/http/rate-limit/rate-limit.service.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { eventually } from '../../../support/eventually.js';
import { registerUser, type TestUser } from '../../../support/factories.js';
import type { Reply } from '../../../support/http-client.js';
import { expectProblem } from '../../../support/problem.js';
import { type RedisServer, startRedis } from '../../../support/redis.js';

const LIMIT = 6;
const LIMITED = { RATE_LIMIT_PER_MINUTE: String(LIMIT) };

interface RateLimitHeaders {
  readonly policy: string | null;
  readonly left: number;
  readonly seconds: number;
}

function rateLimitOf({ headers }: Reply): RateLimitHeaders {
  const [, left, seconds] =
    /^"default";r=(\d+);t=(\d+)$/.exec(headers.get('ratelimit') ?? '') ?? [];
  return { policy: headers.get('ratelimit-policy'), left: Number(left), seconds: Number(seconds) };
}

describe('the rate limit', () => {
  let app: TestApp;

  beforeAll(async () => {
    app = await startApp(LIMITED);
  });
  afterAll(() => app.close());

  const readSelf = (token?: string): Promise<Reply> => app.call('GET', '/v1/users/me', { token });

  describe('of users', () => {
    let [first, second, third]: TestUser[] = [];

    // Registration and login count for the address: all of its requests.
    beforeAll(async () => {
      first = await registerUser(app);
      second = await registerUser(app);
      third = await registerUser(app);
    });

    it('counts down, and is 429 past the limit with the seconds to wait', async () => {
      const policy = `"default";q=${LIMIT};w=60`;
      for (let left = LIMIT - 1; left >= 0; left--) {
        const reply = await readSelf(first?.token);
        expect(reply.status).toBe(200);
        expect(rateLimitOf(reply)).toMatchObject({ policy, left });
      }
      const rejected = await readSelf(first?.token);
      const { seconds, ...rest } = rateLimitOf(rejected);
      expectProblem(rejected, 429, 'rate-limited');
      expect(rest).toEqual({ policy, left: 0 });
      expect(rejected.headers.get('retry-after')).toBe(String(seconds));
      expect(seconds >= 1 && seconds <= 60).toBe(true);
    });

    it('is counted for each user alone', async () => {
      const before = rateLimitOf(await readSelf(second?.token)).left;
      await readSelf(third?.token);
      expect(rateLimitOf(await readSelf(second?.token)).left).toBe(before - 1);
    });
  });

  describe('of an address', () => {
    let limited: TestApp;

    beforeAll(async () => {
      limited = await startApp(LIMITED, app.databaseUrl);
    });
    afterAll(() => limited.close());

    it('counts rejected tokens, logins and any X-Forwarded-For for the same address', async () => {
      for (let left = LIMIT - 1; left >= 0; left--) {
        const reply = await limited.call('GET', '/v1/users/me', { token: 'not a token' });
        expectProblem(reply, 401, 'unauthenticated');
        expect(rateLimitOf(reply).left).toBe(left);
      }
      const login = { username: 'nobody', password: 'whatever it may be' };
      const replies = [
        await limited.call('GET', '/v1/users/me'),
        await limited.call('POST', '/v1/sessions', { body: login }),
        await limited.call('GET', '/v1/users/me', { headers: { 'X-Forwarded-For': '192.0.2.7' } }),
      ];
      for (const reply of replies) expectProblem(reply, 429, 'rate-limited');
    });
  });

  it.each(['/health/live', '/health/live?verbose', '/health/ready', '/health/startup', '/metrics'])(
    'does not apply to %s',
    async (path) => {
      const requests = Array.from({ length: 3 * LIMIT }, () => app.call('GET', path));
      const replies = await Promise.all(requests);
      expect(replies.filter(({ status }) => status === 429)).toEqual([]);
      expect(replies.filter(({ headers }) => headers.has('ratelimit'))).toEqual([]);
    },
  );
});

describe('of many simultaneous requests, as many are served as the limit allows', () => {
  const REQUESTS = 200;

  async function countServed(apps: TestApp[], token: string): Promise<number> {
    const requests = Array.from({ length: REQUESTS }, (_, index) =>
      (apps[index % apps.length] as TestApp).call('GET', '/v1/users/me', { token }),
    );
    const statuses = (await Promise.all(requests)).map(({ status }) => status);
    expect(new Set(statuses)).toEqual(new Set([200, 429]));
    return statuses.filter((status) => status === 200).length;
  }

  describe('at two nodes', () => {
    let redis: RedisServer;
    let nodes: [TestApp, TestApp];

    beforeEach(async () => {
      redis = await startRedis();
      const first = await startApp({ ...LIMITED, REDIS_URL: redis.url });
      nodes = [first, await startApp({ ...LIMITED, REDIS_URL: redis.url }, first.databaseUrl)];
    });
    afterEach(async () => {
      await nodes[1].close();
      await nodes[0].close();
      await redis.stop();
    });

    it('by two nodes together', async () => {
      const { token } = await registerUser(nodes[0]);
      // On a busy machine, Redis may need more than the 200 ms that the service gives it.
      const store = RedisStore.connect({ url: redis.url, commandTimeoutMs: 20_000 });
      await eventually('the store is connected', () => store.isAvailable);
      for (const { app, config } of nodes) {
        Object.assign(app.get(RateLimit, { strict: false }), new RateLimit(config, store.client));
      }
      try {
        expect(await countServed(nodes, token)).toBe(LIMIT);
      } finally {
        await store.close();
      }
    });

    it('by each node alone when Redis is down', async () => {
      const { token } = await registerUser(nodes[0]);
      await redis.kill();
      expect(await countServed(nodes, token)).toBe(2 * LIMIT);
    });
  });

  it('by one node without Redis', async () => {
    const app = await startApp(LIMITED);
    try {
      const { token } = await registerUser(app);
      expect(await countServed([app], token)).toBe(LIMIT);
    } finally {
      await app.close();
    }
  });
});
