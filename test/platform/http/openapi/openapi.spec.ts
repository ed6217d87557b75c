/**
 * The OpenAPI document describes the running service: every route is in it, its examples work, and
 * every response is as documented.
 */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { generateOpenApi } from '../../../../scripts/docs/openapi.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { type OpenApi, type Operation, operationsOf } from '../../../support/documented-api.js';
import {
  logInAsAdmin,
  ORDER,
  PASSWORD,
  registerUser,
  type TestUser,
} from '../../../support/factories.js';
import type { Reply } from '../../../support/http-client.js';
import { DocumentedClient, type DocumentedRequest } from './documented-client.js';
import { REPOSITORY } from '../../../support/repository.js';

const GENERATED = await generateOpenApi();
const DOCUMENT = JSON.parse(GENERATED) as OpenApi;
const OPERATIONS = operationsOf(DOCUMENT);
/** A well-formed id of nothing. */
const UNKNOWN_ID = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a';

let app: TestApp;
let client: DocumentedClient;
let adminToken: string;

beforeAll(async () => {
  app = await startApp();
  client = new DocumentedClient(DOCUMENT, app);
  adminToken = await logInAsAdmin(app);
});
afterAll(() => app.close());

/** Sends an operation, and expects this status beside what the client checks. */
async function expectStatus(
  status: number,
  id: string,
  request?: DocumentedRequest,
): Promise<Reply> {
  const reply = await client.send(id, request);
  const unexpectedText = reply.status === status ? '' : reply.text;
  expect({ id, status: reply.status, unexpectedText }).toEqual({ id, status, unexpectedText: '' });
  return reply;
}

describe('the document', () => {
  it('is docs/openapi.json', async () => {
    const file = new URL('docs/openapi.json', REPOSITORY);
    const isCurrent = (await readFile(file, 'utf8')) === GENERATED;
    if (!isCurrent) throw new Error('docs/openapi.json is out of date: npm run docs -- openapi');
  });

  it('is served at /docs/openapi.json', async () => {
    const { status, body } = await app.call('GET', '/docs/openapi.json');
    expect([status, body]).toEqual([200, DOCUMENT]);
  });

  it('lists every route of the service, and no other', () => {
    const routes = routesOf(app).filter((route) =>
      /^(?!HEAD)\w+ \/(v1|health|metrics)/.test(route),
    );
    expect(routes.length).toBeGreaterThan(30);
    const documented = OPERATIONS.map(({ method, path }) => `${method} ${path}`);
    expect(documented.sort()).toEqual(routes.sort());
  });
});

const NAMED = OPERATIONS.map((operation): [string, Operation] => [
  operation.operationId,
  operation,
]);

describe('an operation', () => {
  it.each(NAMED)('%s has a description with its callers, and describes its parameters', (_, op) => {
    expect(op.summary).not.toBe('');
    expect(op.description).toMatch(/\*\*Who:\*\* \S/);
    // A description that repeats the summary says nothing.
    expect(op.description.startsWith(`${op.summary}\n`)).toBe(false);
    expect(op.parameters.filter(({ description }) => !description)).toEqual([]);
  });

  it('succeeds with its example, and responds as documented', async () => {
    const visitor = await registerAndLogIn();
    const order = await placeReadAndChangeOrder(visitor);
    await moveOrderThroughStatuses(visitor, order);
    await readLists(visitor, order);
    await changeUser(visitor);
    await endSessions(visitor);
    await readProbes();
    await expectStatus(204, 'deleteUser', { token: adminToken, path: { id: visitor.id } });

    const untried = OPERATIONS.filter(({ operationId, responses }) => {
      const successes = Object.keys(responses).filter((status) => status.startsWith('2'));
      return !successes.some((status) => client.seen.has(`${operationId} ${status}`));
    });
    expect(untried.map(({ operationId }) => operationId)).toEqual([]);
  });
});

interface Visitor {
  readonly id: string;
  readonly token: string;
}

async function registerAndLogIn(): Promise<Visitor> {
  const { body: user } = await expectStatus(201, 'register');
  const { body: session } = await expectStatus(201, 'logIn');
  const { body: self } = await expectStatus(200, 'getMe', { token: session.token });
  expect(self.id).toBe(user.id);
  return { id: user.id as string, token: session.token as string };
}

