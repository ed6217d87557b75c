/** Which bodies are compressed, with what, and what caches and readers are told about it. */
import http from 'node:http';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import Fastify from 'fastify';
import { installCompression } from '../../../../src/platform/http/server/compression.js';
import { startApp, type TestApp } from '../../../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  PASSWORD,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../../support/factories.js';

let app: TestApp;
let user: TestUser;
let admin: string;
let smallOrder: string;
let largeOrder: string;

beforeAll(async () => {
  app = await startApp();
  user = await registerUser(app);
  admin = await logInAsAdmin(app);
  smallOrder = (await placeOrder(app, user.token)).id as string;
  const [item] = ORDER.items;
  const items = Array.from({ length: 100 }, (_, index) => ({ ...item, sku: `LAMP-${index}` }));
  largeOrder = (await placeOrder(app, user.token, { ...ORDER, items })).id as string;
});
afterAll(() => app.close());

interface RawReply {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly bytes: Buffer;
}

/** The response as it travels: `fetch` and the client of the tests would decode it. */
async function send(
  path: string,
  acceptEncoding: string | undefined,
  { method = 'GET', token = user.token, headers = {}, url = app.url } = {},
): Promise<RawReply> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const encoding = acceptEncoding === undefined ? {} : { 'Accept-Encoding': acceptEncoding };
    const options = {
      method,
      headers: { Authorization: `Bearer ${token}`, ...encoding, ...headers },
    };
    http
      .request(url + path, options, resolve)
      .on('error', reject)
      .end();
  });
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return {
    status: response.statusCode as number,
    headers: response.headers,
    bytes: Buffer.concat(chunks),
  };
}

const DECODERS: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  br: brotliDecompressSync,
  gzip: gunzipSync,
};

const decoded = ({ headers, bytes }: RawReply): string => {
  const decode = DECODERS[headers['content-encoding'] ?? ''] ?? ((same: Buffer) => same);
  return decode(bytes).toString();
};

const pathOf = (id: string): string => `/v1/orders/${id}`;

describe('a body over 1 KiB', () => {
  it.each([
    ['br', 'br'],
    ['gzip', 'gzip'],
    ['gzip, deflate, br', 'br'],
    ['gzip;q=1.0, br;q=0.1', 'gzip'],
    ['deflate, gzip', 'gzip'],
    ['*', 'gzip'],
    ['br;q=0, gzip', 'gzip'],
    ['BR', 'br'],
  ])('is compressed for Accept-Encoding: %s with %s', async (accepted, encoding) => {
    const reply = await send(pathOf(largeOrder), accepted);
    const plain = await send(pathOf(largeOrder), undefined);
    expect([reply.status, reply.headers['content-encoding']]).toEqual([200, encoding]);
    expect(reply.bytes.length).toBeLessThan(plain.bytes.length / 2);
    expect(decoded(reply)).toBe(plain.bytes.toString());
    expect(reply.headers.etag).toBe(plain.headers.etag);
  });

  it.each([
    [undefined],
    [''],
    ['identity'],
    ['deflate'],
    ['zstd'],
    ['br;q=0, gzip;q=0'],
    ['nonsense'],
  ])('is sent as it is for Accept-Encoding: %s', async (accepted) => {
    const { status, headers, bytes } = await send(pathOf(largeOrder), accepted);
    expect([status, headers['content-encoding']]).toEqual([200, undefined]);
    expect(headers['content-length']).toBe(String(bytes.length));
    expect((JSON.parse(bytes.toString()) as { id: string }).id).toBe(largeOrder);
  });

  it.each<[what: string, path: string]>([
    ['the OpenAPI document', '/docs/openapi.json'],
    ['a script', '/docs/swagger-ui-bundle.js'],
    ['a style sheet', '/docs/swagger-ui.css'],
    ['the metrics', '/metrics'],
    ['the page of problems', '/problems'],
    ['a list', '/v1/orders'],
    [
      'a problem',
      `/v1/orders?${Array.from({ length: 60 }, (_, index) => `k${index}=1`).join('&')}`,
    ],
  ])('is compressed: %s', async (_, path) => {
    const reply = await send(path, 'br');
    expect(reply.headers['content-encoding']).toBe('br');
    expect(decoded(reply).length).toBeGreaterThan(1_024);
  });

  it('is compressed while it is streamed: the export', async () => {
    const reply = await send('/v1/orders/export', 'gzip', { token: admin });
    expect(reply.headers['content-encoding']).toBe('gzip');
    const lines = decoded(reply).trimEnd().split('\n');
    expect(lines.map((line) => (JSON.parse(line) as { id: string }).id)).toEqual([
      largeOrder,
      smallOrder,
    ]);
  });

  it('has a size that HEAD does not claim to know', async () => {
    const get = await send(pathOf(largeOrder), 'br');
    const head = await send(pathOf(largeOrder), 'br', { method: 'HEAD' });
    expect(head.headers['content-length']).toBeUndefined();
    const small = await send(pathOf(smallOrder), 'br', { method: 'HEAD' });
    expect(small.headers['content-length']).toMatch(/^\d+$/);
    expect([head.status, head.bytes.length, head.headers.etag]).toEqual([200, 0, get.headers.etag]);
  });

  it('is 304 when the client has it', async () => {
    const { headers } = await send(pathOf(largeOrder), 'br');
    const conditional = { headers: { 'If-None-Match': String(headers.etag) } };
    const reply = await send(pathOf(largeOrder), 'br', conditional);
    expect([reply.status, reply.bytes.length]).toEqual([304, 0]);
  });
});

