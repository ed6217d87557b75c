/**
 * A TCP proxy that holds every chunk back for a random time, each direction of each connection by itself and in order: a
 * network between two machines, on one.
 */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export interface DelayProxy {
  readonly port: number;
  close(): Promise<void>;
}

/** @param delay gives the milliseconds of the next chunk */
export async function startDelayProxy(
  target: { host: string; port: number },
  delay: () => number,
): Promise<DelayProxy> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect({ ...target, noDelay: true });
    client.setNoDelay(true);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from);
      forward(from, to, delay);
      from.once('close', () => {
        sockets.delete(from);
        to.destroy();
      });
      from.on('error', () => undefined); // 'close' follows
    }
  });
  await new Promise<void>((resolve, reject) =>
    server.once('error', reject).listen(0, '127.0.0.1', resolve),
  );
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** One timer at a time, for the head of the queue: timers of different lengths do not keep their order. */
function forward(from: Socket, to: Socket, delay: () => number): void {
  const queue: { readonly chunk: Buffer; readonly due: number }[] = [];
  const drain = (): void => {
    const now = performance.now();
    for (let head = queue[0]; head && head.due <= now; head = queue[0]) {
      to.write(head.chunk);
      queue.shift();
    }
    if (queue[0]) setTimeout(drain, queue[0].due - now);
  };
  from.on('data', (chunk: Buffer) => {
    const now = performance.now();
    queue.push({ chunk, due: Math.max(queue.at(-1)?.due ?? 0, now + delay()) });
    if (queue.length === 1) setTimeout(drain, (queue[0]?.due ?? now) - now);
  });
}
