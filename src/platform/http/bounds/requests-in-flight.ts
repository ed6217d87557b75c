/**
 * Bounds what the requests of one caller, one address and the whole process take at a time: their
 * number, and the bytes of large bodies: of requests until they have arrived, of responses until
 * they are read. Past a bound a request is 503 overloaded. Probes and metrics are exempt: they
 * answer when nothing else does.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type Problem, problems, RETRY_LATER } from '../problems/problem.js';
import { PROBLEM_JSON, problemBody } from '../problems/problem-response.js';
import { clientAddressOf, networkOf } from '../server/client-address.js';
import { isForOperators } from '../server/route-settings.decorator.js';
import type { Bounds } from './bounds.js';
import type { Refusals } from './refusals.js';
import { CallerUsage, Usage } from './usage.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** What the request counts for. Absent for probes. */
    usages?: Usage[];
    /** To be called when the response is known. */
    endWork?: (() => void) | undefined;
    /** To be called when the body has been read. */
    releaseBody?: (() => void) | undefined;
    /** What the end of the response releases. */
    releases?: (() => void)[];
  }
}

/** Smaller bodies fit into the buffers of a connection. */
const MIN_COUNTED_BYTES = 16 * 1_024;
const SAFE_METHODS = new Set(['GET', 'HEAD']);
/** Headers that a problem does not have. */
const HEADERS_OF_SUCCESS = ['ETag', 'Link', 'Age', 'Cache-Status', 'Content-Length'];

export class RequestsInFlight {
  private readonly ofProcess: Usage;
  private readonly ofAddresses = new Map<string, Usage>();
  private readonly ofCallers = new Map<string, CallerUsage>();

  /** @param countRefused counts a refused request against the limit of its address */
  constructor(
    private readonly bounds: Bounds,
    private readonly refusals: Refusals,
    private readonly countRefused: (request: FastifyRequest) => void,
  ) {
    this.ofProcess = new Usage('process', bounds.process);
  }

  get count(): number {
    return this.ofProcess.requests;
  }

  get unreadBytes(): number {
    return this.ofProcess.unreadBytes;
  }

  get arrivingBytes(): number {
    return this.ofProcess.arrivingBytes;
  }

  /** Call before any route is registered. */
  install(fastify: FastifyInstance): void {
    fastify.addHook('onRequest', (request, reply, done) => {
      done(isForOperators(request) ? undefined : this.admit(request, reply));
    });
    fastify.addHook('preValidation', (request, _, done) => {
      request.releaseBody?.();
      done();
    });
    fastify.addHook('onSend', (request, reply, payload, done) => {
      request.endWork?.();
      done(null, this.countUnread(request, reply, payload));
    });
  }

  /**
   * Counts a request for its caller too. Resolves when it may be worked on.
   * @throws Problem overloaded
   */
  async admitCaller(userId: string, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { caller } = this.bounds;
    const usage =
      this.ofCallers.get(userId) ?? new CallerUsage(caller, caller.workedOn, caller.maxWaitMs);
    const problem = this.enter(request, reply, usage, () => this.ofCallers.delete(userId));
    if (problem) throw problem;
    this.ofCallers.set(userId, usage);
    await usage.beginWork(reply.raw);
    if (reply.raw.destroyed) {
      // The client has gone in between, and its `close` will not come again.
      usage.endWork();
      throw problems.overloaded();
    }
    // A large response would be built, and then refused for the bytes that wait already.
    if (usage.isNearlyUnread && SAFE_METHODS.has(request.method)) {
      usage.endWork();
      throw this.refuse(usage);
    }
    request.endWork = () => {
      request.endWork = undefined;
      usage.endWork();
    };
    // The client may go while the request is worked on: then nothing is sent.
    releaseAtEnd(request, reply, () => request.endWork?.());
  }

  private admit(request: FastifyRequest, reply: FastifyReply): Problem | undefined {
    const network = networkOf(clientAddressOf(request));
    const usage = this.ofAddresses.get(network) ?? new Usage('address', this.bounds.address);
    const problem =
      this.enter(request, reply, this.ofProcess) ??
      this.enter(request, reply, usage, () => this.ofAddresses.delete(network));
    if (!problem) this.ofAddresses.set(network, usage);
    const refusal = problem ?? this.holdBody(request, reply);
    if (refusal) this.countRefused(request);
    return refusal;
  }

