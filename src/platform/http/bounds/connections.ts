/**
 * Bounds the connections of each address. Invariant: one address cannot use up the connections of
 * the process. Behind a proxy, all connections are the proxy's: listed proxies are exempt.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { createPeerLookup, networkOf } from '../server/client-address.js';
import type { Refusals } from './refusals.js';

interface ConnectionBounds {
  /** Of one address. */
  readonly maxConnections: number;
  /** Addresses and networks of proxies. */
  readonly trustProxy: readonly string[];
}

/** Call before the server listens. */
export function boundConnections(
  server: Server,
  refusals: Refusals,
  { maxConnections, trustProxy }: ConnectionBounds,
): void {
  const peerOf = createPeerLookup(trustProxy);
  const counts = new Map<string, number>();
  const release = (network: string): void => {
    const count = (counts.get(network) ?? 0) - 1;
    if (count > 0) counts.set(network, count);
    else counts.delete(network);
  };
  server.on('connection', (socket: Socket) => {
    const address = peerOf(socket);
    if (address === undefined) return;
    const network = networkOf(address);
    const count = counts.get(network) ?? 0;
    if (count >= maxConnections) {
      refusals.connections.inc({ bound: 'address' });
      socket.destroy();
      return;
    }
    counts.set(network, count + 1);
    socket.once('close', () => release(network));
  });
  // Node has closed it already: maxConnections of the server.
  server.on('drop', () => refusals.connections.inc({ bound: 'process' }));
}
