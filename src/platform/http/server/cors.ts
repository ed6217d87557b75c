/**
 * Lets pages of other origins call the API (CORS, fetch.spec.whatwg.org): the origins of
 * CORS_ORIGINS, compared exactly, and no others. Tokens travel in a header, so
 * credentials stay off: the cookie of a device (device-tokens.service.ts) is of the same site only.
 */
import cors, { type FastifyCorsOptions } from '@fastify/cors';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { REQUEST_HEADERS, RESPONSE_HEADERS } from '../openapi/documented-headers.js';
import { sendProblem } from '../problems/problem-response.js';
import { toProblem } from '../problems/to-problem.js';

const PERMISSIONS: FastifyCorsOptions = {
  methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
  allowedHeaders: [
    ...['Authorization', 'Content-Type', 'X-Request-Id', 'traceparent', 'tracestate'],
    ...Object.keys(REQUEST_HEADERS),
  ],
  // No page may read a cookie of another origin.
  exposedHeaders: Object.keys(RESPONSE_HEADERS).filter((name) => name !== 'Set-Cookie'),
  /** Seconds for which a browser need not ask again. */
  maxAge: 600,
  // The hooks that count and bound requests come first: answerPreflights.
  preflightContinue: true,
};

declare module 'fastify' {
  interface FastifyRequest {
    /** Whether it is a preflight of a listed origin. Absent without CORS. */
    corsPreflightEnabled?: boolean;
  }
}

/**
 * Call before the hooks that may refuse a request: a page must be able to read why.
 * @param origins as browsers send them; none: no response has a CORS header
 */
export async function installCors(
  fastify: FastifyInstance,
  origins: readonly string[],
): Promise<void> {
  if (origins.length === 0) return;
  const allowed = new Set(origins);
  fastify.addHook('onRoute', (route) => {
    // The plugin's route for OPTIONS. It exists before Nest has set its own handler of errors.
    if (route.url !== '*') return;
    route.errorHandler = (error, request, reply) => sendProblem(toProblem(error), request, reply);
  });
  await fastify.register(cors, {
    hook: 'onRequest',
    delegator: (request, callback) => callback(null, optionsFor(request, allowed)),
  });
}

/**
 * Answers the preflights of listed origins. Call after the hooks that count and bound requests: a
 * preflight has no token, so it counts for its address.
 */
export function answerPreflights(fastify: FastifyInstance): void {
  fastify.addHook('onRequest', (request, reply, done) => {
    if (!request.corsPreflightEnabled) return done();
    // Safari waits for a body unless the length says that there is none.
    void reply.code(204).header('Content-Length', '0').send();
  });
}

function optionsFor(
  { method, headers }: FastifyRequest,
  allowed: ReadonlySet<string>,
): FastifyCorsOptions {
  const { origin } = headers;
  if (origin === undefined || !allowed.has(origin)) return { origin: false };
  // Other OPTIONS requests get the methods of their path (negotiation.ts).
  const isPreflight = method === 'OPTIONS' && 'access-control-request-method' in headers;
  return { ...PERMISSIONS, origin, preflight: isPreflight };
}
