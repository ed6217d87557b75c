/** Which pipelined requests begin and count: over HTTP, with a server that answers when told to. */
import { EventEmitter } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { serveInTurn } from '../../../../src/platform/http/bounds/pipelines.js';
import { Turns } from '../../../../src/platform/http/bounds/turns.js';
import { Refusals } from '../../../../src/platform/http/bounds/refusals.js';
import { eventually } from '../../../support/eventually.js';
import { getOf, openRaw, type RawClient } from './raw-client.js';

const BOUNDS = { maxPerConnection: 4, maxWaiting: 3 };

describe('pipelines', () => {
  let server: Server;
  let clients: RawClient[];
  /** Paths of the requests that have begun. */
  let begun: string[];
  let unanswered: Map<string, ServerResponse>;
  /** Requests are answered when they begin. */
  let isAnswering: boolean;

  beforeEach(async () => {
    [clients, begun, isAnswering] = [[], [], false];
    unanswered = new Map();
    server = createServer(({ url = '' }, response) => {
      begun.push(url);
      if (isAnswering) response.end();
      else unanswered.set(url, response);
    });
    serveInTurn(server, new Refusals(new Registry()), BOUNDS, () => undefined);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  });
  afterEach(async () => {
    for (const { socket } of clients) socket.destroy();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  /** Sends one GET for each path, all at once, on a connection of its own. */
  function pipeline(...paths: string[]): RawClient {
    return send(paths.map((path) => getOf(path)).join(''));
  }
  function send(bytes: string): RawClient {
    const { port } = server.address() as AddressInfo;
    const client = openRaw(`http://127.0.0.1:${port}`, bytes);
    clients.push(client);
    return client;
  }
  const hasBegun = (path: string): Promise<unknown> =>
    eventually(`${path} has begun`, () => begun.includes(path));
  const isClosed = (client: RawClient): Promise<unknown> =>
    eventually('the connection is closed', client.isClosed);
  function answerAll(): void {
    isAnswering = true;
    for (const response of unanswered.values()) response.end();
    unanswered.clear();
  }
  /** Whether as many requests may wait as when the server started. */
  async function expectAllPlacesFree(): Promise<void> {
    isAnswering = false;
    const client = pipeline('/last', '/waits', '/waits', '/waits');
    await hasBegun('/last');
    answerAll();
    await eventually('all four are answered', () => client.statuses().length === 4);
  }

  it('that fill the process cost further connections their pipelines, not their requests', async () => {
    pipeline('/a', '/waits', '/waits', '/waits');
    await hasBegun('/a');
    const alone = pipeline('/b');
    await hasBegun('/b');
    await isClosed(pipeline('/c', '/never'));
    answerAll();
    await eventually('the request without a pipeline is answered', () => alone.statuses().length);
    expect(begun).not.toContain('/never');
  });

  it('free their places as their requests begin', async () => {
    const client = pipeline('/a', '/waits', '/waits', '/waits');
    await hasBegun('/a');
    answerAll();
    await eventually('all are answered', () => client.statuses().length === 4);
    await expectAllPlacesFree();
  });

  it('of a client that has gone free their places, and are never begun', async () => {
    const client = pipeline('/a', '/never', '/never', '/never');
    await hasBegun('/a');
    client.socket.destroy();
    await eventually('the server has noticed', () => unanswered.get('/a')?.closed);
    unanswered.clear();
    await expectAllPlacesFree();
    expect(begun).not.toContain('/never');
  });

  it('after one past the bound are not begun, while a write gets its response', async () => {
    // The fifth is one too many, and the sixth comes while the connection closes.
    const post = 'POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n';
    const client = send(post + getOf('/never').repeat(5));
    await hasBegun('/write');
    answerAll();
    await isClosed(client);
    expect(client.statuses()).toEqual([200]);
    expect(begun).toEqual(['/write']);
  });

  it('past the bound of their connection free their places, and are never begun', async () => {
    await isClosed(pipeline('/a', ...Array<string>(20).fill('/never')));
    unanswered.clear();
    await expectAllPlacesFree();
    expect(begun).not.toContain('/never');
  });
});

describe('between two requests of a pipeline', () => {
  /** Requests and responses that end when the test says so. */
  function connection() {
    const server = new EventEmitter();
    const begun: number[] = [];
    server.on('request', ({ number }: { number: number }) => begun.push(number));
    const dropped: number[] = [];
    serveInTurn(server as Server, new Refusals(new Registry()), BOUNDS, (request) => {
      dropped.push((request as unknown as { number: number }).number);
    });
    const ends: string[] = [];
    const socket = {
      destroyed: false,
      destroy: () => ends.push('at once'),
      destroySoon: () => ends.push('when all is sent'),
    };
    const send = (method: string, number: number): EventEmitter & { closed: boolean } => {
      const response = Object.assign(new EventEmitter(), { closed: false });
      server.emit('request', { method, number, socket }, response);
      return response;
    };
    return { begun, dropped, ends, send };
  }

  it('other connections have their turn', async () => {
    const { begun, send } = connection();
    const first = send('GET', 1);
    send('GET', 2);
    first.emit('close');

    expect(begun).toEqual([1]);
    await setImmediate();
    expect(begun).toEqual([1, 2]);
  });

  it('those that are dropped with their connection count, once each', () => {
    const { dropped, send } = connection();
    for (const number of [1, 2, 3, 4, 5, 6]) send('GET', number);

    expect(dropped).toEqual([2, 3, 4, 5]);
  });

  it('too many further ones close the connection of a write that is answered', () => {
    const { ends, send } = connection();
    const write = send('POST', 1);
    send('GET', 2);
    write.closed = true;
    write.emit('close');
    for (const number of [3, 4, 5]) send('GET', number);

    expect(ends).toEqual(['when all is sent']);
  });
});

it('a few requests begin in one turn of the event loop, in the order of their arrival', async () => {
  const begun: number[] = [];
  const turns = new Turns();
  for (let number = 0; number < 20; number++) turns.begin(() => begun.push(number));

  const counts = [begun.length];
  for (let turn = 0; turn < 3; turn++) {
    await setImmediate();
    counts.push(begun.length);
    // What arrives meanwhile waits behind the others.
    if (turn === 0) turns.begin(() => begun.push(20));
  }

  expect(counts).toEqual([8, 16, 21, 21]);
  expect(begun).toEqual([...begun].sort((a, b) => a - b));
});
