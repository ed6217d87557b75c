/** A free TCP port for the embedded server. */
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';

/** @returns a port of 127.0.0.1 that is free now; another process may take it before it is used */
export async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as AddressInfo;
  listener.close();
  await once(listener, 'close');
  return port;
}
