/**
 * The caller's trace (W3C Trace Context Level 2, section 3.2), kept for the whole request: an event
 * in the outbox carries the `traceparent` of the request that caused it. A malformed header is
 * ignored.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { FastifyInstance } from 'fastify';

const traceParents = new AsyncLocalStorage<string>();

/** Any version but ff; a trace id and a parent id of zeros only are invalid. */
const TRACE_PARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** The `traceparent` of the current request; null outside a request and without the header. */
export const currentTraceParent = (): string | null => traceParents.getStore() ?? null;

/** Runs `work`, and what it starts, as part of this trace. */
export const withTraceParent = (traceParent: string, work: () => void): void =>
  traceParents.run(traceParent, work);

/** Installs the hook. Not for use together with tracing.ts, which sets the trace itself. */
export function installTraceContext(fastify: FastifyInstance): void {
  // preValidation runs after the body was read. Before that, callbacks of the body's stream run in
  // the context of the connection and would lose the value.
  fastify.addHook('preValidation', ({ headers: { traceparent } }, _, done) => {
    const isValid = typeof traceparent === 'string' && TRACE_PARENT.test(traceparent);
    if (!isValid) return done();
    withTraceParent(traceparent, done);
  });
}
