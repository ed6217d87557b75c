/** The id of a request: in every response and in logs. The caller's, if it is well-formed. */
import { randomUUID } from 'node:crypto';
import type { FastifyInstance } from 'fastify';

/** Well-formed ids of callers. Session tokens are excluded, because request ids are logged. */
const REQUEST_ID = /^(?!.*hf_)[A-Za-z0-9._~+/=-]{1,128}$/;

/** The caller's `X-Request-Id`, so that logs of both sides can be joined, or a new one. */
export function requestIdOf(header: string | string[] | undefined): string {
  const isUsable = typeof header === 'string' && REQUEST_ID.test(header);
  return isUsable ? header : randomUUID();
}

/** Call before other hooks that may answer. */
export function installRequestId(fastify: FastifyInstance): void {
  fastify.addHook('onRequest', (request, reply, done) => {
    void reply.header('X-Request-Id', request.id);
    done();
  });
}
