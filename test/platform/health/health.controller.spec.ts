/** The probes answer although a part never does: each check has a deadline of its own. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { TerminusModule } from '@nestjs/terminus';
import { Test, type TestingModule } from '@nestjs/testing';
import { Config } from '../../../src/config.js';
import { Membership } from '../../../src/platform/cache/epoch/membership.js';
import { CACHE_STORE } from '../../../src/platform/cache/store/cache-store.js';
import { DatabaseProbe } from '../../../src/platform/database/database-probe.js';
import { Replicas } from '../../../src/platform/database/replicas.js';
import { HealthController } from '../../../src/platform/health/health.controller.js';
import type { Problem } from '../../../src/platform/http/problems/problem.js';
import { OutboxRelay } from '../../../src/platform/outbox/outbox-relay.js';

const never = (): Promise<never> => new Promise(() => undefined);

/** The parts that the checks ask, all of which work. */
const WORKING = {
  ping: (): Promise<void> => Promise.resolve(),
  pendingMigrations: (): Promise<string[]> => Promise.resolve([]),
  pingRedis: (): Promise<void> => Promise.resolve(),
  brokerState: 'connected',
  stallReason: undefined as string | undefined,
  membershipState: 'member',
  replicas: { count: 0, unusedCount: 0 },
};

describe('/health/ready', () => {
  let module: TestingModule;
  afterEach(() => module.close());

  async function controllerWith(parts: Partial<typeof WORKING>): Promise<HealthController> {
    const settings = { ...WORKING, ...parts };
    const { ping, pendingMigrations, pingRedis, membershipState, replicas, ...relay } = settings;
    module = await Test.createTestingModule({
      imports: [TerminusModule.forRoot({ logger: false })],
      controllers: [HealthController],
      providers: [
        { provide: Config, useValue: { redisUrl: 'redis://configured' } },
        { provide: DatabaseProbe, useValue: { ping, pendingMigrations } },
        { provide: CACHE_STORE, useValue: { ping: pingRedis } },
        { provide: OutboxRelay, useValue: relay },
        { provide: Membership, useValue: { state: membershipState } },
        { provide: Replicas, useValue: replicas },
      ],
    }).compile();
    return module.get(HealthController);
  }

  it('is ok when every part works', async () => {
    const controller = await controllerWith({});

    expect(await controller.ready()).toEqual({
      status: 'ok',
      checks: {
        postgres: { status: 'up', responseTime: expect.any(Number) },
        migrations: { status: 'up' },
        redis: { status: 'up' },
        cache: { status: 'up' },
        broker: { status: 'up' },
        relay: { status: 'up' },
      },
    });
  });

  it('is degraded, and not 503, when a replica cannot be used', async () => {
    const controller = await controllerWith({ replicas: { count: 2, unusedCount: 1 } });
    expect(await controller.ready()).toMatchObject({
      status: 'degraded',
      checks: {
        replicas: { status: 'degraded', message: expect.stringMatching(/^1 of 2 cannot be used/) },
      },
    });
  });

  it.each([
    ['PostgreSQL', { ping: never }, { postgres: { status: 'down' } }],
    [
      'the list of migrations',
      { pendingMigrations: never },
      { migrations: { status: 'down', pending: ['unknown'] } },
    ],
  ])('is 503 when %s never answers', async (_, parts, checks) => {
    const controller = await controllerWith(parts);

    const problem = (await controller.ready().catch((error: unknown) => error)) as Problem;

    expect(problem.problemType).toMatchObject({ code: 'not-ready', status: 503 });
    expect(problem.details.extensions).toMatchObject({ checks });
  });

  it.each([
    ['Redis never answers', { pingRedis: never }, 'redis'],
    ['other nodes use another cache', { membershipState: 'other-cache' }, 'cache'],
    ['the broker is unreachable', { brokerState: 'disconnected' }, 'broker'],
    ['the broker accepts no messages', { brokerState: 'blocked' }, 'broker'],
    ['no relay serves a partition', { stallReason: 'partition 3' }, 'relay'],
  ])('is degraded, and not 503, when %s', async (_, parts, part) => {
    const controller = await controllerWith(parts);

    expect(await controller.ready()).toMatchObject({
      status: 'degraded',
      checks: { [part]: { status: 'degraded' }, postgres: { status: 'up' } },
    });
  });
});
