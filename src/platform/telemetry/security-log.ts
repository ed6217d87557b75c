/**
 * Logs security events: problems by their code, changes of accounts and rights by their route.
 * Invariants: a line contains nothing that the caller wrote, apart from a valid X-Request-Id; a
 * flood of requests is not a flood of lines. docs/security/asvs.md lists the events and the format.
 */
import { Logger } from '@nestjs/common';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { clientAddressOf } from '../http/server/client-address.js';
import { isId } from '../http/validation/faults.js';
import { LineLimit } from './line-limit.js';
import { routeLabelOf } from './route-label.js';

/** The event of a response that is a problem, by the problem's code (ASVS 5.0.0, 16.3.1-16.3.4). */
const EVENT_OF_PROBLEM: Readonly<Record<string, string>> = {
  'invalid-credentials': 'login-failed',
  'wrong-password': 'password-wrong',
  'idempotency-key-reused': 'key-reused',
  'too-many-attempts': 'guesses-limited',
  'rate-limited': 'requests-limited',
  overloaded: 'requests-shed',
  unauthenticated: 'session-refused',
  forbidden: 'access-refused',
  'validation-failed': 'input-refused',
  'malformed-json': 'input-refused',
  'malformed-url': 'input-refused',
  'malformed-request': 'input-refused',
  'not-implemented': 'input-refused',
  'invalid-transition': 'rule-refused',
  'internal-error': 'request-failed',
};

/** The event of a response that is not a problem. */
const EVENT_OF_ROUTE: Readonly<Record<string, string>> = {
  'POST /v1/users': 'user-registered',
  'PATCH /v1/users/:id': 'user-changed',
  'DELETE /v1/users/:id': 'user-deleted',
  'PUT /v1/users/:id/password': 'password-changed',
  'PUT /v1/users/:id/roles': 'roles-changed',
  'POST /v1/sessions': 'logged-in',
  'DELETE /v1/sessions/current': 'session-ended',
  'DELETE /v1/sessions/:id': 'session-ended',
  'DELETE /v1/sessions': 'sessions-ended',
};

/** Call before the routes are registered. */
export function installSecurityLog(fastify: FastifyInstance): void {
  const logger = new Logger('Security');
  // The sums agree: each event has a line of its own or is counted in one of these.
  const limit = new LineLimit((event, group, suppressed) => {
    logger.warn(`${event} ${group} unwritten=${suppressed}`);
  });

  // onSend, not onResponse: clients that disconnect early must be logged too.
  fastify.addHook('onSend', (request, reply, payload, done) => {
    // A repetition changed nothing: its first request was logged.
    const isReplay = reply.hasHeader('Idempotent-Replayed');
    const event = isReplay ? undefined : eventOf(request);
    if (event !== undefined) {
      const group = groupOf(request);
      const isAllowed = limit.allows(event, group);
      const line = `${event} ${group} ${detailsOf(request)}`;
      if (isAllowed) logger[request.problem ? 'warn' : 'log'](line);
    }
    done(null, payload);
  });
  fastify.addHook('onClose', (_, done) => {
    limit.endWindow();
    done();
  });
}

const routeOf = (request: FastifyRequest): string => `${request.method} ${routeLabelOf(request)}`;

/** @returns undefined when the response is not a security event */
function eventOf(request: FastifyRequest): string | undefined {
  const { problem } = request;
  if (!problem) return EVENT_OF_ROUTE[routeOf(request)];
  // The response says 404 like for an object that does not exist; the log says what happened.
  if (problem.details.isHidden) return 'access-refused';
  return EVENT_OF_PROBLEM[problem.problemType.code];
}

/** Whom an event concerns, from where, and at which route. */
function groupOf(request: FastifyRequest): string {
  const { problem, actor } = request;
  const user = problem?.details.account ?? request.account ?? actor?.userId ?? '-';
  const address = clientAddressOf(request);
  return `user=${user} address=${address} route=${JSON.stringify(routeOf(request))}`;
}

function detailsOf({ id: requestId, actor, params }: FastifyRequest): string {
  const { id } = (params ?? {}) as { id?: unknown };
  const fields = [
    // Only a well-formed id: anything else in its place is text of the caller.
    ...(isId(id) ? [`object=${id}`] : []),
    ...(actor ? [`session=${actor.sessionId}`] : []),
    `request=${requestId}`,
  ];
  return fields.join(' ');
}
