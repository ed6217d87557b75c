/**
 * Closes connections whose client does not read: bytes of a response wait, and for a time none of
 * them leaves. It looks at the bytes that leave. Node's timeouts of sockets also restart with bytes
 * that arrive, which the client may send one by one.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { Server as TlsServer } from 'node:tls';
import type { Refusals } from './refusals.js';

/** Milliseconds between two looks at all connections. */
const CHECK_INTERVAL_MS = 1_000;
/** Checks in one timeout, when the timeout is short. */
const MIN_CHECKS = 4;

interface Progress {
  /** Bytes that waited when some of them last left. */
  waitingBytes: number;
  atMs: number;
}

interface Handle {
  /** Bytes that the system has not taken yet, of what was written. */
  readonly writeQueueSize?: number;
  /** Below TLS. */
  readonly _parent?: Handle;
}

/** Call before the server listens. */
export function closeStalledReaders(server: Server, refusals: Refusals, stallMs: number): void {
  const progressOf = new Map<Socket, Progress>();
  const watch = (socket: Socket): void => {
    progressOf.set(socket, { waitingBytes: 0, atMs: 0 });
    socket.once('close', () => progressOf.delete(socket));
  };
  // Below TLS, a socket does not know what waits.
  const isTls = server instanceof TlsServer;
  server.on(isTls ? 'secureConnection' : 'connection', watch);

  const check = (): void => {
    const now = performance.now();
    for (const [socket, progress] of progressOf) {
      const waitingBytes = waitingBytesOf(socket);
      const hasProgress = waitingBytes === 0 || waitingBytes !== progress.waitingBytes;
      if (hasProgress) {
        progress.waitingBytes = waitingBytes;
        progress.atMs = now;
      } else if (now - progress.atMs >= stallMs) {
        refusals.stalled.inc();
        socket.destroy();
      }
    }
  };
  const timer = setInterval(check, Math.min(CHECK_INTERVAL_MS, stallMs / MIN_CHECKS)).unref();
  server.once('close', () => clearInterval(timer));
}

/**
 * Bytes that were written and have not left. Node has no public name for those that the system has
 * taken of one write: without them, a large response to a slow client would look stalled.
 */
function waitingBytesOf(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { _handle?: Handle | null };
  const queued = (handle?.writeQueueSize ?? 0) + (handle?._parent?.writeQueueSize ?? 0);
  return socket.writableLength === 0 ? 0 : socket.writableLength + queued;
}
