/** What one connection, caller or address may take, and that others are served meanwhile. */
import type { Provider } from '@nestjs/common';
import type { Socket } from 'node:net';
import { afterEach, describe, expect, it } from '@jest/globals';
import {
  BOUND_OVERRIDES,
  BOUNDS,
  type Bounds,
  MAX_PAGE_BYTES,
} from '../../../../src/platform/http/bounds/bounds.js';
import { SessionsService } from '../../../../src/auth/sessions/sessions.service.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { eventually } from '../../../support/eventually.js';
import { placeOrder, registerUser, type TestUser } from '../../../support/factories.js';
import { Gate } from '../../../support/gate.js';
import { expectProblem } from '../../../support/problem.js';
import { getOf, openRaw, type RawClient } from './raw-client.js';

let app: TestApp | undefined;
const sockets: Socket[] = [];

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await app?.close();
  app = undefined;
});

/** @param overrides of the service's bounds */
async function startBounded(
  overrides: Partial<Bounds>,
  env: Readonly<Record<string, string>> = {},
): Promise<TestApp> {
  const useValue = { eventLoopDelayMs: 60_000, ...overrides } satisfies Partial<Bounds>;
  const provider: Provider = { provide: BOUND_OVERRIDES, useValue };
  app = await startApp(env, undefined, undefined, [provider]);
  return app;
}

function open({ url }: TestApp, bytes: string, reads = true): RawClient {
  const client = openRaw(url, bytes, reads);
  sockets.push(client.socket);
  return client;
}

