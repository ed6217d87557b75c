/**
 * Problems for requests that never reach a route: Fastify's router rejects the URL, or Node's
 * parser rejects the bytes on the connection. They count against the limit of their address.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Problem, type ProblemFactory, problems } from '../problems/problem.js';
import { PROBLEM_JSON, problemBody, sendProblem } from '../problems/problem-response.js';
import { toProblem } from '../problems/to-problem.js';
import { createClientLookup, createPeerLookup } from './client-address.js';
import { closeAfter, pendingExchanges } from './pending-responses.js';
import { securityHeadersFor } from './security-headers.js';

/** Errors of Node's HTTP parser, by code. All others are malformed requests. */
const PARSER_ERRORS: Readonly<Record<string, ProblemFactory>> = {
  ERR_HTTP_REQUEST_TIMEOUT: problems.requestTimeout,
  HPE_HEADER_OVERFLOW: problems.headersTooLarge,
};

/**
 * Counts a refused request for an address.
 * @returns what to answer instead when the address is past its limit
 */
type CountRefused = (address: string) => Promise<Problem | undefined>;

/** Methods are properties: Fastify and Node call them as functions. */
export class EarlyProblems {
  private readonly clientOf: (request: IncomingMessage) => string;
  private readonly peerOf: (socket: Duplex) => string | undefined;
  private countRefused: CountRefused = () => Promise.resolve(undefined);
  /** Connections that have failed. Node reports the same failure again with each further byte. */
  private readonly failed = new WeakSet<Socket>();

  /** @param trustProxy addresses and networks of proxies: a broken request is not the proxy's */
  constructor(trustProxy: readonly string[]) {
    this.clientOf = createClientLookup(trustProxy);
    this.peerOf = createPeerLookup(trustProxy);
  }

  /** Until it is called, nothing is counted. Call before the server listens. */
  countWith(countRefused: CountRefused): void {
    this.countRefused = countRefused;
  }

  /** Fastify's `frameworkErrors`. No hook runs for these requests. */
  readonly sendBeforeRouting = (
    error: Error,
    request: FastifyRequest,
    reply: FastifyReply,
  ): void => {
    void this.countRefused(this.clientOf(request.raw)).then((limited) => {
      void reply.headers(securityHeadersFor(request.socket)).header('X-Request-Id', request.id);
      sendProblem(limited ?? toProblem(error), request, reply);
    });
  };

  /**
   * Fastify's `clientErrorHandler`: answers if possible, and closes the connection. Requests that
   * arrived completely before the failure get their responses, and the failure then gets none: it
   * could be taken for the response to another request.
   */
  readonly sendToSocket = ({ code }: NodeJS.ErrnoException, socket: Socket): void => {
    if (this.failed.has(socket)) return;
    this.failed.add(socket);
    const exchanges = pendingExchanges(socket);
    const last = exchanges.filter(({ request }) => request.complete).at(-1)?.response;
    // Bytes after the head of a response would be read as its body.
    const isAnswered = exchanges.some(({ response }) => response.headersSent);
    if (code === 'ECONNRESET') {
      socket.destroy();
      return;
    }
    const limited = this.countSocket(socket);
    // Before the handshake ends, nothing that is written leaves.
    if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') {
      socket.destroy();
      return;
    }
    if (last) {
      closeAfter(last, socket);
    } else if (isAnswered || !socket.writable) {
      socket.destroySoon();
    } else {
      const factory = PARSER_ERRORS[code ?? ''] ?? problems.malformedRequest;
      void limited.then((problem) => endWith(problem ?? factory(), socket));
    }
  };

  /**
   * The listener of `connect`: this server is no proxy (RFC 9110, section 9.3.6). Without it, Node
   * closes the connection without a response.
   */
  readonly refuseTunnel = (_: IncomingMessage, socket: Duplex): void => {
    void this.countSocket(socket).then((limited) => {
      endWith(limited ?? problems.notImplemented(), socket);
    });
  };

  private countSocket(socket: Duplex): Promise<Problem | undefined> {
    const address = this.peerOf(socket);
    return address === undefined ? Promise.resolve(undefined) : this.countRefused(address);
  }
}

function endWith(problem: Problem, socket: Duplex): void {
  if (socket.writable) socket.end(rawResponse(problem, socket));
  else socket.destroy();
}

function rawResponse(problem: Problem, socket: Duplex): string {
  const { problemType, details } = problem;
  const requestId = randomUUID();
  const body = JSON.stringify(problemBody(problem, requestId, ''));
  const headers = {
    Date: new Date().toUTCString(),
    'Content-Type': PROBLEM_JSON,
    'Content-Length': Buffer.byteLength(body),
    'X-Request-Id': requestId,
    'Cache-Control': 'no-store',
    ...details.headers,
    ...securityHeadersFor(socket),
    Connection: 'close',
  };
  return [
    `HTTP/1.1 ${problemType.status} ${problemType.title}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    '',
    body,
  ].join('\r\n');
}