describe('a body up to 1 KiB', () => {
  it('is sent as it is', async () => {
    const { status, headers, bytes } = await send(pathOf(smallOrder), 'br, gzip');
    expect([status, headers['content-encoding']]).toEqual([200, undefined]);
    expect(bytes.length).toBeLessThanOrEqual(1_024);
  });
});

it.each(['/v1/users/me', '/docs/openapi.json', '/v1/nowhere', '/v1/orders?x=1', '/'])(
  'the response to GET %s names Accept-Encoding in Vary, compressed or not',
  async (path) => {
    const replies = [await send(path, 'br'), await send(path, undefined)];
    const fields = replies.map(({ headers }) => headers.vary?.toLowerCase().split(/, */) ?? []);
    expect(fields.map((names) => names.filter((name) => name === 'accept-encoding'))).toEqual([
      ['accept-encoding'],
      ['accept-encoding'],
    ]);
  },
);

describe('a body with a secret', () => {
  it('is never compressed, whatever its size', async () => {
    const fastify = Fastify();
    await installCompression(fastify);
    const body = { token: 'x'.repeat(5_000) };
    fastify.get('/secret', { config: { hasSecret: true } }, () => body);
    fastify.get('/public', () => body);
    const url = await fastify.listen({ port: 0, host: '127.0.0.1' });
    try {
      const encodings = await Promise.all(
        ['/secret', '/public'].map((path) => send(path, 'br, gzip', { url })),
      );
      expect(encodings.map(({ headers }) => headers['content-encoding'])).toEqual([
        undefined,
        'br',
      ]);
    } finally {
      await fastify.close();
    }
  });

  it('belongs to a route that says so: every route whose response has one', async () => {
    const { body: document } = await app.call('GET', '/docs/openapi.json');
    const withSecret = Object.entries(document.paths as Paths).flatMap(([path, item]) =>
      Object.entries(item)
        .filter(([, { responses }]) => Object.values(responses).some(hasSecret(document)))
        .map(([method]) => `${method.toUpperCase()} ${path}`),
    );
    expect(withSecret).toEqual(['POST /v1/sessions']);
    // The server's own answer: the response is private to the login, and small as well.
    const { headers } = await app.call('POST', '/v1/sessions', {
      body: { username: user.username, password: PASSWORD },
      headers: { 'Accept-Encoding': 'br', 'User-Agent': 'x'.repeat(256) },
    });
    expect([headers.get('content-encoding'), headers.get('cache-control')]).toEqual([
      null,
      'no-store',
    ]);
  });
});

type Paths = Record<string, Record<string, { responses: Record<string, object> }>>;

/** Whether a response has a property that only the caller may ever see. */
const hasSecret =
  (document: unknown) =>
  (response: object): boolean => {
    const text = JSON.stringify(response);
    const names = [...text.matchAll(/#\/components\/schemas\/(\w+)/g)].map(([, name]) => name);
    const { components } = document as { components: { schemas: Record<string, object> } };
    const schemas = names.map((name) => JSON.stringify(components.schemas[name as string]));
    return schemas.some((schema) => /"(token|key|secret|recoveryCodes)":/.test(schema));
  };
