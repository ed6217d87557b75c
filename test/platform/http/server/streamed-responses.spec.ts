/**
 * Streams to clients that stop reading: closed after a timeout, sooner during shutdown. Slow
 * clients are served.
 */
import { randomBytes } from 'node:crypto';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Test } from '@nestjs/testing';
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import {
  type StallTimeouts,
  StreamedResponses,
} from '../../../../src/platform/http/server/streamed-responses.service.js';
import { installCompression } from '../../../../src/platform/http/server/compression.js';
import { eventually } from '../../../support/eventually.js';

/** Bytes of noise in a chunk: in hexadecimal, compressing leaves half of it. */
const CHUNK_NOISE = 32 * 1024;
const MIB = 2 ** 20;

let server: FastifyInstance;
const responses: http.IncomingMessage[] = [];
let streams: StreamedResponses;
let chunkCount: number;
/** Whether the source of the stream was closed. */
let isReleased: boolean;

function* endlessChunks(): Generator<string> {
  try {
    for (;;) {
      chunkCount++;
      yield randomBytes(CHUNK_NOISE).toString('hex');
    }
  } finally {
    isReleased = true;
  }
}

beforeEach(async () => {
  chunkCount = 0;
  isReleased = false;
  server = fastify({ forceCloseConnections: true });
  await installCompression(server);
  server.get('/', (_, reply) => {
    void reply.header('Content-Type', 'application/x-ndjson');
    streams.send(reply, endlessChunks());
  });
  await server.listen({ host: '127.0.0.1', port: 0 });
});
afterEach(async () => {
  // A response that nobody reads to its end would keep its socket, and with it the process.
  for (const response of responses.splice(0)) response.destroy();
  await server.close();
});

/** A client that has received the first bytes, and reads no more by itself. */
function openStream(
  timeoutsMs: StallTimeouts,
  headers: Record<string, string> = {},
): Promise<http.IncomingMessage> {
  streams = new StreamedResponses(timeoutsMs);
  const { port } = server.addresses()[0] as { port: number };
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
      return openStream({ serving: 200, draining: 60_000 }, headers);
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
    await openStream({ serving: 60_000, draining: 50 });
    expect(isReleased).toBe(false);
    streams.onModuleDestroy();
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
      const response = await openStream({ serving: STALL_MS, draining: 60_000 });
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

it('the timeouts of the service are 30 s, and 1 s during shutdown', async () => {
  const module = await Test.createTestingModule({ providers: [StreamedResponses] }).compile();
  const service = module.get(StreamedResponses);
  const timeouts: number[] = [];
  const raw = { once: () => undefined, setTimeout: (ms: number) => timeouts.push(ms) };
  service.send({ raw, send: () => undefined } as unknown as FastifyReply, []);
  service.onModuleDestroy();
  expect(timeouts).toEqual([30_000, 1_000]);
});
