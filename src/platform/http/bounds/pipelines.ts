/**
 * Works on the requests of one connection one after the other, in their order. Node parses all
 * requests that have arrived and would start them at once; their responses leave in order anyway
 * (RFC 9112, section 9.3.2). Invariant: a connection holds at most one finished response.
 */
import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { closeAfter } from '../server/pending-responses.js';
import type { Refusals } from './refusals.js';
import { Turns } from './turns.js';

interface PipelineBounds {
  /** Unanswered requests of one connection. */
  readonly maxPerConnection: number;
  /** Requests of all connections that wait. */
  readonly maxWaiting: number;
}

interface Turn {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/** The requests of one connection. */
interface Pipeline {
  readonly current: Turn;
  readonly waiting: Turn[];
  readonly isClosing: boolean;
}

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS']);

class Pipelines {
  private readonly bySocket = new WeakMap<Socket, Pipeline>();
  private waitingCount = 0;
  private readonly turns = new Turns();

  constructor(
    private readonly serve: RequestListener,
    private readonly refusals: Refusals,
    private readonly bounds: PipelineBounds,
    private readonly countDropped: (request: IncomingMessage) => void,
  ) {}

  add(turn: Turn): void {
    const { socket } = turn.request;
    const pipeline = this.bySocket.get(socket);
    if (!pipeline) {
      this.start(turn, []);
    } else if (!pipeline.isClosing) {
      this.queue(turn, pipeline);
    }
  }

  private start(current: Turn, waiting: Turn[]): void {
    const { request, response } = current;
    const { socket } = request;
    this.bySocket.set(socket, { current, waiting, isClosing: false });
    response.once('close', () => {
      // Other connections get their turn in between.
      if (waiting.length > 0) setImmediate(() => this.startNext(socket));
      else this.startNext(socket);
    });
    this.turns.begin(() => this.serve(request, response));
  }

  private startNext(socket: Socket): void {
    const pipeline = this.bySocket.get(socket);
    const waiting = pipeline?.waiting ?? [];
    if (socket.destroyed) this.discard(waiting);
    const next = waiting.shift();
    if (next) {
      this.waitingCount--;
      this.start(next, waiting);
    } else if (!pipeline?.isClosing) {
      this.bySocket.delete(socket);
    }
  }

  private queue(turn: Turn, pipeline: Pipeline): void {
    const { waiting } = pipeline;
    const isConnectionFull = waiting.length + 1 >= this.bounds.maxPerConnection;
    const isProcessFull = this.waitingCount >= this.bounds.maxWaiting;
    if (isConnectionFull || isProcessFull) return this.close(turn, pipeline);
    waiting.push(turn);
    this.waitingCount++;
  }

  /**
   * What waits was not begun, so the client may send it again. What was begun keeps its response if
   * it may have changed something.
   */
  private close(last: Turn, pipeline: Pipeline): void {
    const { current, waiting } = pipeline;
    const { socket } = last.request;
    for (const { request } of [...waiting, last]) this.countDropped(request);
    this.discard(waiting);
    this.bySocket.set(socket, { ...pipeline, isClosing: true });
    this.refusals.requests.inc({ bound: 'connection' });
    const isSafe = SAFE_METHODS.has(current.request.method ?? '');
    if (isSafe) socket.destroy();
    else if (current.response.closed) socket.destroySoon();
    else closeAfter(current.response, socket);
  }

  private discard(waiting: Turn[]): void {
    this.waitingCount -= waiting.length;
    waiting.length = 0;
  }
}

/**
 * Takes the place of Fastify's listener for requests. Call before the server listens.
 * @param countDropped counts a request that gets no response against the limit of its address
 */
export function serveInTurn(
  server: Server,
  refusals: Refusals,
  bounds: PipelineBounds,
  countDropped: (request: IncomingMessage) => void,
): void {
  // Listeners that only look at requests come before it (pending-responses.ts).
  const serve = server.listeners('request').at(-1) as RequestListener | undefined;
  if (!serve) throw new Error('The server has no listener for requests');
  server.off('request', serve);
  const pipelines = new Pipelines(serve, refusals, bounds, countDropped);
  server.on('request', (request, response) => pipelines.add({ request, response }));
}