/** @returns the id of the order */
async function placeReadAndChangeOrder({ token }: Visitor): Promise<string> {
  const placed = await expectStatus(201, 'placeOrder', { token });
  const replayed = await expectStatus(201, 'placeOrder', { token });
  expect(replayed.body).toEqual(placed.body);
  expect(replayed.headers.get('idempotent-replayed')).toBe('true');
  const path = { id: placed.body.id as string };
  const read = await expectStatus(200, 'getOrder', { token, path });
  expect(read.body).toEqual(placed.body);
  await expectStatus(200, 'changeOrder', { token, path });
  await expectStatus(200, 'getOrder', { token, path, query: '?at=1' });
  const noCache = { 'Cache-Control': 'no-cache' };
  const fresh = await expectStatus(200, 'getOrder', { token, path, headers: noCache });
  expect(fresh.headers.get('cache-status')).toBe('holdfast; fwd=request');
  const current = { 'If-None-Match': '"2"' };
  await expectStatus(304, 'getOrder', { token, path, headers: current });
  return path.id;
}

async function moveOrderThroughStatuses({ token }: Visitor, order: string): Promise<void> {
  const path = { id: order };
  await expectStatus(409, 'refundOrder', { token: adminToken, path });
  await expectStatus(200, 'payOrder', { token, path });
  await expectStatus(409, 'payOrder', { token, path, body: undefined });
  for (const action of ['shipOrder', 'deliverOrder', 'refundOrder']) {
    await expectStatus(200, action, { token: adminToken, path });
  }
  const headers = { 'Idempotency-Key': 'another' };
  const { body: another } = await expectStatus(201, 'placeOrder', { token, headers });
  await expectStatus(200, 'cancelOrder', { token, path: { id: another.id as string } });
  await expectStatus(200, 'listOrderEvents', { token, path });
  await expectStatus(200, 'listOrderEvents', { token, path, query: '?limit=1' });
}

async function readLists({ id, token }: Visitor, order: string): Promise<void> {
  const filters = '?status=refunded&createdFrom=2026-01-31T09:30:00.000Z&limit=1';
  const refunded = await expectStatus(200, 'listOrders', { token, query: filters });
  expect(refunded.body.data).toHaveLength(1);
  await expectStatus(200, 'listOrders', { token, query: `?ids=${order},${UNKNOWN_ID}` });
  await expectStatus(200, 'listOrders', { token, query: `?ids=${order}&ids=${UNKNOWN_ID}` });
  const firstPage = await expectStatus(200, 'listOrders', { token, query: '?limit=1' });
  expect(firstPage.headers.get('link')).toMatch(/rel="next"/);
  await expectStatus(200, 'listUserOrders', { token, path: { id } });
  const admin = { token: adminToken };
  expect((await expectStatus(200, 'summarizeOrders', admin)).body.data).not.toEqual([]);
  expect((await expectStatus(200, 'exportOrders', admin)).text.trimEnd()).not.toBe('');
  expect((await expectStatus(200, 'listUsers', admin)).body.data).not.toEqual([]);
  await expectStatus(200, 'listUsers', { ...admin, query: '?username=ada&limit=1' });
}

async function changeUser({ id, token }: Visitor): Promise<void> {
  const path = { id };
  await expectStatus(200, 'changeUser', { token, path });
  await expectStatus(200, 'setRoles', { token: adminToken, path });
  await expectStatus(200, 'getUser', { token, path });
  await expectStatus(304, 'getUser', { token, path, headers: { 'If-None-Match': '"3"' } });
  await expectStatus(204, 'changePassword', { token, path });
}

async function endSessions({ token }: Visitor): Promise<void> {
  const { newPassword } = client.exampleBody('changePassword') as { newPassword: string };
  const { username } = (await expectStatus(200, 'getMe', { token })).body;
  const credentials = { username, password: newPassword };
  const { body: another } = await expectStatus(201, 'logIn', { body: credentials });
  await expectStatus(200, 'listSessions', { token });
  await expectStatus(200, 'getCurrentSession', { token });
  await expectStatus(200, 'getSession', { token, path: { id: another.id as string } });
  await expectStatus(204, 'endSession', { token, path: { id: another.id as string } });
  await expectStatus(204, 'endSessions', { token, query: '?keep=current' });
  await expectStatus(204, 'logOut', { token });
  await expectStatus(401, 'getCurrentSession', { token });
}

async function readProbes(): Promise<void> {
  for (const id of ['live', 'startup', 'ready', 'getMetrics']) await expectStatus(200, id);
}

