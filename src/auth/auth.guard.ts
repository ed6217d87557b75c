/**
 * The first stop of every request. In this order: find the caller (bearer token → session → user),
 * count the request against the rate limit, ask the policy. A route without a row in the policy
 * table answers 404 to everybody.
 */
import { type CanActivate, type ExecutionContext, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Actor } from '../platform/access/actor.js';
import {
  type Action,
  canSee,
  describeRoles,
  isAction,
  may,
  POLICY,
  type Rule,
} from '../platform/access/policy.js';
import { problems } from '../platform/http/problems/problem.js';
import { RateLimit } from '../platform/http/rate-limit/rate-limit.service.js';
import { ALLOW } from '../platform/http/server/allow.decorator.js';
import { SessionsService } from './sessions/sessions.service.js';

/**
 * `"Bearer" 1*SP token68` (RFC 6750, section 2.1). No token of this service is longer than 200
 * characters.
 */
const BEARER = /^Bearer +([A-Za-z0-9._~+/-]{1,200}=*)$/i;

@Injectable()
export class AuthGuard implements CanActivate {
  constructor(
    private readonly reflector: Reflector,
    private readonly sessions: SessionsService,
    private readonly rateLimit: RateLimit,
  ) {}

  /** @throws Problem unauthenticated, forbidden, not-found, rate-limited */
  async canActivate(context: ExecutionContext): Promise<boolean> {
    const action = this.actionOf(context);
    // Probes and metrics: neither authenticated nor counted.
    if (action === 'operator') return true;
    const http = context.switchToHttp();
    const request = http.getRequest<FastifyRequest>();

    const needsSession = action === undefined || !ruleFor(action).anyone;
    if (needsSession) request.actor = await this.findActor(request);
    // Before any rejection: rejected requests count, too.
    await this.rateLimit.consume(request, http.getResponse<FastifyReply>());
    if (action === undefined) throw problems.notFound();
    if (needsSession) this.authorize(action, request);
    return true;
  }

  private actionOf(context: ExecutionContext): Action | undefined {
    const name = this.reflector.getAllAndOverride<string | undefined>(ALLOW, [
      context.getHandler(),
      context.getClass(),
    ]);
    return name !== undefined && isAction(name) ? name : undefined;
  }

  private async findActor({ headers }: FastifyRequest): Promise<Actor | undefined> {
    const token = BEARER.exec(headers.authorization ?? '')?.[1];
    return token === undefined ? undefined : this.sessions.authenticate(token);
  }

  private authorize(action: Action, request: FastifyRequest): void {
    const { actor, params } = request;
    if (!actor) throw problems.unauthenticated();
    if (may(actor, action, ownerIdOf(action, actor, params)) || canSee(actor, action)) return;
    const hidesObject = ruleFor(action).owner === true;
    if (hidesObject) throw problems.notFound(undefined, { isHidden: true });
    throw problems.forbidden(`${routeOf(request)} needs ${describeRoles(action)}`);
  }
}

/** As the API documents it, e.g. `PUT /v1/users/{id}/roles`. */
const routeOf = ({ method, routeOptions }: FastifyRequest): string =>
  `${method} ${routeOptions.url?.replace(/:(\w+)/g, '{$1}')}`;

const ruleFor = (action: Action): Rule => POLICY[action];

/**
 * On users' routes the path names the owner. On other routes only the service knows the owner, so
 * the guard takes the caller for the owner here and the service decides.
 */
function ownerIdOf(action: Action, actor: Actor, params: unknown): string | undefined {
  const isUserRoute = action.startsWith('user.');
  return isUserRoute ? (params as { id?: string }).id?.toLowerCase() : actor.userId;
}
