/**
 * The responses that each connection still owes. Invariant: bytes that follow a complete request,
 * whatever they are, do not cost it its response: what was committed must be reported.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** A request whose response has not left yet. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

const exchangesBySocket = new WeakMap<Socket, Set<Exchange>>();

/** Call before the server listens. */
export function trackResponses(server: Server): void {
  server.prependListener('request', (request, response) => {
    const { socket } = request;
    const exchanges = exchangesBySocket.get(socket) ?? new Set<Exchange>();
    exchangesBySocket.set(socket, exchanges);
    const exchange = { request, response };
    exchanges.add(exchange);
    response.once('close', () => exchanges.delete(exchange));
  });
}

/** In the order of the requests. */
export const pendingExchanges = (socket: Socket): readonly Exchange[] => [
  ...(exchangesBySocket.get(socket) ?? []),
];

/** Closes the connection once this response has left. */
export function closeAfter(response: ServerResponse, socket: Socket): void {
  if (!response.headersSent) response.setHeader('Connection', 'close');
  response.once('close', () => socket.destroySoon());
}
