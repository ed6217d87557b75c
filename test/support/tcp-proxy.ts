/**
 * A network link that a test can disturb: a TCP proxy on 127.0.0.1 that delays, stalls, cuts,
 * refuses, loses a connection, or swallows one direction. It never reorders or changes bytes. A
 * direction that has swallowed bytes stays silent until its connection ends, as after a lost NAT
 * entry.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { Random } from './random.js';

/** `up`: from the client to the target. `down`: from the target to the client. */
export type Direction = 'up' | 'down';

const MAX_BUFFERED_BYTES = 1 << 20;
/** Timers have a resolution of 1 ms; a chunk that is due sooner than this is sent at once. */
const TIMER_SLACK_MS = 0.2;

/** One direction of one connection: a queue of chunks, each with the time at which it is due. */
class Flow {
  isSwallowing = false;
  private readonly queue: { readonly dueAt: number; readonly bytes: Buffer | null }[] = [];
  private bufferedBytes = 0;
  private lastDueAt = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly proxy: TcpProxy,
    private readonly from: Socket,
    private readonly to: Socket,
  ) {
    from.on('data', (bytes: Buffer) => this.enqueue(bytes));
    from.on('end', () => this.enqueue(null));
    to.on('drain', () => this.forward());
  }

  /** Sends every chunk that is due and sets a timer for the next one. */
  forward(): void {
    clearTimeout(this.timer);
    if (this.proxy.isStalled || this.to.destroyed) return;
    for (let next = this.queue[0]; next; next = this.queue[0]) {
      if (this.isSwallowing) return;
      const waitMs = next.dueAt - performance.now();
      if (waitMs > TIMER_SLACK_MS) {
        this.timer = setTimeout(() => this.forward(), waitMs);
        return;
      }
      if (this.to.writableNeedDrain) return;
      this.queue.shift();
      this.bufferedBytes -= next.bytes?.length ?? 0;
      if (next.bytes) this.to.write(next.bytes);
      else this.to.end();
    }
    if (this.from.isPaused()) this.from.resume();
  }

  stop(): void {
    clearTimeout(this.timer);
  }

  /** @param bytes null for the end of the stream */
  private enqueue(bytes: Buffer | null): void {
    if (this.isSwallowing) return;
    // With jitter a chunk could be due before its predecessor: keep their order.
    const dueAt = Math.max(this.lastDueAt, performance.now() + this.proxy.nextDelayMs());
    this.lastDueAt = dueAt;
    this.queue.push({ dueAt, bytes });
    this.bufferedBytes += bytes?.length ?? 0;
    if (this.bufferedBytes > MAX_BUFFERED_BYTES) this.from.pause();
    this.forward();
  }
}

interface Connection {
  readonly client: Socket;
  readonly target: Socket;
  readonly up: Flow;
  readonly down: Flow;
}

export class TcpProxy {
  private stalled = false;
  private isRefusing = false;
  private swallowedDirection: Direction | undefined;
  private delay = { ms: 0, jitterMs: 0 };
  private readonly connections = new Set<Connection>();

  private constructor(
    private readonly server: Server,
    private targetPort: number,
    private readonly random: Random,
  ) {
    server.on('connection', (client: Socket) => this.accept(client));
  }

  /**
   * Starts a proxy on a free port.
   * @param targetPort a port of 127.0.0.1
   * @param random decides the jitter of each chunk
   */
  static async start(targetPort: number, random: Random = new Random(1)): Promise<TcpProxy> {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(0, '127.0.0.1', resolve);
    });
    return new TcpProxy(server, targetPort, random);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  get isStalled(): boolean {
    return this.stalled;
  }

  /** From now on each chunk takes `ms` to `ms + jitterMs` longer, in each direction. */
  setDelay(ms: number, jitterMs: number): void {
    this.delay = { ms, jitterMs };
  }

  /** The delay of the next chunk in milliseconds. */
  nextDelayMs(): number {
    return this.delay.ms + this.delay.jitterMs * this.random.next();
  }

  /** New connections lead to another server, as when a name is switched; open ones stay. */
  leadTo(targetPort: number): void {
    this.targetPort = targetPort;
  }

  /** Resets every connection (RST). New connections work. */
  cut(): void {
    for (const connection of this.connections) this.reset(connection);
  }

  /** Resets every connection, and each new one until {@link heal}. */
  refuse(): void {
    this.isRefusing = true;
    this.cut();
  }

  /** No byte arrives and no byte is lost, until {@link resume}. */
  stall(): void {
    this.stalled = true;
  }

  resume(): void {
    this.stalled = false;
    for (const { up, down } of this.connections) {
      up.forward();
      down.forward();
    }
  }

  /** Swallows one direction of every connection, also of new ones, until {@link heal}. */
  halfOpen(direction: Direction): void {
    this.swallowedDirection = direction;
    for (const connection of this.connections) connection[direction].isSwallowing = true;
  }

  /**
   * Loses one connection, as a NAT that forgets its entry: nothing passes any more, and neither
   * side learns that the other one is gone. New connections work. {@link heal} resets it.
   * @param port of the proxy's side of the connection to the target
   * @returns whether this proxy has such a connection
   */
  lose(port: number): boolean {
    const lost = [...this.connections].find(({ target }) => target.localPort === port);
    if (!lost) return false;
    lost.up.isSwallowing = true;
    lost.down.isSwallowing = true;
    return true;
  }

  /** Ends every disturbance. Connections that have swallowed bytes are reset. */
  heal(): void {
    this.endDisturbances();
    for (const connection of this.swallowingConnections()) this.reset(connection);
  }

  /**
   * Ends every disturbance. Connections that have swallowed bytes stay open on the client's side:
   * the client must notice by itself that they are dead.
   */
  healSilently(): void {
    this.endDisturbances();
    for (const connection of this.swallowingConnections()) {
      if (connection.client.destroyed) this.reset(connection);
      else connection.target.destroy();
    }
  }

  close(): void {
    this.refuse();
    this.server.close();
  }

  private endDisturbances(): void {
    this.swallowedDirection = undefined;
    this.isRefusing = false;
    this.setDelay(0, 0);
    this.resume();
  }

  private swallowingConnections(): Connection[] {
    return [...this.connections].filter(({ up, down }) => up.isSwallowing || down.isSwallowing);
  }

  private accept(client: Socket): void {
    client.on('error', () => undefined);
    if (this.isRefusing) {
      client.resetAndDestroy();
      return;
    }
    const address = { host: '127.0.0.1', port: this.targetPort };
    const target = connect({ ...address, allowHalfOpen: true, noDelay: true });
    target.on('error', () => undefined);
    const up = new Flow(this, client, target);
    const down = new Flow(this, target, client);
    const connection = { client, target, up, down };
    this.connections.add(connection);
    if (this.swallowedDirection) connection[this.swallowedDirection].isSwallowing = true;
    // While a direction swallows, its receiver must not learn that the sender is gone.
    target.on('close', () => {
      if (!down.isSwallowing && !up.isSwallowing) this.reset(connection);
    });
    client.on('close', () => {
      if (!up.isSwallowing || target.destroyed) this.reset(connection);
    });
  }

  private reset(connection: Connection): void {
    const { client, target, up, down } = connection;
    this.connections.delete(connection);
    up.stop();
    down.stop();
    for (const socket of [client, target]) {
      if (socket.destroyed) continue;
      // libuv cannot reset a socket whose end is being sent: it would never close, and Node.js
      // would wait for it in vain when the process ends.
      if (socket.writableEnded) socket.destroy();
      else socket.resetAndDestroy();
    }
  }
}
