/**
 * What HTTP asks of any server before a handler runs, where Fastify's and Nest's defaults are looser than the contract: 405
 * with Allow, OPTIONS, 406, 415, strict JSON, broken percent-encoding, request ids, and problem+json even for what never
 * reaches a route. Installed once, on the Fastify instance itself.
 */
import type { ServerOptions } from 'node:http';
import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import accepts from 'accepts';
import type {
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  FastifyServerOptions,
  HTTPMethods,
} from 'fastify';
import FindMyWay from 'find-my-way';
import { problemBody, problemOf, PROBLEM_JSON, sendProblem } from './problem.filter.js';
import { type Problem, type ProblemFactory, problems } from './problem.js';
import { secureContextOf, type TlsPair } from './tls.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Media types that the route gives; JSON when absent. */
    produces?: readonly string[];
  }
}

const BODY_LIMIT = 256 * 1024;
const METHODS: readonly HTTPMethods[] = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
];

/**
 * Taken over from the caller when it is well-formed, so that logs of both sides can be joined; made here otherwise. A token of
 * ours is none: what stands here is logged.
 */
const requestId = (header: string | string[] | undefined): string =>
  typeof header === 'string' && /^(?!.*hf_)[A-Za-z0-9._~+/=-]{1,128}$/.test(header)
    ? header
    : randomUUID();

/** A problem for a connection that has no request, or none that can be read to its end. */
function answerSocket(socket: Socket, factory: ProblemFactory): void {
  // Node's own check (_http_server.js): bytes behind the head of another answer would be taken for its body.
  const { _httpMessage: underWay } = socket as Socket & {
    _httpMessage?: { headersSent: boolean } | null;
  };
  if (!socket.writable || underWay?.headersSent) return void socket.destroy();
  const id = randomUUID();
  const body = JSON.stringify(problemBody(factory(factory.explanation), id, ''));
  socket.end(
    `HTTP/1.1 ${factory.status} ${factory.title}\r\nContent-Type: ${PROBLEM_JSON}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n` +
      `X-Request-Id: ${id}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n${body}`,
  );
}

/** What Node's HTTP parser refuses, by its code. */
const CLIENT_ERRORS: Readonly<Record<string, ProblemFactory>> = {
  ERR_HTTP_REQUEST_TIMEOUT: problems.requestTimeout,
  HPE_HEADER_OVERFLOW: problems.headersTooLarge,
};

