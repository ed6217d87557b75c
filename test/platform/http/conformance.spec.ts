/**
 * The conventions of the API, held for every route of it. ROUTES is the whole surface; that it is, is checked against the
 * OpenAPI document. What a single route does is tested in its module's folder.
 */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type Call, type Reply, startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  deadToken,
  ORDER,
  person,
  type Person,
  placeOrder,
} from '../support/factories.js';
import { anonymous, expectProblem, faultsOf, pointersOf, seenTypes } from '../support/problem.js';

interface Route {
  readonly method: string;
  readonly path: string;
  /** It reads a JSON body. */
  readonly body?: true;
  /** It reads parameters of the query. */
  readonly query?: true;
  /** It needs no session. */
  readonly anyone?: true;
  /** It has pages. */
  readonly list?: true;
  readonly media?: string;
}

const ACTIONS = ['pay', 'ship', 'deliver', 'cancel', 'refund'];
const ROUTES: readonly Route[] = [
  { method: 'POST', path: '/v1/users', body: true, anyone: true },
  { method: 'GET', path: '/v1/users', query: true, list: true },
  { method: 'GET', path: '/v1/users/me' },
  { method: 'GET', path: '/v1/users/{user}' },
  { method: 'PATCH', path: '/v1/users/{user}', body: true },
  { method: 'DELETE', path: '/v1/users/{user}' },
  { method: 'PUT', path: '/v1/users/{user}/password', body: true },
  { method: 'PUT', path: '/v1/users/{user}/roles', body: true },
  { method: 'GET', path: '/v1/users/{user}/orders', query: true, list: true },
  { method: 'POST', path: '/v1/sessions', body: true, anyone: true },
  { method: 'GET', path: '/v1/sessions' },
  { method: 'DELETE', path: '/v1/sessions', query: true },
  { method: 'GET', path: '/v1/sessions/current' },
  { method: 'DELETE', path: '/v1/sessions/current' },
  { method: 'DELETE', path: '/v1/sessions/{session}' },
  { method: 'POST', path: '/v1/orders', body: true },
  { method: 'GET', path: '/v1/orders', query: true, list: true },
  { method: 'GET', path: '/v1/orders/summary', query: true },
  { method: 'GET', path: '/v1/orders/export', media: 'application/x-ndjson' },
  { method: 'GET', path: '/v1/orders/{order}', query: true },
  { method: 'PATCH', path: '/v1/orders/{order}', body: true },
  { method: 'GET', path: '/v1/orders/{order}/events', query: true, list: true },
  ...ACTIONS.map((action) => ({
    method: 'POST',
    path: `/v1/orders/{order}/${action}`,
    body: true as const,
  })),
];
/** Not of the API: for probes and for people, whatever they accept. */
const BESIDE = ['GET /health/live', 'GET /health/ready', 'GET /health/startup', 'GET /metrics'];

const named = (routes: readonly Route[]): [string, Route][] =>
  routes.map((route) => [`${route.method} ${route.path}`, route]);
const PATHS = [...new Set(ROUTES.map(({ path }) => path))];
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
const methodsOf = (path: string): string[] => {
  const own = ROUTES.filter((route) => route.path === path).map(({ method }) => method);
  return [...own, ...(own.includes('GET') ? ['HEAD'] : []), 'OPTIONS'].sort();
};
const allowOf = (reply: Reply): string[] => (reply.headers.get('allow') ?? '').split(', ').sort();

