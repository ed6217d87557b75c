/**
 * Problems for requests that never reach a route: Fastify's router rejects the URL, or Node's
 * parser rejects the bytes on the connection.
 */
import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type ProblemFactory, problems } from '../problems/problem.js';
import { PROBLEM_JSON, problemBody, sendProblem } from '../problems/problem-response.js';
import { toProblem } from '../problems/to-problem.js';

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
  void reply.header('X-Request-Id', request.id);
  sendProblem(toProblem(error), request, reply);
}

/** Fastify's `clientErrorHandler`: answers if possible, and closes the connection. */
export function sendProblemToSocket({ code }: NodeJS.ErrnoException, socket: Socket): void {
  if (code === 'ECONNRESET' || !canAnswer(socket)) {
    socket.destroy();
    return;
  }
  socket.end(rawResponse(PARSER_ERRORS[code ?? ''] ?? problems.malformedRequest));
}

/** Bytes after the head of another response would be read as its body (as in _http_server.js). */
function canAnswer(socket: Socket): boolean {
  const { _httpMessage: current } = socket as Socket & {
    _httpMessage?: { headersSent: boolean } | null;
  };
  return socket.writable && current?.headersSent !== true;
}

function rawResponse(factory: ProblemFactory): string {
  const requestId = randomUUID();
  const body = JSON.stringify(problemBody(factory(), requestId, ''));
  return [
    `HTTP/1.1 ${factory.status} ${factory.title}`,
    `Content-Type: ${PROBLEM_JSON}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    `X-Request-Id: ${requestId}`,
    'Cache-Control: no-store',
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}
