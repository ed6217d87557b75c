/** Request bodies: JSON in UTF-8 up to 256 KiB, for every route that reads one. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { expectProblem, validationErrorsOf } from '../../../support/problem.js';
import { casesOf, ROUTES, type RouteTarget, startRouteTarget } from '../routes.js';

let target: RouteTarget;

beforeAll(async () => {
  target = await startRouteTarget();
});
afterAll(() => target.app.close());

const ROUTES_WITH_BODY = casesOf(ROUTES.filter(({ hasBody }) => hasBody));
const MAX_BODY_BYTES = 256 * 1024;
const bodyOfLength = (bytes: number): string => `{"x":"${'x'.repeat(bytes - 8)}"}`;

const SYNTAX = 'is not valid JSON';
const ENCODING = 'must be in UTF-8';
const DEPTH = 'must not be nested more than 32 levels deep';
const PROTO = 'must not have a member named "__proto__"';
const twice = (name: string): string => `must not have "${name}" twice`;

const MALFORMED: readonly (readonly [body: string | Buffer, reason: string])[] = [
  ['{', SYNTAX],
  ['{}}', SYNTAX],
  ["{'a':1}", SYNTAX],
  ['{"a":1,}', SYNTAX],
  ['{"a":NaN}', SYNTAX],
  ['{"a":01}', SYNTAX],
  ['/* */{}', SYNTAX],
  ['undefined', SYNTAX],
  [' ', SYNTAX],
  ['\ufeff{}'.repeat(2), SYNTAX],
  ['{"a":1}{"a":1}', SYNTAX],
  // A byte that never occurs, UTF-16, and an overlong form.
  [Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), ENCODING],
  [Buffer.from('{"a":"\ud800"}', 'utf16le'), ENCODING],
  [Buffer.from([0x7b, 0x22, 0xc0, 0xaf, 0x22, 0x3a, 0x31, 0x7d]), ENCODING],
  ['{"__proto__":{"roles":["admin"]}}', PROTO],
  ['{"a":{"__proto__":1}}', PROTO],
  ['[{"a":[{"__proto__":1}]}]', PROTO],
  ['{"__proto__":1,"__proto__":2}', PROTO],
  ['{"\\u005f_proto__":1}', PROTO],
  [`${'['.repeat(100_000)}${']'.repeat(100_000)}`, DEPTH],
  [`${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}`, DEPTH],
  ['{"a":1,"a":1}', twice('a')],
  ['{"a":1,"b":{"a":2},"a":3}', twice('a')],
  ['{"b":[{"c":1},{"c":1,"d":"\\"c\\":","c":2}]}', twice('c')],
  ['{"a":{"b":1,"b":1},"c":":{}\\\\"}', twice('b')],
  ['{"ab":1,"\\u0061b":2}', twice('\\u0061b')],
  ['{"":1,"":2}', twice('')],
  [`{${'"k":1,'.repeat(30_000)}"k":1}`, twice('k')],
];

/** Texts that look like the ones above. */
const WELL_FORMED = [
  '{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}',
  '{"a":"\\"a\\":1,\\"a\\":","A":1}',
  '{"a":":::{{{","b":"\\\\"}',
  `${'{"a":'.repeat(32)}1${'}'.repeat(32)}`,
  '\ufeff{"a":1}',
];

describe.each(ROUTES_WITH_BODY)('the body of %s', (_, route) => {
  it('is 415 unless it is sent as JSON in UTF-8 without compression', async () => {
    const unsupported = [
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
    ] as Record<string, string>[];
    const replies = await Promise.all(
      unsupported.map((headers) => target.send(route, { body: '{}', headers })),
    );
    for (const reply of replies) expectProblem(reply, 415, 'unsupported-media-type');
  });

  it('is 415 without a Content-Type', async () => {
    const response = await target.app.sendRaw(
      `${route.method} ${target.pathOf(route.path)} HTTP/1.1\r\n` +
        `Host: x\r\nAuthorization: Bearer ${target.adminToken}\r\n` +
        'Content-Length: 2\r\nConnection: close\r\n\r\n{}',
    );
    expect(response).toMatch(/^HTTP\/1\.1 415 [^]*application\/problem\+json/);
  });

  it('is read when the media type is JSON, in any case and with a charset of UTF-8', async () => {
    const types = [
      'application/json',
      'APPLICATION/JSON',
      'application/json;charset=UTF-8',
      'application/json; charset="utf-8"',
    ];
    const replies = await Promise.all(
      types.map((type) =>
        target.send(route, {
          body: '[]',
          headers: { 'Content-Type': type, 'Content-Encoding': 'identity' },
        }),
      ),
    );
    for (const reply of replies) expectProblem(reply, 400, 'validation-failed');
  });

  it('may have 256 KiB, and one byte more is 413', async () => {
    const largest = await target.send(route, { body: bodyOfLength(MAX_BODY_BYTES) });
    expectProblem(largest, 400, 'validation-failed');
    const larger = await target.send(route, { body: bodyOfLength(MAX_BODY_BYTES + 1) });
    expectProblem(larger, 413, 'payload-too-large');
  });

  it('is 400 malformed-json when it is not strictly JSON', async () => {
    const replies = await Promise.all(MALFORMED.map(([body]) => target.send(route, { body })));
    for (const reply of replies) expectProblem(reply, 400, 'malformed-json');
    expect(replies.map(({ body }) => body.detail as string)).toEqual(
      MALFORMED.map(([, reason]) => `The request body ${reason}`),
    );
  });

  it('is read as JSON when names repeat in different objects only', async () => {
    const replies = await Promise.all(WELL_FORMED.map((body) => target.send(route, { body })));
    for (const reply of replies) expectProblem(reply, 400, 'validation-failed');
  });

  it('is 400 when it is JSON but not an object', async () => {
    const bodies = ['[]', 'null', '1', '"text"', 'true', '[{}]'];
    const replies = await Promise.all(bodies.map((body) => target.send(route, { body })));
    expect(replies.map(validationErrorsOf)).toEqual(bodies.map(() => [' object']));
  });

  it('reports every unknown property, whatever its name', async () => {
    const pointers = {
      zzz: '/zzz',
      constructor: '/constructor',
      toString: '/toString',
      hasOwnProperty: '/hasOwnProperty',
      then: '/then',
      'a/b~c': '/a~1b~0c',
      isAdmin: '/isAdmin',
    };
    const body = Object.fromEntries(Object.keys(pointers).map((name) => [name, 1]));
    const reply = await target.send(route, { body: JSON.stringify(body) });
    const unknown = validationErrorsOf(reply).filter((error) => error.endsWith('unknown-property'));
    expect(unknown.sort()).toEqual(
      Object.values(pointers)
        .map((pointer) => `${pointer} unknown-property`)
        .sort(),
    );
  });
});
