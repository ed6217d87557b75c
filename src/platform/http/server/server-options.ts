/**
 * Settings of the HTTP server where Node's and Fastify's defaults are looser than the API's
 * contract: time and size limits, request ids, and problem+json for errors before a route.
 */
import type { IncomingMessage, Server, ServerOptions } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyServerOptions } from 'fastify';
import { BOUNDS } from '../bounds/bounds.js';
import type { EarlyProblems } from './early-problems.js';
import { trackResponses } from './pending-responses.js';
import { requestIdOf } from './request-id.js';
import { secureContextOf, type TlsPair } from './tls-pair.js';

const MAX_BODY_BYTES = 256 * 1024;
/** Code points of one path parameter. */
const MAX_PATH_PARAMETER_LENGTH = 100;
const MAX_HANDSHAKE_MS = 10_000;
const MAX_HEAD_MS = 10_000;
const MAX_REQUEST_MS = 30_000;
const TIMEOUT_CHECK_INTERVAL_MS = 1_000;
/** Longer than load balancers keep idle connections (usually 60 s): the balancer closes first. */
const KEEP_ALIVE_MS = 65_000;
/** How long a client may keep its side of a connection open after this side has ended. */
const MAX_LINGER_MS = 2_000;
/** Connections of one process. Further ones are closed at once. */
export const MAX_CONNECTIONS = BOUNDS.process.connections;

/**
 * Servers must accept a target in absolute form (RFC 9112, section 3.2.2). Only OPTIONS may ask for
 * the server as a whole (section 3.2.4): for `GET *`, Fastify would run no hook.
 */
function toOriginForm({ url: target = '/', method }: IncomingMessage): string {
  if (target === '*' && method !== 'OPTIONS') return '/*';
  if (!/^https?:/i.test(target)) return target;
  const path = target.replace(/^https?:\/\/[^/?#]*/i, '');
  return path.startsWith('/') ? path : `/${path}`;
}

const NODE_OPTIONS: ServerOptions = {
  // negotiation.ts rejects a missing Host with a problem instead.
  requireHostHeader: false,
  // Otherwise Node takes the first of several lines of Host or Authorization, and a proxy in front
  // may take the last. Joined with a comma, they are invalid.
  joinDuplicateHeaders: true,
  headersTimeout: MAX_HEAD_MS,
  connectionsCheckingInterval: TIMEOUT_CHECK_INTERVAL_MS,
};

/**
 * @param trustProxy addresses and networks whose X-Forwarded-* count
 * @param earlyProblems answers requests that never reach a route
 * @param tls serves HTTPS when present
 */
export function fastifyOptions(
  trustProxy: readonly string[],
  earlyProblems: EarlyProblems,
  tls?: TlsPair,
): FastifyServerOptions {
  const https = tls && {
    ...NODE_OPTIONS,
    ...secureContextOf(tls),
    handshakeTimeout: MAX_HANDSHAKE_MS,
  };
  return {
    ...(https ? { https } : { http: NODE_OPTIONS }),
    bodyLimit: MAX_BODY_BYTES,
    trustProxy: trustProxy.length > 0 ? [...trustProxy] : false,
    genReqId: ({ headers }) => requestIdOf(headers['x-request-id']),
    exposeHeadRoutes: true,
    // Fastify's 503 while closing is not problem+json: serve the request and close the connection.
    return503OnClosing: false,
    rewriteUrl: (request) => toOriginForm(request as unknown as IncomingMessage),
    requestTimeout: MAX_REQUEST_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    routerOptions: { maxParamLength: MAX_PATH_PARAMETER_LENGTH },
    frameworkErrors: earlyProblems.sendBeforeRouting,
    clientErrorHandler: earlyProblems.sendToSocket,
  } as FastifyServerOptions;
}

/** Sets what Node takes neither as an option nor from Fastify. */
export function configureServer(server: Server, earlyProblems: EarlyProblems): void {
  server.maxConnections = MAX_CONNECTIONS;
  trackResponses(server);
  // A client that ends its side after its request still gets the response (RFC 9112, section 9.6).
  Object.assign(server, { httpAllowHalfOpen: true });
  // With TLS, Node does not allow it. Not as an option: it would keep broken handshakes open.
  server.prependListener('secureConnection', (socket: Socket) => {
    socket.allowHalfOpen = true;
  });
  // Then this side ends first: a client that never ends its own would keep the connection.
  for (const event of ['connection', 'secureConnection']) {
    server.prependListener(event, (socket: Socket) => {
      socket.once('finish', () => {
        const timer = setTimeout(() => socket.destroy(), MAX_LINGER_MS).unref();
        socket.once('close', () => clearTimeout(timer));
      });
    });
  }
  server.on('connect', earlyProblems.refuseTunnel);
  // A server may ignore expectations that it does not know (RFC 9110, section 10.1.1). Without this
  // listener Node answers 417 itself, without a problem.
  server.on('checkExpectation', (request, response) => server.emit('request', request, response));
}
