/**
 * Rejects query parameters on routes that read none, because ignoring one could do something else
 * than the client meant. It must be the last guard: a caller who may not use a route learns nothing
 * about it.
 */
import type { CanActivate, ExecutionContext } from '@nestjs/common';
import { ROUTE_ARGS_METADATA } from '@nestjs/common/constants.js';
import { RouteParamtypes } from '@nestjs/common/enums/route-paramtypes.enum.js';
import type { FastifyRequest } from 'fastify';
import { unknownParameter, validationFailed } from './validation-problem.js';

export class StrictQueryGuard implements CanActivate {
  /** @throws Problem validation-failed */
  canActivate(context: ExecutionContext): boolean {
    const { url, query } = context.switchToHttp().getRequest<FastifyRequest>();
    if (!url.includes('?') || !url.startsWith('/v1/')) return true;
    const names = Object.keys(query as object);
    if (names.length === 0 || readsQuery(context)) return true;
    throw validationFailed(names.map((name) => unknownParameter(name, [])));
  }
}

/** Whether the handler has a `@Query()`. Nest stores it as `<kind>:<index>` in its metadata. */
function readsQuery(context: ExecutionContext): boolean {
  const parameters = Reflect.getMetadata(
    ROUTE_ARGS_METADATA,
    context.getClass(),
    context.getHandler().name,
  ) as Record<string, unknown> | undefined;
  return Object.keys(parameters ?? {}).some((kind) => kind.startsWith(`${RouteParamtypes.QUERY}:`));
}
