/**
 * CORS for the origins of CORS_ORIGINS: a page of such an origin can call every route and read
 * every response, refusals included. Without the variable: cross-origin.spec.ts.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../../../support/app.js';
import { ORDER, registerUser, type TestUser } from '../../../support/factories.js';
import type { Reply, RequestOptions } from '../../../support/http-client.js';
import { expectProblem } from '../../../support/problem.js';

const ORIGIN = 'https://app.example';
const OTHER_ORIGINS = ['https://evil.example', 'https://app.example.evil.example', 'null'];
const SIMILAR_ORIGINS = ['http://app.example', 'https://app.example:8443', 'https://APP.example'];

let app: TestApp;
let user: TestUser;

beforeAll(async () => {
  app = await startApp({
    CORS_ORIGINS: `http://localhost:5173, ${ORIGIN}`,
    RATE_LIMIT_PER_MINUTE: '100000',
  });
  user = await registerUser(app);
});
afterAll(() => app.close());

const listOf = ({ headers }: Reply, name: string): string[] =>
  (headers.get(name) ?? '').toLowerCase().split(/, */).filter(Boolean);

const corsHeadersOf = ({ headers }: Reply): string[] =>
  [...headers.keys()].filter((name) => name.startsWith('access-control-'));

interface Call {
  readonly what: string;
  readonly method: string;
  readonly path: string;
  readonly options: () => RequestOptions;
  readonly status: number;
}

/** Answered by routes, guards, hooks, the 404 handler and the static files. */
const CALLS: readonly Call[] = [
  {
    what: 'a read',
    method: 'GET',
    path: '/v1/users/me',
    options: () => ({ token: user.token }),
    status: 200,
  },
  {
    what: 'a write',
    method: 'POST',
    path: '/v1/orders',
    options: () => ({
      token: user.token,
      body: ORDER,
      headers: { 'Idempotency-Key': randomUUID() },
    }),
    status: 201,
  },
  { what: 'no session', method: 'GET', path: '/v1/users/me', options: () => ({}), status: 401 },
  { what: 'a typo', method: 'GET', path: '/v1/nowhere', options: () => ({}), status: 404 },
  { what: 'a wrong method', method: 'PUT', path: '/v1/orders', options: () => ({}), status: 405 },
  {
    what: 'a wrong type',
    method: 'GET',
    path: '/v1/orders',
    options: () => ({ headers: { Accept: 'image/png' } }),
    status: 406,
  },
  {
    what: 'malformed JSON',
    method: 'POST',
    path: '/v1/sessions',
    options: () => ({ body: '{' }),
    status: 400,
  },
  {
    what: 'the document',
    method: 'GET',
    path: '/docs/openapi.json',
    options: () => ({}),
    status: 200,
  },
  {
    what: 'a static file',
    method: 'GET',
    path: '/docs/swagger-ui.css',
    options: () => ({}),
    status: 200,
  },
  { what: 'a probe', method: 'GET', path: '/health/live', options: () => ({}), status: 200 },
];

const send = ({ method, path, options }: Call, origin: string): Promise<Reply> => {
  const { headers, ...others } = options();
  return app.call(method, path, { ...others, headers: { ...headers, Origin: origin } });
};

describe('a listed origin', () => {
  it.each(CALLS)('may read the response to $what: $method $path', async (call) => {
    const reply = await send(call, ORIGIN);
    expect(reply.status).toBe(call.status);
    expect(reply.headers.get('access-control-allow-origin')).toBe(ORIGIN);
    expect(reply.headers.get('access-control-allow-credentials')).toBe(null);
    expect(listOf(reply, 'access-control-expose-headers')).toEqual(
      expect.arrayContaining([
        ...['etag', 'link', 'location', 'ratelimit', 'retry-after', 'x-request-id'],
        ...['ratelimit-policy', 'cache-status', 'idempotent-replayed'],
      ]),
    );
    expect(listOf(reply, 'vary')).toContain('origin');
  });

  it.each(['GET', 'POST', 'PUT', 'PATCH', 'DELETE'])(
    'gets the permission for %s from a preflight, without a session',
    async (method) => {
      const reply = await app.call('OPTIONS', '/v1/orders', {
        headers: {
          Origin: ORIGIN,
          'Access-Control-Request-Method': method,
          'Access-Control-Request-Headers': 'authorization, content-type, if-match',
        },
      });
      expect([reply.status, reply.text]).toEqual([204, '']);
      expect(reply.headers.get('access-control-allow-origin')).toBe(ORIGIN);
      expect(listOf(reply, 'access-control-allow-methods')).toContain(method.toLowerCase());
      expect(listOf(reply, 'access-control-allow-headers')).toEqual(
        expect.arrayContaining([
          ...['authorization', 'content-type', 'if-match', 'if-none-match', 'cache-control'],
          ...['idempotency-key', 'x-request-id', 'traceparent'],
        ]),
      );
      expect(reply.headers.get('access-control-max-age')).toMatch(/^[1-9]\d*$/);
      expect(reply.headers.get('x-request-id')).toMatch(/./);
      expect(listOf(reply, 'vary')).toContain('origin');
    },
  );

  it('may be any of the list', async () => {
    const headers = { Origin: 'http://localhost:5173' };
    const reply = await app.call('GET', '/health/live', { headers });
    expect(reply.headers.get('access-control-allow-origin')).toBe('http://localhost:5173');
  });
});

describe('an origin that is not listed', () => {
  it.each([...OTHER_ORIGINS, ...SIMILAR_ORIGINS])('(%s) gets no CORS header', async (origin) => {
    const replies = await Promise.all(CALLS.map((call) => send(call, origin)));
    expect(replies.map(({ status }) => status)).toEqual(CALLS.map(({ status }) => status));
    expect(replies.flatMap(corsHeadersOf)).toEqual([]);
    // A cache must not hand one origin the response for another.
    expect(replies.filter((reply) => !listOf(reply, 'vary').includes('origin'))).toEqual([]);
  });

  it('gets the methods of the path from a preflight, but no permission', async () => {
    const headers = { Origin: OTHER_ORIGINS[0] as string, 'Access-Control-Request-Method': 'GET' };
    const reply = await app.call('OPTIONS', '/v1/orders', { headers });
    expect([reply.status, reply.headers.get('allow')]).toEqual([204, 'GET, HEAD, POST, OPTIONS']);
    expect(corsHeadersOf(reply)).toEqual([]);
  });
});

describe('OPTIONS without a preflight', () => {
  it.each([
    ['without an origin', {}],
    ['from a listed origin', { Origin: ORIGIN }],
  ])('%s gets the methods of the path', async (_, headers) => {
    const reply = await app.call('OPTIONS', '/v1/users/me', { headers: { ...headers } });
    expect([reply.status, reply.headers.get('allow')]).toEqual([204, 'GET, HEAD, OPTIONS']);
  });

  it('is 404 for an unknown path', async () => {
    expectProblem(await app.call('OPTIONS', '/v1/nowhere'), 404, 'not-found');
  });
});