describe('every route', () => {
  let app: TestApp;
  let owner: Person;
  let admin: string;
  let ids: Record<string, string>;

  beforeAll(async () => {
    app = await startApp();
    owner = await person(app);
    admin = await adminToken(app);
    ids = {
      user: owner.id,
      order: (await placeOrder(app, owner.token)).id,
      session: (await app.call('GET', '/v1/sessions/current', { token: owner.token })).body.id,
    };
  });
  afterAll(() => app.close());

  const at = (path: string): string =>
    path.replace(/\{(\w+)\}/g, (_, name: string) => ids[name] as string);
  /** As someone who may: the admin may call all but what only owners do, and those refuse later than what is tested here. */
  const send = (route: Pick<Route, 'method' | 'path'>, call: Call = {}): Promise<Reply> =>
    app.call(route.method, at(route.path), {
      token: admin,
      ...call,
      headers: { 'Idempotency-Key': crypto.randomUUID(), ...call.headers },
    });

  it('is in the table, and the table has no more', async () => {
    const { body } = await app.call('GET', '/docs/openapi.json');
    const documented = Object.entries(body.paths as Record<string, object>).flatMap(
      ([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
    const known = ROUTES.map(({ method, path }) => `${method} ${path.replace(/\{\w+\}/g, '{id}')}`);
    expect(documented.sort()).toEqual([...known, ...BESIDE].sort());
  });

  describe('methods', () => {
    it.each(PATHS)('%s refuses all but its own with 405 and tells them in Allow', async (path) => {
      const allowed = methodsOf(path);
      for (const method of [...METHODS, 'TRACE', 'PROPFIND'].filter(
        (one) => !allowed.includes(one),
      )) {
        const refused = await send({ method, path });
        expect([method, refused.status]).toEqual([method, 405]);
        if (method !== 'HEAD') expectProblem(refused, 405, 'method-not-allowed');
        expect(allowOf(refused)).toEqual(allowed);
      }
      const options = await app.call('OPTIONS', at(path));
      expect([options.status, options.text, allowOf(options)]).toEqual([204, '', allowed]);
    });

    it.each(named(ROUTES.filter(({ method }) => method === 'GET')))(
      '%s answers HEAD alike, without a body',
      async (_, route) => {
        const get = await send(route);
        const head = await send({ ...route, method: 'HEAD' });
        expect([get.status, head.status, head.text]).toEqual([200, 200, '']);
        const same = [
          'content-type',
          'etag',
          'cache-control',
          'link',
          ...(route.media ? [] : ['content-length']),
        ];
        for (const name of same)
          expect([name, head.headers.get(name)]).toEqual([name, get.headers.get(name)]);
      },
    );
  });

  describe('media types', () => {
    it.each(named(ROUTES))('%s gives what is accepted, or 406', async (_, route) => {
      const type = route.media ?? 'application/json';
      for (const Accept of ['image/png', 'text/html', `${type};q=0`, `*/*;q=0`])
        expectProblem(await send(route, { headers: { Accept } }), 406, 'not-acceptable');
      if (route.method !== 'GET') return;
      for (const Accept of [type, '*/*', 'application/*', `text/html, ${type};q=0.1`]) {
        const reply = await send(route, { headers: { Accept } });
        expect([Accept, reply.status]).toEqual([Accept, 200]);
        expect(reply.headers.get('content-type')?.startsWith(type)).toBe(true);
      }
    });

    it.each(named(ROUTES.filter(({ body }) => body)))(
      '%s takes JSON in UTF-8 only, else 415',
      async (_, route) => {
        const wrong: Record<string, string | string[]>[] = [
          { 'Content-Type': 'text/plain' },
          { 'Content-Type': 'application/x-www-form-urlencoded' },
          { 'Content-Type': 'multipart/form-data; boundary=x' },
          { 'Content-Type': 'application/json-patch+json' },
          { 'Content-Type': 'application/jsonx' },
          { 'Content-Type': 'application/json; charset=utf-16' },
          { 'Content-Type': 'application/json; charset="latin1"' },
          { 'Content-Type': 'nonsense' },
          { 'Content-Type': '' },
          { 'Content-Encoding': 'gzip' },
          { 'Content-Encoding': 'br' },
        ];
        for (const headers of wrong) {
          const reply = await send(route, { body: '{}', headers });
          expect([headers, reply.status]).toEqual([headers, 415]);
          expectProblem(reply, 415, 'unsupported-media-type');
        }
        const none = await app.raw(
          `${route.method} ${at(route.path)} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}`,
        );
        expect(none).toMatch(/^HTTP\/1\.1 415 [^]*application\/problem\+json/);
        for (const type of [
          'application/json',
          'APPLICATION/JSON',
          'application/json;charset=UTF-8',
          'application/json; charset="utf-8"',
        ])
          expect(
            (
              await send(route, {
                body: '[]',
                headers: { 'Content-Type': type, 'Content-Encoding': 'identity' },
              })
            ).body.code,
          ).toBe('validation-failed');
      },
    );
  });

  describe('bodies', () => {
    const BODIES = named(ROUTES.filter(({ body }) => body));
    const LIMIT = 256 * 1024;
    const ofLength = (length: number): string => `{"x":"${'x'.repeat(length - 8)}"}`;

    it.each(BODIES)('%s takes 256 KiB and not a byte more', async (_, route) => {
      expectProblem(await send(route, { body: ofLength(LIMIT) }), 400, 'validation-failed');
      expectProblem(await send(route, { body: ofLength(LIMIT + 1) }), 413, 'payload-too-large');
    });

    it.each(BODIES)('%s refuses what is not JSON, or not strictly', async (_, route) => {
      const broken: (string | Buffer)[] = [
        '{',
        '{}}',
        "{'a':1}",
        '{"a":1,}',
        '{"a":NaN}',
        '{"a":01}',
        '/* */{}',
        'undefined',
        ' ',
        '\ufeff{}'.repeat(2),
        Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]),
        Buffer.from('{"a":"\ud800"}', 'utf16le'),
        Buffer.from([0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x3a, 0x31, 0x7d]),
        '{"__proto__":{"roles":["admin"]}}',
        '{"a":{"__proto__":1}}',
        '{"__proto__":1,"__proto__":2}',
        '{"\\u005f_proto__":1}',
        `${'['.repeat(100_000)}${']'.repeat(100_000)}`,
        `${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}`,
      ];
      for (const body of broken) {
        const reply = await send(route, { body });
        expect([body.toString().slice(0, 40), reply.status]).toEqual([
          body.toString().slice(0, 40),
          400,
        ]);
        expectProblem(reply, 400, 'malformed-json');
      }
      for (const body of ['[]', 'null', '1', '"text"', 'true', '[{}]'])
        expect(faultsOf(await send(route, { body }))).toEqual([' object']);
    });

    it.each(BODIES)(
      '%s names every property that it does not know, whatever it is called',
      async (_, route) => {
        const names = [
          'zzz',
          'constructor',
          'toString',
          'hasOwnProperty',
          'then',
          'a/b~c',
          'isAdmin',
        ];
        const body = Object.fromEntries(names.map((name) => [name, 1]));
        const faults = faultsOf(await send(route, { body: JSON.stringify(body) }));
        const unknown = names.map(
          (name) => `/${name.replace('~', '~0').replace('/', '~1')} unknown-property`,
        );
        expect(faults.filter((fault) => fault.endsWith('unknown-property')).sort()).toEqual(
          unknown.sort(),
        );
      },
    );

    it('costs little, however many small faults a body holds', async () => {
      const heavy = [
        { currency: 'EUR', items: Array(80_000).fill({}) },
        { currency: 'EUR', items: Array(120_000).fill(1) },
        {
          ...ORDER,
          items: [
            Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`k${index}`, 1])),
          ],
        },
      ];
      for (const body of heavy) {
        const began = performance.now();
        const reply = await send({ method: 'POST', path: '/v1/orders' }, { body });
        expect(performance.now() - began).toBeLessThan(2_500);
        expect(faultsOf(reply).length).toBeLessThanOrEqual(50);
      }
    });
  });

  describe('URLs', () => {
    it.each(PATHS)('%s with broken percent-encoding is 400', async (path) => {
      for (const broken of ['%', '%z', '%zz', '%ff', '%E0%A4%A', '%C0%AF'])
        for (const url of [
          `${at(path)}/${broken}`,
          `${at(path)}?limit=${broken}`,
          `${at(path)}?a?${broken}=1`,
        ])
          expectProblem(await app.call('GET', url, { token: admin }), 400, 'malformed-url');
    });

    it.each(named(ROUTES))('%s names every parameter that it does not know', async (_, route) => {
      const faults = faultsOf(
        await send({ ...route, path: `${route.path}?zzz=1&constructor=2&__proto__=3` }),
      );
      for (const name of ['zzz', 'constructor', '__proto__'])
        expect(faults).toContain(`/${name} unknown-property`);
    });

    it('that lead nowhere are 404, whoever asks and whatever is accepted', async () => {
      const nowhere = [
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
      ];
      for (const path of nowhere)
        for (const method of METHODS.filter((one) => one !== 'HEAD')) {
          const reply = await app.call(method, path, { headers: { Accept: 'text/html' } });
          expectProblem(reply, 404, 'not-found');
          expect(reply.body.instance).toBe(path);
        }
    });

    it('with an id that is no UUID are 404, as any id that names nothing', async () => {
      for (const route of ROUTES.filter(({ path }) => /\{\w+\}/.test(path))) {
        const path = route.path.replace(/\{\w+\}/, 'no-uuid');
        const body = route.body ? VALID[route.path.replace(/\{\w+\}/, '{}')] : undefined;
        expectProblem(await send({ ...route, path }, { body }), 404, 'not-found');
      }
      expectProblem(
        await app.call('GET', `/v1/orders/${'a'.repeat(101)}`, { token: admin }),
        414,
        'uri-too-long',
      );
    });

    it('in absolute form are understood', async () => {
      const answer = await app.raw(
        'GET http://anywhere.example/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
      );
      expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    });
  });

  describe('authentication', () => {
    const TOKENS: readonly (readonly [string, string | string[] | undefined])[] = [
      ['none', undefined],
      ['an empty one', 'Bearer '],
      ['a garbled one', 'Bearer §§§'],
      ['an unknown one', 'Bearer hf_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'],
      ['an oversized one', `Bearer ${'a'.repeat(8_000)}`],
      ['two in one', 'Bearer a, Bearer b'],
      ['another scheme', `Basic ${Buffer.from('root:root').toString('base64')}`],
      ['no scheme', 'hf_AAAA'],
    ];

    it.each(named(ROUTES.filter(({ anyone }) => !anyone)))(
      '%s needs a live token',
      async (_, route) => {
        const dead = await deadToken(app);
        const faces = new Set<string>();
        for (const [name, header] of [...TOKENS, ['a dead one', `Bearer ${dead}`] as const]) {
          const headers: Record<string, string | string[]> =
            header === undefined ? {} : { Authorization: header };
          const reply = await app.call(route.method, at(route.path), {
            headers,
            ...(route.body ? { body: {} } : {}),
          });
          expect([name, reply.status]).toEqual([name, 401]);
          expectProblem(reply, 401, 'unauthenticated');
          faces.add(JSON.stringify(anonymous(reply)));
        }
        expect(faces.size).toBe(1);
      },
    );

    it('takes the scheme in any case', async () => {
      for (const scheme of ['Bearer', 'bearer', 'BEARER'])
        expect(
          (
            await app.call('GET', '/v1/users/me', {
              headers: { Authorization: `${scheme} ${owner.token}` },
            })
          ).status,
        ).toBe(200);
    });
  });

  it('every answer tells browsers to trust it little, whatever became of the request', async () => {
    for (const path of ['/health/live', '/v1/users/me', '/v1/nowhere', '/docs', '/problems']) {
      const { headers } = await app.call('GET', path);
      expect([path, Object.fromEntries(headers)]).toEqual([
        path,
        expect.objectContaining({
          'content-security-policy': expect.stringMatching(
            /^default-src 'self';.*frame-ancestors 'none';.*script-src 'self';/,
          ),
          'cross-origin-opener-policy': 'same-origin',
          'cross-origin-resource-policy': 'same-origin',
          'origin-agent-cluster': '?1',
          'referrer-policy': 'no-referrer',
          'x-content-type-options': 'nosniff',
          'x-frame-options': 'SAMEORIGIN',
          'x-xss-protection': '0',
        }),
      ]);
    }
  });

  describe('request ids', () => {
    it.each(named(ROUTES))(
      '%s takes over a well-formed X-Request-Id and replaces any other',
      async (_, route) => {
        const own = 'trace.42_a-b~c+d/e=';
        expect(
          (await send(route, { token: undefined, headers: { 'X-Request-Id': own } })).headers.get(
            'x-request-id',
          ),
        ).toBe(own);
        const made = new Set<string | null>();
        const bad = ['', 'a b', 'a"b', 'a,b', 'é', '<script>', 'x'.repeat(129), ['a', 'b']];
        for (const value of [...bad, undefined]) {
          const headers = value === undefined ? undefined : { 'X-Request-Id': value };
          made.add(
            (await send(route, { token: undefined, ...(headers ? { headers } : {}) })).headers.get(
              'x-request-id',
            ),
          );
        }
        expect(made.size).toBe(bad.length + 1);
        for (const id of made) expect(id).toMatch(/^[0-9a-f-]{36}$/);
      },
    );
  });

  describe('HTTP that is not well-formed', () => {
    const closing = 'Host: x\r\nConnection: close\r\n';
    const bad: readonly (readonly [string, string, number])[] = [
      ['an unknown method', `FOO /v1/users HTTP/1.1\r\n${closing}\r\n`, 400],
      ['no HTTP at all', '\x16\x03\x01\x02\x00\x01\x00', 400],
      ['a version that is none', `GET / HTTP/9.9\r\n${closing}\r\n`, 400],
      ['no Host', 'GET /v1/users HTTP/1.1\r\nConnection: close\r\n\r\n', 400],
      ['a header without a colon', `GET /v1/users HTTP/1.1\r\nnonsense\r\n${closing}\r\n`, 400],
      ['a space before the colon', `GET /v1/users HTTP/1.1\r\nX : 1\r\n${closing}\r\n`, 400],
      ['a bare carriage return', `GET /v1/users HTTP/1.1\r\nX: a\rb\r\n${closing}\r\n`, 400],
      ['a NUL in a header', `GET /v1/users HTTP/1.1\r\nX: a\0b\r\n${closing}\r\n`, 400],
      [
        'a negative length',
        `POST /v1/users HTTP/1.1\r\nContent-Length: -1\r\n${closing}\r\n{}`,
        400,
      ],
      [
        'two lengths',
        `POST /v1/users HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n${closing}\r\n{}`,
        400,
      ],
      [
        'a length and chunks',
        `POST /v1/users HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n${closing}\r\n0\r\n\r\n`,
        400,
      ],
      [
        'chunks that are none',
        `POST /v1/users HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n${closing}\r\nzz\r\n`,
        400,
      ],
      [
        '17 KiB of headers',
        `GET /v1/users HTTP/1.1\r\nX: ${'x'.repeat(17 * 1024)}\r\n${closing}\r\n`,
        431,
      ],
    ];

    it.each(bad)('%s is a problem, and closes the connection', async (_, bytes, status) => {
      const answer = await app.raw(bytes);
      const [head = '', ...rest] = answer.split('\r\n\r\n');
      expect(head).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      expect(head).toMatch(/^content-type: application\/problem\+json/im);
      expect(head).toMatch(/^connection: close/im);
      const body = JSON.parse(rest.join('')) as Record<string, unknown>;
      expect(body).toMatchObject({
        status,
        code: status === 431 ? 'headers-too-large' : 'malformed-request',
      });
      expect(head).toContain(String(body.requestId));
      seenTypes.add(String(body.type));
    });

    it('behind a request gets no second answer on that connection', async () => {
      const answer = await app.raw('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n');
      expect(answer.match(/^HTTP\/1\.1 \d+/gm)).toHaveLength(1);
    });

    it('in an expectation is not met with silence or a bare 417', async () => {
      const answer = await app.raw(
        'GET /health/live HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nConnection: close\r\n\r\n',
      );
      expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    });

    it('a client that hangs up in the middle of a body harms nobody', async () => {
      await new Promise<void>((resolve) => {
        const socket = connect(Number(new URL(app.url).port), '127.0.0.1', () => {
          socket.write(
            'POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"a',
          );
          setTimeout(() => socket.destroy(), 50);
        });
        socket.on('close', () => resolve());
      });
      expect((await app.call('GET', '/health/live')).status).toBe(200);
    });
  });

  describe('texts', () => {
    // [method, path, a valid body, the member under test, values that are refused, values that are taken]
    const BAD_TEXT = [
      1,
      true,
      null,
      [],
      {},
      ['x'],
      'a\0b',
      'a\u0007b',
      'a\u007fb',
      'a\u0085b',
      'a\u2028b',
      '\ud800',
      'a\udc00',
    ];
    const item = (change: object): object => ({
      ...ORDER,
      items: [{ ...ORDER.items[0], ...change }],
    });
    const account = (change: object): object => ({
      username: 'someone',
      email: 'some@example.com',
      password: 'nine tall ships at anchor',
      ...change,
    });
    const fields: readonly (readonly [
      string,
      string,
      (value: unknown) => object,
      string,
      readonly unknown[],
    ])[] = [
      [
        'username',
        '/v1/users',
        (username) => account({ username }),
        '/username',
        ['', 'ab', 'a'.repeat(33), 'a b', 'ä'.repeat(3), 'a@b', '\u212aate'],
      ],
      [
        'email',
        '/v1/users',
        (email) => account({ email }),
        '/email',
        [
          '',
          'x',
          'x@',
          '@x.com',
          'a b@x.com',
          'ä@x.com',
          `${'a'.repeat(250)}@x.com`,
          'a@b@c.com',
          'x@localhost',
        ],
      ],
      [
        'password',
        '/v1/users',
        (password) => account({ password }),
        '/password',
        ['', 'short', '🐙'.repeat(14), '🐙'.repeat(129), 'x y '.repeat(40)],
      ],
      [
        'sku',
        '/v1/orders',
        (sku) => item({ sku }),
        '/items/0/sku',
        ['', 'x'.repeat(65), '🐙'.repeat(65), 'a\nb'],
      ],
      [
        'name',
        '/v1/orders',
        (name) => item({ name }),
        '/items/0/name',
        ['', 'x'.repeat(201), 'a\tb'],
      ],
      [
        'note',
        '/v1/orders',
        (note) => ({ ...ORDER, note }),
        '/note',
        ['x'.repeat(1001), '🐙'.repeat(1001)],
      ],
      [
        'currency',
        '/v1/orders',
        (currency) => ({ ...ORDER, currency }),
        '/currency',
        ['', 'eur', 'EURO', 'ABC', ' EUR', 'E\u0055\u0301R'],
      ],
      [
        'quantity',
        '/v1/orders',
        (quantity) => item({ quantity }),
        '/items/0/quantity',
        ['1', '', 0, -1, 1.5, 10_001, 1e300],
      ],
      [
        'unitPrice',
        '/v1/orders',
        (unitPrice) => item({ unitPrice }),
        '/items/0/unitPrice',
        ['0', -1, 0.01, 1e12 + 1, 2 ** 53],
      ],
      [
        'items',
        '/v1/orders',
        (items) => ({ ...ORDER, items }),
        '/items',
        [
          '[]',
          [],
          Array(101).fill(ORDER.items[0]),
          [null],
          [1],
          [[]],
          { 0: ORDER.items[0], length: 1 },
        ],
      ],
    ];

    it.each(fields)('%s is strict', async (name, path, bodyOf, pointer, refused) => {
      const wrong = BAD_TEXT.filter((value) => !(value === null && name === 'note'));
      const numeric = ['quantity', 'unitPrice'].includes(name)
        ? wrong.filter((value) => value !== 1)
        : wrong;
      for (const value of [...numeric, ...refused]) {
        const reply = await send({ method: 'POST', path }, { body: bodyOf(value) });
        expect([value, reply.status]).toEqual([value, 400]);
        for (const place of pointersOf(reply)) expect(place.startsWith(pointer)).toBe(true);
      }
    });

    it('are counted in code points, not in UTF-16 units', async () => {
      const long = { sku: '🐙'.repeat(64), name: '🐙'.repeat(200) };
      const body = {
        ...(item(long) as object),
        note: `${'🐙'.repeat(997)}\r\n\t`.replace('\r', ''),
      };
      const reply = await send({ method: 'POST', path: '/v1/orders' }, { body });
      expect([reply.status, reply.body.items[0].sku, reply.body.note]).toEqual([
        201,
        long.sku,
        body.note,
      ]);
    });

    it('and numbers that break several rules are all named, each with its place', async () => {
      const body = {
        currency: 'eur',
        items: [ORDER.items[0], { sku: '', name: 7, quantity: 0, extra: 1 }],
        note: 'a\0',
        stray: {},
      };
      expect(
        pointersOf(await send({ method: 'POST', path: '/v1/orders' }, { body })).sort(),
      ).toEqual(
        [
          '/currency',
          '/items/1/extra',
          '/items/1/name',
          '/items/1/quantity',
          '/items/1/sku',
          '/items/1/unitPrice',
          '/note',
          '/stray',
        ].sort(),
      );
      expect(
        pointersOf(await send({ method: 'POST', path: '/v1/users' }, { body: {} })).sort(),
      ).toEqual(['/email', '/password', '/username']);
    });
  });

  describe('pages', () => {
    const LISTS = ROUTES.filter(({ list }) => list).map(({ path }) => path);

    it.each(LISTS)('%s has a limit of 1 to 100', async (path) => {
      for (const limit of [
        '0',
        '101',
        '-1',
        'abc',
        '1e1',
        '1.0',
        '0x10',
        '%201',
        '',
        '%2B1',
        '99999999999999999999',
        '١',
      ])
        expect(
          pointersOf(
            await send({ method: 'GET', path: `${path}?limit=${encodeURI(decodeURI(limit))}` }),
          ),
        ).toEqual(['/limit']);
      expect(pointersOf(await send({ method: 'GET', path: `${path}?limit=1&limit=2` }))).toEqual([
        '/limit',
      ]);
      expect(pointersOf(await send({ method: 'GET', path: `${path}?limit[]=1` }))).toEqual([
        '/limit[]',
      ]);
      for (const limit of [1, 100]) {
        const { status, body } = await send({ method: 'GET', path: `${path}?limit=${limit}` });
        expect([status, Array.isArray(body.data)]).toEqual([200, true]);
      }
    });

    it.each(LISTS)('%s takes no cursor but its own', async (path) => {
      for (let times = 0; times < 2; times++) await placeOrder(app, owner.token);
      await app.call('PATCH', `/v1/orders/${ids.order}`, {
        token: owner.token,
        body: { note: `n${Date.now()}` },
        headers: { 'If-Match': '*' },
      });
      const cursors = await Promise.all(
        LISTS.map(
          async (list) =>
            (await send({ method: 'GET', path: `${list}?limit=1` })).body.next as string,
        ),
      );
      const own = cursors[LISTS.indexOf(path)] as string;
      expect((await send({ method: 'GET', path: `${path}?limit=1&cursor=${own}` })).status).toBe(
        200,
      );
      const forged = Buffer.from(
        Buffer.from(own, 'base64url').toString().replace(/\d/, '9'),
      ).toString('base64url');
      const foreign = cursors.filter((cursor) => cursor !== own);
      expect(foreign).toHaveLength(LISTS.length - 1);
      for (const cursor of [
        ...foreign,
        '',
        'x',
        'null',
        'W10',
        'MQ',
        `${own}%3D`,
        `${own}.`,
        `${own.slice(0, -2)}`,
        'a'.repeat(201),
        forged === own ? 'x' : `${forged}A`,
      ])
        expect(pointersOf(await send({ method: 'GET', path: `${path}?cursor=${cursor}` }))).toEqual(
          ['/cursor'],
        );
      expect(
        pointersOf(await send({ method: 'GET', path: `${path}?cursor=${own}&cursor=${own}` })),
      ).toEqual(['/cursor']);
    });

    it('/v1/orders takes no cursor under other filters', async () => {
      const of = (query: string): Promise<Reply> =>
        send({ method: 'GET', path: `/v1/orders?limit=1&${query}` });
      const { next } = (await of('status=placed')).body as { next: string };
      expect((await of(`status=placed&cursor=${next}`)).status).toBe(200);
      for (const query of [
        '',
        'status=paid',
        `status=placed&userId=${owner.id}`,
        'status=placed&createdFrom=2020-01-01T00:00:00Z',
      ])
        expect(pointersOf(await of(`${query}&cursor=${next}`))).toEqual(['/cursor']);
    });
  });

  describe('problems', () => {
    it('have a page each, and every one that was met here is among them', async () => {
      const index = await app.call('GET', '/problems', { headers: { Accept: 'text/html' } });
      expect([index.status, index.headers.get('content-type')]).toEqual([
        200,
        'text/html; charset=utf-8',
      ]);
      const pages = new Set(
        [...index.text.matchAll(/href="(\/problems\/[a-z-]+)"/g)].map(([, path]) => path as string),
      );
      expect([...seenTypes].filter((type) => !pages.has(type))).toEqual([]);
      expect(seenTypes.size).toBeGreaterThan(10);
      for (const path of pages) {
        const page = await app.call('GET', path, { headers: { Accept: 'text/html,*/*;q=0.8' } });
        expect([path, page.status, page.headers.get('content-type')]).toEqual([
          path,
          200,
          'text/html; charset=utf-8',
        ]);
        expect(page.text).toContain(`<code>${path.split('/').at(-1)}</code>`);
      }
      expectProblem(await app.call('GET', '/problems/no-such-problem'), 404, 'not-found');
    });

    it('tell the same of what is not there and of what may not be seen', async () => {
      const stranger = await person(app);
      const nothing = crypto.randomUUID();
      for (const { method, path, body } of ROUTES.filter(
        (route) => /\{(user|order|session)\}/.test(route.path) && !route.path.endsWith('/roles'),
      )) {
        const call = {
          token: stranger.token,
          ...(body ? { body: VALID[path.replace(/\{\w+\}/, '{}')] } : {}),
        };
        const [there, nowhere] = [
          await app.call(method, at(path), call),
          await app.call(method, path.replace(/\{\w+\}/, nothing), call),
        ];
        expectProblem(there, 404, 'not-found');
        expect(anonymous(there)).toEqual(anonymous(nowhere));
        expect([...there.headers.keys()].sort()).toEqual([...nowhere.headers.keys()].sort());
      }
    });
  });
});

/** A body that no rule refuses, by path. */
const VALID: Readonly<Record<string, object>> = {
  '/v1/users/{}': { username: 'another-name' },
  '/v1/users/{}/password': {
    currentPassword: 'nine tall ships at anchor',
    newPassword: 'ten tall ships at anchor',
  },
  '/v1/users/{}/roles': { roles: ['user'] },
  '/v1/orders/{}': { note: 'another' },
  ...Object.fromEntries(ACTIONS.map((action) => [`/v1/orders/{}/${action}`, {}])),
};
