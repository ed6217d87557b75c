/** What counts as in flight, for whom and until when. Over HTTP, without the whole service. */
import type { ServerResponse } from 'node:http';
import { setImmediate } from 'node:timers/promises';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { EventEmitter } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { BOUNDS, type Bounds } from '../../../../src/platform/http/bounds/bounds.js';
import { Refusals } from '../../../../src/platform/http/bounds/refusals.js';
import { CallerUsage } from '../../../../src/platform/http/bounds/usage.js';
import { RequestsInFlight } from '../../../../src/platform/http/bounds/requests-in-flight.js';
import { sendProblem } from '../../../../src/platform/http/problems/problem-response.js';
import type { Problem } from '../../../../src/platform/http/problems/problem.js';
import { eventually } from '../../../support/eventually.js';
import { Gate } from '../../../support/gate.js';
import { getOf, openRaw, type RawClient } from './raw-client.js';

const LARGE = 'x'.repeat(64 * 1_024);
const KIB = 1_024;
const LONG_MS = 60_000;
const SMALL_BOUNDS: Bounds = {
  ...BOUNDS,
  address: { ...BOUNDS.address, requests: 2, arrivingBytes: 200 * KIB },
  caller: {
    ...BOUNDS.caller,
    requests: 10,
    unreadBytes: LARGE.length - 1,
    workedOn: 2,
    maxWaitMs: LONG_MS,
  },
};

