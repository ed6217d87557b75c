/**
 * Who may call which route, over HTTP. EXPECTED is written by hand, so that it and the policy table
 * verify each other. A route that is missing here fails. Fields: fields.spec.ts.
 */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ModulesContainer } from '@nestjs/core';
import type { FastifyInstance } from 'fastify';
import { generateAccess, guardedRoutes } from '../../../scripts/docs/access.js';
import type { Actor, Role } from '../../../src/platform/access/actor.js';
import {
  type Action,
  canSee,
  isAction,
  may,
  POLICY,
  type Rule,
} from '../../../src/platform/access/policy.js';
import { startApp, type TestApp } from '../../support/app.js';
import { logInAsAdmin, registerSupportUser } from '../../support/factories.js';
import { expectProblem, withoutRequestFields } from '../../support/problem.js';
import { AccessScenes, type Caller, CALLERS } from './scenes.js';
import { REPOSITORY } from '../../support/repository.js';

/** Statuses in the order of CALLERS: anonymous, owner, other, support, admin. */
const EXPECTED: Readonly<Record<string, string>> = {
  'POST /v1/users': '201 201 201 201 201',
  'GET /v1/users': '401 403 403 403 200',
  'GET /v1/users/me': '401 200 200 200 200',
  'GET /v1/users/:id': '401 200 404 404 200',
  'PATCH /v1/users/:id': '401 200 404 404 200',
  'DELETE /v1/users/:id': '401 204 404 404 204',
  'PUT /v1/users/:id/password': '401 204 404 404 403',
  'PUT /v1/users/:id/roles': '401 403 403 403 200',
  'GET /v1/users/:id/orders': '401 200 404 200 200',
  'POST /v1/sessions': '201 201 201 201 201',
  'GET /v1/sessions': '401 200 200 200 200',
  'DELETE /v1/sessions': '401 204 204 204 204',
  'GET /v1/sessions/current': '401 200 200 200 200',
  'GET /v1/sessions/:id': '401 200 404 404 404',
  'DELETE /v1/sessions/current': '401 204 204 204 204',
  'DELETE /v1/sessions/:id': '401 204 404 404 404',
  'POST /v1/orders': '401 201 201 201 201',
  'GET /v1/orders': '401 200 200 200 200',
  'GET /v1/orders/summary': '401 403 403 200 200',
  'GET /v1/orders/export': '401 403 403 200 200',
  'GET /v1/orders/:id': '401 200 404 200 200',
  'PATCH /v1/orders/:id': '401 200 404 403 403',
  'GET /v1/orders/:id/events': '401 200 404 200 200',
  'POST /v1/orders/:id/pay': '401 200 404 403 403',
  'POST /v1/orders/:id/ship': '401 403 404 403 200',
  'POST /v1/orders/:id/deliver': '401 403 404 403 200',
  'POST /v1/orders/:id/cancel': '401 200 404 403 409',
  'POST /v1/orders/:id/refund': '401 403 404 403 200',
  'GET /health/live': '200 200 200 200 200',
  'GET /health/ready': '200 200 200 200 200',
  'GET /health/startup': '200 200 200 200 200',
  'GET /metrics': '200 200 200 200 200',
  'GET /': '200 200 200 200 200',
  'GET /problems': '200 200 200 200 200',
  'GET /problems/:code': '200 200 200 200 200',
  'GET /docs': '200 200 200 200 200',
  'GET /docs/': '200 200 200 200 200',
  'GET /docs/index.html': '200 200 200 200 200',
  'GET /docs/openapi.json': '200 200 200 200 200',
  'GET /docs/swagger-ui-init.js': '200 200 200 200 200',
  'GET /docs/docs/swagger-ui-init.js': '200 200 200 200 200',
  'GET /docs/*': '200 200 200 200 200',
  // The router has this route; the file is not in the package that it would come from.
  'GET /docs/LICENSE': '404 404 404 404 404',
};

/** On these routes the service decides after the policy: by the order's status or the owner. */
const DECIDES_LATER = /:id\/(pay|ship|deliver|cancel|refund)$|\/sessions\/:id$/;

/** Every GET route has a HEAD route with the same statuses. */
const ALL_EXPECTED: readonly (readonly [route: string, statuses: string])[] = Object.entries(
  EXPECTED,
).flatMap(([route, statuses]) => {
  const head = route.replace(/^GET /, 'HEAD ');
  return head === route
    ? [[route, statuses]]
    : ([
        [route, statuses],
        [head, statuses],
      ] as const);
});

const GUARDED = Object.keys(EXPECTED).filter((route) => !/ \/docs(\/|$)/.test(route));

/** `METHOD /path` of every route, from the router's own listing. */
function listRoutes({ app }: TestApp): string[] {
  const fastify = app.getHttpAdapter().getInstance() as unknown as FastifyInstance;
  const parents: string[] = [];
  return fastify
    .printRoutes({ commonPrefix: false })
    .split('\n')
    .flatMap((line) => {
      const [, indent = '', part = '', methods = ''] =
        /^([│ ]*)[├└]── (\S+) \(([^)]*)\)/.exec(line) ?? [];
      if (!part) return [];
      parents.length = indent.length / 4;
      parents.push(part);
      return methods.split(', ').map((method) => `${method} ${parents.join('')}`);
    });
}

