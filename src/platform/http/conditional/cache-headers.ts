/**
 * The cache's side of HTTP reads: `Cache-Control: no-cache` in; Cache-Status (RFC 9211), a strong ETag and 304 out. The body's
 * own `version` is the entity tag, so that what is told and what is sent cannot differ.
 */
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type Outcome, Reading } from './reading.js';
import { Representation } from './representation.js';

const CACHE_STATUS: Readonly<Record<Outcome, string>> = {
  hit: 'holdfast; hit',
  miss: 'holdfast; fwd=miss; stored',
  request: 'holdfast; fwd=request',
  fenced: 'holdfast; fwd=bypass; detail=fenced',
  unavailable: 'holdfast; fwd=bypass; detail=unavailable',
  bypass: 'holdfast; fwd=bypass',
};

const asksForPrimary = (header: string | undefined): boolean =>
  header !== undefined && /(^|,)\s*no-cache\s*(,|=|$)/i.test(header);

/** If-None-Match is compared weakly: `W/"1"` is as good as `"1"` (RFC 9110, section 13.1.2). */
function matches(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  if (header.trim() === '*') return true;
  return header.match(/"[^"]*"/g)?.some((tag) => tag === etag) ?? false;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** What this request asks of the cache; made at its first use. */
    reading?: Reading;
  }
}

/** The {@link Reading} of this request, to be handed to the reads that make up its answer. */
export const CurrentReading = createParamDecorator(
  (_: unknown, context: ExecutionContext): Reading => {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    return (request.reading ??= new Reading(asksForPrimary(request.headers['cache-control'])));
  },
);

const versionOf = (body: unknown): number | undefined => {
  const { version } = (body ?? {}) as { version?: unknown };
  return typeof version === 'number' ? version : undefined;
};

/**
 * Installs what every JSON answer to GET and HEAD carries. Fastify's hook and not Nest's interceptor, which would build a
 * chain of observables for each request (docs/adr/0011-fastify-hooks.md). Call before any route is registered.
 */
export function installCacheHeaders(fastify: FastifyInstance): void {
  fastify.setReplySerializer((body) =>
    body instanceof Representation ? body.json : JSON.stringify(body),
  );
  fastify.addHook('preSerialization', (request, reply, body, done) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') return done(null, body);
    const outcome = request.reading?.outcome;
    if (outcome) void reply.header('Cache-Status', CACHE_STATUS[outcome]);
    if (!reply.hasHeader('Cache-Control')) void reply.header('Cache-Control', 'private, no-cache');
    const version = versionOf(body);
    if (version === undefined) return done(null, body);
    const etag = `"${version}"`;
    void reply.header('ETag', etag);
    if (!matches(request.headers['if-none-match'], etag)) return done(null, body);
    // Sent from here, without a body and without the type of one.
    void reply.code(304).removeHeader('Content-Type').send();
  });
}
