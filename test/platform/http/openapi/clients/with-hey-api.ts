/**
 * The happy path with the client that hey-api generates. It checks each response with zod, so the
 * document must be true, and what was parsed must be fit to be sent again.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createClient, createConfig } from './hey/client/index.js';
import {
  changeOrder,
  exportOrders,
  getMe,
  getSession,
  listOrderEvents,
  listOrders,
  logIn,
  logOut,
  payOrder,
  placeOrder,
  register,
  setRoles,
  summarizeOrders,
} from './hey/index.js';
import type { OrderEventType, OrderStatus, ProblemCode, Role } from './hey/types.gen.js';
import { zOrder, zPlaceOrder } from './hey/zod.gen.js';

const [, , baseUrl = '', adminName = '', adminPassword = ''] = process.argv;
const anonymous = createClient(createConfig({ baseUrl }));
const clientOf = (auth: string) => createClient(createConfig({ baseUrl, auth }));

const username = `u${randomUUID().slice(0, 8)}`;
const password = 'a lighthouse keeper counts waves';
const email = `${username}@example.com`;

const registered = await register({ client: anonymous, body: { username, email, password } });
assert(registered.data);
const login = await logIn({ client: anonymous, body: { username, password } });
assert(login.data);
const client = clientOf(login.data.token);
const adminLogin = await logIn({
  client: anonymous,
  body: { username: adminName, password: adminPassword },
});
assert(adminLogin.data);
const admin = clientOf(adminLogin.data.token);

const session = await getSession({ client, path: { id: login.data.id } });
assert.equal(session.data?.current, true);

const items = [{ sku: 'LAMP-01', name: 'Signal lamp', quantity: 2, unitPrice: 3_000_000_000 }];
const headers = { 'Idempotency-Key': randomUUID() };
// As an application does that checks its own input: the result is what is sent.
const body = zPlaceOrder.parse({ currency: 'EUR', items });
const placed = await placeOrder({ client, headers, body });
assert(placed.data, JSON.stringify(placed.error));
const retried = await placeOrder({ client, headers, body });
assert.deepEqual(retried.data, placed.data);
assert.equal(retried.response?.headers.get('Idempotent-Replayed'), 'true');

// What was read and parsed can be kept as JSON and sent again.
const parsed = zOrder.parse(placed.data);
assert.equal(parsed.total, 6_000_000_000);
const kept = JSON.parse(JSON.stringify(parsed)) as typeof parsed;
const again = await placeOrder({
  client,
  headers: { 'Idempotency-Key': randomUUID() },
  // An order may have a currency that has gone out of use since: the client checks it again.
  body: zPlaceOrder.parse({ currency: kept.currency, items: kept.items }),
});
assert(again.data, JSON.stringify(again.error));

const ids = [again.data.id, placed.data.id];
const byIds = await listOrders({ client, query: { ids } });
assert.deepEqual(
  byIds.data?.data.map(({ id }) => id),
  ids,
);
const status: OrderStatus = 'placed';
const firstPage = await listOrders({ client, query: { status, limit: 1 } });
assert(firstPage.data?.next);
const { next: cursor } = firstPage.data;
const lastPage = await listOrders({ client, query: { status, limit: 1, cursor } });
assert.equal(lastPage.data?.next, null);

const path = { id: placed.data.id };
const changed = await changeOrder({
  client,
  path,
  headers: { 'If-Match': placed.response?.headers.get('ETag') ?? '' },
  body: { note: 'Ring twice.' },
});
assert.equal(changed.data?.version, 2);
const paid = await payOrder({ client, path, body: {} });
assert.equal(paid.data?.status, 'paid');
const paidAgain = await payOrder({ client, path, body: {} });
assert(paidAgain.error);
const code: ProblemCode = paidAgain.error.code;
assert.equal(code, 'invalid-transition');
assert.deepEqual(paidAgain.error.allowed, []);

const events = await listOrderEvents({ client, path });
const types: OrderEventType[] = (events.data?.data ?? []).map(({ type }) => type);
assert.deepEqual(types, ['order.placed', 'order.changed', 'order.paid']);

const roles: Role[] = ['user', 'support'];
const promoted = await setRoles({
  client: admin,
  path: { id: registered.data.id },
  body: { roles },
});
assert.deepEqual(promoted.data?.roles, roles);
const summary = await summarizeOrders({ client, headers: { 'Cache-Control': 'no-cache' } });
const counted = new Set(summary.data?.data.map((row) => row.status));
assert.deepEqual(counted, new Set<OrderStatus>(['placed', 'paid']));
const exported = await exportOrders({ client, parseAs: 'text' });
const lines: string = exported.data ?? '';
assert(ids.every((id) => lines.includes(`{"id":"${id}"`)));

const loggedOut = await logOut({ client });
assert.equal(loggedOut.response?.status, 204);
const after = await getMe({ client });
assert.equal(after.error?.code, 'unauthenticated');
console.log('The happy path ends.');
