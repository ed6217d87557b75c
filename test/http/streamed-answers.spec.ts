/** Streamed answers and clients that do not read them: cut after a bound, in service and sooner in a stop; the slow are not. */
import { once } from 'node:events';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import fastify, { type FastifyInstance } from 'fastify';
import { PATIENCE, StreamedAnswers } from '../../src/http/streamed-answers.js';
import { startApp } from '../support/app.js';

const SERVING = 600;
const DRAINING = 100;
const CHUNK = 'x'.repeat(64 * 1024);

let server: FastifyInstance;
let streams: StreamedAnswers;
let given: number;
/** When the generator was closed, by `performance.now()`. */
let released: number | undefined;

function* endless(): Generator<string> {
  try {
    for (;;) {
      given++;
      yield CHUNK;
    }
  } finally {
    released = performance.now();
  }
}

beforeEach(async () => {
  [given, released] = [0, undefined];
  streams = new StreamedAnswers({ serving: SERVING, draining: DRAINING });
  server = fastify({ forceCloseConnections: true });
  server.get('/', (_, reply) => streams.send(reply, endless()));
  await server.listen({ host: '127.0.0.1', port: 0 });
});
afterEach(() => server.close());

/** A client that has the first bytes and then reads nothing by itself. */
const open = (): Promise<http.IncomingMessage> =>
  new Promise((resolve, reject) => {
    const { port } = server.addresses()[0] as { port: number };
    http
      .get({ port, host: '127.0.0.1', agent: false }, (response) => {
        response.on('error', () => undefined);
        response.pause();
        resolve(response);
      })
      .on('error', reject);
  });

async function until(condition: () => boolean, ms: number): Promise<void> {
  for (const end = performance.now() + ms; !condition(); await sleep(10))
    if (performance.now() > end) throw new Error(`not within ${ms} ms`);
}

describe('a client that takes nothing', () => {
  it('is cut when its time is over, not before, and what it was sent is released', async () => {
    const response = await open();
    const began = performance.now();
    const closed = new Promise((resolve) => response.once('close', resolve));
    await sleep(SERVING / 2);
    const before = given;
    expect(released).toBeUndefined();
    await until(() => released !== undefined, 10 * SERVING);
    expect((released as number) - began).toBeGreaterThan(SERVING * 0.7);
    expect(given).toBe(before);
    response.resume();
    await closed;
    expect(response.complete).toBe(false);
  });

  it('is cut sooner from the moment on in which the process drains', async () => {
    streams = new StreamedAnswers({ serving: 60_000, draining: DRAINING });
    await open();
    await sleep(SERVING);
    expect(released).toBeUndefined();
    streams.beforeApplicationShutdown();
    await until(() => released !== undefined, 20 * DRAINING);
  });
});

it('a client that takes little, but takes it, is served for many times that long', async () => {
  const response = await open();
  const began = performance.now();
  let taken = 0;
  while (performance.now() - began < 5 * SERVING) {
    // Enough at a time for the receiver's window to open; all of it would be gigabytes.
    for (let some = 0; some < 2 ** 20;) {
      const chunk = response.read() as Buffer | null;
      if (chunk) some += chunk.length;
      else await once(response, 'readable');
    }
    taken += 2 ** 20;
    await sleep(SERVING / 6);
  }
  expect(released).toBeUndefined();
  expect(taken).toBeGreaterThan(10 * 2 ** 20);
  response.destroy();
  await until(() => released !== undefined, 2_000);
});

it('the service waits for half a minute', async () => {
  const app = await startApp();
  try {
    expect(app.app.get(StreamedAnswers, { strict: false })).toMatchObject({ patience: PATIENCE });
    expect(PATIENCE.serving).toBe(30_000);
  } finally {
    await app.close();
  }
});
