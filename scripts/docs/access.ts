/**
 * Generates docs/reference/access.md: who may call which route, act on an order, and see or set
 * which field. The page is built from the tables that the service itself reads.
 */
import { RequestMethod } from '@nestjs/common';
import { METHOD_METADATA, PATH_METADATA } from '@nestjs/common/constants.js';
import { ModulesContainer } from '@nestjs/core';
import {
  describeParty,
  EDITABLE_STATUS,
  ORDER_ACTIONS,
  ORDER_STATUSES,
  TRANSITIONS,
} from '../../src/orders/order-lifecycle.js';
import { describeRule, FIELDS, type Rule, ruleOf } from '../../src/platform/access/policy.js';
import { ALLOW } from '../../src/platform/http/server/allow.decorator.js';
import { plainTable } from './markdown.js';
import { createPreviewApp } from './preview-app.js';

/** A route, and the row of the policy table that it names. */
export interface GuardedRoute {
  readonly method: string;
  readonly path: string;
  readonly action: string;
}

/** Every route of every controller. */
export function guardedRoutes(modules: ModulesContainer): GuardedRoute[] {
  const controllers = new Set(
    [...modules.values()].flatMap((module) =>
      [...module.controllers.values()].map(({ metatype }) => metatype),
    ),
  );
  return [...controllers].flatMap((controller) => {
    if (typeof controller !== 'function') return [];
    const { prototype } = controller as { prototype: Record<string, object> };
    return Object.getOwnPropertyNames(prototype).flatMap((name) =>
      routesOf(controller, prototype[name] as object),
    );
  });
}

/** The routes of one method of a controller; none for a method that handles no requests. */
function routesOf(controller: object, handler: object): GuardedRoute[] {
  const method = Reflect.getMetadata(METHOD_METADATA, handler) as RequestMethod | undefined;
  if (method === undefined) return [];
  const action = Reflect.getMetadata(ALLOW, handler) as string | undefined;
  return pathsOf(controller).flatMap((base) =>
    pathsOf(handler).map((path) => ({
      method: RequestMethod[method],
      path: joinPath(base, path),
      action: action ?? '(none: every caller is rejected)',
    })),
  );
}

const pathsOf = (target: object): string[] => {
  const paths = (Reflect.getMetadata(PATH_METADATA, target) ?? '') as string | string[];
  return [paths].flat();
};

function joinPath(...parts: string[]): string {
  const segments = parts.map((part) => part.replace(/^\/|\/$/g, '')).filter(Boolean);
  return `/${segments.join('/')}`;
}

const code = (text: string): string => `\`${text}\``;
const codeList = (words: readonly string[]): string => words.map(code).join(', ') || 'nobody';

/** What callers get that the rule does not allow. */
function describeRejection({ anyone, authenticated, owner, seenBy }: Rule): string {
  if (anyone) return 'nobody';
  if (authenticated) return '401 without a session';
  const parts = ['401 without a session'];
  if (seenBy) parts.push(`403 for ${seenBy.map(code).join(' and ')}`);
  parts.push(owner ? '404 for all others' : '403 for all others');
  return parts.join(', ');
}

function routesTable(modules: ModulesContainer): string {
  const routes = guardedRoutes(modules).sort(
    (a, b) => a.path.localeCompare(b.path, 'en') || a.method.localeCompare(b.method, 'en'),
  );
  return plainTable(
    ['route', 'row of the policy', 'who may call', 'who is rejected'],
    routes.map(({ method, path, action }) => [
      code(`${method} ${path}`),
      code(action),
      describeRule(action)?.replace(/\.$/, '') ?? '',
      describeRejection(ruleOf(action) ?? {}),
    ]),
  );
}

const lifecycleTable = (): string =>
  plainTable(
    ['status', ...ORDER_ACTIONS.map(code), 'change of items and note'],
    ORDER_STATUSES.map((status) => [
      code(status),
      ...ORDER_ACTIONS.map((action) => {
        const transitions = TRANSITIONS.filter(
          ({ action: taken, from }) => taken === action && from === status,
        );
        return transitions
          .map((transition) => `${describeParty(transition)} → ${code(transition.to)}`)
          .join('; ');
      }),
      status === EDITABLE_STATUS ? 'owner' : '',
    ]),
  );

function fieldSections(): string {
  const sections = Object.entries(FIELDS).map(([kind, fields]) => {
    const rows = Object.entries(fields).map(([name, { see, set }]) => [
      code(name),
      codeList(see),
      set ? codeList(set.by) : 'nobody',
      set?.how ?? '',
    ]);
    return `### ${kind}\n\n${plainTable(['field', 'seen by', 'set by', 'how'], rows)}`;
  });
  return sections.join('\n\n');
}

/** The whole page. */
export async function generateAccess(): Promise<string> {
  const app = await createPreviewApp();
  return `# Who may do and see what

\`npm run docs -- access\` generates this page from \`src/platform/access/policy.ts\` and
\`src/orders/order-lifecycle.ts\`. Do not edit it. \`test/platform/access/access.spec.ts\` fails
when the page is out of date, when a route has no row, and when a response over HTTP differs from
these tables.

The roles are \`user\`, \`support\` and \`admin\`. The owner of an object is the user that it
belongs to. The owner of a user is that user. A caller that may not know of an object gets 404, with
the same body as for an object that does not exist.

## Routes

${routesTable(app.get(ModulesContainer))}

\`HEAD\` has the rules of \`GET\`. \`OPTIONS\` returns the methods of a path to anyone. Swagger UI
(\`/docs\`) needs no session. A list of orders holds the orders that the caller may read: its own,
or all for \`support\` and \`admin\`. Without these roles, \`userId=\` of another user is 403 (row
\`order.list-all\`). The rows \`session.own\`, \`user.me\`, \`order.place\` and
\`order.list\` concern only what belongs to the caller's session, so no caller with a session is
rejected.

## Status of an order

${lifecycleTable()}

An empty cell is 409 \`invalid-transition\` for a caller that may take the action in another status.
It is 403 for a caller that sees the order but may never take the action.

## Fields

${fieldSections()}

Only the response to a login holds the session's \`token\`. A request with a field that is not in
these tables is rejected with 400 \`unknown-property\`, whoever sends it.
`;
}
