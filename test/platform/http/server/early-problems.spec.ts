/**
 * Bytes that are not well-formed HTTP: each is answered with a problem, and the connection ends. A
 * request before them keeps its response.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import type { Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { UnitOfWork } from '../../../../src/platform/database/unit-of-work.js';
import { EarlyProblems } from '../../../../src/platform/http/server/early-problems.js';
import { trackResponses } from '../../../../src/platform/http/server/pending-responses.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { eventually } from '../../../support/eventually.js';
import { ORDER, registerUser, type TestUser } from '../../../support/factories.js';
import { Gate } from '../../../support/gate.js';

let app: TestApp;

beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const CLOSING = 'Host: x\r\nConnection: close\r\n';
const CHUNKED = 'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n';
const CHUNKS = '2\r\n{}\r\n0\r\n\r\n';
const LIVE = 'GET /health/live HTTP/1.1\r\nConnection: close\r\n';
const get = (fields: string): string => `GET /v1/users HTTP/1.1\r\n${fields}\r\n`;
const post = (fields: string, body: string): string =>
  `POST /v1/users HTTP/1.1\r\n${fields}${CLOSING}\r\n${body}`;

const MALFORMED: readonly (readonly [what: string, bytes: string])[] = [
  ['an unknown method', `FOO /v1/users HTTP/1.1\r\n${CLOSING}\r\n`],
  ['a TLS handshake in place of HTTP', '\x16\x03\x01\x02\x00\x01\x00'],
  ['an unknown version', `GET / HTTP/9.9\r\n${CLOSING}\r\n`],
  ['a path that is not ASCII', `GET /docs/\xe9 HTTP/1.1\r\n${CLOSING}\r\n`],
  ['a target without a slash', `GET health/live HTTP/1.1\r\n${CLOSING}\r\n`],
  ['no Host', get('Connection: close\r\n')],
  ['two lines of Host', get(`Host: y\r\n${CLOSING}`)],
  ['two equal lines of Host', get(`Host: x\r\n${CLOSING}`)],
  ['two hosts in one line', get('Host: x, y\r\nConnection: close\r\n')],
  ['a Host with a space', get('Host: x y\r\nConnection: close\r\n')],
  ['a Host with a path', get('Host: x/y\r\nConnection: close\r\n')],
  ['a Host with a user', get('Host: me@x\r\nConnection: close\r\n')],
  ['a Host with a port in letters', get('Host: x:http\r\nConnection: close\r\n')],
  ['two lines of Host in HTTP/1.0', `GET /v1/users HTTP/1.0\r\nHost: y\r\n${CLOSING}\r\n`],
  ['a header field without a colon', get(`nonsense\r\n${CLOSING}`)],
  ['a space before the colon', get(`X : 1\r\n${CLOSING}`)],
  ['a bare carriage return', get(`X: a\rb\r\n${CLOSING}`)],
  ['a NUL in a header field', get(`X: a\0b\r\n${CLOSING}`)],
  ['a negative length', post('Content-Length: -1\r\n', '{}')],
  ['two lengths', post('Content-Length: 2\r\nContent-Length: 3\r\n', '{}')],
  ['a length and chunks', post('Content-Length: 2\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n')],
  ['malformed chunks', post(CHUNKED, 'zz\r\n')],
  ['chunks twice', post(CHUNKED.replace('chunked', 'chunked, chunked'), CHUNKS)],
  ['chunks that are not last', post(CHUNKED.replace('chunked', 'chunked, gzip'), CHUNKS)],
  ['chunks in HTTP/1.0', post(CHUNKED, CHUNKS).replace('HTTP/1.1', 'HTTP/1.0')],
];

/** Transfer codings that HTTP knows, or knew, and this server does not have. */
const UNKNOWN_CODINGS: readonly (readonly [what: string, bytes: string])[] = [
  ['gzip below chunks', post(CHUNKED.replace('chunked', 'gzip, chunked'), CHUNKS)],
  ['gzip in a line of its own', post(`Transfer-Encoding: gzip\r\n${CHUNKED}`, CHUNKS)],
  ['identity', post(CHUNKED.replace('chunked', 'identity'), '')],
  ['gzip below the chunks of a GET', get(`Transfer-Encoding: gzip, chunked\r\n${CLOSING}`)],
];

