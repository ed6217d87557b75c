/** `@CurrentActor()`: hands a controller the caller that the guard put on the request. */
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import type { Actor } from '../../access/actor.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the guard. Absent on routes that need no session. */
    actor?: Actor;
    /** The user that a request without an actor registered or logged in. For logs. */
    account?: string;
  }
}

/**
 * The caller. Only for routes that need a session (policy.ts).
 * @throws Error on a route that anyone may call
 */
export const CurrentActor = createParamDecorator((_: unknown, context: ExecutionContext): Actor => {
  const { actor } = context.switchToHttp().getRequest<FastifyRequest>();
  if (!actor) throw new Error('@CurrentActor() is on a route that needs no session');
  return actor;
});
