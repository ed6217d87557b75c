/**
 * What HTTP asks of any server before a handler runs, where Fastify's and Nest's defaults are looser than the contract: 405
 * with Allow, OPTIONS, 406, 415, strict JSON, broken percent-encoding, request ids, and problem+json even for what never
 * reaches a route. Installed once, on the Fastify instance itself.
 */
import type { Socket } from 'node:net';
import accepts from 'accepts';
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions, HTTPMethods } from 'fastify';
import FindMyWay from 'find-my-way';
import { v7 as uuidv7 } from 'uuid';
import { problemBody, problemOf, PROBLEM_JSON, sendProblem } from './problem.filter.js';
import { type Problem, type ProblemFactory, problems } from './problem.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Media types that the route gives; JSON when absent. */
    produces?: readonly string[];
  }
}

const BODY_LIMIT = 256 * 1024;
const METHODS: readonly HTTPMethods[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

/** Taken over from the caller when it is well-formed, so that logs of both sides can be joined; made here otherwise. */
const requestId = (header: string | string[] | undefined): string =>
  typeof header === 'string' && /^[A-Za-z0-9._~+/=-]{1,128}$/.test(header) ? header : uuidv7();

/** A problem for a connection that has no request yet. */
function answerSocket(socket: Socket, factory: ProblemFactory): void {
  if (!socket.writable) return void socket.destroy();
  const id = uuidv7();
  const body = JSON.stringify(problemBody(factory(factory.explanation), id, ''));
  socket.end(
    `HTTP/1.1 ${factory.status} ${factory.title}\r\nContent-Type: ${PROBLEM_JSON}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n` +
      `X-Request-Id: ${id}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n${body}`,
  );
}

/** The options of the Fastify instance. */
export const fastifyOptions = (trustProxy: readonly string[]): FastifyServerOptions => ({
  bodyLimit: BODY_LIMIT,
  trustProxy: trustProxy.length > 0 ? [...trustProxy] : false,
  genReqId: ({ headers }) => requestId(headers['x-request-id']),
  exposeHeadRoutes: true,
  // A client that dribbles holds a connection, not more: 30 s for a whole request, 5 s idle between two of them on top of
  // what load balancers keep (the usual 60 s).
  requestTimeout: 30_000,
  keepAliveTimeout: 65_000,
  routerOptions: { maxParamLength: 100 },
  frameworkErrors: (error, request, reply) => {
    const answer = reply as unknown as FastifyReply;
    void answer.header('X-Request-Id', request.id);
    sendProblem(problemOf(error), request as unknown as FastifyRequest, answer);
  },
  clientErrorHandler: (error, socket) => {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ECONNRESET') return void socket.destroy();
    answerSocket(
      socket as Socket,
      code === 'ERR_HTTP_REQUEST_TIMEOUT' ? problems.requestTimeout : problems.malformedRequest,
    );
  },
});

/** Whether a query string's percent-encoding is whole and stands for UTF-8. */
function isDecodable(query: string): boolean {
  try {
    decodeURIComponent(query);
    return true;
  } catch {
    return false;
  }
}

/** Installs the conventions. Call before any route is registered, so that it sees them all. */
export function installNegotiation(fastify: FastifyInstance): void {
  const routes = FindMyWay();
  const patterns = new Set<string>();
  fastify.addHook('onRoute', ({ url, method }) => {
    for (const one of [method].flat() as HTTPMethods[]) {
      if (!METHODS.includes(one) || patterns.has(`${one} ${url}`)) continue;
      patterns.add(`${one} ${url}`);
      routes.on(one as FindMyWay.HTTPMethod, url, () => undefined);
    }
  });
  const allowOf = (path: string): string => {
    const allowed = METHODS.filter(
      (method) => method === 'OPTIONS' || routes.find(method as FindMyWay.HTTPMethod, path),
    );
    return allowed.length > 1 ? allowed.join(', ') : '';
  };

  fastify.removeAllContentTypeParsers();
  fastify.addContentTypeParser(/^application\/json\s*(;|$)/i, { parseAs: 'buffer' }, (request, body, done) => {
    try {
      const coding = request.headers['content-encoding'];
      const charset = /charset\s*=\s*"?([^";\s]+)/i.exec(request.headers['content-type'] ?? '')?.[1];
      if ((coding !== undefined && coding !== 'identity') || (charset !== undefined && !/^utf-?8$/i.test(charset)))
        throw problems.unsupportedMediaType();
      done(null, body.length === 0 ? undefined : parseJson(body as Buffer));
    } catch (error) {
      done(error as Error);
    }
  });

  fastify.addHook('onRequest', (request, reply, done) => {
    void reply.header('X-Request-Id', request.id);
    const [path = '', query] = request.url.split('?');
    let refusal: Problem | undefined;
    if (query !== undefined && query.includes('%') && !isDecodable(query)) refusal = problems.malformedUrl();
    else if (request.is404) {
      const allow = allowOf(path);
      if (allow && request.method === 'OPTIONS') return void reply.code(204).header('Allow', allow).send();
      if (allow) refusal = problems.methodNotAllowed(`${path} has ${allow}.`, { headers: { Allow: allow } });
    } else if (!accepts(request.raw).type([...(request.routeOptions.config.produces ?? ['application/json'])])) {
      if (path.startsWith('/v1/')) refusal = problems.notAcceptable();
    }
    done(refusal);
  });
}

/** @throws Problem malformed-json, also for a "__proto__" member, however it is written */
function parseJson(body: Buffer): unknown {
  const refuseProto = (key: string, member: unknown): unknown => {
    if (key === '__proto__') throw new SyntaxError('__proto__');
    return member;
  };
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body);
    return JSON.parse(text, /__proto__|\\u00/i.test(text) ? refuseProto : undefined) as unknown;
  } catch (error) {
    throw problems.malformedJson(undefined, { cause: error });
  }
}
