/**
 * Closes connections whose client does not read: bytes of a response wait, and for a time none of
 * them leaves. The source of a stream is released with its connection. The check looks at the bytes
 * that leave. Node's timeouts of sockets also restart with bytes that arrive, which the client may
 * send one by one.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { Server as TlsServer } from 'node:tls';
import type { Bounds } from './bounds.js';
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

type StallTimeouts = Pick<Bounds['connection'], 'stallMs' | 'drainingStallMs'>;

export class StalledReaders {
  private readonly progressOf = new Map<Socket, Progress>();
  private stallMs: number;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly refusals: Refusals,
    private readonly timeoutsMs: StallTimeouts,
  ) {
    this.stallMs = timeoutsMs.stallMs;
  }

  /** Call before the server listens. */
  watch(server: Server): void {
    // Below TLS, a socket does not know what waits.
    const isTls = server instanceof TlsServer;
    server.on(isTls ? 'secureConnection' : 'connection', (socket: Socket) => {
      this.progressOf.set(socket, { waitingBytes: 0, atMs: 0 });
      socket.once('close', () => this.progressOf.delete(socket));
    });
    server.once('close', () => clearInterval(this.timer));
    this.setTimeout(this.timeoutsMs.stallMs);
  }

  /** The process ends: it waits no longer than the shorter timeout for who does not read. */
  drain(): void {
    this.setTimeout(this.timeoutsMs.drainingStallMs);
  }

  private setTimeout(stallMs: number): void {
    this.stallMs = stallMs;
    clearInterval(this.timer);
    const intervalMs = Math.min(CHECK_INTERVAL_MS, stallMs / MIN_CHECKS);
    this.timer = setInterval(() => this.check(), intervalMs).unref();
  }

  private check(): void {
    const now = performance.now();
    for (const [socket, progress] of this.progressOf) {
      const waitingBytes = waitingBytesOf(socket);
      const hasProgress = waitingBytes === 0 || waitingBytes !== progress.waitingBytes;
      if (hasProgress) {
        progress.waitingBytes = waitingBytes;
        progress.atMs = now;
      } else if (now - progress.atMs >= this.stallMs) {
        this.refusals.stalled.inc();
        socket.destroy();
      }
    }
  }
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
