/** Limits of connections in time and number, and what responses reveal about the server. */
import type { Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { MAX_CONNECTIONS } from '../../../../src/platform/http/server/server-options.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { eventually } from '../../../support/eventually.js';

let app: TestApp;
let server: Server;
const sockets: Socket[] = [];

beforeAll(async () => {
  app = await startApp();
  server = app.app.getHttpServer() as Server;
});
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});
afterAll(() => app.close());

const LIVE = 'GET /health/live HTTP/1.1\r\nHost: x\r\n';
const KEPT = `${LIVE}\r\n`;
const CLOSED = `${LIVE}Connection: close\r\n\r\n`;

interface Connection {
  readonly socket: Socket;
  /** Everything that was received, once the connection is closed. */
  readonly received: Promise<string>;
}

function open(firstBytes: string): Connection {
  const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
  socket.write(firstBytes);
  sockets.push(socket);
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
  socket.on('error', () => undefined);
  return { socket, received: new Promise((resolve) => socket.on('close', () => resolve(text))) };
}

it('the server has timeouts and a maximum of connections', () => {
  const { headersTimeout, requestTimeout, keepAliveTimeout, maxConnections } = server;
  expect({ headersTimeout, requestTimeout, keepAliveTimeout, maxConnections }).toEqual({
    headersTimeout: 10_000,
    requestTimeout: 30_000,
    keepAliveTimeout: 65_000,
    maxConnections: MAX_CONNECTIONS,
  });
});

describe('a request that arrives byte by byte', () => {
  it.each([
    ['head', 'GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: '],
    [
      'body',
      'POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n' +
        'Content-Length: 100000\r\n\r\n{',
    ],
  ])('is 408 when its %s is not complete in time, while others are served', async (_, bytes) => {
    const { headersTimeout, requestTimeout } = server;
    Object.assign(server, { headersTimeout: 200, requestTimeout: 400 });
    const { socket, received } = open(bytes);
    const dribble = setInterval(() => socket.writable && socket.write(' '), 20);
    try {
      // Again when this request itself was late: it has the same short timeouts.
      await eventually('another client is served', async () => {
        const { status } = await app.call('GET', '/health/live');
        return status === 200;
      });
      expect(await received).toMatch(
        /^HTTP\/1\.1 408 [^]*application\/problem\+json[^]*request-timeout/,
      );
    } finally {
      clearInterval(dribble);
      Object.assign(server, { headersTimeout, requestTimeout });
    }
  });
});

describe('a connection past the maximum', () => {
  it('is closed at once, and accepted when another one has ended', async () => {
    const first = open(KEPT);
    await new Promise((resolve) => first.socket.once('data', resolve));
    server.maxConnections = await connectionCount();
    try {
      expect(await open(KEPT).received).toBe('');
      first.socket.write(CLOSED);
      expect((await first.received).match(/HTTP\/1\.1 200/g)).toHaveLength(2);
      expect(await open(CLOSED).received).toMatch(/^HTTP\/1\.1 200/);
    } finally {
      server.maxConnections = MAX_CONNECTIONS;
    }
  });

  const connectionCount = (): Promise<number> =>
    new Promise((resolve, reject) =>
      server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
    );
});

it.each(['/health/live', '/docs', '/nowhere', '/v1/users/me'])(
  'the response to %s does not name the software of the server',
  async (path) => {
    const { headers } = await app.call('GET', path);
    const revealing = ['server', 'x-powered-by', 'via', 'x-aspnet-version'];
    expect(revealing.filter((name) => headers.has(name))).toEqual([]);
  },
);