describe('a request with', () => {
  it.each(MALFORMED)('%s is 400 malformed-request', async (_, bytes) => {
    expectRawProblem(await app.sendRaw(bytes), 400, 'malformed-request');
  });

  it.each(UNKNOWN_CODINGS)('%s is 501 not-implemented', async (_, bytes) => {
    expectRawProblem(await app.sendRaw(bytes), 501, 'not-implemented');
  });

  it('CONNECT is 501 not-implemented', async () => {
    const response = await app.sendRaw(`CONNECT x:443 HTTP/1.1\r\n${CLOSING}\r\n`);
    expectRawProblem(response, 501, 'not-implemented');
  });

  it('17 KiB of header fields is 431 headers-too-large', async () => {
    const response = await app.sendRaw(get(`X: ${'x'.repeat(17 * 1024)}\r\n${CLOSING}`));
    expectRawProblem(response, 431, 'headers-too-large');
  });

  it('two lines of Authorization is 401, whatever the first one is', async () => {
    const { token } = await registerUser(app);
    const lines = [`Bearer ${token}`, 'Bearer x'].map((value) => `Authorization: ${value}\r\n`);
    const request = (fields: string): string =>
      `GET /v1/users/me HTTP/1.1\r\n${fields}${CLOSING}\r\n`;
    expect(await app.sendRaw(request(lines[0] as string))).toMatch(/^HTTP\/1\.1 200 /);
    expect(await app.sendRaw(request(lines.join('')))).toMatch(/^HTTP\/1\.1 401 /);
  });

  it.each([
    ['an unknown expectation', `GET /health/live HTTP/1.1\r\nExpect: tea\r\n${CLOSING}\r\n`],
    ['an offer to upgrade', `GET /health/live HTTP/1.1\r\nUpgrade: x\r\n${CLOSING}\r\n`],
    ['a Host of IPv6 with a port', `${LIVE}Host: [::1]:80\r\n\r\n`],
    ['an empty Host', `${LIVE}Host:\r\n\r\n`],
    ['HTTP/1.0 and no Host', 'GET /health/live HTTP/1.0\r\n\r\n'],
    ['chunks in capitals', `${post(CHUNKED.replace('chunked', 'Chunked'), CHUNKS)}`],
  ])('%s is served', async (_, bytes) => {
    expect(await app.sendRaw(bytes)).toMatch(/^HTTP\/1\.1 (200|400 Bad Request\r[^]*validation)/);
  });

  it('OPTIONS and * gets the methods of the server', async () => {
    const response = await app.sendRaw(`OPTIONS * HTTP/1.1\r\n${CLOSING}\r\n`);
    expect(response).toMatch(/^HTTP\/1\.1 204 /);
    expect(response).toMatch(/^allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r$/im);
  });
});

/** Responses that are sent without a route, each by another part of the service. */
const EARLY: readonly (readonly [what: string, bytes: string])[] = [
  ...MALFORMED,
  ...UNKNOWN_CODINGS,
  ['CONNECT', `CONNECT x:443 HTTP/1.1\r\n${CLOSING}\r\n`],
  ['431', get(`X: ${'x'.repeat(17 * 1024)}\r\n${CLOSING}`)],
  ['broken encoding in the path', `GET /v1/orders/%ff HTTP/1.1\r\n${CLOSING}\r\n`],
  ['broken encoding in the query', `GET /v1/orders?%ff HTTP/1.1\r\n${CLOSING}\r\n`],
  ['a parameter that is too long', `GET /v1/orders/${'a'.repeat(101)} HTTP/1.1\r\n${CLOSING}\r\n`],
  ['a path that is too long', `GET /${'a/'.repeat(501)} HTTP/1.1\r\n${CLOSING}\r\n`],
  ['OPTIONS', `OPTIONS /v1/orders HTTP/1.1\r\n${CLOSING}\r\n`],
  ['405', `DELETE /v1/orders HTTP/1.1\r\n${CLOSING}\r\n`],
  ['406', `GET /v1/orders HTTP/1.1\r\nAccept: image/png\r\n${CLOSING}\r\n`],
  ['* without OPTIONS', `GET * HTTP/1.1\r\n${CLOSING}\r\n`],
  ['404', `GET /nowhere HTTP/1.1\r\n${CLOSING}\r\n`],
  ['404 of a file', `GET /docs/nothing HTTP/1.1\r\n${CLOSING}\r\n`],
  ['415', post('Content-Type: text/plain\r\nContent-Length: 2\r\n', 'xx')],
  ['413', post('Content-Type: application/json\r\nContent-Length: 999999\r\n', '')],
  ['a redirection or file', `GET /docs HTTP/1.1\r\n${CLOSING}\r\n`],
];

