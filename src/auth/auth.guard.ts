/**
 * Every request passes here, in this order: who calls (a bearer token, or nobody), whether there were too many, and whether
 * the policy table lets this caller use this route. A route without a row in the table is refused to all.
 */
import { type CanActivate, type ExecutionContext, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { ALLOW } from '../http/actor.js';
import { problems } from '../http/problem.js';
import { RateLimit } from '../http/rate-limit.js';
import { allows, ruleOf, sees } from './policy.js';
import { SessionsService } from './sessions.service.js';

/** credentials = "Bearer" 1*SP token68 (RFC 6750, section 2.1); longer than any token of ours is none of ours. */
const BEARER = /^Bearer +([A-Za-z0-9._~+/-]{1,200}=*)$/i;

/** The row of operators' routes, which are not limited. */
const UNLIMITED = 'operator';

@Injectable()
export class AuthGuard implements CanActivate {
  constructor(
    private readonly reflector: Reflector,
    private readonly sessions: SessionsService,
    private readonly rateLimit: RateLimit,
  ) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const action = this.reflector.getAllAndOverride<string | undefined>(ALLOW, [
      context.getHandler(),
      context.getClass(),
    ]);
    if (action === UNLIMITED) return true;
    const http = context.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const rule = action === undefined ? undefined : ruleOf(action);

    const token = BEARER.exec(request.headers.authorization ?? '')?.[1];
    const actor = token && !rule?.anyone ? await this.sessions.authenticate(token) : undefined;
    if (actor) request.actor = actor;
    await this.rateLimit.consume(request, http.getResponse<FastifyReply>());
    if (!rule) throw problems.notFound();
    if (rule.anyone) return true;
    if (!actor) throw problems.unauthenticated();

    // On users' routes the object is the user of the path, so the answer is known here; on others the service knows the owner.
    const { id } = request.params as { id?: string };
    const isUserRoute = action?.startsWith('user.') ?? false;
    if (allows(rule, actor, isUserRoute ? id?.toLowerCase() : actor.userId) || sees(rule, actor))
      return true;
    throw rule.owner ? problems.notFound(undefined, { hides: true }) : problems.forbidden();
  }
}
