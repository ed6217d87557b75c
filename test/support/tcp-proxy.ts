/**
 * One network link that a test can hurt: a TCP proxy that delays (with jitter), stalls, cuts with RST, refuses, and swallows
 * one direction. It never reorders, alters or drops a byte that the receiver could notice missing: a direction that has
 * swallowed stays deaf until its connection ends, as after a lost NAT entry or a peer that lost its power.
 */
import { createServer, connect, type Server, type Socket } from 'node:net';
import type { Random } from './random.js';

/** To the server, or from it. */
export type Direction = 'up' | 'down';

const MOST_BUFFERED = 1 << 20;

/** Bytes on their way from one socket to another. */
class Flow {
  deaf = false;
  private readonly queue: { readonly due: number; readonly bytes: Buffer | null }[] = [];
  private buffered = 0;
  private last = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly link: Link,
    private readonly from: Socket,
    private readonly to: Socket,
  ) {
    from.on('data', (bytes: Buffer) => this.push(bytes));
    from.on('end', () => this.push(null));
    to.on('drain', () => this.move());
  }

  private push(bytes: Buffer | null): void {
    if (this.deaf) return;
    const due = Math.max(this.last, performance.now() + this.link.lag());
    this.last = due;
    this.queue.push({ due, bytes });
    this.buffered += bytes?.length ?? 0;
    if (this.buffered > MOST_BUFFERED) this.from.pause();
    this.move();
  }

  /** Sends what is due, and looks again when the next is. */
  move(): void {
    clearTimeout(this.timer);
    if (this.link.stalled || this.to.destroyed) return;
    for (let next = this.queue[0]; next; next = this.queue[0]) {
      if (this.deaf) return;
      const wait = next.due - performance.now();
      if (wait > 0.2) {
        this.timer = setTimeout(() => this.move(), wait);
        return;
      }
      if (this.to.writableNeedDrain) return;
      this.queue.shift();
      this.buffered -= next.bytes?.length ?? 0;
      if (next.bytes) this.to.write(next.bytes);
      else this.to.end();
    }
    if (this.from.isPaused()) this.from.resume();
  }

  stop(): void {
    clearTimeout(this.timer);
  }
}

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
  readonly up: Flow;
  readonly down: Flow;
}

export class Link {
  stalled = false;
  private refusing = false;
  private deaf: Direction | undefined;
  private delay = { ms: 0, jitterMs: 0 };
  private readonly pairs = new Set<Pair>();

  private constructor(
    private readonly server: Server,
    private readonly target: number,
    private readonly random: Random,
  ) {
    server.on('connection', (client: Socket) => this.accept(client));
  }

  /** A link to a port of 127.0.0.1. `random` gives the jitter. */
  static async to(target: number, random: Random): Promise<Link> {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new Link(server, target, random);
  }

  get port(): number {
    return (this.server.address() as { port: number }).port;
  }

  /** From now on each byte takes `ms` to `ms + jitterMs` longer, in each direction. */
  slow(ms: number, jitterMs: number): void {
    this.delay = { ms, jitterMs };
  }

  lag(): number {
    return this.delay.ms + this.delay.jitterMs * this.random.next();
  }

  /** Resets every connection; new ones are reset too while `refuse`. */
  cut(refuse: boolean): void {
    this.refusing = refuse;
    for (const pair of this.pairs) this.reset(pair);
  }

  /** Nothing arrives, nothing is lost, until {@link resume}. */
  stall(): void {
    this.stalled = true;
  }

  resume(): void {
    this.stalled = false;
    for (const { up, down } of this.pairs) [up, down].forEach((flow) => flow.move());
  }

  /** Swallows one direction of all connections, also of those still to come. */
  halfOpen(direction: Direction): void {
    this.deaf = direction;
    for (const pair of this.pairs) pair[direction].deaf = true;
  }

  /** New connections work again. Those that were swallowed are reset, or left for their owner to notice (`silently`). */
  heal(silently = false): void {
    this.deaf = undefined;
    this.refusing = false;
    this.slow(0, 0);
    this.resume();
    for (const pair of [...this.pairs]) {
      if (!pair.up.deaf && !pair.down.deaf) continue;
      if (!silently || pair.client.destroyed) this.reset(pair);
      else pair.server.destroy();
    }
  }

  close(): void {
    this.cut(true);
    this.server.close();
  }

  private accept(client: Socket): void {
    client.on('error', () => undefined);
    if (this.refusing) return void client.resetAndDestroy();
    const server = connect({
      port: this.target,
      host: '127.0.0.1',
      allowHalfOpen: true,
      noDelay: true,
    });
    const pair = {
      client,
      server,
      up: new Flow(this, client, server),
      down: new Flow(this, server, client),
    };
    this.pairs.add(pair);
    if (this.deaf) pair[this.deaf].deaf = true;
    server.on('error', () => undefined);
    // A connection that ended without deafness ends for both; a deaf one is known to be gone only to the side that hears.
    server.on('close', () => {
      if (!pair.down.deaf && !pair.up.deaf) this.reset(pair);
    });
    client.on('close', () => {
      if (!pair.up.deaf) this.reset(pair);
    });
  }

  private reset(pair: Pair): void {
    this.pairs.delete(pair);
    for (const flow of [pair.up, pair.down]) flow.stop();
    for (const socket of [pair.client, pair.server]) {
      if (!socket.destroyed) socket.resetAndDestroy();
    }
  }
}
