/** Connections that cost a server without asking for anything: bounded in time and number, told as problems where one can be told. */
import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Server } from 'node:http';
import { MOST_CONNECTIONS } from '../../src/http/negotiation.js';
import { startApp, type TestApp } from '../support/app.js';

describe('connections', () => {
  let app: TestApp;
  let server: Server;
  const sockets: Socket[] = [];
  beforeAll(async () => {
    app = await startApp();
    server = app.app.getHttpServer() as Server;
  });
  afterAll(async () => {
    sockets.forEach((socket) => socket.destroy());
    await app.close();
  });

  const open = (first: string): { socket: Socket; end: Promise<string> } => {
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1', () => socket.write(first));
    sockets.push(socket);
    let text = '';
    socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
    socket.on('error', () => undefined);
    return { socket, end: new Promise((resolve) => socket.on('close', () => resolve(text))) };
  };

  it('have bounds', () => {
    expect({
      headers: server.headersTimeout,
      request: server.requestTimeout,
      keepAlive: server.keepAliveTimeout,
      most: server.maxConnections,
    }).toEqual({ headers: 10_000, request: 30_000, keepAlive: 65_000, most: MOST_CONNECTIONS });
  });

  it('whose head or body dribbles are cut with a 408, while others are served', async () => {
    const [headers, request] = [server.headersTimeout, server.requestTimeout];
    [server.headersTimeout, server.requestTimeout] = [700, 1_500];
    const head = open('GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ');
    const body = open(
      'POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{',
    );
    const dribble = setInterval(
      () => [head, body].forEach(({ socket }) => socket.writable && socket.write(' ')),
      100,
    );
    try {
      expect((await app.call('GET', '/health/live')).status).toBe(200);
      expect(await head.end).toMatch(
        /^HTTP\/1\.1 408 [^]*application\/problem\+json[^]*request-timeout/,
      );
      expect(await body.end).toMatch(/^HTTP\/1\.1 408 /);
    } finally {
      clearInterval(dribble);
      [server.headersTimeout, server.requestTimeout] = [headers, request];
    }
  });

  it('past the most are closed at once, and taken again when others have gone', async () => {
    // One that stands already goes on being served.
    const first = open('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n');
    await new Promise((resolve) => first.socket.once('data', resolve));
    const now = await new Promise<number>((resolve) =>
      server.getConnections((_, count) => resolve(count)),
    );
    server.maxConnections = now;
    try {
      expect(await open('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n').end).toBe('');
      first.socket.write('GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
      expect((await first.end).match(/HTTP\/1\.1 200/g)).toHaveLength(2);
      expect(
        await open('GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n').end,
      ).toMatch(/^HTTP\/1\.1 200/);
    } finally {
      server.maxConnections = MOST_CONNECTIONS;
    }
  });

  it('tell nothing of what the server is made of', async () => {
    for (const path of ['/health/live', '/docs', '/nowhere', '/v1/users/me']) {
      const { headers } = await app.call('GET', path);
      for (const name of ['server', 'x-powered-by', 'via', 'x-aspnet-version'])
        expect([path, headers.get(name)]).toEqual([path, null]);
    }
  });
});
