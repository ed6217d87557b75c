/** Methods, media types and URLs: what every route answers before its handler runs. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Reply } from '../../../support/http-client.js';
import { expectProblem } from '../../../support/problem.js';
import {
  casesOf,
  methodsOf,
  PATHS,
  type Route,
  ROUTES,
  type RouteTarget,
  startRouteTarget,
  VALID_BODIES,
} from '../routes.js';

let target: RouteTarget;

beforeAll(async () => {
  target = await startRouteTarget();
});
afterAll(() => target.app.close());

const READS = ROUTES.filter(({ method }) => method === 'GET');
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND'];

describe('methods', () => {
  const allowOf = ({ headers }: Reply): string[] => (headers.get('allow') ?? '').split(', ').sort();

  const REJECTED = PATHS.flatMap((path) =>
    METHODS.filter((method) => !methodsOf(path).includes(method)).map((method) => ({
      method,
      path,
    })),
  );
  it.each(REJECTED)(
    '$method $path is 405 and lists the methods of the path in Allow',
    async ({ method, path }) => {
      const reply = await target.send({ method, path });
      if (method === 'HEAD') expect(reply.status).toBe(405);
      else expectProblem(reply, 405, 'method-not-allowed');
      expect(allowOf(reply)).toEqual(methodsOf(path));
    },
  );

  it.each(PATHS)('OPTIONS %s is 204 and lists the methods in Allow', async (path) => {
    const reply = await target.app.call('OPTIONS', target.pathOf(path));
    expect([reply.status, reply.text, allowOf(reply)]).toEqual([204, '', methodsOf(path)]);
  });

  it.each(casesOf(READS))(
    '%s has the same header fields for HEAD, without a body',
    async (_, route) => {
      // The length of a stream is not known before it ends.
      const length = route.mediaType ? [] : ['content-length'];
      const names = ['content-type', 'etag', 'cache-control', 'link', ...length];
      const fieldsOf = ({ headers }: Reply) => names.map((name) => [name, headers.get(name)]);
      const get = await target.send(route);
      const head = await target.send({ ...route, method: 'HEAD' });
      expect([get.status, head.status, head.text]).toEqual([200, 200, '']);
      expect(fieldsOf(head)).toEqual(fieldsOf(get));
    },
  );
});

describe('Accept', () => {
  const typeOf = ({ mediaType }: Route): string => mediaType ?? 'application/json';

  it.each(casesOf(ROUTES))('%s is 406 when its media type is not accepted', async (_, route) => {
    const unacceptable = ['image/png', 'text/html', `${typeOf(route)};q=0`, '*/*;q=0'];
    const replies = await Promise.all(
      unacceptable.map((Accept) => target.send(route, { headers: { Accept } })),
    );
    for (const reply of replies) expectProblem(reply, 406, 'not-acceptable');
  });

  it.each(casesOf(READS))('%s accepts its media type and ranges with it', async (_, route) => {
    const type = typeOf(route);
    const acceptable = [type, '*/*', 'application/*', `text/html, ${type};q=0.1`];
    const replies = await Promise.all(
      acceptable.map((Accept) => target.send(route, { headers: { Accept } })),
    );
    const typesOf = replies.map(({ status, headers }) => [
      status,
      headers.get('content-type')?.split(';')[0],
    ]);
    expect(typesOf).toEqual(acceptable.map(() => [200, type]));
  });
});

describe('URLs', () => {
  const BROKEN = ['%', '%z', '%zz', '%ff', '%E0%A4%A', '%C0%AF'];
  it.each(PATHS)('%s with broken percent-encoding is 400', async (template) => {
    const path = target.pathOf(template);
    const urls = BROKEN.flatMap((broken) => [
      `${path}/${broken}`,
      `${path}?limit=${broken}`,
      `${path}?a?${broken}=1`,
    ]);
    const replies = await Promise.all(
      urls.map((url) => target.app.call('GET', url, { token: target.adminToken })),
    );
    for (const reply of replies) expectProblem(reply, 400, 'malformed-url');
  });

  it.each([
    '/',
    '/v1',
    '/v1/',
    '/v2/orders',
    '/v1/order',
    '/v1/orders/',
    '//v1/orders',
    '/V1/orders',
    '/v1/orders/x/y/z',
    '/etc/passwd',
  ])('%s leads nowhere: 404 for every method and media type', async (path) => {
    const headers = { Accept: 'text/html' };
    const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
    const replies = await Promise.all(
      methods.map((method) => target.app.call(method, path, { headers })),
    );
    for (const reply of replies) expectProblem(reply, 404, 'not-found');
    expect(replies.map(({ body }) => body.instance as string)).toEqual(methods.map(() => path));
  });

  it.each(casesOf(ROUTES.filter(({ path }) => /\{\w+\}/.test(path))))(
    '%s with an id that is not a UUID is 404',
    async (_, { method, path, hasBody }) => {
      const options = hasBody ? { body: VALID_BODIES[path] } : {};
      const reply = await target.send(
        { method, path: path.replace(/\{\w+\}/, 'no-uuid') },
        options,
      );
      expectProblem(reply, 404, 'not-found');
    },
  );

  it('a path parameter with more than 100 characters is 414', async () => {
    const path = `/v1/orders/${'a'.repeat(101)}`;
    expectProblem(await target.send({ method: 'GET', path }), 414, 'uri-too-long');
  });

  it('a URL in absolute form is understood', async () => {
    const response = await target.app.sendRaw(
      'GET http://anywhere.example/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    );
    expect(response).toMatch(/^HTTP\/1\.1 200 /);
  });
});