it.each(EARLY)(
  'the response to %s has the security headers, a date and an id',
  async (_, bytes) => {
    const [head = ''] = (await app.sendRaw(bytes)).split('\r\n\r\n');
    const names = head.split('\r\n').map((line) => line.split(':')[0]?.toLowerCase());
    expect(names).toEqual(
      expect.arrayContaining([
        'content-security-policy',
        'cross-origin-resource-policy',
        'referrer-policy',
        'x-content-type-options',
        'date',
        'x-request-id',
      ]),
    );
  },
);

describe('bytes after a request', () => {
  let user: TestUser;
  let unitOfWork: UnitOfWork;
  let server: Server;

  beforeAll(async () => {
    user = await registerUser(app);
    unitOfWork = app.app.get(UnitOfWork);
    server = app.app.getHttpServer() as Server;
  });

  const orderRequest = (): string => {
    const body = JSON.stringify(ORDER);
    const fields = [
      'Host: x',
      `Authorization: Bearer ${user.token}`,
      `Idempotency-Key: ${randomUUID()}`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
    ];
    return `POST /v1/orders HTTP/1.1\r\n${fields.join('\r\n')}\r\n\r\n${body}`;
  };
  const statusesIn = (received: string): string[] =>
    [...received.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status as string);

  interface Connection {
    readonly socket: Socket;
    received: string;
    isClosed: boolean;
  }

  function open(bytes: string): Connection {
    const socket = connect({
      port: Number(new URL(app.url).port),
      host: '127.0.0.1',
      // This side can end while the other still sends.
      allowHalfOpen: true,
    });
    const connection: Connection = { socket, received: '', isClosed: false };
    socket.setEncoding('latin1').on('data', (text: string) => (connection.received += text));
    socket.on('error', () => undefined);
    socket.on('close', () => (connection.isClosed = true));
    socket.on('end', () => socket.end());
    socket.write(bytes, 'latin1');
    return connection;
  }

  /** Holds every transaction until the gate opens; `begun` counts them. */
  async function whileTransactionsWait(work: (gate: Gate, begun: () => number) => Promise<void>) {
    const gate = new Gate();
    const original = unitOfWork.runAs.bind(unitOfWork);
    let begun = 0;
    unitOfWork.runAs = (async (...parameters: Parameters<UnitOfWork['runAs']>) => {
      begun++;
      await gate.opened;
      return original(...parameters);
    }) as UnitOfWork['runAs'];
    try {
      await work(gate, () => begun);
    } finally {
      gate.open();
      unitOfWork.runAs = original;
    }
  }

  const GARBAGE: readonly (readonly [what: string, bytes: string])[] = [
    ['two bytes too many', '{}'],
    ['a line of nonsense', 'nonsense\r\n\r\n'],
    ['a malformed request', `GET /v1/orders HTTP/1.1\r\nX : 1\r\n\r\n`],
    ['a request with 17 KiB of header fields', get(`X: ${'x'.repeat(17 * 1024)}\r\n`)],
    ['binary zeros', '\0'.repeat(1_000)],
  ];

  it.each(GARBAGE)('%s, in the same write: the order is placed, and 201', async (_, bytes) => {
    const { received } = await closed(open(orderRequest() + bytes));
    expect(statusesIn(received)).toEqual(['201']);
    expect(received).toMatch(/^connection: close\r$/im);
  });

  it.each(GARBAGE)('%s, while the order is being placed: 201 goes out', async (_, bytes) => {
    await whileTransactionsWait(async (gate, begun) => {
      let failures = 0;
      server.once('clientError', () => failures++);
      const connection = open(orderRequest());
      await eventually('the transaction begins', () => begun() === 1);
      connection.socket.write(bytes, 'latin1');
      await eventually('the service has read them', () => failures > 0);
      connection.socket.write(bytes, 'latin1');
      gate.open();
      expect(statusesIn((await closed(connection)).received)).toEqual(['201']);
    });
  });

  it('two pipelined orders and garbage: both are answered, in their order', async () => {
    const { received } = await closed(open(`${orderRequest()}${orderRequest()}nonsense\r\n\r\n`));
    expect(statusesIn(received)).toEqual(['201', '201']);
  });

  it('the end of the client’s side: 201 goes out', async () => {
    const connection = open(orderRequest());
    connection.socket.end();
    expect(statusesIn((await closed(connection)).received)).toEqual(['201']);
  });

  it('the end of the client’s side while the order is being placed: 201 goes out', async () => {
    await whileTransactionsWait(async (gate, begun) => {
      let hasEnded = false;
      server.once('connection', (socket: Socket) => socket.once('end', () => (hasEnded = true)));
      const connection = open(orderRequest());
      await eventually('the transaction begins', () => begun() === 1);
      connection.socket.end();
      await eventually('the service has seen it', () => hasEnded);
      gate.open();
      expect(statusesIn((await closed(connection)).received)).toEqual(['201']);
    });
  });

  it('the end of the client’s side within a body: 400, and nothing is placed', async () => {
    const connection = open(orderRequest().slice(0, -5));
    connection.socket.end();
    expect(statusesIn((await closed(connection)).received)).toEqual(['400']);
  });

  it('the end of the client’s side on an idle connection closes it', async () => {
    const connection = open('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n');
    await eventually('the response arrives', () => connection.received !== '');
    connection.socket.end();
    expect(statusesIn((await closed(connection)).received)).toEqual(['200']);
  });

  it('garbage on an idle connection is 400', async () => {
    const connection = open('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n');
    await eventually('the response arrives', () => connection.received !== '');
    connection.socket.write('nonsense\r\n\r\n');
    expect(statusesIn((await closed(connection)).received)).toEqual(['200', '400']);
  });

  /** The connection, when both sides have closed it. */
  async function closed(connection: Connection): Promise<Connection> {
    await eventually('the connection closes', () => connection.isClosed);
    return connection;
  }
});

