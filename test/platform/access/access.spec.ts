/**
 * Who may do what, over HTTP: each route that the router has, as each kind of caller, and each field. EXPECTED is written by
 * hand and knows nothing of the policy table, so that the two hold each other; a route that is missing here fails. The owner
 * owns what the path names; the others are logged in and own nothing of it.
 */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ModulesContainer } from '@nestjs/core';
import type { FastifyInstance } from 'fastify';
import { generateAccess, guardedRoutes } from '../../scripts/access.js';
import { FIELDS, type Party, POLICY, type Rule, ruleOf } from '../../src/auth/policy.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  logIn,
  ORDER,
  PASSWORD,
  person,
  type Person,
  placeOrder,
  supportPerson,
} from '../support/factories.js';
import { anonymous, expectProblem, faultsOf } from '../support/problem.js';

const CALLERS = ['anonymous', 'owner', 'other', 'support', 'admin'] as const;
type Caller = (typeof CALLERS)[number];

/** Statuses in the order of CALLERS. */
const EXPECTED: Readonly<Record<string, string>> = {
  'POST /v1/users': '201 201 201 201 201',
  // The router has it; the package that it would come from does not.
  'GET /docs/LICENSE': '404 404 404 404 404',
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
};
/** For people, probes and Prometheus: whoever asks. */
const OPEN = /^\/(docs|problems|health|metrics)(\/|$)/;
/** What the path of an open route with a parameter stands for. */
const SAMPLES: Readonly<Record<string, string>> = { ':code': 'not-found', '*': 'swagger-ui.css' };

/** What a route is sent; `{}` stands for what each call has of its own. */
const BODIES: Readonly<Record<string, () => object>> = {
  'POST /v1/users': () => ({
    username: unique(),
    email: `${unique()}@example.com`,
    password: PASSWORD,
  }),
  'PATCH /v1/users/:id': () => ({ username: unique() }),
  'PUT /v1/users/:id/password': () => ({
    currentPassword: PASSWORD,
    newPassword: 'eight slow barges upstream',
  }),
  'PUT /v1/users/:id/roles': () => ({ roles: ['user', 'support'] }),
  'POST /v1/orders': () => ORDER,
  'PATCH /v1/orders/:id': () => ({ note: 'changed' }),
};
const unique = (): string => `m${randomUUID().slice(0, 18)}`;
/** Calls after which the object, or the session of the call, is another. */
const BEFORE: Readonly<Record<string, readonly string[]>> = {
  ship: ['pay'],
  deliver: ['pay', 'ship'],
  refund: ['pay', 'ship', 'deliver'],
};
const DESTROYS =
  /^(DELETE \/v1\/(users|sessions)|PUT \/v1\/users\/:id\/(password|roles)|PATCH \/v1\/users)/;

/** `METHOD /path` of every route, out of the router's own listing. */
function routesOf(app: TestApp): string[] {
  const fastify = app.app.getHttpAdapter().getInstance() as unknown as FastifyInstance;
  const above: string[] = [];
  return fastify
    .printRoutes({ commonPrefix: false })
    .split('\n')
    .flatMap((line) => {
      const [, indent = '', part = '', methods = ''] =
        /^([│ ]*)[├└]── (\S+) \(([^)]*)\)/.exec(line) ?? [];
      if (!part) return [];
      above.length = indent.length / 4;
      above.push(part);
      return methods.split(', ').map((method) => `${method} ${above.join('')}`);
    });
}