describe('access', () => {
  let app: TestApp;
  let scenes: AccessScenes;
  let actions: ReadonlyMap<string, string>;

  beforeAll(async () => {
    app = await startApp();
    scenes = await AccessScenes.create(app);
    actions = new Map(
      guardedRoutes(app.app.get(ModulesContainer)).map(({ method, path, action }) => [
        `${method} ${path}`,
        action,
      ]),
    );
  });
  afterAll(() => app.close());

  it('every route of the router is in the table of expected statuses, and no other', () => {
    const routes = ALL_EXPECTED.map(([route]) => route);
    expect(routes.length).toBeGreaterThan(40);
    expect(listRoutes(app).sort()).toEqual(routes.sort());
  });

  it('every route of a controller names a row of the policy, and every row is named', () => {
    expect([...actions.keys()].sort()).toEqual([...GUARDED].sort());
    const named = new Set(actions.values());
    expect([...named].filter((action) => !isAction(action))).toEqual([]);
    // Not named by a route: the service asks it about a filter.
    named.add('order.list-all');
    expect(Object.keys(POLICY).filter((action) => !named.has(action))).toEqual([]);
  });

  describe('the policy predicts every rejection', () => {
    const ROLES_OF: Readonly<Record<Exclude<Caller, 'anonymous'>, readonly Role[]>> = {
      owner: ['user'],
      other: ['user'],
      support: ['user', 'support'],
      admin: ['user', 'admin'],
    };
    const actorOf = (caller: Exclude<Caller, 'anonymous'>): Actor => ({
      userId: caller,
      roles: ROLES_OF[caller],
      sessionId: '',
      lockSession: () => Promise.resolve(),
    });

    /** Objects belong to the user `owner`. */
    function predict(action: Action, caller: Caller): 'allowed' | 401 | 403 | 404 {
      const actor = caller === 'anonymous' ? undefined : actorOf(caller);
      if (may(actor, action, 'owner')) return 'allowed';
      if (!actor) return 401;
      const { owner }: Rule = POLICY[action];
      const hidesObject = owner === true && !canSee(actor, action);
      return hidesObject ? 404 : 403;
    }

    it.each(GUARDED)('%s', (route) => {
      const action = actions.get(route) as Action;
      const predicted = CALLERS.map((caller) => predict(action, caller));
      const statuses = EXPECTED[route]?.split(' ').map(Number) ?? [];
      const observed = statuses.map((status, index) => {
        const isDecidedLater = DECIDES_LATER.test(route) && predicted[index] === 'allowed';
        return status < 400 || isDecidedLater ? 'allowed' : status;
      });
      expect(observed).toEqual(predicted);
    });
  });

  /** One request of a caller, and what a rejection does and reveals. */
  interface Outcome {
    readonly caller: Caller;
    readonly status: number;
    readonly text: string;
    /** Whether the object is another than before. */
    readonly hasChangedObject: boolean;
    /** Whether a 404 differs from the one of an object that does not exist. */
    readonly revealsObject: boolean;
  }

  async function callAs(caller: Caller, route: string): Promise<Outcome> {
    const scene = await scenes.stage(route, caller);
    const before = await scene.readObject();
    const reply = await scenes.send(route, scene);
    const hasChangedObject = (await scene.readObject()) !== before;
    let revealsObject = false;
    if (reply.status === 404 && scene.method !== 'HEAD') {
      const path = (route.split(' ')[1] ?? '').replace(':id', randomUUID());
      const missing = await scenes.send(route, { ...scene, path });
      const [shown, expected] = [withoutRequestFields(reply), withoutRequestFields(missing)];
      revealsObject = JSON.stringify(shown) !== JSON.stringify(expected);
    }
    const { status, text } = reply;
    return { caller, status, text, hasChangedObject, revealsObject };
  }

  describe('statuses for anonymous, owner, other, support, admin', () => {
    it.each(ALL_EXPECTED)('%s → %s', async (route, statuses) => {
      const outcomes: Outcome[] = [];
      for (const caller of CALLERS) outcomes.push(await callAs(caller, route));
      const texts = outcomes.map(({ caller, text }) => `${caller}: ${text}`).join('\n');
      expect({ statuses: outcomes.map(({ status }) => status).join(' '), texts }).toEqual({
        statuses,
        texts,
      });
      const rejected = outcomes.filter(({ status }) => status >= 400);
      expect(rejected.filter(({ hasChangedObject }) => hasChangedObject)).toEqual([]);
      expect(rejected.filter(({ revealsObject }) => revealsObject)).toEqual([]);
    });
  });

  it("only support and admin may filter orders by another user's userId", async () => {
    const path = `/v1/orders?userId=${scenes.owner.id}`;
    const replies = await Promise.all(
      CALLERS.map((caller) => app.call('GET', path, { token: scenes.tokenOf(caller) })),
    );
    expect(replies.map(({ status }) => status)).toEqual([401, 200, 403, 200, 200]);
  });

  it('a role that was taken away does not count for the next request', async () => {
    const admin = await logInAsAdmin(app);
    const { id, token } = await registerSupportUser(app);
    const readSummary = () => app.call('GET', '/v1/orders/summary', { token });
    expect((await readSummary()).status).toBe(200);
    await app.call('PUT', `/v1/users/${id}/roles`, { token: admin, body: { roles: ['user'] } });
    expectProblem(await readSummary(), 403, 'forbidden');
  });
});

it('docs/reference/access.md is up to date (else: npm run docs -- access)', async () => {
  const file = new URL('docs/reference/access.md', REPOSITORY);
  expect(await readFile(file, 'utf8')).toBe(await generateAccess());
});
