/**
 * A TCP relay in front of a Redis server that understands a little of the protocol: it can hold the
 * replies back until it has seen some commands, write bytes of its own to the clients, and lead to
 * another server.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

export class RedisRelay {
  private readonly sockets = new Set<Socket>();
  private readonly clients = new Set<Socket>();
  private readonly heldReplies: { readonly client: Socket; readonly bytes: Buffer }[] = [];
  private isHolding = false;
  private commandText = '';

  private constructor(
    private readonly server: Server,
    private targetPort: number,
  ) {
    server.on('connection', (client: Socket) => this.accept(client));
  }

  /** @param targetPort of the Redis server */
  static async start(targetPort: number): Promise<RedisRelay> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new RedisRelay(server, targetPort);
  }

  get url(): string {
    return `redis://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** From now on no reply reaches a client, until {@link releaseReplies}. */
  holdReplies(): void {
    this.isHolding = true;
    this.commandText = '';
  }

  /** How often clients have sent this command since {@link holdReplies}. */
  countCommands(name: string): number {
    return this.commandText.split(`\r\n$${name.length}\r\n${name}\r\n`).length - 1;
  }

  releaseReplies(): void {
    this.isHolding = false;
    for (const { client, bytes } of this.heldReplies.splice(0)) client.write(bytes);
  }

  /** Writes to every client, before the replies that are held. */
  inject(bytes: string): void {
    for (const client of this.clients) client.write(bytes);
  }

  /** Resets all connections. New ones lead to the other server. */
  moveTo(targetPort: number): void {
    this.targetPort = targetPort;
    for (const socket of this.sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private accept(client: Socket): void {
    const upstream = connect(this.targetPort, '127.0.0.1');
    const pair = [client, upstream];
    this.clients.add(client);
    for (const socket of pair) {
      this.sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.sockets.delete(socket);
        this.clients.delete(client);
        for (const each of pair) each.destroy();
      });
    }
    client.on('data', (bytes) => {
      if (this.isHolding) this.commandText += bytes.toString('latin1');
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      if (this.isHolding) this.heldReplies.push({ client, bytes });
      else client.write(bytes);
    });
  }
}