describe('access', () => {
  let app: TestApp;
  let people: Record<'owner' | 'other' | 'support', Person>;
  let admin: string;
  let routes: string[];

  beforeAll(async () => {
    app = await startApp();
    admin = await adminToken(app);
    people = {
      owner: await person(app),
      other: await person(app),
      support: await supportPerson(app),
    };
    routes = routesOf(app);
  });
  afterAll(() => app.close());

  const tokenOf = (caller: Caller): string | undefined =>
    caller === 'anonymous' ? undefined : caller === 'admin' ? admin : people[caller].token;

  /** Another one of this kind, who may lose every session. */
  async function someone(caller: Caller): Promise<string> {
    const { id, token } = await person(app);
    const roles = caller === 'other' ? ['user'] : ['user', caller];
    await app.call('PUT', `/v1/users/${id}/roles`, { token: admin, body: { roles } });
    return token;
  }
  const again = (caller: Caller): Promise<string> =>
    caller === 'admin'
      ? adminToken(app)
      : logIn(app, people[caller as 'other' | 'support'].username);

  interface Scene {
    readonly path: string;
    readonly token: string | undefined;
    readonly headers: Record<string, string>;
    /** What the path names, as its owner or an admin sees it. */
    look(): Promise<string>;
  }
  /** A call of its own objects: nothing that another call did can be seen in it. */
  async function stage(route: string, caller: Caller): Promise<Scene> {
    const [, path = ''] = route.split(' ');
    const headers = {
      'Idempotency-Key': randomUUID(),
      ...(/^PATCH/.test(route) ? { 'If-Match': '"1"' } : {}),
    };
    // A password costs time: only who will be changed is made anew.
    const status = Number(EXPECTED[route]?.split(' ')[CALLERS.indexOf(caller)]);
    const fresh = DESTROYS.test(route) && status < 300;
    const owner = fresh ? await person(app) : people.owner;
    let token = caller === 'owner' ? owner.token : tokenOf(caller);
    // Who ends sessions of its own ends none that another call needs.
    if (route === 'DELETE /v1/sessions' && caller !== 'owner' && token)
      token = await someone(caller);
    if (route === 'DELETE /v1/sessions/current' && caller !== 'owner' && token)
      token = await again(caller);
    const see = async (url: string): Promise<string> =>
      (await app.call('GET', url, { token: admin })).text;

    if (path.startsWith('/v1/orders/:id')) {
      const { id } = await placeOrder(app, owner.token);
      for (const action of BEFORE[path.split('/').at(-1) ?? ''] ?? [])
        await app.call('POST', `/v1/orders/${id}/${action}`, {
          token: action === 'pay' ? owner.token : admin,
        });
      return { path: path.replace(':id', id), token, headers, look: () => see(`/v1/orders/${id}`) };
    }
    if (path.startsWith('/v1/sessions/:id')) {
      const second = await logIn(app, owner.username);
      const { body } = await app.call('GET', '/v1/sessions/current', { token: second });
      const look = async (): Promise<string> =>
        `${(await app.call('GET', '/v1/users/me', { token: second })).status}`;
      return { path: path.replace(':id', body.id), token, headers, look };
    }
    const object = /^\/v1\/users\/:id/.test(path) ? `/v1/users/${owner.id}` : undefined;
    const named = Object.entries(SAMPLES).reduce(
      (text, [from, to]) => text.replace(from, to),
      path.replace(':id', owner.id),
    );
    return {
      path: named,
      token,
      headers,
      look: () => (object ? see(object) : Promise.resolve('')),
    };
  }

  const bodyOf = (route: string): object | undefined =>
    route === 'POST /v1/sessions'
      ? { username: people.owner.username, password: PASSWORD }
      : BODIES[route]?.();

  async function ask(
    route: string,
    caller: Caller,
  ): Promise<{ reply: Reply; scene: Scene; before: string }> {
    const scene = await stage(route, caller);
    const before = /^(GET|HEAD)/.test(route) ? '' : await scene.look();
    const [method = ''] = route.split(' ');
    const { token, headers } = scene;
    return {
      reply: await app.call(method, scene.path, { token, body: bodyOf(route), headers }),
      scene,
      before,
    };
  }

  const expectedOf = (route: string): number[] | undefined => {
    const known = EXPECTED[route.replace(/^HEAD /, 'GET ')];
    if (known) return known.split(' ').map(Number);
    return /^(GET|HEAD) /.test(route) && OPEN.test(route.split(' ')[1] ?? '')
      ? CALLERS.map(() => 200)
      : undefined;
  };

  it('every route that the router has is in the table, and the table has no more', () => {
    expect(routes.length).toBeGreaterThan(40);
    expect(routes.filter((route) => expectedOf(route) === undefined)).toEqual([]);
    expect(Object.keys(EXPECTED).filter((route) => !routes.includes(route))).toEqual([]);
  });

  it('every route of the API names a row of the policy, and every row is named', () => {
    const guarded = guardedRoutes(app.app.get(ModulesContainer));
    const known = guarded.map(({ method, path }) => `${method} ${path}`);
    expect(known.filter((route) => !routes.includes(route))).toEqual([]);
    const unguarded = routes.filter(
      (route) => !route.startsWith('HEAD ') && !known.includes(route),
    );
    expect(unguarded.filter((route) => !/ \/docs(\/|$)/.test(route))).toEqual([]);
    expect(guarded.filter(({ action }) => ruleOf(action) === undefined)).toEqual([]);
    // Not a route's, but of the filter of a list.
    const asked = new Set([...guarded.map(({ action }) => action), 'order.list-all']);
    expect(Object.keys(POLICY).filter((action) => !asked.has(action))).toEqual([]);
  });

  it('the policy table foretells every refusal', () => {
    for (const { method, path, action } of guardedRoutes(app.app.get(ModulesContainer))) {
      const rule = ruleOf(action) as Rule;
      const expected = expectedOf(`${method} ${path}`) as number[];
      const roles = {
        anonymous: [],
        owner: ['user'],
        other: ['user'],
        support: ['user', 'support'],
        admin: ['user', 'admin'],
      };
      const isOwners = rule.owner || rule.authenticated;
      CALLERS.forEach((caller, index) => {
        const has = (some: readonly string[] = []): boolean =>
          some.some((role) => roles[caller].includes(role as never));
        const foretold = rule.anyone
          ? 'done'
          : caller === 'anonymous'
            ? 401
            : rule.authenticated || has(rule.roles) || (caller === 'owner' && rule.owner)
              ? 'done'
              : has(rule.seenBy)
                ? 403
                : isOwners
                  ? 404
                  : 403;
        const status = expected[index] as number;
        // Of what the row lets through, the order's life and the owner of a session still decide.
        const later =
          foretold === 'done' && /:id\/(pay|ship|deliver|cancel|refund)|sessions\/:id/.test(path);
        const told = later && status >= 400 ? 'done' : status < 400 ? 'done' : status;
        expect([`${method} ${path}`, caller, told]).toEqual([
          `${method} ${path}`,
          caller,
          foretold,
        ]);
      });
    }
  });

  it('the matrix: every route as every caller', async () => {
    let cells = 0;
    const wrong: string[] = [];
    for (const route of routes) {
      for (const [index, caller] of CALLERS.entries()) {
        const status = expectedOf(route)?.[index];
        const { reply, scene, before } = await ask(route, caller);
        cells++;
        if (reply.status !== status)
          wrong.push(`${route} as ${caller}: ${reply.status}, not ${status} ${reply.text}`);
        if (reply.status < 400 || route.startsWith('HEAD ')) continue;
        // A refusal has changed nothing, and a 404 is the one of an object that does not exist.
        if (!route.startsWith('GET '))
          expect([route, caller, await scene.look()]).toEqual([route, caller, before]);
        if (reply.status !== 404) continue;
        const [method = '', path = ''] = route.split(' ');
        const absent = await app.call(method, path.replace(':id', randomUUID()), {
          ...scene,
          body: bodyOf(route),
        });
        expect([route, caller, anonymous(absent)]).toEqual([route, caller, anonymous(reply)]);
      }
    }
    process.stdout.write(
      `    matrix: ${routes.length} routes x ${CALLERS.length} callers = ${cells} answers\n`,
    );
    expect(wrong).toEqual([]);
    expect(cells).toBe(routes.length * CALLERS.length);
  }, 60_000);

  describe('fields', () => {
    const partiesOf: Record<Party, Caller> = { owner: 'owner', support: 'support', admin: 'admin' };
    const PARTIES = Object.keys(partiesOf) as Party[];

    it('are seen by those whom the table names, and no other field leaves', async () => {
      let cells = 0;
      const order = await placeOrder(app, people.owner.token);
      const places: readonly (readonly [keyof typeof FIELDS, string])[] = [
        ['user', `/v1/users/${people.owner.id}`],
        ['order', `/v1/orders/${order.id}`],
        ['order', `/v1/orders?ids=${order.id}`],
        ['order', `/v1/users/${people.owner.id}/orders?limit=1`],
        ['user', `/v1/users?username=${people.owner.username}`],
      ];
      for (const [kind, path] of places)
        for (const party of PARTIES) {
          const reply = await app.call('GET', path, { token: tokenOf(party) });
          const seen = Object.keys(
            (reply.body.data ? reply.body.data[0] : reply.status < 400 && reply.body) || {},
          );
          const may = Object.entries(FIELDS[kind]).filter(([, { see }]) => see.includes(party));
          // The list of users is the admin's alone.
          const told =
            path.startsWith('/v1/users?') && party !== 'admin' ? [] : may.map(([name]) => name);
          expect([path, party, seen.sort()]).toEqual([path, party, told.sort()]);
          cells += Object.keys(FIELDS[kind]).length;
        }
      for (const path of ['/v1/sessions', '/v1/sessions/current']) {
        const { body } = await app.call('GET', path, { token: people.owner.token });
        const may = Object.entries(FIELDS.session).filter(([, { see }]) => see.includes('owner'));
        expect(Object.keys(body.data ? body.data[0] : body).sort()).toEqual(
          may.map(([name]) => name).sort(),
        );
        cells += Object.keys(FIELDS.session).length;
      }
      process.stdout.write(`    fields seen: ${cells} answers\n`);
    });

    it('are set by those whom the table names, and no field without a row is taken by any route', async () => {
      let cells = 0;
      /** The routes that write an object, each with the fields that it takes. */
      const writers: readonly (readonly [string, keyof typeof FIELDS, readonly string[]])[] = [
        ['POST /v1/users', 'user', ['username', 'email', 'password']],
        ['PATCH /v1/users/:id', 'user', ['username', 'email']],
        ['PUT /v1/users/:id/roles', 'user', ['roles']],
        ['PUT /v1/users/:id/password', 'user', []],
        ['POST /v1/sessions', 'session', []],
        ['POST /v1/orders', 'order', ['currency', 'items', 'note']],
        ['PATCH /v1/orders/:id', 'order', ['items', 'note']],
        ['POST /v1/orders/:id/pay', 'order', []],
      ];
      const everything = [
        ...new Set(Object.values(FIELDS).flatMap((fields) => Object.keys(fields))),
      ];
      const members: Readonly<Record<string, readonly string[]>> = {
        'PUT /v1/users/:id/password': ['currentPassword', 'newPassword'],
        'POST /v1/sessions': ['username', 'password'],
        'POST /v1/orders/:id/pay': ['reason'],
      };
      for (const [route, kind, takes] of writers) {
        const [method = ''] = route.split(' ');
        const settable = Object.entries(FIELDS[kind]).filter(([, { set }]) => set);
        expect(takes.filter((name) => !settable.some(([one]) => one === name))).toEqual([]);
        for (const caller of ['owner', 'admin'] as const) {
          // Who passes the guard is told of each field; who does not learns nothing of them.
          if (EXPECTED[route]?.split(' ')[CALLERS.indexOf(caller)] === '403' && /roles/.test(route))
            continue;
          const scene = await stage(route, caller);
          const body = Object.fromEntries(
            [...everything, '__proto__x', 'isAdmin'].map((name) => [name, 1]),
          );
          const reply = await app.call(method, scene.path, {
            token: scene.token,
            headers: scene.headers,
            body,
          });
          const refused = faultsOf(reply).flatMap(
            (fault) => /^\/(\S+) unknown-property$/.exec(fault)?.[1] ?? [],
          );
          const known = [...takes, ...(members[route] ?? [])];
          const unknown = [...everything, '__proto__x', 'isAdmin'].filter(
            (name) => !known.includes(name),
          );
          expect([route, caller, refused.sort()]).toEqual([route, caller, unknown.sort()]);
          cells += unknown.length;
        }
      }
      // And each field that can be set, by each party, on what exists.
      const VALUES: Record<string, () => unknown> = {
        'user.username': unique,
        'user.email': () => `${unique()}@example.com`,
        'user.roles': () => ['user', 'admin'],
        'user.password': () => 'eight slow barges upstream',
        'order.items': () => ORDER.items,
        'order.note': () => 'another',
      };
      for (const [kind, fields] of Object.entries(FIELDS))
        for (const [name, { set }] of Object.entries(fields)) {
          for (const party of PARTIES) {
            const value = VALUES[`${kind}.${name}`]?.();
            if (value === undefined) continue;
            const route =
              name === 'roles'
                ? 'PUT /v1/users/:id/roles'
                : name === 'password'
                  ? 'PUT /v1/users/:id/password'
                  : `PATCH /v1/${kind}s/:id`;
            const { path, token, headers } = await stage(route, partiesOf[party]);
            const body =
              name === 'password'
                ? { currentPassword: PASSWORD, newPassword: value }
                : { [name]: value };
            const { status } = await app.call(route.split(' ')[0] as string, path, {
              token,
              headers,
              body,
            });
            expect([kind, name, party, status < 300]).toEqual([
              kind,
              name,
              party,
              set?.by.includes(party),
            ]);
            cells++;
          }
        }
      process.stdout.write(`    fields set: ${cells} attempts\n`);
    });

    it('of a login: the token is in its answer alone', async () => {
      const body = { username: people.owner.username, password: PASSWORD };
      const { body: made } = await app.call('POST', '/v1/sessions', { body });
      const seen = Object.entries(FIELDS.session).filter(([, { see }]) => see.length > 0);
      expect(Object.keys(made).sort()).toEqual([...seen.map(([name]) => name), 'token'].sort());
    });

    it('of a filter: another’s userId is for support and admin', async () => {
      const path = `/v1/orders?userId=${people.owner.id}`;
      const statuses = await Promise.all(
        CALLERS.map(
          async (caller) => (await app.call('GET', path, { token: tokenOf(caller) })).status,
        ),
      );
      expect(statuses).toEqual([401, 200, 403, 200, 200]);
    });
  });

  it('a role taken away counts on the next request', async () => {
    const { id, token } = await supportPerson(app);
    expect((await app.call('GET', '/v1/orders/summary', { token })).status).toBe(200);
    await app.call('PUT', `/v1/users/${id}/roles`, { token: admin, body: { roles: ['user'] } });
    expectProblem(await app.call('GET', '/v1/orders/summary', { token }), 403, 'forbidden');
  });

  it('docs/access.md is what the tables say (else: npm run access)', async () => {
    const committed = await readFile(
      new URL('../../docs/access.md', import.meta.url),
      'utf8',
    ).catch(() => '');
    expect(committed).toBe(await generateAccess());
  });
});
