/** Methods, media types and URLs: what every route answers before its handler runs. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp } from '../../../support/app.js';
import { type Reply, sendRaw } from '../../../support/http-client.js';
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

/** Of what the admin, as whom the tests call, may see. */
const READS = ROUTES.filter(({ method, isPrivate }) => method === 'GET' && !isPrivate);
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
    const type = typeOf(route);
    const unacceptable = [
      'image/png',
      'text/html',
      `${type};q=0`,
      `${type};version=1;q=0`,
      '*/*;q=0',
      `text/html;x="${type}", image/png;x=",${type},"`,
      'nonsense',
    ];
    const replies = await Promise.all(
      unacceptable.map((Accept) => target.send(route, { headers: { Accept } })),
    );
    for (const reply of replies) expectProblem(reply, 406, 'not-acceptable');
  });

  it.each(casesOf(READS))('%s accepts its media type and ranges with it', async (_, route) => {
    const type = typeOf(route);
    const acceptable = [
      'application/problem+json',
      type,
      '*/*',
      'application/*',
      `text/html, ${type};q=0.1`,
      '',
      ' , ,',
      type.toUpperCase(),
      `${type}; charset=utf-8`,
      `${type};charset="utf-8";q=0.5`,
      `application/*;version=2, text/html`,
      `text/html;level="1,2;q=0", ${type}; profile="a, b" ; q=0.1 ; extension`,
      `${type};version=1;q=0, ${type};version=2`,
    ];
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
  /** Names that mean something to a file system or to a router, but name nothing here. */
  const MISLEADING = [
    ...['../x', './x', '..', '.', '/x', 'x//y', '%00', 'x%00.css', '%2e%2e/x', '%2E./x'],
    ...['..%2fx', '%2e%2e%2fx', 'x%5c..%5cy', '%5c', '%0a', '%1b', '%7f', '.git/config', '~'],
    ...['swagger-ui.css/x', `${'a'.repeat(300)}`, '%E2%82%AC'.repeat(30), 'package.json%00'],
  ];
  it.each(MISLEADING)('/<any folder>/%s is 404', async (name) => {
    const folders = ['/docs', '/problems', '/health', '/v1/orders', '/v1/users', '/nowhere'];
    const port = Number(new URL(target.app.url).port);
    const head = `Host: x\r\nAuthorization: Bearer ${target.adminToken}\r\nConnection: close`;
    const statuses = await Promise.all(
      folders.map(async (folder) => {
        const response = await sendRaw(port, `GET ${folder}/${name} HTTP/1.1\r\n${head}\r\n\r\n`);
        return Number(/^HTTP\/1\.1 (\d+)/.exec(response)?.[1]);
      }),
    );
    // The router refuses parameters of more than 100 characters.
    expect(statuses.filter((status) => status !== 404 && status !== 414)).toEqual([]);
  });

  it.each([
    ['GET', '/%6Detrics'],
    ['HEAD', '/%6Detrics'],
    ['POST', '/%6Detrics'],
    ['OPTIONS', '/%6Detrics'],
    ['GET', '/metric%73'],
    ['GET', '/health/read%79'],
    ['GET', '/%64ocs'],
    ['GET', '/docs/openapi%2ejson'],
    ['GET', '/v1/users/%6de'],
    ['GET', '/v1/%75sers'],
    ['GET', '/%76%31/users/me'],
    ['POST', '/v1/orders/0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a/%70ay'],
  ])('%s %s, which spells the path of a route in another way, is 404', async (method, path) => {
    const reply = await target.app.call(method, path, { token: target.adminToken });
    expect(reply.status).toBe(404);
  });

  it.each(['/metrics', '/health/live', '/docs', '/docs/openapi.json', '/v1/users/me'])(
    '%s in its own spelling is 200',
    async (path) => {
      const reply = await target.app.call('GET', path, { token: target.adminToken });
      expect(reply.status).toBe(200);
    },
  );

  it('the parameter of a route may be percent-encoded', async () => {
    const id = target.owner.id.replace(/^0/, '%30');
    const reply = await target.app.call('GET', `/v1/users/${id}`, { token: target.adminToken });
    expect([reply.status, reply.body.id]).toEqual([200, target.owner.id]);
  });

  it('a path that names nothing is no failure of the service: nothing is logged', async () => {
    const lines: string[] = [];
    const log = { write: (line: string) => void lines.push(line) };
    const app = await startApp({ LOG_LEVEL: 'warn' }, undefined, log);
    try {
      for (const name of MISLEADING) await app.sendRaw(getOf(`/docs/${name}`));
    } finally {
      await app.close();
    }
    expect(lines).toEqual([]);
  });

  const getOf = (path: string): string =>
    `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;

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
    // RFC 9457, section 3.1.5: a URI reference. The paths of these requests are not.
    const isReference = replies.map(({ body }) => !/%(?![0-9a-f]{2})/i.test(String(body.instance)));
    expect(isReference).not.toContain(false);
  });

  it.each([
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

  it('a path with more than 1000 characters is 414', async () => {
    const path = `/docs/${'a/'.repeat(500)}`;
    expectProblem(await target.send({ method: 'GET', path }), 414, 'uri-too-long');
    const response = await target.app.sendRaw(getOf(`/docs/${'a/../'.repeat(2_000)}`));
    expect(response).toMatch(/^HTTP\/1\.1 414 /);
  });

  it('a URL in absolute form is understood', async () => {
    const response = await target.app.sendRaw(
      'GET http://anywhere.example/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    );
    expect(response).toMatch(/^HTTP\/1\.1 200 /);
  });
});
