/**
 * What Kubernetes and clients see while PostgreSQL is gone and when it comes back, and while the
 * process shuts down.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { HealthCheckService } from '@nestjs/terminus';
import pg from 'pg';
import { DATABASE_TIMEOUTS_MS } from '../../../src/platform/database/data-source.js';
import { HealthController } from '../../../src/platform/health/health.controller.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { ORDER, placeOrder, registerUser, type TestUser } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { startTestPostgres, type TestPostgres } from '../../support/postgres.js';
import { LONG_TIMEOUT_MS, longTimeouts, REAL_TIMEOUTS } from '../../support/timeouts.js';

let postgres: TestPostgres;
let app: TestApp;
let user: TestUser;
let orderId: string;

beforeAll(async () => {
  // An acknowledged write must survive the kill.
  postgres = await startTestPostgres(['synchronous_commit=on']);
  app = await startApp({}, postgres.url, undefined, [REAL_TIMEOUTS]);
  user = await registerUser(app);
  orderId = (await placeOrder(app, user.token)).id as string;
});
afterAll(async () => {
  await app?.close();
  await postgres?.stop();
});

describe('while every part works', () => {
  it.each(['/health/live', '/health/ready', '/health/startup'])(
    '%s is 200 without a session',
    async (path) => {
      // On a busy machine a check may take longer than its deadline.
      await eventually(`${path} is 200`, async () => {
        const { status, body } = await app.call('GET', path);
        return status === 200 && body.status === 'ok';
      });
    },
  );

  it('/health/ready reports every part as up', async () => {
    await eventually('every part is up', async () => {
      const { body } = await app.call('GET', '/health/ready');
      const parts = ['postgres', 'migrations', 'redis', 'broker'];
      return parts.every((part) => body.checks[part].status === 'up');
    });
  });

  it('/health/ready checks the parts once for all who ask at the same time', async () => {
    const health = app.app.get(HealthCheckService, { strict: false });
    const check = jest.spyOn(health, 'check');
    const asked = Array.from({ length: 20 }, () => app.app.get(HealthController).ready());
    await Promise.allSettled(asked);
    expect(check.mock.calls.length).toBeLessThanOrEqual(1);
    check.mockRestore();
  });

  it('/metrics is text in the format of Prometheus', async () => {
    const { status, headers } = await app.call('GET', '/metrics');
    expect([status, headers.get('content-type')]).toEqual([
      200,
      'text/plain; version=0.0.4; charset=utf-8',
    ]);
  });

  it.each([
    'holdfast_cache_requests_total{',
    'holdfast_cache_loads_total{',
    'holdfast_cache_fills_rejected_total',
    'holdfast_cache_invalidation_lag_seconds',
    'holdfast_cache_breaker_open 0',
    'holdfast_outbox_oldest_seconds',
    'http_server_request_duration_seconds_bucket{',
    'db_client_operation_duration_seconds',
  ])('/metrics contains %s', async (name) => {
    await app.call('GET', '/v1/users/me', { token: user.token });
    const { text } = await app.call('GET', '/metrics');
    expect(text).toContain(name);
  });
});

const OUTAGES = [
  ['dead', () => postgres.kill(), () => postgres.restart()],
  ['hung', async () => postgres.pause(), async () => postgres.resume()],
] as const;

async function awaitRecovery(): Promise<void> {
  await eventually('reads and readiness are 200 again', async () => {
    const read = await app.call('GET', '/v1/users/me', { token: user.token });
    const ready = await app.call('GET', '/health/ready');
    return read.status === 200 && ready.status === 200;
  });
}

describe.each(OUTAGES)('while PostgreSQL is %s', (_, beginOutage, endOutage) => {
  beforeAll(beginOutage);
  afterAll(async () => {
    await endOutage();
    await awaitRecovery();
  });

  it.each([
    ['a read of the history', 'GET', () => `/v1/orders/${orderId}?at=1`],
    ['an uncached read', 'GET', () => '/v1/users/me'],
    ['a write', 'POST', () => '/v1/orders'],
  ])('%s is 503 with Retry-After', async (_, method, path) => {
    const { status, body, headers } = await app.call(method, path(), {
      token: user.token,
      headers: { 'Cache-Control': 'no-cache', 'Idempotency-Key': randomUUID() },
      body: method === 'POST' ? ORDER : undefined,
    });
    expect([status, body.code, headers.get('retry-after')]).toEqual([
      503,
      'database-unavailable',
      '1',
    ]);
  });

  it('the process is alive', async () => {
    expect((await app.call('GET', '/health/live')).status).toBe(200);
  });

  it('the process is not ready, and says which part is down', async () => {
    const { status, body } = await app.call('GET', '/health/ready');
    expect([status, body.code, body.checks.postgres.status]).toEqual([503, 'not-ready', 'down']);
  });

  it('readiness gives a stable reason, without addresses and the text of the driver', async () => {
    const { body } = await app.call('GET', '/health/ready');
    const { hostname, port } = new URL(postgres.url);
    expect(body.checks.postgres.message).toBe('does not answer');
    const checks = JSON.stringify(body.checks);
    expect(checks).not.toMatch(new RegExp(`${hostname}|${port}|ECONN|SELECT|timeout|took`));
  });
});

describe.each(OUTAGES)('after PostgreSQL was %s', (_, beginOutage, endOutage) => {
  it('the process recovers by itself, and a write that failed succeeds', async () => {
    const order = {
      token: user.token,
      body: ORDER,
      headers: { 'Idempotency-Key': randomUUID() },
    };
    await beginOutage();
    let during: Reply;
    try {
      during = await app.call('POST', '/v1/orders', order);
    } finally {
      await endOutage();
    }
    await awaitRecovery();

    const after = await app.call('POST', '/v1/orders', order);

    expect([during.status, after.status]).toEqual([503, 201]);
  });
});

describe('a request while PostgreSQL is hung', () => {
  let node: TestApp;
  let waiting: pg.Client;
  afterEach(async () => {
    postgres.resume();
    await waiting.end();
    await node.close();
    await awaitRecovery();
  });

  it('is answered long before the timeout of its query', async () => {
    // A query of another client has the same timeout as those of this node, and begins earlier.
    const timeouts = longTimeouts({ silence: DATABASE_TIMEOUTS_MS.silence });
    node = await startApp({}, postgres.url, undefined, [timeouts]);
    waiting = new pg.Client({ connectionString: postgres.url, query_timeout: LONG_TIMEOUT_MS });
    await waiting.connect();
    postgres.pause();
    const timeout = waiting.query('SELECT 1').then(
      () => 'answered',
      () => 'timed out',
    );
    const request = node.call('GET', '/v1/users/me', {
      token: user.token,
      headers: { 'Cache-Control': 'no-cache' },
    });

    const first = await Promise.race([timeout, request.then(({ status }) => status)]);

    expect(first).toBe(503);
  });
});

describe('while the process shuts down', () => {
  it('it is alive, not ready, and answers the requests that it received', async () => {
    const node = await startApp({ SHUTDOWN_GRACE_SECONDS: '4' }, postgres.url);
    // Nest's own handler of SIGTERM calls close() with the signal; the type leaves it out.
    const { close } = node.app as unknown as { close(signal: string): Promise<void> };
    const closed = close.call(node.app, 'SIGTERM');

    const [live, ready, me] = await Promise.all([
      node.call('GET', '/health/live'),
      node.call('GET', '/health/ready'),
      node.call('GET', '/v1/users/me', { token: user.token }),
    ]);

    expect([live.status, ready.status, me.status]).toEqual([200, 503, 200]);
    expect(ready.body).toMatchObject({
      code: 'not-ready',
      detail: 'The process is shutting down.',
    });
    await closed;
    await expect(node.call('GET', '/health/live')).rejects.toThrow();
  });
});
