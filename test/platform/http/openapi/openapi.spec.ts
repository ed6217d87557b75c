/**
 * The OpenAPI document says what the service does: the committed file is the generated one, every route is in it, its examples
 * work as they are, and every answer is of the form that it gives. The order of the tests is that of a first visit.
 */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Spectral } from '@stoplight/spectral-core';
import { oas } from '@stoplight/spectral-rulesets';
import { generateOpenApi } from '../../scripts/openapi.js';
import { ADMIN, startApp, type TestApp } from '../support/app.js';
import { adminToken, ORDER, PASSWORD } from '../support/factories.js';
import { DocumentedClient, type Request } from './document.js';

const NOBODY = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a';

/** "GET /v1/users/{id}" for every route of Fastify's own table, which it prints as a tree. */
function routesOf({ app }: TestApp): string[] {
  const tree = (
    app.getHttpAdapter().getInstance() as { printRoutes(options: object): string }
  ).printRoutes({
    commonPrefix: false,
  });
  const parents: string[] = [];
  return tree.split('\n').flatMap((line) => {
    const [, indent = '', part = '', methods = ''] =
      /^([│ ]*)[├└]── (\S+) \(([^)]*)\)/.exec(line) ?? [];
    const depth = indent.length / 4;
    parents[depth] = (depth === 0 ? '' : (parents[depth - 1] ?? '')) + part;
    const path = (parents[depth] as string).replace(/:(\w+)/g, '{$1}');
    return methods.split(', ').map((method) => `${method} ${path}`);
  });
}

