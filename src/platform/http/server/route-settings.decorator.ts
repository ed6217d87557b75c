/**
 * `@RouteSettings`: what Fastify's hooks know about a Nest route, in `routeOptions.config`. Unlike
 * Nest's `@RouteConfig`, several of them add up.
 */
import 'reflect-metadata';
import { RouteConfig } from '@nestjs/platform-fastify';
import type { FastifyContextConfig, FastifyRequest } from 'fastify';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The row of the policy table that decides who may call the route. */
    action?: string;
  }
}

/** Metadata key of the settings so far. */
const SETTINGS = 'holdfast:route-settings';

export const RouteSettings =
  (settings: FastifyContextConfig): MethodDecorator =>
  (target, name, descriptor) => {
    const handler = descriptor.value as object;
    const before = Reflect.getMetadata(SETTINGS, handler) as FastifyContextConfig | undefined;
    const merged = { ...before, ...settings };
    Reflect.defineMetadata(SETTINGS, merged, handler);
    RouteConfig(merged)(target, name, descriptor);
  };

/**
 * Whether a request asks for a probe or for metrics: no bound and no limit applies to it.
 * Another spelling of the path is refused, so it counts.
 */
export const isForOperators = ({ routeOptions, url }: FastifyRequest): boolean =>
  routeOptions.config.action === 'operator' && url.split('?', 1)[0] === routeOptions.url;