async function metricOf(node: TestApp, sample: string): Promise<number> {
  const { text } = await node.call('GET', '/metrics');
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${sample} `));
  return Number(line?.split(' ').at(-1) ?? 0);
}

/** Holds every request of callers where their session is looked up. */
function holdCallers(node: TestApp): { gate: Gate; begun: () => number } {
  const sessions = node.app.get(SessionsService, { strict: false });
  const getCurrent = sessions.getCurrent.bind(sessions);
  const gate = new Gate();
  let begun = 0;
  sessions.getCurrent = async (...parameters) => {
    begun++;
    await gate.opened;
    return getCurrent(...parameters);
  };
  return { gate, begun: () => begun };
}

const LARGE_ORDER = {
  currency: 'EUR',
  items: Array.from({ length: 100 }, (_, index) => ({
    sku: `LAMP-${index}`,
    name: 'é'.repeat(200),
    quantity: 1,
    unitPrice: 1,
  })),
};

async function placeLargeOrders(node: TestApp, user: TestUser, count: number): Promise<void> {
  for (let index = 0; index < count; index++) await placeOrder(node, user.token, LARGE_ORDER);
}

describe('the table of bounds', () => {
  it('one address and one caller take less than the process has', () => {
    const { process, address, caller } = BOUNDS;
    expect(address.connections).toBeLessThan(process.connections);
    expect(address.requests).toBeLessThan(process.requests);
    expect(address.unreadBytes).toBeLessThan(process.unreadBytes);
    expect(caller.requests).toBeLessThan(address.requests);
    expect(caller.unreadBytes).toBeLessThan(address.unreadBytes);
  });

  it('a client that does not read has 30 s, and 1 s while the process ends', () => {
    expect(BOUNDS.connection).toMatchObject({ stallMs: 30_000, drainingStallMs: 1_000 });
  });
});

describe('connections of one address', () => {
  const address = { ...BOUNDS.address, connections: 3 };

  it('are closed at once past the bound and counted; others may follow when one ends', async () => {
    const node = await startBounded({ address });
    const kept = Array.from({ length: 3 }, () => open(node, getOf('/health/live')));
    await eventually('three are served', () => kept.every(({ statuses }) => statuses().length > 0));
    const refused = open(node, getOf('/health/live'));
    await eventually('the fourth is closed', refused.isClosed);
    expect(refused.text()).toBe('');
    kept[0]?.socket.destroy();
    await eventually('another one is served', () => {
      const client = open(node, getOf('/health/live'));
      return eventually('it is answered or closed', () => {
        if (client.isClosed()) return 'closed';
        return client.statuses().length > 0 && 'served';
      }).then((outcome) => outcome === 'served');
    });
    for (const socket of sockets.splice(0)) socket.destroy();
    await eventually('the metric counts them', async () => {
      return (await metricOf(node, 'holdfast_connections_refused_total{bound="address"}')) > 0;
    });
  });

  it('are not bounded for a trusted proxy', async () => {
    const node = await startBounded({ address }, { TRUST_PROXY: '127.0.0.1' });
    const clients = Array.from({ length: 10 }, () => open(node, getOf('/health/live')));
    await eventually('all are served', () =>
      clients.every(({ statuses }) => statuses()[0] === 200),
    );
  });
});

describe('pipelined requests of one connection', () => {
  it('are worked on one after the other, and answered in their order', async () => {
    const node = await startBounded({});
    const { token } = await registerUser(node);
    const { gate, begun } = holdCallers(node);
    const client = open(node, getOf('/v1/sessions/current', token).repeat(5) + getOf('/nowhere'));
    await eventually('the first has begun', () => begun() === 1);
    const other = await node.call('GET', '/v1/users/me', { token });
    expect([other.status, begun()]).toEqual([200, 1]);
    gate.open();
    await eventually('all are answered', () => client.statuses().length === 6);
    expect(client.statuses()).toEqual([200, 200, 200, 200, 200, 404]);
  });

  it('past the bound end the connection, and what waits is not begun', async () => {
    const node = await startBounded({ connection: { ...BOUNDS.connection, pipelined: 4 } });
    const { token } = await registerUser(node);
    const { gate, begun } = holdCallers(node);
    const client = open(node, getOf('/v1/sessions/current', token).repeat(5));
    await eventually('the connection is closed', client.isClosed);
    gate.open();
    expect((await node.call('GET', '/v1/sessions/current', { token })).status).toBe(200);
    // The first of the five, at most, and the one after them.
    expect(begun()).toBeLessThanOrEqual(2);
    expect(await metricOf(node, 'holdfast_requests_refused_total{bound="connection"}')).toBe(1);
  });

  it('past the bound do not cost a write its response', async () => {
    const node = await startBounded({ connection: { ...BOUNDS.connection, pipelined: 2 } });
    const { token } = await registerUser(node);
    const body = '{"currency":"EUR","items":[{"sku":"A","name":"A","quantity":1,"unitPrice":1}]}';
    const post =
      `POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n` +
      'Content-Type: application/json\r\nIdempotency-Key: 1\r\n' +
      `Content-Length: ${body.length}\r\n\r\n${body}`;
    const client = open(node, post + getOf('/v1/users/me', token).repeat(20));
    await eventually('the connection is closed', client.isClosed);
    expect(client.statuses()).toEqual([201]);
    const { body: page } = await node.call('GET', '/v1/orders', { token });
    expect(page.data).toHaveLength(1);
  });
});

describe('requests in flight', () => {
  it('of one caller past the bound are 503 with Retry-After; others are served', async () => {
    const node = await startBounded({ caller: { ...BOUNDS.caller, requests: 2 } });
    const [greedy, bystander] = [await registerUser(node), await registerUser(node)];
    const { gate, begun } = holdCallers(node);
    const held = [1, 2].map(() => open(node, getOf('/v1/sessions/current', greedy.token)));
    const { token } = greedy;
    await eventually('two have begun', () => begun() === 2);
    const refused = await node.call('GET', '/v1/users/me', { token });
    expectProblem(refused, 503, 'overloaded');
    expect(refused.headers.get('retry-after')).toBe('1');
    const other = await node.call('GET', '/v1/users/me', { token: bystander.token });
    expect(other.status).toBe(200);
    gate.open();
    await eventually('both are answered', () => held.every(({ statuses }) => statuses().length));
    await eventually('the caller is served again', async () => {
      return (await node.call('GET', '/v1/users/me', { token })).status === 200;
    });
  });

  it.each<[string, Bounds['caller'], Readonly<Record<string, string>>]>([
    ['a few at a time', { ...BOUNDS.caller, workedOn: 2 }, {}],
    ['by half of a small pool', BOUNDS.caller, { DATABASE_POOL: '4' }],
  ])('of one caller are worked on %s, and all are answered', async (_, caller, env) => {
    const node = await startBounded({ caller }, env);
    const [greedy, bystander] = [await registerUser(node), await registerUser(node)];
    const { gate, begun } = holdCallers(node);
    const bytes = getOf('/v1/sessions/current', greedy.token);
    const clients = Array.from({ length: 6 }, () => open(node, bytes));
    // One of the waiting clients goes.
    await eventually('two have begun', () => begun() === 2);
    clients.pop()?.socket.destroy();
    const other = await node.call('GET', '/v1/users/me', { token: bystander.token });
    expect([other.status, begun()]).toEqual([200, 2]);
    gate.open();
    await eventually('all others are answered', () =>
      clients.every(({ statuses }) => statuses()[0] === 200),
    );
  });

  it.each([
    ['one address', { address: { ...BOUNDS.address, requests: 1 } }, 'address'],
    ['the process', { process: { ...BOUNDS.process, requests: 1 } }, 'process'],
  ])('of %s past the bound are 503, and probes answer', async (_, overrides, bound) => {
    const origin = 'https://app.example';
    const node = await startBounded(overrides, { CORS_ORIGINS: origin });
    const { token } = await registerUser(node);
    const { gate, begun } = holdCallers(node);
    const held = open(node, getOf('/v1/sessions/current', token));
    await eventually('one has begun', () => begun() === 1);
    const headers = { Origin: origin, 'Access-Control-Request-Method': 'GET' };
    expectProblem(await node.call('OPTIONS', '/v1/orders', { headers }), 503, 'overloaded');
    const paths = [
      '/v1/users/me',
      '/v1/nowhere',
      '/docs/openapi.json',
      '/health/ready',
      '/metrics',
    ];
    const replies = [];
    for (const path of paths) replies.push((await node.call('GET', path, { token })).status);
    expect(replies).toEqual([503, 503, 503, 200, 200]);
    expect(await metricOf(node, `holdfast_requests_refused_total{bound="${bound}"}`)).toBe(4);
    gate.open();
    await eventually('the first is answered', () => held.statuses().length === 1);
    await eventually('others are served again', async () => {
      return (await node.call('GET', '/v1/users/me', { token })).status === 200;
    });
    expect(await metricOf(node, 'holdfast_requests_in_flight')).toBe(0);
  });
});

describe('clients that do not read', () => {
  const LIST = '/v1/orders?limit=100';

  it('get no more responses than their bound of unread bytes; others are served', async () => {
    // Two pages of the largest size.
    const unreadBytes = 2 * MAX_PAGE_BYTES + 256 * 1_024;
    const node = await startBounded({ caller: { ...BOUNDS.caller, unreadBytes } });
    const [greedy, bystander] = [await registerUser(node), await registerUser(node)];
    await placeLargeOrders(node, greedy, 30);
    // More than the buffers of the sockets take, on connections that nobody reads.
    const deaf = Array.from({ length: 16 }, () =>
      open(node, getOf(LIST, greedy.token).repeat(8), false),
    );
    await eventually('requests are refused', async () => {
      return (await metricOf(node, 'holdfast_requests_refused_total{bound="caller"}')) > 0;
    });
    const unread = await metricOf(node, 'holdfast_unread_response_bytes');
    expect(unread).toBeGreaterThan(MAX_PAGE_BYTES);
    expect(unread).toBeLessThanOrEqual(unreadBytes);
    await placeOrder(node, bystander.token);
    const { status } = await node.call('GET', LIST, { token: bystander.token });
    expect(status).toBe(200);
    for (const { socket } of deaf) socket.destroy();
    await eventually('nothing is left of them', async () => {
      return (await metricOf(node, 'holdfast_unread_response_bytes')) === 0;
    });
    await eventually('the caller is served again', async () => {
      return (await node.call('GET', LIST, { token: greedy.token })).status === 200;
    });
  });

  it.each([
    ['orders', LIST],
    ['the document', '/docs/openapi.json'],
  ])('are disconnected (%s), even if they go on sending', async (_, path) => {
    const node = await startBounded({
      connection: { ...BOUNDS.connection, stallMs: 400, pipelined: 100 },
    });
    const user = await registerUser(node);
    await placeLargeOrders(node, user, 30);
    const deaf = open(node, getOf(path, user.token).repeat(90) + 'GET / HTTP/1.1\r\nX: ', false);
    // The head of one more request, byte by byte.
    const dribble = setInterval(() => deaf.socket.writable && deaf.socket.write('x'), 50);
    try {
      await eventually('it is disconnected', async () => {
        return (await metricOf(node, 'holdfast_stalled_connections_total')) === 1;
      });
    } finally {
      clearInterval(dribble);
    }
    expect(await metricOf(node, 'holdfast_requests_in_flight')).toBe(0);
  });
});