describe('requests in flight', () => {
  let fastify: FastifyInstance;
  let requests: RequestsInFlight;
  let url: string;
  /** Addresses of refused requests. */
  let counted: string[];
  let clients: RawClient[];
  /** Before anything is counted. */
  let arrival: Gate;
  let arrived: number;
  /** Requests of callers that are worked on. */
  let working: number;
  let work: Gate;

  beforeEach(async () => {
    [counted, clients, arrived, working] = [[], [], 0, 0];
    [arrival, work] = [new Gate(), new Gate()];
    fastify = Fastify({ trustProxy: true });
    fastify.setErrorHandler((problem: Problem, request, reply) =>
      sendProblem(problem, request, reply),
    );
    fastify.addHook('onRequest', async ({ url: path }) => {
      arrived++;
      if (path === '/late') await arrival.opened;
    });
    requests = new RequestsInFlight(SMALL_BOUNDS, new Refusals(new Registry()), ({ ip }) => {
      counted.push(ip);
    });
    requests.install(fastify);
    fastify.addHook('onRequest', async (request, reply) => {
      const { caller } = request.headers;
      if (caller !== undefined) await requests.admitCaller(String(caller), request, reply);
    });
    fastify.get('/late', () => 'served');
    fastify.get('/now', () => 'served');
    fastify.route({
      method: ['GET', 'POST'],
      url: '/held',
      handler: async () => {
        working++;
        await work.opened;
        working--;
        return 'served';
      },
    });
    fastify.route({
      method: ['GET', 'POST'],
      url: '/large',
      handler: (_, reply) => reply.headers({ ETag: '"1"', Link: '</x>; rel="next"' }).send(LARGE),
    });
    url = await fastify.listen({ host: '127.0.0.1', port: 0 });
  });
  afterEach(async () => {
    arrival.open();
    work.open();
    for (const { socket } of clients) socket.destroy();
    await fastify.close();
  });

  /** Sends a GET on a connection of its own. */
  function open(path: string, headers: Readonly<Record<string, string>>): RawClient {
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    const client = openRaw(url, getOf(path).replace(/\r\n$/, `${lines.join('')}\r\n`));
    clients.push(client);
    return client;
  }
  const from = (address: string): Record<string, string> => ({ 'X-Forwarded-For': address });
  const workedOn = (count: number): Promise<unknown> =>
    eventually(`${count} are worked on`, () => working === count);
  const noneInFlight = (): Promise<unknown> =>
    eventually('nothing is in flight', () => requests.count === 0);

  it('count the addresses of an IPv6 /64 together, and a refused one for its address', async () => {
    open('/held', from('2001:db8:1:2::1'));
    open('/held', from('2001:db8:1:2:3::1'));
    await workedOn(2);
    const refused = await fetch(`${url}/now`, { headers: from('2001:db8:1:2::4') });
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1']);
    expect((await fetch(`${url}/now`, { headers: from('2001:db8:1:3::1') })).status).toBe(200);
    expect(counted).toEqual(['2001:db8:1:2::4']);
  });

  it('leave nothing in memory when they have ended', async () => {
    const headers = { ...from('192.0.2.1'), caller: 'ada' };
    await (await fetch(`${url}/now`, { headers })).text();
    await noneInFlight();
    const { ofAddresses, ofCallers } = requests as unknown as Record<string, Map<string, unknown>>;
    expect([ofAddresses?.size, ofCallers?.size]).toEqual([0, 0]);
  });

  it('do not count a client that has gone before', async () => {
    const client = open('/late', from('192.0.2.1'));
    await eventually('the request has arrived', () => arrived === 1);
    client.socket.destroy();
    await eventually('the server has noticed', async () => {
      const count = await new Promise((resolve) =>
        fastify.server.getConnections((_, connections) => resolve(connections)),
      );
      return count === 0;
    });
    arrival.open();
    await (await fetch(`${url}/now`)).text();
    await noneInFlight();
  });

  it('of a caller who goes while they are worked on free their places', async () => {
    const gone = ['192.0.2.1', '192.0.2.2'].map((ip) =>
      open('/held', { caller: 'ada', ...from(ip) }),
    );
    await workedOn(2);
    for (const { socket } of gone) socket.destroy();
    await noneInFlight();
    const next = open('/now', { caller: 'ada' });
    await eventually('the next one is answered', () => next.statuses()[0] === 200);
  });

  it('of a caller are a few at a time, however many have ended', async () => {
    const first = open('/held', { caller: 'ada', ...from('192.0.2.1') });
    await workedOn(1);
    for (let count = 0; count < 5; count++) {
      await (await fetch(`${url}/now`, { headers: { caller: 'ada' } })).text();
      await eventually('it is not in flight any more', () => requests.count === 1);
    }
    const second = open('/held', { caller: 'ada', ...from('192.0.2.2') });
    await workedOn(2);
    const third = open('/held', { caller: 'ada', ...from('192.0.2.3') });
    await eventually('the third has arrived', () => requests.count === 3);
    await (await fetch(`${url}/now`)).text();
    expect(working).toBe(2);
    work.open();
    await eventually('all are answered', () =>
      [first, second, third].every((client) => client?.statuses()[0] === 200),
    );
  });

  it('whose turn comes when their client goes give their place to the next one', async () => {
    /** What `admitCaller` uses of a request and its reply. */
    const fake = (): {
      request: FastifyRequest;
      reply: FastifyReply;
      raw: { destroyed: boolean };
    } => {
      const raw = Object.assign(new EventEmitter(), { destroyed: false });
      return { request: {} as FastifyRequest, reply: { raw } as never, raw };
    };
    const calls = Array.from({ length: 4 }, fake);
    const outcomes: string[] = [];
    calls.forEach(({ request, reply }, index) => {
      requests.admitCaller('ada', request, reply).then(
        () => (outcomes[index] = 'admitted'),
        () => (outcomes[index] = 'refused'),
      );
    });
    await eventually('two are worked on', () => outcomes.length === 2);
    calls[0]?.request.endWork?.();
    Object.assign(calls[2]?.raw ?? {}, { destroyed: true });
    await eventually('the last one is worked on', () => outcomes[3] === 'admitted');
    expect(outcomes).toEqual(['admitted', 'admitted', 'refused', 'admitted']);
  });

  it.each([
    ['GET', 'refused'],
    ['POST', 'admitted'],
  ])('near the bound of unread bytes: %s is %s before it begins', async (method, expected) => {
    const call = () => ({
      request: { method } as FastifyRequest,
      reply: { raw: Object.assign(new EventEmitter(), { destroyed: false }) } as never,
    });
    const [first, second] = [call(), call()];
    await requests.admitCaller('ada', first.request, first.reply);
    for (const usage of first.request.usages ?? []) usage.unreadBytes = 0.9 * LARGE.length;

    const outcome = requests.admitCaller('ada', second.request, second.reply).then(
      () => 'admitted',
      () => 'refused',
    );

    expect(await outcome).toBe(expected);
  });

  it('without room for a large response get a problem without its headers', async () => {
    const reply = await fetch(`${url}/large`, { headers: { caller: 'ada' } });
    expect(reply.status).toBe(503);
    expect(reply.headers.get('content-type')).toMatch(/^application\/problem\+json/);
    const { headers } = reply;
    const names = ['etag', 'link', 'retry-after', 'cache-control'];
    expect(names.map((name) => headers.get(name))).toEqual([null, null, '1', 'no-store']);
    expect(await reply.json()).toMatchObject({ code: 'overloaded', instance: '/large' });
  });

  describe('with large bodies', () => {
    const post = (headers: string): RawClient => {
      const client = openRaw(url, `POST /held HTTP/1.1\r\nHost: x\r\n${headers}\r\n`);
      clients.push(client);
      return client;
    };
    const waitsFor = (bytes: number): Promise<unknown> =>
      eventually(`${bytes} bytes are expected`, () => requests.arrivingBytes === bytes);
    const JSON_OF = (bytes: number): string =>
      `Content-Type: application/json\r\nContent-Length: ${bytes}\r\n`;

    it('count before these arrive, and past the bound of their address are refused', async () => {
      post(JSON_OF(150 * KIB));
      await waitsFor(150 * KIB);

      const refused = post(JSON_OF(60 * KIB));
      await eventually('it is refused', () => refused.statuses().length > 0);

      expect(refused.statuses()).toEqual([503]);
      expect(counted).toEqual(['127.0.0.1']);
      expect((await fetch(`${url}/now`)).status).toBe(200);
    });

    it('of an unknown length count as the largest, and past the limit as no more', async () => {
      const limit = fastify.initialConfig.bodyLimit as number;
      const chunked = 'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n';
      expect(limit).toBeGreaterThan(SMALL_BOUNDS.address.arrivingBytes);
      const refused = [post(chunked), post(JSON_OF(1e9))];
      await eventually('both are refused', () =>
        refused.every((client) => client.statuses()[0] === 503),
      );
    });

    it('count no longer once these are read, or when the client goes', async () => {
      const [read, gone] = [post(JSON_OF(100 * KIB)), post(JSON_OF(50 * KIB))];
      await waitsFor(150 * KIB);

      read?.socket.write(`"${'x'.repeat(100 * KIB - 2)}"`);
      gone?.socket.destroy();

      await workedOn(1);
      await waitsFor(0);
    });
  });

  it('that write are answered, however many bytes wait', async () => {
    const init = { method: 'POST', headers: { caller: 'ada' } };
    const reply = await fetch(`${url}/large`, init);
    expect([reply.status, await reply.text()]).toEqual([200, LARGE]);
    await eventually('no bytes wait', () => requests.unreadBytes === 0);
  });
});