it('malformed bytes after a request get no second response', async () => {
  const response = await app.sendRaw(
    'GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n',
  );
  expect(response.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 200']);
});

it('clients that disconnect are no failure of the service: nothing is logged', async () => {
  const lines: string[] = [];
  const log = { write: (line: string) => void lines.push(line) };
  const logged = await startApp({ LOG_LEVEL: 'error' }, undefined, log);
  const body = JSON.stringify({ username: 'x', password: 'x' });
  const login = `POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n`;
  const count = 50;
  let ended = 0;
  try {
    for (let client = 0; client < count; client++) {
      const socket = connect(Number(new URL(logged.url).port), '127.0.0.1', () => {
        const bytes = `${login}Content-Length: ${body.length}\r\n\r\n${body}`;
        socket.write(bytes, () => socket.resetAndDestroy());
      });
      socket.on('error', () => undefined).on('close', () => ended++);
    }
    await eventually('every client has disconnected', () => ended === count);
    await logged.call('POST', '/v1/sessions', { body: { username: 'x', password: 'x' } });
  } finally {
    await logged.close();
  }
  expect(lines).toEqual([]);
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

describe('a client that never ends its side of the connection', () => {
  const JSON_TYPE = 'Content-Type: application/json\r\n';

  it.each([
    ['after a malformed request', 'garbage\r\n\r\n', '400'],
    ['after CONNECT', `CONNECT x:443 HTTP/1.1\r\n${CLOSING}\r\n`, '501'],
    ['and sends nothing', '', '408'],
    ['and sends a part of a body', post(`${JSON_TYPE}Content-Length: 100\r\n`, '{'), '408'],
  ])('%s loses it soon', async (_, bytes, status) => {
    const server = app.app.getHttpServer() as Server;
    const { headersTimeout, requestTimeout } = server;
    Object.assign(server, { headersTimeout: 1, requestTimeout: 1 });
    const { port } = new URL(app.url);
    const accepted = once(server, 'connection') as Promise<[Socket]>;
    const socket = connect({ port: Number(port), host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => undefined);
    let text = '';
    socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
    try {
      socket.write(bytes);
      await eventually('it is answered', () => text.startsWith(`HTTP/1.1 ${status} `));
      const [serverSide] = await accepted;
      await eventually('the connection is gone', () => serverSide.destroyed);
    } finally {
      socket.destroy();
      Object.assign(server, { headersTimeout, requestTimeout });
    }
  });
});

it('a request that fails while its response is sent gets no other response', async () => {
  const server = new EventEmitter();
  trackResponses(server as Server);
  const done: string[] = [];
  const socket = {
    writable: true,
    end: () => done.push('another response'),
    destroySoon: () => done.push('the end of the connection'),
  };
  const response = Object.assign(new EventEmitter(), { headersSent: true });
  server.emit('request', { socket, complete: false }, response);

  new EarlyProblems([]).sendToSocket(
    Object.assign(new Error('late'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' }),
    socket as unknown as Socket,
  );

  await setImmediate();
  expect(done).toEqual(['the end of the connection']);
});