  /**
   * Counts a large body before it arrives: it is kept until all of it is there. Only requests with
   * large bodies are refused for it, since a client that announces bytes need not send them.
   */
  private holdBody(request: FastifyRequest, reply: FastifyReply): Problem | undefined {
    const bytes = announcedBytes(request);
    if (bytes < MIN_COUNTED_BYTES) return undefined;
    // Those of the process and the address: the caller joins later.
    const usages = [...(request.usages ?? [])];
    const full = usages.find((usage) => !usage.hasRoomForBody(bytes));
    if (full) return this.refuse(full);
    for (const usage of usages) usage.arrivingBytes += bytes;
    request.releaseBody = () => {
      for (const usage of usages.splice(0)) usage.arrivingBytes -= bytes;
    };
    releaseAtEnd(request, reply, request.releaseBody);
    return undefined;
  }

  /** @param forget called when nothing of the usage is left */
  private enter(
    request: FastifyRequest,
    reply: FastifyReply,
    usage: Usage,
    forget?: () => void,
  ): Problem | undefined {
    if (usage.isFull) return this.refuse(usage);
    // Its `close` has been emitted: nobody would release what is counted now.
    if (reply.raw.destroyed) return problems.overloaded(undefined, RETRY_LATER);
    request.usages ??= [];
    request.usages.push(usage);
    usage.requests++;
    releaseAtEnd(request, reply, () => {
      usage.requests--;
      if (usage.requests === 0) forget?.();
    });
    return undefined;
  }

  /** @returns what is sent: the payload, or a problem in its place */
  private countUnread(request: FastifyRequest, reply: FastifyReply, payload: unknown): unknown {
    const { usages } = request;
    const bytes = bytesOf(payload);
    if (!usages || bytes < MIN_COUNTED_BYTES) return payload;
    const full = usages.find((usage) => !usage.hasRoomFor(bytes));
    // What a write did is reported, whatever it takes.
    if (full && SAFE_METHODS.has(request.method)) {
      return sendInstead(this.refuse(full), request, reply);
    }
    for (const usage of usages) usage.unreadBytes += bytes;
    releaseAtEnd(request, reply, () => {
      for (const usage of usages) usage.unreadBytes -= bytes;
    });
    return payload;
  }

  private refuse({ boundName }: Usage): Problem {
    this.refusals.requests.inc({ bound: boundName });
    return problems.overloaded(undefined, RETRY_LATER);
  }
}

/** All that one request counts for shares one listener: Node warns of more than ten. */
function releaseAtEnd(request: FastifyRequest, { raw }: FastifyReply, release: () => void): void {
  if (!request.releases) {
    const releases: (() => void)[] = [];
    request.releases = releases;
    raw.once('close', () => releases.forEach((run) => run()));
  }
  request.releases.push(release);
}

/** A body of an unknown length may have the largest one. */
function announcedBytes({ headers, routeOptions }: FastifyRequest): number {
  const maxBytes = routeOptions.bodyLimit;
  if (headers['transfer-encoding'] !== undefined) return maxBytes;
  return Math.min(Number(headers['content-length'] ?? 0), maxBytes);
}

/** Streams have back-pressure of their own. */
function bytesOf(payload: unknown): number {
  if (typeof payload === 'string') return Buffer.byteLength(payload);
  return payload instanceof Uint8Array ? payload.length : 0;
}

/** In `onSend` it is too late for problem-response.ts. */
function sendInstead(problem: Problem, request: FastifyRequest, reply: FastifyReply): string {
  request.problem = problem;
  for (const name of HEADERS_OF_SUCCESS) void reply.removeHeader(name);
  const { problemType, details } = problem;
  const headers = { 'Cache-Control': 'no-store', 'Content-Type': PROBLEM_JSON };
  void reply.code(problemType.status).headers({ ...headers, ...details.headers });
  const [path = ''] = request.raw.url?.split('?') ?? [];
  return JSON.stringify(problemBody(problem, request.id, path));
}
