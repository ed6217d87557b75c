/** People and orders for tests: made through the API, as any client would. */
import { randomUUID } from 'node:crypto';
import { ADMIN, type TestApp } from './app.js';

export const PASSWORD = 'nine tall ships at anchor';

let serial = 0;
/** A username that no other test of this run has. */
export const uniqueName = (): string =>
  `u${process.pid.toString(36)}-${Date.now().toString(36)}-${(serial++).toString(36)}`;

export interface Person {
  readonly id: string;
  readonly username: string;
  readonly email: string;
  readonly token: string;
}

export async function logIn(
  app: TestApp,
  username: string,
  password: string = PASSWORD,
): Promise<string> {
  const { status, body, text } = await app.call('POST', '/v1/sessions', {
    body: { username, password },
  });
  if (status !== 201) throw new Error(`login: ${status} ${text}`);
  return body.token as string;
}

/** A new user with a session. */
export async function person(app: TestApp): Promise<Person> {
  const username = uniqueName();
  const email = `${username}@example.com`;
  const { status, body, text } = await app.call('POST', '/v1/users', {
    body: { username, email, password: PASSWORD },
  });
  if (status !== 201) throw new Error(`register: ${status} ${text}`);
  return { id: body.id as string, username, email, token: await logIn(app, username) };
}

/** A token that was one: its session was ended. One for each application is enough. */
export async function deadToken(app: TestApp): Promise<string> {
  let dead = deadTokens.get(app);
  if (dead === undefined) {
    dead = await adminToken(app);
    await app.call('DELETE', '/v1/sessions/current', { token: dead });
    deadTokens.set(app, dead);
  }
  return dead;
}
const deadTokens = new WeakMap<TestApp, string>();

/** A session of the admin that every test application has. */
export const adminToken = (app: TestApp): Promise<string> =>
  logIn(app, ADMIN.username, ADMIN.password);

/** A new user with the support role. */
export async function supportPerson(app: TestApp): Promise<Person> {
  const someone = await person(app);
  const { status } = await app.call('PUT', `/v1/users/${someone.id}/roles`, {
    token: await adminToken(app),
    body: { roles: ['user', 'support'] },
  });
  if (status !== 200) throw new Error(`roles: ${status}`);
  return someone;
}

export const ORDER = {
  currency: 'EUR',
  items: [{ sku: 'LAMP-01', name: 'Signal lamp', quantity: 2, unitPrice: 4_999 }],
} as const;

// eslint-disable-next-line @typescript-eslint/no-explicit-any
export async function placeOrder(app: TestApp, token: string, order: object = ORDER): Promise<any> {
  const { status, body, text } = await app.call('POST', '/v1/orders', {
    token,
    body: order,
    headers: { 'Idempotency-Key': randomUUID() },
  });
  if (status !== 201) throw new Error(`order: ${status} ${text}`);
  return body;
}
