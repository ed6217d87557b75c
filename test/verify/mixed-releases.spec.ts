/**
 * The release before this one beside this one, over one PostgreSQL and one Redis, in both orders:
 * what either acknowledges, both show.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../support/app.js';
import { eventually } from '../support/eventually.js';
import { logInAsAdmin, placeOrder, registerUser, type TestUser } from '../support/factories.js';
import { type Reply, sendRequest } from '../support/http-client.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import {
  compilePreviousRelease,
  hasPreviousRelease,
  type PreviousRelease,
} from '../support/previous-release.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { registerCleanup } from '../platform/cache/cleanup.js';

const ROUNDS = 10;

const describeWithHistory = hasPreviousRelease() ? describe : describe.skip;

describeWithHistory('the previous release beside this one', () => {
  const afterThisTest = registerCleanup();
  let previous: PreviousRelease;
  let redis: RedisServer;
  let database: TestDatabase;

  beforeAll(async () => {
    [previous, redis, database] = await Promise.all([
      compilePreviousRelease(),
      startRedis(),
      createTestDatabase(),
    ]);
  });
  afterAll(async () => {
    await previous?.remove();
    await redis?.stop();
    await database?.drop();
  });

  interface Caller {
    call(method: string, path: string, options?: object): Promise<Reply>;
  }

  async function startNewer(): Promise<TestApp> {
    const node = await startApp({ REDIS_URL: redis.url }, database.url);
    afterThisTest(() => node.close());
    return node;
  }

  async function startOlder(): Promise<Caller & { stop(): Promise<void> }> {
    const node = await previous.start({
      DATABASE_URL: database.url,
      REDIS_URL: redis.url,
      RATE_LIMIT_PER_MINUTE: '0',
      SHUTDOWN_GRACE_SECONDS: '0',
      LOG_LEVEL: 'info',
    });
    afterThisTest(() => node.stop());
    return {
      call: (method, path, options) => sendRequest(node.url + path, method, options),
      stop: () => node.stop(),
    };
  }

  const membershipOf = async (node: TestApp): Promise<string> => {
    const { body } = await node.call('GET', '/health/ready');
    const { status, message = '' } = body.checks.cache;
    return status === 'up' ? 'member' : message.split(':')[0];
  };
  const untilState = (node: TestApp, state: string): Promise<unknown> =>
    eventually(`the newer node is ${state}`, async () => (await membershipOf(node)) === state);

  /** Tried again when the older release, on a busy machine, gives PostgreSQL up. */
  const read = (node: Caller, id: string, { token }: TestUser): Promise<Reply> =>
    eventually('the order is read', async () => {
      const reply = await node.call('GET', `/v1/orders/${id}`, { token });
      if (reply.status === 200) return reply;
      throw new Error(`${reply.status} ${reply.text}`);
    }) as Promise<Reply>;

  /** Changes the order once; tried again while the older release is refused. */
  async function write(node: Caller, id: string, version: number, { token }: TestUser) {
    await eventually('the write is acknowledged', async () => {
      const reply = await node.call('PATCH', `/v1/orders/${id}`, {
        token,
        body: { note: `after ${version}` },
        headers: { 'If-Match': `"${version}"` },
      });
      if (reply.status === 200) return true;
      throw new Error(`${reply.status} ${reply.text}`);
    });
  }

  async function expectFreshReads(
    newer: TestApp,
    older: Caller,
    id: string,
    user: TestUser,
  ): Promise<void> {
    const seen: number[][] = [];
    const { version: first } = (await read(newer, id, user)).body as { version: number };
    for (let round = 0; round < ROUNDS; round++) {
      await read(newer, id, user);
      await write(round % 2 ? newer : older, id, first + round, user);
      const replies = [await read(newer, id, user), await read(older, id, user)];
      seen.push(replies.map(({ body }) => body.version as number));
    }
    const written = Array.from({ length: ROUNDS }, (_, round) => first + round + 1);
    expect(seen).toEqual(written.map((version) => [version, version]));
  }

  it('the older one comes to the newer: its first writes wait until the cache is left', async () => {
    const newer = await startNewer();
    await untilState(newer, 'member');
    const user = await registerUser(newer);
    const { id } = await placeOrder(newer, user.token);
    await eventually('the newer node answers from the cache', async () => {
      return (await read(newer, id, user)).headers.get('cache-status') === 'holdfast; hit';
    });
    const older = await startOlder();
    await expectFreshReads(newer, older, id, user);
    expect(await membershipOf(newer)).toBe('older-release');

    await older.stop();
    await untilState(newer, 'member');
    await eventually('the newer node answers from the cache', async () => {
      const { body, headers } = await read(newer, id, user);
      expect(body.version).toBe(1 + ROUNDS);
      return headers.get('cache-status') === 'holdfast; hit';
    });
  });

  it('the newer one comes to the older: it reads PostgreSQL until the last has gone', async () => {
    const older = await startOlder();
    const newer = await startNewer();
    await untilState(newer, 'older-release');
    const user = await registerUser(newer);
    const { id } = await placeOrder(newer, user.token);
    await expectFreshReads(newer, older, id, user);
    await older.stop();
    await untilState(newer, 'member');
    expect((await read(newer, id, user)).body.version).toBe(1 + ROUNDS);
  });

  it('the older one replays what the newer one cancels, with the refund that is due', async () => {
    const older = await startOlder();
    const newer = await startNewer();
    const user = await registerUser(newer);
    const adminToken = await logInAsAdmin(newer);
    const { id } = await placeOrder(newer, user.token);
    const act = (action: string, token: string): Promise<unknown> =>
      eventually('the action is acknowledged', async () => {
        const { status } = await newer.call('POST', `/v1/orders/${id}/${action}`, { token });
        return status === 200;
      });
    await act('pay', user.token);
    await act('cancel', adminToken);

    const { token } = user;
    const events = await older.call('GET', `/v1/orders/${id}/events`, { token });
    expect(events.body.data.at(-1)).toMatchObject({
      type: 'order.cancelled',
      data: { refundDue: { amount: 9_998, currency: 'EUR' } },
    });
    const past = await older.call('GET', `/v1/orders/${id}?at=3`, { token });
    expect(past.body).toMatchObject({ status: 'cancelled', version: 3 });
    // And the newer one reads what the older one writes: it records no refund.
    const other = await placeOrder(newer, user.token);
    await eventually('the older one pays', async () => {
      const path = `/v1/orders/${other.id}/pay`;
      return (await older.call('POST', path, { token })).status === 200;
    });
    const adminOfOlder = { token: adminToken };
    await eventually('the older one cancels', async () => {
      const path = `/v1/orders/${other.id}/cancel`;
      return (await older.call('POST', path, adminOfOlder)).status === 200;
    });
    const written = await newer.call('GET', `/v1/orders/${other.id}/events`, { token });
    expect(written.body.data.at(-1)).toMatchObject({ type: 'order.cancelled', data: {} });
    expect(written.body.data.at(-1).data).not.toHaveProperty('refundDue');
  });
});
