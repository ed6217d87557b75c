/**
 * `Vary` (RFC 9110, section 12.5.5): the request headers that a response depends on. No cache may
 * answer one caller with what another caller got (docs/adr/0024-own-user.md).
 */
import type { FastifyInstance, FastifyReply } from 'fastify';

/** Adds a name; those of other hooks stay. */
export function appendVary(reply: FastifyReply, name: string): void {
  const others = reply.getHeader('Vary');
  void reply.header('Vary', others === undefined ? name : `${String(others)}, ${name}`);
}

/**
 * Every response to a request with a token, and of the API to one without: with a token it would be
 * another. Call before the hooks that may refuse a request.
 */
export function installVary(fastify: FastifyInstance): void {
  fastify.addHook('onRequest', ({ url, headers }, reply, done) => {
    const isOfApi = url.startsWith('/v1/');
    const hasToken = headers.authorization !== undefined;
    if (isOfApi || hasToken) appendVary(reply, 'Authorization');
    done();
  });
}
