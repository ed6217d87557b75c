/**
 * Security events, of a closed set, at the one place that every answer passes: refusals by the code of their problem, and what
 * changes who may do what by its route. A line says what, when, to which account, from which address, on which route and under
 * which request id, and nothing that a caller wrote. Of each event at most so many lines a second are written, the rest is counted:
 * a flood of refusals is not one of log.
 */
import { Logger } from '@nestjs/common';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { addressOf } from '../http/client-address.js';
import { isId } from '../http/fields.js';

/** By the code of the problem (ASVS 5.0.0, 16.3.1 to 16.3.4). */
const REFUSALS: Readonly<Record<string, string>> = {
  'invalid-credentials': 'login-failed',
  'wrong-password': 'password-wrong',
  'too-many-attempts': 'guesses-limited',
  'rate-limited': 'requests-limited',
  unauthenticated: 'session-refused',
  forbidden: 'access-refused',
  'validation-failed': 'input-refused',
  'malformed-json': 'input-refused',
  'malformed-url': 'input-refused',
  'malformed-request': 'input-refused',
  'invalid-transition': 'rule-refused',
  'internal-error': 'request-failed',
};

/** By the route that answered without a refusal. */
const CHANGES: Readonly<Record<string, string>> = {
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

/** Lines of one event in a second. */
export const LINES_A_SECOND = 20;

const routeOf = ({ method, is404, routeOptions }: FastifyRequest): string =>
  `${method} ${is404 ? 'unknown' : (routeOptions.url ?? 'unknown')}`;

/** What a request that is about to be answered is, if it is anything: a refusal is one whatever the route. */
function eventOf(request: FastifyRequest): string | undefined {
  const { refusal } = request;
  if (!refusal) return request.method === 'GET' ? undefined : CHANGES[routeOf(request)];
  return refusal.details.hides ? 'access-refused' : REFUSALS[refusal.type.code];
}

function lineOf(event: string, request: FastifyRequest): string {
  const { refusal, actor, params } = request;
  const user = refusal?.details.account ?? request.account ?? actor?.userId ?? '-';
  const { id } = (params ?? {}) as { id?: unknown };
  const fields = { user, address: addressOf(request), route: JSON.stringify(routeOf(request)) };
  const object = isId(id) ? ` object=${id}` : '';
  const session = actor ? ` session=${actor.sessionId}` : '';
  return `${event} user=${fields.user} address=${fields.address} route=${fields.route}${object}${session} request=${request.id}`;
}

export function installSecurityLog(fastify: FastifyInstance): void {
  const logger = new Logger('Security');
  const counts = new Map<string, number>();
  let timer: NodeJS.Timeout | undefined;

  const endSecond = (): void => {
    clearTimeout(timer);
    timer = undefined;
    for (const [event, count] of counts)
      if (count > LINES_A_SECOND) logger.warn(`${event} unwritten=${count - LINES_A_SECOND}`);
    counts.clear();
  };

  // Not when the answer is through: who hangs up before it is told of too.
  fastify.addHook('onSend', (request, _, payload, done) => {
    const event = eventOf(request);
    if (event !== undefined) {
      timer ??= setTimeout(endSecond, 1_000).unref();
      const count = (counts.get(event) ?? 0) + 1;
      counts.set(event, count);
      if (count <= LINES_A_SECOND) logger[request.refusal ? 'warn' : 'log'](lineOf(event, request));
    }
    done(null, payload);
  });
  fastify.addHook('onClose', (_, done) => (endSecond(), done()));
}
