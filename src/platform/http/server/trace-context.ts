/**
 * The caller's trace (W3C Trace Context, level 2, section 3.2), kept from the request for what is written because of it: an
 * event in the outbox carries the `traceparent` of the request that caused it. A malformed header counts as none.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { FastifyInstance } from 'fastify';

const requests = new AsyncLocalStorage<string>();

/** Version 00, or a later one that begins like it; no trace and no parent are all zeros. */
const TRACE_PARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** The `traceparent` of the request under way; null outside a request, and in one that came without. */
export const currentTraceParent = (): string | null => requests.getStore() ?? null;

/** Runs `work` as a part of the trace that this header names. */
export const withTraceParent = (traceParent: string, work: () => void): void =>
  requests.run(traceParent, work);

/** After the body was read: what a stream calls back runs in the context of its connection, not of the request. */
export function installTraceContext(fastify: FastifyInstance): void {
  fastify.addHook('preValidation', ({ headers: { traceparent } }, _, done) => {
    if (typeof traceparent === 'string' && TRACE_PARENT.test(traceparent))
      requests.run(traceparent, done);
    else done();
  });
}
