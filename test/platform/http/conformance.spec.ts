/**
 * Conventions of the API that every route follows, whatever it does: authentication, request ids,
 * unknown parameters, security headers, problems.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { problemCatalogue } from '../../../src/platform/http/problems/problem.js';
import { createEndedToken, registerUser } from '../../support/factories.js';
import { type Reply, type RequestOptions } from '../../support/http-client.js';
import { expectProblem, validationErrorsOf, withoutRequestFields } from '../../support/problem.js';
import {
  casesOf,
  OPERATOR_ROUTES,
  ROUTES,
  type RouteTarget,
  startRouteTarget,
  VALID_BODIES,
} from './routes.js';

let target: RouteTarget;

beforeAll(async () => {
  target = await startRouteTarget();
});
afterAll(() => target.app.close());

it('the table of routes lists the routes of the OpenAPI document', async () => {
  const { body } = await target.app.call('GET', '/docs/openapi.json');
  const documented = Object.entries(body.paths as Record<string, object>).flatMap(([path, item]) =>
    Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
  );
  const known = ROUTES.map(({ method, path }) => `${method} ${path.replace(/\{\w+\}/g, '{id}')}`);
  expect(documented.sort()).toEqual([...known, ...OPERATOR_ROUTES].sort());
});

describe('authentication', () => {
  const AUTHORIZATIONS: readonly (string | undefined)[] = [
    undefined,
    'Bearer ',
    'Bearer §§§',
    'Bearer hf_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA',
    `Bearer ${'a'.repeat(8_000)}`,
    'Bearer a, Bearer b',
    `Basic ${Buffer.from('root:root').toString('base64')}`,
    'hf_AAAA',
  ];

  it.each(casesOf(ROUTES.filter(({ isPublic }) => !isPublic)))(
    '%s answers every request without the token of a live session with the same 401',
    async (_, { method, path, hasBody }) => {
      const ended = `Bearer ${await createEndedToken(target.app)}`;
      const replies = await Promise.all(
        [...AUTHORIZATIONS, ended].map((authorization) =>
          target.app.call(method, target.pathOf(path), {
            headers: authorization === undefined ? {} : { Authorization: authorization },
            ...(hasBody ? { body: {} } : {}),
          }),
        ),
      );
      for (const reply of replies) expectProblem(reply, 401, 'unauthenticated');
      const bodies = replies.map((reply) => JSON.stringify(withoutRequestFields(reply)));
      expect(new Set(bodies).size).toBe(1);
    },
  );

  it.each(['Bearer', 'bearer', 'BEARER'])('accepts the scheme written as %s', async (scheme) => {
    const headers = { Authorization: `${scheme} ${target.owner.token}` };
    const { status } = await target.app.call('GET', '/v1/users/me', { headers });
    expect(status).toBe(200);
  });
});

describe('X-Request-Id', () => {
  const requestIdOf = async (
    route: Parameters<RouteTarget['send']>[0],
    headers: NonNullable<RequestOptions['headers']>,
  ): Promise<string | null> => {
    const reply = await target.send(route, { token: undefined, headers });
    return reply.headers.get('x-request-id');
  };

  it.each(casesOf(ROUTES))('%s returns a well-formed id of the caller', async (_, route) => {
    const sent = 'trace.42_a-b~c+d/e=';
    expect(await requestIdOf(route, { 'X-Request-Id': sent })).toBe(sent);
  });

  const MALFORMED = ['', 'a b', 'a"b', 'a,b', 'é', '<script>', 'x'.repeat(129), ['a', 'b']];
  it.each(casesOf(ROUTES))('%s creates an id for each other request', async (_, route) => {
    const ids = await Promise.all([
      requestIdOf(route, {}),
      ...MALFORMED.map((sent) => requestIdOf(route, { 'X-Request-Id': sent })),
    ]);
    expect(ids).toEqual(ids.map(() => expect.stringMatching(/^[0-9a-f-]{36}$/)));
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe('parameters', () => {
  it.each(casesOf(ROUTES))('%s reports every unknown parameter', async (_, route) => {
    const path = `${route.path}?zzz=1&constructor=2&__proto__=3`;
    expect(validationErrorsOf(await target.send({ ...route, path }))).toEqual(
      expect.arrayContaining([
        '/zzz unknown-property',
        '/constructor unknown-property',
        '/__proto__ unknown-property',
      ]),
    );
  });
});

describe('If-Match', () => {
  const CONDITIONAL = ROUTES.filter(
    ({ method, path }) =>
      method === 'PATCH' ||
      /\/roles$|\{order\}\/\w+$/.test(path) ||
      /DELETE.*user/.test(method + path),
  ).filter(({ method }) => method !== 'GET');
  const MALFORMED = ['1', '"1', '', 'w/"1"', '"1" "2"', '"1", 2', '*, "1"', 'undefined', 'null'];

  it.each(casesOf(CONDITIONAL))('%s answers one that is malformed with 400', async (_, route) => {
    const options = route.hasBody ? { body: VALID_BODIES[route.path] } : {};
    const replies = await Promise.all(
      MALFORMED.map((tags) => target.send(route, { ...options, headers: { 'If-Match': tags } })),
    );
    for (const reply of replies) expectProblem(reply, 400, 'if-match-malformed');
  });
});

describe('security headers', () => {
  const ALWAYS = {
    'content-security-policy': expect.stringMatching(/base-uri 'none';.*frame-ancestors 'none'/),
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
  };
  const PAGE = {
    'content-security-policy': expect.stringMatching(/^default-src 'self';.*script-src 'self';/),
    'cross-origin-opener-policy': 'same-origin',
    'origin-agent-cluster': '?1',
    'x-frame-options': 'SAMEORIGIN',
    'x-xss-protection': '0',
  };
  const headersOf = async (path: string): Promise<Record<string, string>> =>
    Object.fromEntries((await target.app.call('GET', path)).headers);

  it.each(['/health/live', '/v1/users/me', '/v1/nowhere', '/metrics', '/docs', '/', '/v1x'])(
    'are part of the response to GET %s, whatever its status',
    async (path) => {
      expect(await headersOf(path)).toMatchObject(ALWAYS);
    },
  );

  it.each(['/', '/docs', '/docs/openapi.json', '/problems', '/nowhere', '/v1x'])(
    'protect what a browser renders at %s',
    async (path) => {
      expect(await headersOf(path)).toMatchObject(PAGE);
    },
  );

  it.each(['/health/live', '/v1/users/me', '/v1/nowhere'])(
    'let a browser that shows the response to GET %s load nothing',
    async (path) => {
      const headers = await headersOf(path);
      expect(headers['content-security-policy']).toMatch(/^default-src 'none';/);
      expect(Object.keys(PAGE).filter((name) => name in headers)).toEqual([
        'content-security-policy',
      ]);
    },
  );
});

describe('problems', () => {
  const HTML = 'text/html; charset=utf-8';

  it('are listed at /problems, each with a link to its page', async () => {
    const index = await target.app.call('GET', '/problems', { headers: { Accept: 'text/html' } });
    expect([index.status, index.headers.get('content-type')]).toEqual([200, HTML]);
    const links = [...index.text.matchAll(/href="\/problems\/([a-z-]+)"/g)].map(([, code]) => code);
    expect(links.sort()).toEqual([...problemCatalogue.keys()].sort());
    expect(links.length).toBeGreaterThan(10);
  });

  // Importing the application has filled the catalogue.
  it.each([...problemCatalogue.keys()])('%s has a page', async (code) => {
    const headers = { Accept: 'text/html,*/*;q=0.8' };
    const page = await target.app.call('GET', `/problems/${code}`, { headers });
    expect([page.status, page.headers.get('content-type')]).toEqual([200, HTML]);
    expect(page.text).toContain(`<code>${code}</code>`);
  });

  it('have no page for an unknown code', async () => {
    const reply = await target.app.call('GET', '/problems/no-such-problem');
    expectProblem(reply, 404, 'not-found');
  });

  // The roles of a user are for admins alone: 403 for everybody else.
  const ROUTES_WITH_ID = ROUTES.filter(
    ({ path }) => /\{\w+\}/.test(path) && !path.endsWith('/roles'),
  );
  it.each(casesOf(ROUTES_WITH_ID))(
    '%s answers alike for a hidden object and for one that does not exist',
    async (_, { method, path, hasBody }) => {
      const { token } = await registerUser(target.app);
      const options = hasBody ? { token, body: VALID_BODIES[path] } : { token };
      const missingPath = path.replace(/\{\w+\}/, randomUUID());
      const hidden = await target.app.call(method, target.pathOf(path), options);
      const missing = await target.app.call(method, missingPath, options);
      expectProblem(hidden, 404, 'not-found');
      expect(withoutRequestFields(hidden)).toEqual(withoutRequestFields(missing));
      expect(headerNamesOf(hidden)).toEqual(headerNamesOf(missing));
    },
  );
});

const headerNamesOf = ({ headers }: Reply): string[] => [...headers.keys()].sort();
