/**
 * Problems for requests that never reach a route: Fastify's router rejects the URL, or Node's
 * parser rejects the bytes on the connection.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type ProblemFactory, problems } from '../problems/problem.js';
import { PROBLEM_JSON, problemBody, sendProblem } from '../problems/problem-response.js';
import { toProblem } from '../problems/to-problem.js';
import { pendingExchanges } from './pending-responses.js';
import { securityHeadersFor } from './security-headers.js';

/** Errors of Node's HTTP parser, by code. All others are malformed requests. */
const PARSER_ERRORS: Readonly<Record<string, ProblemFactory>> = {
  ERR_HTTP_REQUEST_TIMEOUT: problems.requestTimeout,
  HPE_HEADER_OVERFLOW: problems.headersTooLarge,
};

/** Fastify's `frameworkErrors`. No hook runs for these requests. */
export function sendProblemBeforeRouting(
  error: Error,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  void reply.headers(securityHeadersFor(request.socket)).header('X-Request-Id', request.id);
  sendProblem(toProblem(error), request, reply);
}

/** Connections that have failed. Node reports the same failure again with each further byte. */
const failed = new WeakSet<Socket>();

/**
 * Fastify's `clientErrorHandler`: answers if possible, and closes the connection. Requests that
 * arrived completely before the failure get their responses, and the failure then gets none: it
 * could be taken for the response to another request.
 */
export function sendProblemToSocket({ code }: NodeJS.ErrnoException, socket: Socket): void {
  if (failed.has(socket)) return;
  failed.add(socket);
  const exchanges = pendingExchanges(socket);
  const last = exchanges.filter(({ request }) => request.complete).at(-1)?.response;
  // Bytes after the head of a response would be read as its body.
  const isAnswered = exchanges.some(({ response }) => response.headersSent);
  if (code === 'ECONNRESET') {
    socket.destroy();
  } else if (last) {
    closeAfter(last, socket);
  } else if (isAnswered || !socket.writable) {
    socket.destroySoon();
  } else {
    socket.end(rawResponse(PARSER_ERRORS[code ?? ''] ?? problems.malformedRequest, socket));
  }
}

function closeAfter(response: ServerResponse, socket: Socket): void {
  if (!response.headersSent) response.setHeader('Connection', 'close');
  response.once('close', () => socket.destroySoon());
}

/**
 * The listener of `connect`: this server is no proxy (RFC 9110, section 9.3.6). Without it, Node
 * closes the connection without a response.
 */
export function refuseTunnel(_: IncomingMessage, socket: Duplex): void {
  socket.end(rawResponse(problems.notImplemented, socket));
}

function rawResponse(factory: ProblemFactory, socket: Duplex): string {
  const requestId = randomUUID();
  const body = JSON.stringify(problemBody(factory(), requestId, ''));
  const headers = {
    Date: new Date().toUTCString(),
    'Content-Type': PROBLEM_JSON,
    'Content-Length': Buffer.byteLength(body),
    'X-Request-Id': requestId,
    'Cache-Control': 'no-store',
    ...securityHeadersFor(socket),
    Connection: 'close',
  };
  return [
    `HTTP/1.1 ${factory.status} ${factory.title}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    '',
    body,
  ].join('\r\n');
}
