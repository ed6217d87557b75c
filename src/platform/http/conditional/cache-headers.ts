/**
 * Adds Cache-Status (RFC 9211), Cache-Control and a strong ETag to answers of GET and HEAD, and
 * turns a match with If-None-Match into 304, unless the answer may not be stored. The ETag is the
 * `version` of the body that is sent, so the two cannot differ.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ReadOutcome } from '../../cache/read/read-context.js';
import { entityTagOf, matchesWeakly, parseEntityTags } from './entity-tag.js';
import { JsonBody } from './representation.js';

/** The Cache-Control of answers that no cache may keep. */
export const NO_STORE = 'no-store';

const CACHE_STATUS: Readonly<Record<ReadOutcome, string>> = {
  hit: 'holdfast; hit',
  near: 'holdfast; hit; detail=near',
  miss: 'holdfast; fwd=miss; stored',
  request: 'holdfast; fwd=request',
  fenced: 'holdfast; fwd=bypass; detail=fenced',
  unavailable: 'holdfast; fwd=bypass; detail=unavailable',
  bypass: 'holdfast; fwd=bypass',
};

const versionOf = (body: unknown): number | undefined => {
  const { version } = (body ?? {}) as { version?: unknown };
  return typeof version === 'number' ? version : undefined;
};

function addFreshnessHeaders(request: FastifyRequest, reply: FastifyReply): void {
  const outcome = request.readContext?.outcome;
  if (outcome) void reply.header('Cache-Status', CACHE_STATUS[outcome]);
  if (!reply.hasHeader('Cache-Control')) void reply.header('Cache-Control', 'private, no-cache');
}

/**
 * Nobody has a copy of an answer that may not be stored. An equal entity tag is then that of
 * another caller's answer under the same URL.
 */
function hasCurrentCopy(request: FastifyRequest, reply: FastifyReply, entityTag: string): boolean {
  const mayBeStored = reply.getHeader('Cache-Control') !== NO_STORE;
  const header = request.headers['if-none-match'];
  return mayBeStored && header !== undefined && matchesWeakly(parseEntityTags(header), entityTag);
}

/**
 * Installs the hooks. Call before any route is registered. Fastify's hook instead of a Nest
 * interceptor, which would create observables for each request (docs/adr/0011-fastify-hooks.md).
 */
export function installCacheHeaders(fastify: FastifyInstance): void {
  fastify.setReplySerializer((body) =>
    body instanceof JsonBody ? body.json : JSON.stringify(body),
  );
  fastify.addHook('preSerialization', (request, reply, body, done) => {
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    if (!isRead) return done(null, body);
    addFreshnessHeaders(request, reply);
    const version = versionOf(body);
    if (version === undefined) return done(null, body);
    const entityTag = entityTagOf(version);
    void reply.header('ETag', entityTag);
    if (!hasCurrentCopy(request, reply, entityTag)) return done(null, body);
    // A 304 has no body. `done` is not called: this answer is sent here.
    void reply.code(304).removeHeader('Content-Type').send();
  });
}
