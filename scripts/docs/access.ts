/**
 * `npm run access`: writes docs/access.md, who may do and see what, out of the tables that decide it. The modules are only
 * looked at (Nest's preview mode), so it needs no database and nothing of the environment.
 */
import 'reflect-metadata';
import { writeFile } from 'node:fs/promises';
import { RequestMethod } from '@nestjs/common';
import { METHOD_METADATA, PATH_METADATA } from '@nestjs/common/constants.js';
import { ModulesContainer, NestFactory } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { AppModule } from '../src/app.module.js';
import { FIELDS, inWords, type Rule, ruleOf } from '../src/auth/policy.js';
import { loadConfig } from '../src/config.js';
import { ALLOW } from '../src/http/actor.js';
import {
  EDITABLE,
  ORDER_ACTIONS,
  ORDER_STATUSES,
  TRANSITIONS,
} from '../src/orders/order-lifecycle.js';
import { command, isStarted, readArguments } from './command.js';

const FILE = 'docs/access.md';

/** A route as the router knows it, and the row of the policy table that it names. */
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
  const list = (value: unknown): string[] => [value ?? ''].flat() as string[];
  return [...controllers].flatMap((controller) => {
    if (typeof controller !== 'function') return [];
    const { prototype } = controller as { prototype: Record<string, object> };
    return Object.getOwnPropertyNames(prototype).flatMap((name) => {
      const handler = prototype[name] as object;
      const method = Reflect.getMetadata(METHOD_METADATA, handler) as RequestMethod | undefined;
      if (method === undefined) return [];
      const action = Reflect.getMetadata(ALLOW, handler) as string | undefined;
      return list(Reflect.getMetadata(PATH_METADATA, controller)).flatMap((base) =>
        list(Reflect.getMetadata(PATH_METADATA, handler)).map((path) => ({
          method: RequestMethod[method],
          path: `/${[base, path]
            .map((part) => part.replace(/^\/|\/$/g, ''))
            .filter(Boolean)
            .join('/')}`,
          action: action ?? '(none: refused to all)',
        })),
      );
    });
  });
}

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

const refusal = ({ anyone, authenticated, owner, seenBy }: Rule): string => {
  if (anyone) return 'nobody';
  if (authenticated) return '401 without a session';
  const others = owner ? '404 for all others' : '403 for all others';
  const seeing = seenBy ? `403 for ${seenBy.map((role) => `\`${role}\``).join(' and ')}, ` : '';
  return `401 without a session, ${seeing}${others}`;
};

/** docs/access.md. */
export async function generateAccess(): Promise<string> {
  const app = await NestFactory.create(AppModule.with(loadConfig({})), new FastifyAdapter(), {
    preview: true,
    logger: false,
    abortOnError: false,
  });
  const routes = guardedRoutes(app.get(ModulesContainer)).sort(
    (one, other) =>
      one.path.localeCompare(other.path, 'en') || one.method.localeCompare(other.method, 'en'),
  );
  const words = (parties: readonly string[]): string =>
    parties.map((one) => `\`${one}\``).join(', ') || 'nobody';
  return `# Who may do and see what

Made by \`npm run access\` out of \`src/auth/policy.ts\` and \`src/orders/order-lifecycle.ts\`: do not edit. \`test/auth/access.spec.ts\`
fails when this page is out of date, when a route has no row, and when an answer over HTTP is another than these tables say.

Roles are \`user\`, \`support\` and \`admin\`; the owner of an object is the user whom it belongs to, the owner of a user is that
user. A caller who may not know of an object is told 404, with the same body as for one that does not exist.

## Routes

${table(
  ['route', 'row of the table', 'who may', 'who is refused'],
  routes.map(({ method, path, action }) => {
    const rule = ruleOf(action) ?? {};
    return [
      `\`${method} ${path}\``,
      `\`${action}\``,
      inWords(action, rule).replace(/\.$/, ''),
      refusal(rule),
    ];
  }),
)}

\`HEAD\` is as \`GET\`; \`OPTIONS\` tells the methods of a path to anyone. Swagger UI (\`/docs\`) is open. Lists of orders hold what the
caller may read: one's own, or with \`support\` and \`admin\` all; \`userId=\` of another is 403 without these roles (row \`order.list-all\`).
What is one's own by its session (\`session.own\`, \`user.me\`, \`order.place\`, \`order.list\`) names no other user: there is nothing to refuse.

## An order's state

${table(
  ['state', ...ORDER_ACTIONS.map((action) => `\`${action}\``), 'change of items and note'],
  ORDER_STATUSES.map((status) => [
    `\`${status}\``,
    ...ORDER_ACTIONS.map((action) => {
      const step = TRANSITIONS.find((one) => one.action === action && one.from === status);
      return step ? `${step.by} → \`${step.to}\`` : '';
    }),
    status === EDITABLE ? 'owner' : '',
  ]),
)}

An empty cell is 409 \`invalid-transition\` for who may take that action in some state, and 403 for who sees the order but may never.

## Fields

${Object.entries(FIELDS)
  .map(
    ([kind, fields]) =>
      `### ${kind}\n\n${table(
        ['field', 'seen by', 'set by', 'how'],
        Object.entries(fields).map(([name, { see, set }]) => [
          `\`${name}\``,
          words(see),
          set ? words(set.by) : 'nobody',
          set?.how ?? '',
        ]),
      )}`,
  )
  .join('\n\n')}

A session's \`token\` is in the answer to the login and nowhere again. What is sent beyond these fields is refused by name (400
\`unknown-property\`), whoever sends it.
`;
}

if (isStarted(import.meta.url)) {
  await command('access', async () => {
    readArguments(`npm run access (writes ${FILE})`, []);
    const text = await generateAccess();
    await writeFile(FILE, text);
    console.log(`Wrote ${FILE}`);
    return 0;
  });
}
