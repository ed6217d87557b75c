/**
 * Bytes that are not well-formed HTTP: each is answered with a problem, and the connection ends.
 */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../../../support/app.js';

let app: TestApp;

beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const CLOSING = 'Host: x\r\nConnection: close\r\n';
const get = (fields: string): string => `GET /v1/users HTTP/1.1\r\n${fields}\r\n`;
const post = (fields: string, body: string): string =>
  `POST /v1/users HTTP/1.1\r\n${fields}${CLOSING}\r\n${body}`;

describe('a request with', () => {
  it.each([
    ['an unknown method', `FOO /v1/users HTTP/1.1\r\n${CLOSING}\r\n`],
    ['a TLS handshake in place of HTTP', '\x16\x03\x01\x02\x00\x01\x00'],
    ['an unknown version', `GET / HTTP/9.9\r\n${CLOSING}\r\n`],
    ['no Host', get('Connection: close\r\n')],
    ['a header field without a colon', get(`nonsense\r\n${CLOSING}`)],
    ['a space before the colon', get(`X : 1\r\n${CLOSING}`)],
    ['a bare carriage return', get(`X: a\rb\r\n${CLOSING}`)],
    ['a NUL in a header field', get(`X: a\0b\r\n${CLOSING}`)],
    ['a negative length', post('Content-Length: -1\r\n', '{}')],
    ['two lengths', post('Content-Length: 2\r\nContent-Length: 3\r\n', '{}')],
    [
      'a length and chunks',
      post('Content-Length: 2\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'),
    ],
    [
      'malformed chunks',
      post('Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n', 'zz\r\n'),
    ],
  ])('%s is 400 malformed-request', async (_, bytes) => {
    expectRawProblem(await app.sendRaw(bytes), 400, 'malformed-request');
  });

  it('17 KiB of header fields is 431 headers-too-large', async () => {
    const response = await app.sendRaw(get(`X: ${'x'.repeat(17 * 1024)}\r\n${CLOSING}`));
    expectRawProblem(response, 431, 'headers-too-large');
  });

  it('an unknown expectation is served', async () => {
    const response = await app.sendRaw(
      `GET /health/live HTTP/1.1\r\nExpect: tea\r\n${CLOSING}\r\n`,
    );
    expect(response).toMatch(/^HTTP\/1\.1 200 /);
  });
});

it('malformed bytes after a request get no second response', async () => {
  const response = await app.sendRaw(
    'GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n',
  );
  expect(response.match(/^HTTP\/1\.1 \d+/gm)).toHaveLength(1);
});

it('a client that disconnects in the middle of a body does not disturb others', async () => {
  await new Promise<void>((resolve) => {
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1', () => {
      const head = 'Host: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n';
      socket.write(`POST /v1/users HTTP/1.1\r\n${head}\r\n{"a`, () => socket.destroy());
    });
    socket.on('close', () => resolve());
  });
  const { status } = await app.call('GET', '/health/live');
  expect(status).toBe(200);
});

/** Expects a problem response that closes the connection. */
function expectRawProblem(response: string, status: number, code: string): void {
  const [head = '', ...rest] = response.split('\r\n\r\n');
  expect(head).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  expect(head).toMatch(/^content-type: application\/problem\+json/im);
  expect(head).toMatch(/^connection: close/im);
  const body = JSON.parse(rest.join('')) as { requestId: string };
  expect(body).toMatchObject({ type: `/problems/${code}`, status, code });
  expect(head).toContain(body.requestId);
}
