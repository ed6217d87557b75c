/** What Kubernetes and clients see while PostgreSQL goes and comes back, and while the process drains. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type Reply, type TestApp } from '../support/app.js';
import { ORDER, person, type Person, placeOrder } from '../support/factories.js';
import { startTestPostgres, type TestPostgres } from '../support/postgres.js';

let postgres: TestPostgres;
let app: TestApp;
let user: Person;

async function timed(call: () => Promise<Reply>): Promise<{ reply: Reply; ms: number }> {
  const began = performance.now();
  const reply = await call();
  return { reply, ms: performance.now() - began };
}

async function recovers(): Promise<void> {
  const end = Date.now() + 10_000;
  for (;;) {
    const { status } = await app.call('GET', '/v1/users/me', { token: user.token });
    const ready = await app.call('GET', '/health/ready');
    if (status === 200 && ready.status === 200) return;
    if (Date.now() > end) throw new Error(`still ${status}, ${ready.text}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

beforeAll(async () => {
  // What was acknowledged must survive the kill, or the test would be of PostgreSQL's settings.
  postgres = await startTestPostgres(['synchronous_commit=on']);
  app = await startApp({}, postgres.url);
  user = await person(app);
});
afterAll(async () => {
  await app?.close();
  await postgres?.stop();
});

describe('while all is well', () => {
  it.each(['/health/live', '/health/ready', '/health/startup'])(
    '%s is 200 without a session',
    async (path) => {
      const { status, body } = await app.call('GET', path);
      expect([status, body.status]).toEqual([200, 'ok']);
    },
  );

  it('tells of each part', async () => {
    const { body } = await app.call('GET', '/health/ready');
    expect(
      Object.fromEntries(
        Object.entries(body.checks as Record<string, { status: string }>).map(
          ([name, { status }]) => [name, status],
        ),
      ),
    ).toEqual({
      postgres: 'up',
      migrations: 'up',
      redis: 'up',
      broker: 'up',
    });
  });

  it('shows the metrics under their names', async () => {
    await app.call('GET', '/v1/users/me', { token: user.token });
    const { status, text, headers } = await app.call('GET', '/metrics');
    expect([status, headers.get('content-type')]).toEqual([
      200,
      'text/plain; version=0.0.4; charset=utf-8',
    ]);
    for (const name of [
      'holdfast_cache_requests_total{',
      'holdfast_cache_loads_total{',
      'holdfast_cache_fills_rejected_total',
      'holdfast_cache_invalidation_lag_seconds',
      'holdfast_cache_breaker_open 0',
      'holdfast_outbox_oldest_seconds',
      'http_server_request_duration_seconds_bucket{',
      'db_client_operation_duration_seconds',
    ]) {
      expect(text).toContain(name);
    }
  });
});

describe.each([
  ['is killed', () => postgres.kill(), () => postgres.restart()],
  ['hangs', async () => postgres.pause(), async () => postgres.resume()],
] as const)('when PostgreSQL %s', (_, take, giveBack) => {
  it('refuses within a second, stays alive, is not ready, and recovers by itself', async () => {
    const order = await placeOrder(app, user.token);
    await take();
    try {
      const calls = [
        () => app.call('GET', `/v1/orders/${order.id}?at=1`, { token: user.token }),
        () =>
          app.call('GET', '/v1/users/me', {
            token: user.token,
            headers: { 'Cache-Control': 'no-cache' },
          }),
        () =>
          app.call('POST', '/v1/orders', {
            token: user.token,
            body: ORDER,
            headers: { 'Idempotency-Key': 'while-gone' },
          }),
      ];
      for (const { reply, ms } of await Promise.all(calls.map(timed))) {
        expect([reply.status, reply.body.code, reply.headers.get('retry-after')]).toEqual([
          503,
          'database-unavailable',
          '1',
        ]);
        // A second is the promise; the rest is room for a machine that does other things at the same time.
        expect(ms).toBeLessThan(1_500);
      }
      const live = await timed(() => app.call('GET', '/health/live'));
      expect(live.reply.status).toBe(200);
      const ready = await timed(() => app.call('GET', '/health/ready'));
      expect([
        ready.reply.status,
        ready.reply.body.code,
        ready.reply.body.checks.postgres.status,
      ]).toEqual([503, 'not-ready', 'down']);
      expect(ready.ms).toBeLessThan(500);
    } finally {
      await giveBack();
    }
    await recovers();
    const placed = await app.call('POST', '/v1/orders', {
      token: user.token,
      body: ORDER,
      headers: { 'Idempotency-Key': 'while-gone' },
    });
    expect(placed.status).toBe(201);
  });
});

describe('while the process drains', () => {
  it('is alive and not ready, and finishes what was asked before it closes', async () => {
    const draining = await startApp({ SHUTDOWN_GRACE_SECONDS: '2' }, postgres.url);
    // The signal, as the process's own handler hands it on; the type leaves it out.
    const closed = (draining.app as unknown as { close(signal: string): Promise<void> }).close(
      'SIGTERM',
    );
    const [live, ready, me] = await Promise.all([
      draining.call('GET', '/health/live'),
      draining.call('GET', '/health/ready'),
      draining.call('GET', '/v1/users/me', { token: user.token }),
    ]);
    expect([live.status, ready.status, ready.body.code, me.status]).toEqual([
      200,
      503,
      'not-ready',
      200,
    ]);
    await closed;
    await expect(draining.call('GET', '/health/live')).rejects.toThrow();
  });
});