describe('the OpenAPI document', () => {
  let app: TestApp;
  let generated: string;
  let client: DocumentedClient;

  beforeAll(async () => {
    generated = await generateOpenApi();
    app = await startApp();
    client = new DocumentedClient(JSON.parse(generated) as never, app);
  });
  afterAll(() => app.close());

  it('is the committed one', async () => {
    const committed = await readFile(
      new URL('../../docs/openapi.json', import.meta.url),
      'utf8',
    ).catch(() => '');
    if (committed !== generated)
      throw new Error('docs/openapi.json is not what the code says: run "npm run openapi"');
  });

  it('is the one that is served', async () => {
    const { status, body } = await app.call('GET', '/docs/openapi.json');
    expect([status, body]).toEqual([200, JSON.parse(generated)]);
  });

  it('is OpenAPI 3.1 of which Spectral has nothing to say', async () => {
    const spectral = new Spectral();
    spectral.setRuleset({ extends: [oas as never] });
    const found = await spectral.run(JSON.parse(generated) as Record<string, unknown>);
    expect(found.map(({ code, path, message }) => `${code} ${path.join('.')}: ${message}`)).toEqual(
      [],
    );
    // And Spectral does look: a rule that is broken is found.
    const broken = { ...(JSON.parse(generated) as Record<string, unknown>), info: {} };
    expect((await spectral.run(broken)).length).toBeGreaterThan(0);
  }, 120_000);

  it('has every route, and no other', () => {
    const routes = routesOf(app).filter((route) =>
      /^(?!HEAD)\w+ \/(v1|health|metrics)/.test(route),
    );
    expect(routes.length).toBeGreaterThan(30);
    expect(client.operations.map(({ method, path }) => `${method} ${path}`).sort()).toEqual(
      routes.sort(),
    );
  });

  it('says of each route who may call it, what it is and does, and of each parameter what it is', () => {
    const { paths } = JSON.parse(generated) as {
      paths: Record<string, Record<string, Record<string, unknown>>>;
    };
    for (const operation of Object.values(paths).flatMap(Object.values)) {
      expect(operation).toMatchObject({
        summary: expect.stringMatching(/./),
        description: expect.stringMatching(/./),
      });
      expect(operation.description).toMatch(/\*\*Who:\*\* \S/);
      expect(operation.description).not.toMatch(
        new RegExp(`^${String(operation.summary).replace(/[?*]/g, '.')}\n`),
      );
      for (const parameter of operation.parameters as { description?: string }[])
        expect(parameter.description).toBeTruthy();
    }
  });

  describe('sent as it is', () => {
    let me: string;
    let token: string;
    let admin: string;
    let order: string;
    const ok = async (status: number, id: string, request?: Request) => {
      const reply = await client.send(id, request);
      expect([id, reply.status, reply.status === status ? '' : reply.text]).toEqual([
        id,
        status,
        '',
      ]);
      return reply;
    };

    beforeAll(async () => {
      admin = await adminToken(app);
    });

    it('registers and logs in', async () => {
      ({
        body: { id: me },
      } = await ok(201, 'register'));
      ({
        body: { token },
      } = await ok(201, 'logIn'));
      expect((await ok(200, 'getMe', { token })).body.id).toBe(me);
    });

    it('places an order once, reads it and changes it', async () => {
      const placed = await ok(201, 'placeOrder', { token });
      order = placed.body.id;
      const again = await ok(201, 'placeOrder', { token });
      expect([again.body, again.headers.get('idempotent-replayed')]).toEqual([placed.body, 'true']);
      const path = { id: order };
      expect((await ok(200, 'getOrder', { token, path })).body).toEqual(placed.body);
      await ok(200, 'changeOrder', { token, path });
      await ok(200, 'getOrder', { token, path, query: '?at=1' });
      const fresh = await ok(200, 'getOrder', {
        token,
        path,
        headers: { 'Cache-Control': 'no-cache' },
      });
      expect(fresh.headers.get('cache-status')).toBe('holdfast; fwd=request');
      await ok(304, 'getOrder', { token, path, headers: { 'If-None-Match': '"2"' } });
    });

    it('takes orders through their life', async () => {
      const path = { id: order };
      await ok(409, 'refundOrder', { token: admin, path });
      await ok(200, 'payOrder', { token, path });
      await ok(409, 'payOrder', { token, path, body: undefined });
      for (const step of ['shipOrder', 'deliverOrder', 'refundOrder'])
        await ok(200, step, { token: admin, path });
      const other = await ok(201, 'placeOrder', {
        token,
        headers: { 'Idempotency-Key': 'another' },
      });
      await ok(200, 'cancelOrder', { token, path: { id: other.body.id } });
      await ok(200, 'listOrderEvents', { token, path });
      await ok(200, 'listOrderEvents', { token, path, query: '?limit=1' });
    });

    it('lists, sums up and exports', async () => {
      const filters = '?status=refunded&createdFrom=2026-01-31T09:30:00.000Z&limit=1';
      expect((await ok(200, 'listOrders', { token, query: filters })).body.data).toHaveLength(1);
      await ok(200, 'listOrders', { token, query: `?ids=${order},${NOBODY}` });
      expect(
        (await ok(200, 'listOrders', { token, query: '?limit=1' })).headers.get('link'),
      ).toMatch(/rel="next"/);
      await ok(200, 'listUserOrders', { token, path: { id: me } });
      expect((await ok(200, 'summarizeOrders', { token: admin })).body.data).toHaveLength(2);
      expect((await ok(200, 'exportOrders', { token: admin })).text.split('\n')).toHaveLength(3);
      expect((await ok(200, 'listUsers', { token: admin })).body.data).toHaveLength(2);
      await ok(200, 'listUsers', { token: admin, query: '?username=ada&limit=1' });
    });

    it('changes the user, the roles and the password', async () => {
      const path = { id: me };
      await ok(200, 'changeUser', { token, path });
      await ok(200, 'setRoles', { token: admin, path });
      await ok(200, 'getUser', { token, path });
      await ok(304, 'getUser', { token, path, headers: { 'If-None-Match': '"3"' } });
      await ok(304, 'getMe', { token, headers: { 'If-None-Match': '*' } });
      await ok(204, 'changePassword', { token, path });
    });

    it('ends sessions', async () => {
      const { example } = client.operation('changePassword').requestBody?.content[
        'application/json'
      ] as {
        example: { newPassword: string };
      };
      const { username } = (await ok(200, 'getMe', { token })).body;
      const logIn = () => ok(201, 'logIn', { body: { username, password: example.newPassword } });
      const other = (await logIn()).body;
      await ok(200, 'listSessions', { token });
      await ok(200, 'getCurrentSession', { token });
      await ok(204, 'endSession', { token, path: { id: other.id } });
      await ok(204, 'endSessions', { token, query: '?keep=current' });
      await ok(204, 'logOut', { token });
      await ok(401, 'getCurrentSession', { token });
      ({
        body: { token },
      } = await logIn());
    });

    it('answers operators', async () => {
      for (const id of ['live', 'startup', 'ready', 'getMetrics']) await ok(200, id);
    });

    it('refuses as it says', async () => {
      const path = { id: NOBODY };
      for (const {
        operationId: id,
        path: template,
        method,
        security,
        requestBody,
      } of client.operations) {
        const actor = security.length > 0 ? { token: admin } : {};
        await ok(400, id, { ...actor, path, query: '?%', body: undefined });
        if (!template.startsWith('/v1')) continue;
        const unknown = { ...actor, path, query: '?nonsense=1' };
        // On what does not exist, the parameter may or may not be looked at first.
        expect([400, 404]).toContain((await client.send(id, unknown)).status);
        await ok(406, id, { ...actor, path, headers: { Accept: 'image/png' }, body: undefined });
        if (security.length > 0) await ok(401, id, { path });
        if (template.includes('{id}')) {
          await ok(414, id, { ...actor, path: { id: 'x'.repeat(101) } });
          const missing = await client.send(id, { ...actor, path });
          expect([id, missing.status]).toEqual([id, 404]);
        }
        if (!requestBody) continue;
        await ok(415, id, { ...actor, path, headers: { 'Content-Type': 'text/plain' }, body: 'x' });
        await ok(400, id, { ...actor, path, body: '{' });
        await ok(413, id, { ...actor, path, body: `"${'x'.repeat(300_000)}"` });
        expect([400, 404]).toContain(
          (await client.send(id, { ...actor, path, body: { nonsense: 1 } })).status,
        );
        expect(method).not.toBe('GET');
      }
      const mine = { token, path: { id: me } };
      await ok(412, 'changeUser', { ...mine, headers: { 'If-Match': '"1"' } });
      await ok(428, 'changeUser', { ...mine, without: ['If-Match'] });
      await ok(400, 'placeOrder', { token, without: ['Idempotency-Key'] });
      await ok(403, 'listUsers', { token });
      await ok(403, 'changePassword', {
        ...mine,
        body: { currentPassword: 'wrong', newPassword: 'x'.repeat(15) },
      });
      await ok(400, 'placeOrder', { token, body: { currency: 'EUR', items: [] } });
      await ok(422, 'placeOrder', { token, body: ORDER });
      await ok(409, 'register', {
        body: { username: ADMIN.username, email: 'x@example.com', password: PASSWORD },
      });
      await ok(401, 'logIn', { body: { username: 'nobody', password: 'x' } });
    });

    it('deletes the user', async () => {
      await ok(204, 'deleteUser', { token: admin, path: { id: me } });
    });

    it('has left no operation out', () => {
      const untried = client.operations.filter(
        ({ operationId: id, responses }) =>
          !Object.keys(responses).some(
            (status) => status.startsWith('2') && client.seen.has(`${id} ${status}`),
          ),
      );
      expect(untried.map(({ operationId }) => operationId)).toEqual([]);
    });
  });
});