/** absolute-form must be understood by every server (RFC 9112, section 3.2.2). */
function originForm(url: string): string {
  if (!/^https?:/i.test(url)) return url;
  const target = url.replace(/^https?:\/\/[^/?#]*/i, '');
  return target.startsWith('/') ? target : `/${target}`;
}

/**
 * What Node's server gets when it is made. A missing Host is refused below, as a problem. Heads that dribble are cut after
 * 10 s, and who is late is looked for each second, not each 30.
 */
const SERVER: ServerOptions = {
  requireHostHeader: false,
  headersTimeout: 10_000,
  connectionsCheckingInterval: 1_000,
};
const HANDSHAKE_MS = 10_000;
/** Connections of one process: more are closed at once, before they cost anything else. */
export const MOST_CONNECTIONS = 10_000;

/** The options of the Fastify instance. */
export const fastifyOptions = (
  trustProxy: readonly string[],
  tls?: TlsPair,
): FastifyServerOptions => ({
  ...(tls
    ? { https: { ...SERVER, ...secureContextOf(tls), handshakeTimeout: HANDSHAKE_MS } }
    : { http: SERVER }),
  bodyLimit: BODY_LIMIT,
  trustProxy: trustProxy.length > 0 ? [...trustProxy] : false,
  genReqId: ({ headers }) => requestId(headers['x-request-id']),
  exposeHeadRoutes: true,
  // While closing, what still arrives is served and the connection closed: Fastify's own 503 would be no problem+json.
  return503OnClosing: false,
  rewriteUrl: ({ url = '/' }) => originForm(url),
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
    answerSocket(socket as Socket, CLIENT_ERRORS[code ?? ''] ?? problems.malformedRequest);
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

/** Whether the caller takes what the route gives: most callers say nothing, or that they take anything. */
const isAcceptable = ({
  headers: { accept },
  raw,
  routeOptions: { config },
}: FastifyRequest): boolean =>
  accept === undefined ||
  accept === '*/*' ||
  accepts(raw).type([...(config.produces ?? ['application/json'])]) !== false;

/** Installs the conventions. Call before any route is registered, so that it sees them all. */
export function installNegotiation(fastify: FastifyInstance): void {
  fastify.server.maxConnections = MOST_CONNECTIONS;
  const routes = FindMyWay();
  const patterns = new Set<string>();
  // A path that is itself a route is that resource, and no value of another route's parameter under another method:
  // PATCH /v1/users/me is not PATCH /v1/users/{id}.
  const fixed = new Set<string>();
  fastify.addHook('onRoute', ({ url, method }) => {
    if (!/[:*]/.test(url)) fixed.add(url);
    for (const one of [method].flat() as HTTPMethods[]) {
      if (!METHODS.includes(one) || patterns.has(`${one} ${url}`)) continue;
      patterns.add(`${one} ${url}`);
      routes.on(one as FindMyWay.HTTPMethod, url, () => undefined);
    }
  });
  const allowOf = (path: string): string => {
    const has = (method: string): boolean =>
      fixed.has(path)
        ? patterns.has(`${method} ${path}`)
        : routes.find(method as FindMyWay.HTTPMethod, path) !== null;
    const allowed = METHODS.filter((method) => method === 'OPTIONS' || has(method));
    return allowed.length > 1 ? allowed.join(', ') : '';
  };

  // An expectation other than 100-continue may be ignored (RFC 9110, section 10.1.1); Node would answer 417 by itself.
  fastify.server.on('checkExpectation', (request, response) =>
    fastify.server.emit('request', request, response),
  );

  fastify.removeAllContentTypeParsers();
  fastify.addContentTypeParser(
    /^application\/json\s*(;|$)/i,
    { parseAs: 'buffer' },
    (request, body, done) => {
      try {
        const coding = request.headers['content-encoding'];
        const charset = /charset\s*=\s*"?([^";\s]+)/i.exec(
          request.headers['content-type'] ?? '',
        )?.[1];
        if (coding !== undefined && !/^identity$/i.test(coding))
          throw problems.unsupportedMediaType(undefined, {
            headers: { 'Accept-Encoding': 'identity' },
          });
        if (charset !== undefined && !/^utf-?8$/i.test(charset))
          throw problems.unsupportedMediaType();
        done(null, body.length === 0 ? undefined : parseJson(body as Buffer));
      } catch (error) {
        done(error as Error);
      }
    },
  );

  fastify.addHook('onRequest', (request, reply, done) => {
    void reply.header('X-Request-Id', request.id);
    const mark = request.url.indexOf('?');
    const path = mark < 0 ? request.url : request.url.slice(0, mark);
    const query = mark < 0 ? '' : request.url.slice(mark + 1);
    let refusal: Problem | undefined;
    if (request.headers.host === undefined && request.raw.httpVersion === '1.1')
      refusal = problems.malformedRequest();
    else if (query.includes('%') && !isDecodable(query)) refusal = problems.malformedUrl();
    // The router takes an empty segment for a parameter's value.
    else if (path.startsWith('/v1/') && (path.endsWith('/') || path.includes('//')))
      refusal = problems.notFound();
    else if (request.is404 || (request.routeOptions.url !== path && fixed.has(path))) {
      const allow = allowOf(path);
      if (allow && request.method === 'OPTIONS')
        return void reply.code(204).header('Allow', allow).send();
      if (allow)
        refusal = problems.methodNotAllowed(`${path} has ${allow}.`, { headers: { Allow: allow } });
    } else if (!isAcceptable(request)) {
      if (path.startsWith('/v1/')) refusal = problems.notAcceptable();
    }
    done(refusal);
  });
}

/** Far deeper than any body of this API, far from what would overflow the stack of those who walk it. */
const DEEPEST = 32;

/** Whether JSON nests too deep, without building anything of it. In UTF-8 no other character contains these bytes. */
function isTooDeep(json: Buffer): boolean {
  let depth = 0;
  let quoted = false;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (quoted && byte === 0x5c) at++;
    else if (byte === 0x22) quoted = !quoted;
    else if (quoted) continue;
    else if (byte === 0x5b || byte === 0x7b) depth++;
    else if (byte === 0x5d || byte === 0x7d) depth--;
    if (depth > DEEPEST) return true;
  }
  return false;
}

/** @throws Problem malformed-json, also for a "__proto__" member, however it is written, and for endless nesting */
function parseJson(body: Buffer): unknown {
  const refuseProto = (key: string, member: unknown): unknown => {
    if (key === '__proto__') throw new SyntaxError('__proto__');
    return member;
  };
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body);
    if (isTooDeep(body)) throw new SyntaxError('too deep');
    return JSON.parse(text, /__proto__|\\u00/i.test(text) ? refuseProto : undefined) as unknown;
  } catch (error) {
    throw problems.malformedJson(undefined, { cause: error });
  }
}
