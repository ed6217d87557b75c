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
        'Host: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}',
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
    const malformed: (string | Buffer)[] = [
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
      // Not UTF-8: a byte that never occurs, UTF-16, and an overlong form.
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
    const replies = await Promise.all(malformed.map((body) => target.send(route, { body })));
    for (const reply of replies) expectProblem(reply, 400, 'malformed-json');
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
