/**
 * Which methods a path has, collected while routes are registered: for 405, `Allow` and OPTIONS
 * (RFC 9110, section 15.5.6).
 */
import type { FastifyInstance, FastifyRequest, HTTPMethods } from 'fastify';
import FindMyWay from 'find-my-way';
import { isLiteral } from './literal-path.js';

const METHODS: readonly HTTPMethods[] = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
];

export class AllowedMethods {
  private readonly router = FindMyWay();
  /** `GET /v1/users/:id` for each route. */
  private readonly routes = new Set<string>();
  /** Paths of routes without parameters. They shadow `:id` routes for all methods. */
  private readonly fixedPaths = new Set<string>();

  /** Create it before any route is registered, so that it sees all of them. */
  constructor(fastify: FastifyInstance) {
    fastify.addHook('onRoute', ({ url, method }) => {
      const isFixed = !/[:*]/.test(url);
      if (isFixed) this.fixedPaths.add(url);
      for (const name of [method].flat() as HTTPMethods[]) this.add(name, url);
    });
  }

  /**
   * Whether the route that Fastify chose is the path's own. `PATCH /v1/users/me` is not: it would
   * reach `PATCH /v1/users/:id` with the id "me".
   */
  isServed({ is404, routeOptions }: FastifyRequest, path: string): boolean {
    const isShadowed = this.fixedPaths.has(path) && routeOptions.url !== path;
    return !is404 && !isShadowed;
  }

  /** Whether Fastify chose a route for another spelling of its path: `/%6Detrics`. */
  isMisspelled({ is404, routeOptions: { url } }: FastifyRequest, path: string): boolean {
    return !is404 && url !== undefined && !isLiteral(url, path);
  }

  /** The value of `Allow`; empty when nothing is served under the path. */
  allowOf(path: string): string {
    // The server as a whole (RFC 9110, section 9.3.7).
    if (path === '*') return METHODS.join(', ');
    const allowed = METHODS.filter((method) => method === 'OPTIONS' || this.has(method, path));
    const hasRoute = allowed.length > 1;
    return hasRoute ? allowed.join(', ') : '';
  }

  private add(method: HTTPMethods, pattern: string): void {
    const route = `${method} ${pattern}`;
    if (!METHODS.includes(method) || this.routes.has(route)) return;
    this.routes.add(route);
    this.router.on(method as FindMyWay.HTTPMethod, pattern, () => undefined, pattern);
  }

  private has(method: HTTPMethods, path: string): boolean {
    if (this.fixedPaths.has(path)) return this.routes.has(`${method} ${path}`);
    const route = this.router.find(method as FindMyWay.HTTPMethod, path);
    return route !== null && isLiteral(String(route.store), path);
  }
}
