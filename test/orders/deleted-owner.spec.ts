/** The orders of a deleted user, and what the shop owes when an order ends. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { startApp, type TestApp } from '../support/app.js';
import {
  logInAsAdmin,
  placeOrder,
  registerSupportUser,
  registerUser,
  type TestUser,
} from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import { expectProblem } from '../support/problem.js';

let app: TestApp;
let psql: Client;
let owner: TestUser;
let support: TestUser;
let adminToken: string;

beforeAll(async () => {
  app = await startApp();
  psql = new Client({ connectionString: app.databaseUrl });
  await psql.connect();
  owner = await registerUser(app);
  support = await registerSupportUser(app);
  adminToken = await logInAsAdmin(app);
});
afterAll(async () => {
  await psql?.end();
  await app?.close();
});

const act = (id: string, action: string, token: string): Promise<Reply> =>
  app.call('POST', `/v1/orders/${id}/${action}`, { token });

/** The `data` of the order's last event, as the API shows it, and of its message. */
async function lastData(id: string): Promise<{ event: object; message: object }> {
  const { body } = await app.call('GET', `/v1/orders/${id}/events`, { token: adminToken });
  const { rows } = await psql.query<{ data: object }>(
    'SELECT data FROM outbox WHERE subject = $1 ORDER BY position DESC LIMIT 1',
    [`orders/${id}`],
  );
  return { event: body.data.at(-1).data, message: rows[0]?.data as object };
}

describe('a placed order whose owner is deleted', () => {
  let id: string;
  let userId: string;
  beforeAll(async () => {
    const user = await registerUser(app);
    userId = user.id;
    id = (await placeOrder(app, user.token)).id;
    const path = `/v1/users/${user.id}`;
    expect((await app.call('DELETE', path, { token: user.token })).status).toBe(204);
  });

  it('names cancel as allowed to an admin', async () => {
    const reply = await act(id, 'ship', adminToken);
    expectProblem(reply, 409, 'invalid-transition');
    expect(reply.body.allowed).toEqual(['cancel']);
  });

  it('cannot be paid by an admin, and cannot be cancelled by support', async () => {
    expectProblem(await act(id, 'pay', adminToken), 403, 'forbidden');
    expectProblem(await act(id, 'cancel', support.token), 403, 'forbidden');
  });

  it('is cancelled by an admin, once', async () => {
    const reply = await act(id, 'cancel', adminToken);
    expect([reply.status, reply.body.status, reply.body.userId]).toEqual([
      200,
      'cancelled',
      userId,
    ]);
    const again = await act(id, 'cancel', adminToken);
    expectProblem(again, 409, 'invalid-transition');
    expect(again.body.allowed).toEqual([]);
  });
});

describe('a placed order whose owner is not deleted', () => {
  it('cannot be cancelled by an admin, who is allowed nothing', async () => {
    const { id } = await placeOrder(app, owner.token);
    const reply = await act(id, 'cancel', adminToken);
    expectProblem(reply, 409, 'invalid-transition');
    expect([reply.body.allowed, reply.body.detail]).toEqual([
      [],
      'The order is placed; cancel needs the owner of the order then',
    ]);
    expect((await act(id, 'cancel', owner.token)).status).toBe(200);
  });
});

describe('the money of an order that ends', () => {
  const DUE = { amount: 9_998, currency: 'EUR' };

  it.each<[what: string, actions: string[], due: object | null]>([
    ['cancelled before it is paid', ['cancel'], null],
    ['cancelled after it is paid', ['pay', 'cancel'], DUE],
    ['refunded', ['pay', 'ship', 'deliver', 'refund'], DUE],
  ])('%s → is recorded in the event and in its message', async (_, actions, due) => {
    const { id } = await placeOrder(app, owner.token);
    for (const action of actions) {
      const isOwners = action === 'pay' || actions.length === 1;
      expect((await act(id, action, isOwners ? owner.token : adminToken)).status).toBe(200);
    }
    const { event, message } = await lastData(id);
    expect(event).toEqual({ refundDue: due });
    expect(message).toMatchObject({ refundDue: due });
  });

  it('is recorded under the schema number that the previous release reads', async () => {
    const { id } = await placeOrder(app, owner.token);
    await act(id, 'cancel', owner.token);
    const { rows } = await psql.query(
      'SELECT version, schema FROM order_events WHERE order_id = $1 ORDER BY version',
      [id],
    );
    expect(rows).toEqual([
      { version: '1', schema: 2 },
      { version: '2', schema: 2 },
    ]);
  });

  it('that costs nothing → nothing is due', async () => {
    const free = {
      currency: 'EUR',
      items: [{ sku: 'LEAF', name: 'Leaflet', quantity: 1, unitPrice: 0 }],
    };
    const { id } = await placeOrder(app, owner.token, free);
    await act(id, 'pay', owner.token);
    await act(id, 'cancel', adminToken);
    expect((await lastData(id)).event).toEqual({ refundDue: null });
  });

  it('is no member of the events before', async () => {
    const { id } = await placeOrder(app, owner.token);
    await act(id, 'pay', owner.token);
    const { event, message } = await lastData(id);
    expect(event).toEqual({});
    expect(message).not.toHaveProperty('refundDue');
  });
});
