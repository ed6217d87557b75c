/**
 * Checks that every request must pass before its route runs: Host, encoding of the URL, path,
 * method, Accept. Each failure is a problem with the status of RFC 9110. The checks run in the
 * order of this file.
 */
import accepts from 'accepts';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Problem, problems } from '../problems/problem.js';
import { AllowedMethods } from './allowed-methods.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Media types of the route's responses. JSON when absent. */
    produces?: readonly string[];
  }
}

interface Target {
  readonly path: string;
  /** Without the question mark; empty when there is none. */
  readonly query: string;
}

/** Checks that need no route, in this order. The first problem is the response. */
const FORM_CHECKS: readonly ((request: FastifyRequest, target: Target) => Problem | undefined)[] = [
  checkHost,
  checkQueryEncoding,
  checkPathSegments,
];

/** Installs the checks. Call before any route is registered. */
export function installNegotiation(fastify: FastifyInstance): void {
  const methods = new AllowedMethods(fastify);
  fastify.addHook('onRequest', (request, reply, done) => {
    void reply.header('X-Request-Id', request.id);
    const target = targetOf(request.url);
    for (const check of FORM_CHECKS) {
      const problem = check(request, target);
      if (problem) return done(problem);
    }
    const { path } = target;
    if (methods.isServed(request, path)) return done(checkAccept(request, path));
    const allow = methods.allowOf(path);
    // Nest answers 404.
    if (allow === '') return done();
    if (request.method === 'OPTIONS') return void reply.code(204).header('Allow', allow).send();
    done(problems.methodNotAllowed(`${path} allows ${allow}`, { headers: { Allow: allow } }));
  });
}

function targetOf(url: string): Target {
  const mark = url.indexOf('?');
  if (mark < 0) return { path: url, query: '' };
  return { path: url.slice(0, mark), query: url.slice(mark + 1) };
}

const isOfApi = (path: string): boolean => path.startsWith('/v1/');

/** RFC 9112, section 3.2. */
function checkHost({ headers, raw }: FastifyRequest): Problem | undefined {
  const isMissing = headers.host === undefined && raw.httpVersion === '1.1';
  return isMissing ? problems.malformedRequest() : undefined;
}

/** Fastify checks the encoding of paths, but passes on broken encoding in queries. */
function checkQueryEncoding(_: FastifyRequest, { query }: Target): Problem | undefined {
  return query.includes('%') && !isDecodable(query) ? problems.malformedUrl() : undefined;
}

function isDecodable(query: string): boolean {
  try {
    decodeURIComponent(query);
    return true;
  } catch {
    return false;
  }
}

/** The router would take an empty segment for the value of a parameter. */
function checkPathSegments(_: FastifyRequest, { path }: Target): Problem | undefined {
  const hasEmptySegment = path.endsWith('/') || path.includes('//');
  return isOfApi(path) && hasEmptySegment ? problems.notFound() : undefined;
}

/** Only the API negotiates. Pages and probes answer whatever the client accepts. */
function checkAccept(request: FastifyRequest, path: string): Problem | undefined {
  return isOfApi(path) && !isAcceptable(request) ? problems.notAcceptable() : undefined;
}

function isAcceptable({ headers, raw, routeOptions }: FastifyRequest): boolean {
  const { accept } = headers;
  // What most clients send, without parsing it.
  if (accept === undefined || accept === '*/*') return true;
  const produced = routeOptions.config.produces ?? ['application/json'];
  return accepts(raw).type([...produced]) !== false;
}
