/**
 * The first stop of every request. In this order: find the caller (bearer token → session → user),
 * count the request against the rate limit, ask the policy. All of it happens before the body is
 * read. A route without a row in the policy table answers 404 to everybody.
 */
import { type CanActivate, type ExecutionContext, Injectable } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
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
import { OverloadProtection } from '../platform/http/bounds/overload-protection.service.js';
import { type Problem, problems } from '../platform/http/problems/problem.js';
import { RateLimit } from '../platform/http/rate-limit/rate-limit.service.js';
import { ALLOW } from '../platform/http/server/allow.decorator.js';
import { isForOperators } from '../platform/http/server/route-settings.decorator.js';
import { SessionsService } from './sessions/sessions.service.js';
import { hasTokenForm } from './sessions/token.js';

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
    private readonly overload: OverloadProtection,
  ) {}

  /**
   * Finds and counts the caller of every request. Call before the hooks that refuse requests, so
   * that refused ones count too.
   */
  installIdentification(fastify: FastifyInstance): void {
    fastify.addHook('onRequest', (request, reply) => this.identify(request, reply));
  }

  /** Asks the policy before the body is read. Call after the checks of the request's form. */
  installAuthorization(fastify: FastifyInstance): void {
    fastify.addHook('onRequest', (request, _, done) => {
      done(this.refusalOf(request.routeOptions.config.action, request));
    });
  }

  /**
   * Probes and metrics are neither authenticated nor counted.
   * @throws Problem rate-limited, overloaded
   */
  async identify(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    if (isForOperators(request)) return;
    const { action } = request.routeOptions.config;
    if (needsSession(action)) request.actor = await this.findActor(request, reply);
    await this.rateLimit.consume(request, reply);
    if (request.actor) await this.overload.admitCaller(request.actor.userId, request, reply);
  }

  /**
   * Asks the policy about a route of Nest, by the metadata of its handler. A route that no hook has
   * seen has no caller, so this refuses it.
   * @throws Problem unauthenticated, forbidden, not-found
   */
  canActivate(context: ExecutionContext): boolean {
    const action = this.reflector.getAllAndOverride<string | undefined>(ALLOW, [
      context.getHandler(),
      context.getClass(),
    ]);
    if (action === undefined || !isAction(action)) throw problems.notFound();
    const refusal = this.refusalOf(action, context.switchToHttp().getRequest<FastifyRequest>());
    if (refusal) throw refusal;
    return true;
  }

  private async findActor(
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<Actor | undefined> {
    const token = BEARER.exec(request.headers.authorization ?? '')?.[1];
    if (token === undefined || !hasTokenForm(token)) return undefined;
    const authenticate = (): Promise<Actor | undefined> => this.sessions.authenticate(token);
    // Users keep their access while others at their address try tokens.
    if (this.sessions.isKnown(token)) return authenticate();
    return this.rateLimit.lookUpToken(request, reply, authenticate);
  }

  /** @param action undefined or unknown: the guard refuses the route if Nest has it */
  private refusalOf(action: string | undefined, request: FastifyRequest): Problem | undefined {
    if (!needsSession(action)) return undefined;
    const { actor, params } = request;
    if (!actor) return problems.unauthenticated();
    if (may(actor, action, ownerIdOf(action, actor, params)) || canSee(actor, action)) {
      return undefined;
    }
    const hidesObject = ruleFor(action).owner === true;
    if (hidesObject) return problems.notFound(undefined, { isHidden: true });
    return problems.forbidden(`${routeOf(request)} needs ${describeRoles(action)}`);
  }
}

const needsSession = (action: string | undefined): action is Action =>
  action !== undefined && isAction(action) && !ruleFor(action).anyone;

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