describe('a request that waits for its turn', () => {
  const SHARE = { requests: 10, unreadBytes: 1 };

  it('is refused when its turn does not come, and leaves its place to the next one', async () => {
    const usage = new CallerUsage(SHARE, 1, 10);
    await usage.beginWork(new EventEmitter() as ServerResponse);

    const outcome = usage.beginWork(new EventEmitter() as ServerResponse);

    await expect(outcome).rejects.toMatchObject({ problemType: { code: 'overloaded' } });
    usage.endWork();
    await usage.beginWork(new EventEmitter() as ServerResponse);
  });

  it('is forgotten when its client goes: clients that come and go fill no memory', async () => {
    const usage = new CallerUsage(SHARE, 1, LONG_MS);
    await usage.beginWork(new EventEmitter() as ServerResponse);
    const response = new EventEmitter() as ServerResponse;
    const outcome = usage.beginWork(response).then(
      () => 'begun',
      () => 'forgotten',
    );
    response.emit('close');

    expect(await Promise.race([outcome, setImmediate('still waits')])).toBe('forgotten');
  });

  it('begins in a later turn of the event loop, so that others are served in between', async () => {
    const usage = new CallerUsage(SHARE, 1, LONG_MS);
    await usage.beginWork(new EventEmitter() as ServerResponse);
    let hasBegun = false;
    const waiting = usage.beginWork(new EventEmitter() as ServerResponse).then(() => {
      hasBegun = true;
    });
    usage.endWork();

    await new Promise<void>((resolve) => process.nextTick(resolve));
    expect(hasBegun).toBe(false);
    await waiting;
  });
});
