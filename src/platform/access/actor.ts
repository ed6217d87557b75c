/**
 * Who calls, as every module sees it: set by the guard (auth/auth.guard.ts), read by controllers with `@CurrentActor()`. What
 * an actor may do is said by `@Allow(...)` on the route and decided by auth/policy.ts.
 */
import { createParamDecorator, type ExecutionContext, SetMetadata } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import type { Transaction } from '../database/unit-of-work.js';

export const ROLES = ['user', 'support', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export interface Actor {
  readonly userId: string;
  readonly roles: readonly Role[];
  readonly sessionId: string;
  /** Keeps the caller's session from ending until the transaction does. @throws Problem unauthenticated when it has ended */
  readonly hold: (transaction: Transaction) => Promise<void>;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the guard; absent on routes that need no one. */
    actor?: Actor;
    /** The id of the user whom a request without an actor made or logged in. */
    account?: string;
  }
}

/** The caller. Only on routes that the policy keeps from the anonymous. */
export const CurrentActor = createParamDecorator((_: unknown, context: ExecutionContext): Actor => {
  const { actor } = context.switchToHttp().getRequest<FastifyRequest>();
  if (!actor) throw new Error('@CurrentActor on a route that anyone may call');
  return actor;
});

export const ALLOW = 'holdfast:allow';

/** Who may call, in words, by the row of the policy table: the table writes it (auth/policy.ts), the documentation reads it. */
export const callers = new Map<string, string>();

/** Names the row of the policy table (auth/policy.ts) that decides who may call this route. */
export const Allow = (action: string): MethodDecorator => SetMetadata(ALLOW, action);
