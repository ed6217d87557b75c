/**
 * Every route of the API, and an application to call them on. conformance.spec.ts compares the
 * table with the OpenAPI document.
 */
import { randomUUID } from 'node:crypto';
import { type Reply, type RequestOptions } from '../../support/http-client.js';
import { startApp, type TestApp } from '../../support/app.js';
import { logInAsAdmin, placeOrder, registerUser, type TestUser } from '../../support/factories.js';

export interface Route {
  readonly method: string;
  /** With the kind of each id, e.g. `/v1/users/{user}`. */
  readonly path: string;
  readonly hasBody?: true;
  readonly hasQuery?: true;
  /** Needs no session. */
  readonly isPublic?: true;
  /** Has pages. */
  readonly isList?: true;
  /** The object is visible to its owner alone: the admin gets 404. */
  readonly isPrivate?: true;
  /** JSON when absent. */
  readonly mediaType?: string;
}

const ACTIONS = ['pay', 'ship', 'deliver', 'cancel', 'refund'];

export const ROUTES: readonly Route[] = [
  { method: 'POST', path: '/v1/users', hasBody: true, isPublic: true },
  { method: 'GET', path: '/v1/users', hasQuery: true, isList: true },
  { method: 'GET', path: '/v1/users/me' },
  { method: 'GET', path: '/v1/users/{user}' },
  { method: 'PATCH', path: '/v1/users/{user}', hasBody: true },
  { method: 'DELETE', path: '/v1/users/{user}' },
  { method: 'PUT', path: '/v1/users/{user}/password', hasBody: true },
  { method: 'PUT', path: '/v1/users/{user}/roles', hasBody: true },
  { method: 'GET', path: '/v1/users/{user}/orders', hasQuery: true, isList: true },
  { method: 'POST', path: '/v1/sessions', hasBody: true, isPublic: true },
  { method: 'GET', path: '/v1/sessions' },
  { method: 'DELETE', path: '/v1/sessions', hasQuery: true },
  { method: 'GET', path: '/v1/sessions/current' },
  { method: 'DELETE', path: '/v1/sessions/current' },
  { method: 'GET', path: '/v1/sessions/{session}', isPrivate: true },
  { method: 'DELETE', path: '/v1/sessions/{session}' },
  { method: 'POST', path: '/v1/orders', hasBody: true },
  { method: 'GET', path: '/v1/orders', hasQuery: true, isList: true },
  { method: 'GET', path: '/v1/orders/summary', hasQuery: true },
  { method: 'GET', path: '/v1/orders/export', mediaType: 'application/x-ndjson' },
  { method: 'GET', path: '/v1/orders/{order}', hasQuery: true },
  { method: 'PATCH', path: '/v1/orders/{order}', hasBody: true },
  { method: 'GET', path: '/v1/orders/{order}/events', hasQuery: true, isList: true },
  ...ACTIONS.map((action) => ({
    method: 'POST',
    path: `/v1/orders/{order}/${action}`,
    hasBody: true as const,
  })),
];

/** Routes in the OpenAPI document that are not part of the API: for operators. */
export const OPERATOR_ROUTES = [
  'GET /health/live',
  'GET /health/ready',
  'GET /health/startup',
  'GET /metrics',
];

export const PATHS = [...new Set(ROUTES.map(({ path }) => path))];

/** The methods that `Allow` must list for a path, sorted. */
export function methodsOf(path: string): string[] {
  const methods = ROUTES.filter((route) => route.path === path).map(({ method }) => method);
  const implied = methods.includes('GET') ? ['HEAD', 'OPTIONS'] : ['OPTIONS'];
  return [...methods, ...implied].sort();
}

/** For `it.each`: name and route. */
export const casesOf = (routes: readonly Route[]): [name: string, route: Route][] =>
  routes.map((route) => [`${route.method} ${route.path}`, route]);

/** A valid body for a route with an id, by its path. */
export const VALID_BODIES: Readonly<Record<string, object>> = {
  '/v1/users/{user}': { username: 'another-name' },
  '/v1/users/{user}/password': {
    currentPassword: 'nine tall ships at anchor',
    newPassword: 'ten tall ships at anchor',
  },
  '/v1/users/{user}/roles': { roles: ['user'] },
  '/v1/orders/{order}': { note: 'another' },
  ...Object.fromEntries(ACTIONS.map((action) => [`/v1/orders/{order}/${action}`, {}])),
};

/** An application with a user and an order, so that every path exists. */
export interface RouteTarget {
  readonly app: TestApp;
  readonly owner: TestUser;
  readonly adminToken: string;
  readonly orderId: string;
  /** The path with real ids. */
  pathOf(template: string): string;
  /**
   * Calls a route as the admin, who may call all of them. Routes that only owners may call reject
   * the admin later than the checks of these tests.
   */
  send(route: Pick<Route, 'method' | 'path'>, options?: RequestOptions): Promise<Reply>;
}

export async function startRouteTarget(): Promise<RouteTarget> {
  const app = await startApp();
  const owner = await registerUser(app);
  const adminToken = await logInAsAdmin(app);
  const { id: orderId } = (await placeOrder(app, owner.token)) as { id: string };
  const session = await app.call('GET', '/v1/sessions/current', { token: owner.token });
  const ids: Record<string, string> = { user: owner.id, order: orderId, session: session.body.id };
  const pathOf = (template: string): string =>
    template.replace(/\{(\w+)\}/g, (_, kind: string) => ids[kind] as string);
  return {
    app,
    owner,
    adminToken,
    orderId,
    pathOf,
    send: ({ method, path }, options = {}) =>
      app.call(method, pathOf(path), {
        token: adminToken,
        ...options,
        headers: { 'Idempotency-Key': randomUUID(), ...options.headers },
      }),
  };
}
