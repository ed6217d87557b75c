/**
 * Streams to clients that stop reading: closed after a timeout, sooner during shutdown. Slow
 * clients are served.
 */
import { randomBytes } from 'node:crypto';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import fastify, { type FastifyInstance } from 'fastify';
import { Registry } from 'prom-client';
import { Refusals } from '../../../../src/platform/http/bounds/refusals.js';
import { StalledReaders } from '../../../../src/platform/http/bounds/stalled-readers.js';
import { installCompression } from '../../../../src/platform/http/server/compression.js';
import { sendLines } from '../../../../src/platform/http/server/streamed-responses.js';
import { eventually } from '../../../support/eventually.js';

/** Bytes of noise in a chunk: in hexadecimal, compressing leaves half of it. */
const CHUNK_NOISE = 32 * 1024;
const MIB = 2 ** 20;

type StallTimeouts = ConstructorParameters<typeof StalledReaders>[1];

let server: FastifyInstance | undefined;
const responses: http.IncomingMessage[] = [];
let stalledReaders: StalledReaders;
let chunkCount: number;
/** Whether the source of the stream was closed. */
let isReleased: boolean;

async function* endlessChunks(): AsyncGenerator<string> {
  try {
    for (;;) {
      chunkCount++;
      yield randomBytes(CHUNK_NOISE).toString('hex');
    }
  } finally {
    isReleased = true;
  }
}

beforeEach(() => {
  chunkCount = 0;
  isReleased = false;
});
afterEach(stopServer);

async function startServer(timeoutsMs: StallTimeouts): Promise<FastifyInstance> {
  await stopServer();
  server = fastify({ forceCloseConnections: true });
  stalledReaders = new StalledReaders(new Refusals(new Registry()), timeoutsMs);
  stalledReaders.watch(server.server);
  await installCompression(server);
  server.get('/', (_, reply) => {
    void reply.header('Content-Type', 'application/x-ndjson');
    sendLines(reply, endlessChunks());
  });
  await server.listen({ host: '127.0.0.1', port: 0 });
  return server;
}

async function stopServer(): Promise<void> {
  // A response that nobody reads to its end would keep its socket, and with it the process.
  for (const response of responses.splice(0)) response.destroy();
  await server?.close();
  server = undefined;
}

/** A client that has received the first bytes, and reads no more by itself. */
async function openStream(
  timeoutsMs: StallTimeouts,
  headers: Record<string, string> = {},
): Promise<http.IncomingMessage> {
  const { port } = (await startServer(timeoutsMs)).addresses()[0] as { port: number };
  return new Promise((resolve, reject) => {
    const request = http.get({ port, host: '127.0.0.1', agent: false, headers }, (response) => {
      responses.push(response);
      response.on('error', () => undefined);
      response.pause();
      resolve(response);
    });
    request.on('error', reject);
  });
}

const released = (): Promise<boolean> => eventually('the stream is released', () => isReleased);

describe('a client that stops reading', () => {
  it.each<[string, Record<string, string>]>([
    ['plain', {}],
    ['gzip', { 'Accept-Encoding': 'gzip' }],
    ['br', { 'Accept-Encoding': 'br' }],
  ])('is disconnected after the timeout, and its stream released (%s)', async (_, headers) => {
    // Compressing may take longer than the timeout before the first byte leaves: try again.
    const response = await eventually('the response begins', () => {
      isReleased = false;
      return openStream({ stallMs: 200, drainingStallMs: 60_000 }, headers);
    });
    expect(response.headers['content-encoding']).toBe(headers['Accept-Encoding']);
    await released();
    const countAtRelease = chunkCount;
    const closed = new Promise((resolve) => response.once('close', resolve));
    response.resume();
    await closed;
    expect(response.complete).toBe(false);
    expect(chunkCount).toBe(countAtRelease);
  });

  it('is disconnected during shutdown although its timeout has not passed', async () => {
    await openStream({ stallMs: 60_000, drainingStallMs: 50 });
    expect(isReleased).toBe(false);
    stalledReaders.drain();
    await released();
  });
});

describe('a client that reads slowly', () => {
  const STALL_MS = 1_000;
  const PERIOD_MS = 3 * STALL_MS;
  /** More than the buffers of both sockets have. */
  const MIN_BYTES = 10 * MIB;

  it('is served for longer than the timeout', async () => {
    const run = await eventually('the machine reads without a stall of its own', async () => {
      const response = await openStream({ stallMs: STALL_MS, drainingStallMs: 60_000 });
      isReleased = false;
      const { bytes, longestPauseMs } = await readSlowly(response);
      const wasReleased = isReleased;
      response.destroy();
      await released();
      // A pause of the test that is as long as a stall proves nothing: try again.
      return longestPauseMs < STALL_MS / 2 ? { bytes, wasReleased } : undefined;
    });
    expect(run?.wasReleased).toBe(false);
    expect(run?.bytes).toBeGreaterThan(MIN_BYTES);
  });

  /** Reads for a while, and until the bytes cannot come from buffers alone. */
  async function readSlowly(
    response: http.IncomingMessage,
  ): Promise<{ bytes: number; longestPauseMs: number }> {
    const end = performance.now() + PERIOD_MS;
    let [bytes, longestPauseMs] = [0, 0];
    const isDone = (): boolean => performance.now() >= end && bytes > MIN_BYTES;
    while (!isDone() && !response.destroyed) {
      const begin = performance.now();
      bytes += await readMebibyte(response);
      await sleep(STALL_MS / 10);
      longestPauseMs = Math.max(longestPauseMs, performance.now() - begin);
    }
    return { bytes, longestPauseMs };
  }

  /** Enough at a time for the receiver's TCP window to open again. */
  async function readMebibyte(response: http.IncomingMessage): Promise<number> {
    let bytes = 0;
    while (bytes < MIB && !response.destroyed) {
      const chunk = response.read() as Buffer | null;
      if (chunk) bytes += chunk.length;
      else await readableOrClosed(response);
    }
    return bytes;
  }

  const readableOrClosed = (response: http.IncomingMessage): Promise<void> =>
    new Promise((resolve) => {
      const end = (): void => {
        response.off('readable', end).off('close', end);
        resolve();
      };
      response.on('readable', end).on('close', end);
    });
});
