/**
 * Lets pages of other origins call the API (CORS, fetch.spec.whatwg.org): the origins of
 * CORS_ORIGINS, compared exactly, and no others. Tokens travel in a header, so
 * credentials stay off: the cookie of a device (device-tokens.service.ts) is of the same site only.
 */
import cors, { type FastifyCorsOptions } from '@fastify/cors';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { REQUEST_HEADERS, RESPONSE_HEADERS } from '../openapi/documented-headers.js';

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
};

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
  await fastify.register(cors, {
    hook: 'onRequest',
    delegator: (request, callback) => callback(null, optionsFor(request, allowed)),
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
