/**
 * The happy path with the types of openapi-typescript and its client openapi-fetch, as a user of
 * the API would write it: no casts, no headers by hand that the document does not name.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import createClient from 'openapi-fetch';
import type { components, paths } from './api.js';

const [, , baseUrl = '', adminName = '', adminPassword = ''] = process.argv;
type OrderStatus = components['schemas']['OrderStatus'];
type ProblemCode = components['schemas']['ProblemCode'];

const anonymous = createClient<paths>({ baseUrl });
const clientOf = (token: string) =>
  createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const username = `u${randomUUID().slice(0, 8)}`;
const password = 'a lighthouse keeper counts waves';
const email = `${username}@example.com`;

const registered = await anonymous.POST('/v1/users', { body: { username, email, password } });
assert(registered.data);
assert.equal(registered.response.headers.get('Location'), `/v1/users/${registered.data.id}`);

const login = await anonymous.POST('/v1/sessions', { body: { username, password } });
assert(login.data);
const user = clientOf(login.data.token);
const adminLogin = await anonymous.POST('/v1/sessions', {
  body: { username: adminName, password: adminPassword },
});
assert(adminLogin.data);
const admin = clientOf(adminLogin.data.token);

const session = await user.GET('/v1/sessions/{id}', { params: { path: { id: login.data.id } } });
assert.equal(session.data?.current, true);

const items = [{ sku: 'LAMP-01', name: 'Signal lamp', quantity: 2, unitPrice: 3_000_000_000 }];
const params = { header: { 'Idempotency-Key': randomUUID() } };
const body = { currency: 'EUR' as const, items };
const placed = await user.POST('/v1/orders', { params, body });
assert(placed.data);
const total: number = placed.data.total;
assert.equal(total, 6_000_000_000);
const retried = await user.POST('/v1/orders', { params, body });
assert.deepEqual(retried.data, placed.data);
assert.equal(retried.response.headers.get('Idempotent-Replayed'), 'true');

// What was read can be sent again.
const { items: readItems } = placed.data;
const again = await user.POST('/v1/orders', {
  params: { header: { 'Idempotency-Key': randomUUID() } },
  body: { currency: body.currency, items: readItems },
});
assert(again.data);

const ids = [again.data.id, placed.data.id];
const byIds = await user.GET('/v1/orders', { params: { query: { ids } } });
assert.deepEqual(
  byIds.data?.data.map(({ id }) => id),
  ids,
);
const status: OrderStatus = 'placed';
const firstPage = await user.GET('/v1/orders', { params: { query: { status, limit: 1 } } });
assert(firstPage.data?.next);
const { next: cursor } = firstPage.data;
const lastPage = await user.GET('/v1/orders', { params: { query: { status, limit: 1, cursor } } });
assert.equal(lastPage.data?.next, null);

const path = { id: placed.data.id };
const changed = await user.PATCH('/v1/orders/{id}', {
  params: { path, header: { 'If-Match': placed.response.headers.get('ETag') ?? '' } },
  body: { note: 'Ring twice.' },
});
assert.equal(changed.data?.version, 2);
const paid = await user.POST('/v1/orders/{id}/pay', { params: { path }, body: {} });
assert.equal(paid.data?.status, 'paid');
const paidAgain = await user.POST('/v1/orders/{id}/pay', { params: { path }, body: {} });
assert(paidAgain.error);
const code: ProblemCode = paidAgain.error.code;
assert.equal(code, 'invalid-transition');
assert.deepEqual(paidAgain.error.allowed, []);
const invalid = await user.POST('/v1/orders/{id}/pay', { params: { path }, body: { reason: '' } });
assert.equal(invalid.error?.errors?.[0]?.pointer, '/reason');

const events = await user.GET('/v1/orders/{id}/events', { params: { path } });
const types: components['schemas']['OrderEventType'][] = (events.data?.data ?? []).map(
  ({ type }) => type,
);
assert.deepEqual(types, ['order.placed', 'order.changed', 'order.paid']);

const roles: components['schemas']['Role'][] = ['user', 'support'];
const promoted = await admin.PUT('/v1/users/{id}/roles', {
  params: { path: { id: registered.data.id } },
  body: { roles },
});
assert.deepEqual(promoted.data?.roles, roles);
const summary = await user.GET('/v1/orders/summary', {
  params: { header: { 'Cache-Control': 'no-cache' } },
});
const counted = new Set(summary.data?.data.map((row) => row.status));
assert.deepEqual(counted, new Set<OrderStatus>(['placed', 'paid']));
const exported = await user.GET('/v1/orders/export', { parseAs: 'text' });
const lines: string = exported.data ?? '';
assert(ids.every((id) => lines.includes(`{"id":"${id}"`)));

const loggedOut = await user.DELETE('/v1/sessions/current');
assert.equal(loggedOut.response.status, 204);
const after = await user.GET('/v1/users/me');
assert.equal(after.error?.code, 'unauthenticated');
console.log('The happy path ends.');