describe('the problems of an operation are as documented:', () => {
  const API = NAMED.filter(([, { path }]) => path.startsWith('/v1'));
  const WITH_SESSION = API.filter(([, { security }]) => security.length > 0);
  const WITH_ID = API.filter(([, { path }]) => path.includes('{id}'));
  const WITH_BODY = API.filter(([, { requestBody }]) => requestBody !== undefined);

  /** A request for an object that does not exist, as an admin if a session is needed. */
  const requestFor = ({ security }: Operation): DocumentedRequest => {
    const path = { id: UNKNOWN_ID };
    return security.length > 0 ? { token: adminToken, path } : { path };
  };

  it.each(NAMED)('%s with a malformed URL', async (id, operation) => {
    await expectStatus(400, id, { ...requestFor(operation), query: '?%', body: undefined });
  });

  it.each(API)('%s with an unknown parameter', async (id, operation) => {
    const reply = await client.send(id, { ...requestFor(operation), query: '?nonsense=1' });
    // 404 where the object is looked up before the parameters are validated.
    expect([400, 404]).toContain(reply.status);
  });

  it.each(API)('%s with an unacceptable media type', async (id, operation) => {
    const headers = { Accept: 'image/png' };
    await expectStatus(406, id, { ...requestFor(operation), headers, body: undefined });
  });

  it.each(WITH_SESSION)('%s without a session', async (id) => {
    await expectStatus(401, id, { path: { id: UNKNOWN_ID } });
  });

  it.each(WITH_ID)('%s with an id that is too long', async (id, operation) => {
    await expectStatus(414, id, { ...requestFor(operation), path: { id: 'x'.repeat(101) } });
  });

  it.each(WITH_ID)('%s with the id of nothing', async (id, operation) => {
    await expectStatus(404, id, requestFor(operation));
  });

  it.each(WITH_BODY)('%s with a body that is not JSON', async (id, operation) => {
    const headers = { 'Content-Type': 'text/plain' };
    await expectStatus(415, id, { ...requestFor(operation), headers, body: 'x' });
    await expectStatus(400, id, { ...requestFor(operation), body: '{' });
  });

  it.each(API.filter(([, { parameters }]) => parameters.some(({ name }) => name === 'If-Match')))(
    '%s with a malformed If-Match',
    async (id, operation) => {
      const headers = { 'If-Match': '1' };
      const reply = await expectStatus(400, id, { ...requestFor(operation), headers });
      expect(reply.body.code).toBe('if-match-malformed');
    },
  );

  it.each(WITH_BODY)('%s with a body that is too large', async (id, operation) => {
    const body = `"${'x'.repeat(300_000)}"`;
    await expectStatus(413, id, { ...requestFor(operation), body });
  });

  it.each(WITH_BODY)('%s with an unknown property', async (id, operation) => {
    const reply = await client.send(id, { ...requestFor(operation), body: { nonsense: 1 } });
    expect([400, 404]).toContain(reply.status);
  });

  describe('for a user,', () => {
    let user: TestUser;
    beforeAll(async () => {
      user = await registerUser(app);
    });

    it('changeUser with an old version, and without If-Match', async () => {
      const request = { token: user.token, path: { id: user.id } };
      await expectStatus(412, 'changeUser', { ...request, headers: { 'If-Match': '"9"' } });
      await expectStatus(428, 'changeUser', { ...request, without: ['If-Match'] });
    });

    it('changePassword with a wrong password', async () => {
      const body = { currentPassword: 'wrong', newPassword: 'x'.repeat(15) };
      await expectStatus(403, 'changePassword', {
        token: user.token,
        path: { id: user.id },
        body,
      });
    });

    it('listUsers without the role', async () => {
      await expectStatus(403, 'listUsers', { token: user.token });
    });

    it('placeOrder without a key, without items, and with a key of another order', async () => {
      const { token } = user;
      await expectStatus(400, 'placeOrder', { token, without: ['Idempotency-Key'] });
      await expectStatus(400, 'placeOrder', { token, body: { currency: 'EUR', items: [] } });
      await expectStatus(201, 'placeOrder', { token });
      await expectStatus(422, 'placeOrder', { token, body: ORDER });
    });
  });

  it('register with a taken username', async () => {
    const email = 'somebody@example.com';
    const { username } = await registerUser(app);
    const body = { username, email, password: PASSWORD };
    await expectStatus(409, 'register', { body });
  });

  it('logIn with unknown credentials', async () => {
    await expectStatus(401, 'logIn', { body: { username: 'nobody', password: 'x' } });
  });
});

/** `GET /v1/users/{id}` for every route, from the tree that Fastify prints. */
function routesOf({ app: nest }: TestApp): string[] {
  const fastify = nest.getHttpAdapter().getInstance() as { printRoutes(options: object): string };
  const segments: string[] = [];
  return fastify
    .printRoutes({ commonPrefix: false })
    .split('\n')
    .flatMap((line) => {
      const [, indent = '', segment = '', methods = ''] =
        /^([│ ]*)[├└]── (\S+) \(([^)]*)\)/.exec(line) ?? [];
      const depth = indent.length / 4;
      const parent = depth === 0 ? '' : (segments[depth - 1] ?? '');
      segments[depth] = parent + segment;
      const path = segments[depth].replace(/:(\w+)/g, '{$1}');
      return methods.split(', ').map((method) => `${method} ${path}`);
    });
}
