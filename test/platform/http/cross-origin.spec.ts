/**
 * Requests from pages of other origins: no CORS header, no cookie that admits anybody,
 * nothing that a form can send.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../../support/app.js';
import { ORDER, PASSWORD, registerUser, type TestUser } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem } from '../../support/problem.js';

let app: TestApp;
let user: TestUser;

beforeAll(async () => {
  app = await startApp();
  user = await registerUser(app);
});
afterAll(() => app.close());

const corsHeadersOf = ({ headers }: Reply): string[] =>
  [...headers.keys()].filter((name) =>
    /^access-control-|^timing-allow|^cross-origin-embedder/.test(name),
  );

describe('a request from another origin', () => {
  it.each([['https://elsewhere.example'], ['null'], ['http://127.0.0.1']])(
    '(%s) gets no CORS header, whatever its status',
    async (Origin) => {
      const headers = { Origin, 'Idempotency-Key': randomUUID() };
      const { token } = user;
      const replies = [
        await app.call('GET', '/v1/users/me', { token, headers }),
        await app.call('GET', '/v1/users/me', { headers }),
        await app.call('POST', '/v1/orders', { token, headers, body: ORDER }),
        await app.call('POST', '/v1/sessions', { headers, body: {} }),
        await app.call('GET', '/nowhere', { headers }),
        await app.call('GET', '/docs/openapi.json', { headers }),
        await app.call('GET', '/health/live', { headers }),
      ];
      expect(replies.map(({ status }) => status)).toEqual([200, 401, 201, 400, 404, 200, 200]);
      expect(replies.flatMap(corsHeadersOf)).toEqual([]);
      const policies = replies.map((reply) => reply.headers.get('cross-origin-resource-policy'));
      expect(new Set(policies)).toEqual(new Set(['same-origin']));
    },
  );

  const PREFLIGHT = {
    Origin: 'https://elsewhere.example',
    'Access-Control-Request-Method': 'PUT',
    'Access-Control-Request-Headers': 'authorization',
  };

  it('gets the methods of a path from a preflight, but no permission to use them', async () => {
    const path = `/v1/users/${user.id}/password`;
    const reply = await app.call('OPTIONS', path, { headers: PREFLIGHT });
    expect([reply.status, reply.headers.get('allow')]).toEqual([204, 'PUT, OPTIONS']);
    expect(corsHeadersOf(reply)).toEqual([]);
  });

  it('gets 404 from a preflight for an unknown path', async () => {
    const reply = await app.call('OPTIONS', '/v1/nothing', { headers: PREFLIGHT });
    expectProblem(reply, 404, 'not-found');
    expect(corsHeadersOf(reply)).toEqual([]);
  });
});

describe('a session', () => {
  it('sets no cookie but the one that marks the device, which pages of other sites never send', async () => {
    const body = { username: user.username, password: PASSWORD };
    const { status, headers } = await app.call('POST', '/v1/sessions', { body });
    const cookies = headers.getSetCookie().map((cookie) => cookie.replace(/=[^;]*/, ''));
    expect(status).toBe(201);
    expect(cookies).toEqual([
      '__Host-holdfast_device; Path=/; Max-Age=15552000; Secure; HttpOnly; SameSite=Strict',
    ]);
  });

  it.each([
    ['a cookie', (token: string) => ({ Cookie: `token=${token}; Authorization=Bearer ${token}` })],
    ['another header', (token: string) => ({ 'X-Authorization': `Bearer ${token}` })],
  ])('is not found by a token in %s', async (_, headersWith) => {
    const headers = headersWith(user.token);
    expectProblem(await app.call('GET', '/v1/users/me', { headers }), 401, 'unauthenticated');
  });

  it('is of no use to a form: its media types are rejected', async () => {
    const headers = {
      'Content-Type': 'text/plain',
      Authorization: `Bearer ${user.token}`,
      'Idempotency-Key': randomUUID(),
    };
    const body = JSON.stringify(ORDER);
    const reply = await app.call('POST', '/v1/orders', { headers, body });
    expectProblem(reply, 415, 'unsupported-media-type');
  });
});
