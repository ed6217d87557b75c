/** Users and orders for tests, made through the API as any client would. */
import { randomUUID } from 'node:crypto';
import { ADMIN, type TestApp } from './app.js';

/** The password of every user that {@link registerUser} makes. */
export const PASSWORD = 'nine tall ships at anchor';

export interface TestUser {
  readonly id: string;
  readonly username: string;
  readonly email: string;
  /** Of a session that has begun. */
  readonly token: string;
}

let usernameCount = 0;

/** A username that no other test of this run uses. */
export function uniqueUsername(): string {
  usernameCount++;
  const parts = [process.pid, Date.now(), usernameCount].map((part) => part.toString(36));
  return `u${parts.join('-')}`;
}

/** @returns the token of a new session */
export async function logIn(
  app: TestApp,
  username: string,
  password: string = PASSWORD,
): Promise<string> {
  const body = await post(app, '/v1/sessions', { body: { username, password } });
  return body.token as string;
}

/** Registers a user and logs in. */
export async function registerUser(app: TestApp): Promise<TestUser> {
  const username = uniqueUsername();
  const email = `${username}@example.com`;
  const body = await post(app, '/v1/users', { body: { username, email, password: PASSWORD } });
  return { id: body.id as string, username, email, token: await logIn(app, username) };
}

/** Registers a user and gives them the support role. */
export async function registerSupportUser(app: TestApp): Promise<TestUser> {
  const user = await registerUser(app);
  const { status, text } = await app.call('PUT', `/v1/users/${user.id}/roles`, {
    token: await logInAsAdmin(app),
    body: { roles: ['user', 'support'] },
  });
  if (status !== 200) throw new Error(`PUT /v1/users/{id}/roles: ${status} ${text}`);
  return user;
}

/** A new session of {@link ADMIN}. */
export const logInAsAdmin = (app: TestApp): Promise<string> =>
  logIn(app, ADMIN.username, ADMIN.password);

const endedTokens = new WeakMap<TestApp, string>();

/** The token of a session that has ended. The same one for each call with an application. */
export async function createEndedToken(app: TestApp): Promise<string> {
  const known = endedTokens.get(app);
  if (known !== undefined) return known;
  const token = await logInAsAdmin(app);
  await app.call('DELETE', '/v1/sessions/current', { token });
  endedTokens.set(app, token);
  return token;
}

/** A valid body of `POST /v1/orders`. */
export const ORDER = {
  currency: 'EUR',
  items: [{ sku: 'LAMP-01', name: 'Signal lamp', quantity: 2, unitPrice: 4_999 }],
} as const;

/** @returns the order's representation */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export function placeOrder(app: TestApp, token: string, order: object = ORDER): Promise<any> {
  const headers = { 'Idempotency-Key': randomUUID() };
  return post(app, '/v1/orders', { token, body: order, headers });
}

/** @throws Error when the status is not 201 */
async function post(
  app: TestApp,
  path: string,
  options: Parameters<TestApp['call']>[2],
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
): Promise<any> {
  const { status, body, text } = await app.call('POST', path, options);
  if (status !== 201) throw new Error(`POST ${path}: ${status} ${text}`);
  return body as unknown;
}
