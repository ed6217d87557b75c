/** Which connections count as stalled: those with waiting bytes of which none leaves. */
import { createServer, type Server } from 'node:http';
import { PassThrough } from 'node:stream';
import { createServer as createTlsServer } from 'node:tls';
import { expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { Refusals } from '../../../../src/platform/http/bounds/refusals.js';
import { StalledReaders } from '../../../../src/platform/http/bounds/stalled-readers.js';
import { eventually } from '../../../support/eventually.js';

const STALL_MS = 40;

interface Waiting {
  /** Bytes that the socket keeps. */
  readonly writableLength: number;
  /** Bytes of its last write that the system has not taken: at each look. */
  readonly queued: () => number;
}

/** A connection with bytes that wait. `below` is what TLS writes to. */
function connection({ writableLength, queued }: Waiting, isTls: boolean): PassThrough {
  const handle = {
    get writeQueueSize() {
      return queued();
    },
  };
  const socket = new PassThrough();
  Object.defineProperty(socket, 'writableLength', { value: writableLength });
  return Object.assign(socket, { _handle: isTls ? { _parent: handle } : handle });
}

it.each([
  ['plain HTTP', false],
  ['TLS', true],
])('over %s, only readers that take nothing are disconnected', async (_, isTls) => {
  const server = isTls ? createTlsServer() : createServer();
  const registry = new Registry();
  const timeoutsMs = { stallMs: STALL_MS, drainingStallMs: STALL_MS };
  new StalledReaders(new Refusals(registry), timeoutsMs).watch(server as Server);
  let looks = 0;
  const stalled = { writableLength: 1_000, queued: () => 500 };
  const idle = { writableLength: 0, queued: () => 0 };
  // One large write, of which some bytes leave before each look.
  const slow = { writableLength: 1_000, queued: () => 1e9 - ++looks };
  const sockets = [idle, slow, stalled].map((waiting) => connection(waiting, isTls));
  // Node's own listener would speak HTTP with them.
  const [watch] = server.listeners(isTls ? 'secureConnection' : 'connection').slice(-1);
  for (const socket of sockets) watch?.call(server, socket);

  await eventually('the stalled one is closed', () => sockets[2]?.destroyed);

  expect(sockets.map(({ destroyed }) => destroyed)).toEqual([false, false, true]);
  expect(await registry.metrics()).toContain('holdfast_stalled_connections_total 1');
  server.emit('close');
});
