/**
 * The security log: one line for each rejected request and each change of rights, with the account
 * and the address, and without anything that a caller typed.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { MAX_LINES_PER_SECOND } from '../../../src/platform/telemetry/line-limit.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import {
  logInAsAdmin,
  PASSWORD,
  placeOrder,
  registerUser,
  type TestUser,
  uniqueUsername,
} from '../../support/factories.js';
import type { RequestOptions } from '../../support/http-client.js';

/** Sent wherever a caller can send text. It must not be in the log. */
const TYPED_TEXT = 'nothing that anyone should read';
const TYPED_WORD = TYPED_TEXT.replaceAll(' ', '-');
const UUID = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';
const FROM = 'address=127.0.0.1';

describe('the security log', () => {
  const lines: string[] = [];
  const log = { write: (line: string) => void lines.push(line) };
  let app: TestApp;
  let user: TestUser;
  let otherUser: TestUser;
  let adminToken: string;

  beforeAll(async () => {
    app = await startApp({ LOG_LEVEL: 'info' }, undefined, log);
    user = await registerUser(app);
    otherUser = await registerUser(app);
    adminToken = await logInAsAdmin(app);
  });
  afterAll(() => app.close());
  beforeEach(() => {
    lines.length = 0;
  });

  /** The security events so far, each as `<level> <text>`. */
  function events(): string[] {
    return lines
      .map((line) => JSON.parse(line) as { context: string; msg: string; level: string })
      .filter(({ context }) => context === 'Security')
      .map(({ level, msg }) => `${level} ${msg}`);
  }

  /**
   * Sends a request.
   * @returns its line without the request id; undefined when it has none
   */
  async function eventOf(
    method: string,
    path: string,
    options: RequestOptions = {},
  ): Promise<string | undefined> {
    lines.length = 0;
    const requestId = randomUUID();
    const headers = { ...options.headers, 'X-Request-Id': requestId };
    await app.call(method, path, { ...options, headers });
    const [event, ...others] = events();
    expect(others).toEqual([]);
    if (event === undefined) return undefined;
    expect(event.endsWith(` request=${requestId}`)).toBe(true);
    return event.replace(` request=${requestId}`, '');
  }

  const eventOfLogin = (username: string, password: string): Promise<string | undefined> =>
    eventOf('POST', '/v1/sessions', { body: { username, password } });

  describe('of logins', () => {
    const ROUTE = `${FROM} route="POST /v1/sessions"`;

    it('has a line for a login, with the account', async () => {
      expect(await eventOfLogin(user.username, PASSWORD)).toBe(
        `info logged-in user=${user.id} ${ROUTE}`,
      );
    });

    it('has a line for a wrong password, with the account', async () => {
      expect(await eventOfLogin(user.email, TYPED_TEXT)).toBe(
        `warn login-failed user=${user.id} ${ROUTE}`,
      );
    });

    it('has a line for an unknown username, without that name', async () => {
      expect(await eventOfLogin(TYPED_TEXT, TYPED_TEXT)).toBe(`warn login-failed user=- ${ROUTE}`);
    });

    it('has a line for each login that the throttle rejects, with the account', async () => {
      const victim = await registerUser(app);
      const found: (string | undefined)[] = [];
      for (let login = 0; login < 11; login++) {
        found.push(await eventOfLogin(victim.username, TYPED_TEXT));
      }

      expect(found.slice(-2)).toEqual([
        `warn login-failed user=${victim.id} ${ROUTE}`,
        `warn guesses-limited user=${victim.id} ${ROUTE}`,
      ]);
    });
  });

  describe('of rejected access', () => {
    let order: { id: string };
    /** The beginning of each line about `user`. */
    let prefix: string;

    beforeAll(async () => {
      order = await placeOrder(app, otherUser.token);
      prefix = `warn access-refused user=${user.id} ${FROM}`;
    });

    /** `session=<id>` at the end. */
    const withSession = (text: string): RegExp => new RegExp(`^${text} session=${UUID}$`);

    it('has a line for a route that the role does not allow', async () => {
      expect(await eventOf('GET', '/v1/users', { token: user.token })).toMatch(
        withSession(`${prefix} route="GET /v1/users"`),
      );
    });

    it('has a line for a user that the response says does not exist', async () => {
      expect(await eventOf('GET', `/v1/users/${otherUser.id}`, { token: user.token })).toMatch(
        withSession(`${prefix} route="GET /v1/users/:id" object=${otherUser.id}`),
      );
    });

    it('has a line for an order that the response says does not exist', async () => {
      expect(await eventOf('GET', `/v1/orders/${order.id}`, { token: user.token })).toMatch(
        withSession(`${prefix} route="GET /v1/orders/:id" object=${order.id}`),
      );
    });

    it('has a line for a write to the order of another user', async () => {
      const options = { token: user.token, body: {} };
      expect(await eventOf('POST', `/v1/orders/${order.id}/cancel`, options)).toMatch(
        withSession(`${prefix} route="POST /v1/orders/:id/cancel" object=${order.id}`),
      );
    });

    it('has no line for an order that really does not exist', async () => {
      const path = `/v1/orders/${randomUUID()}`;
      expect(await eventOf('GET', path, { token: user.token })).toBeUndefined();
    });

    it('has no line for an order of the caller', async () => {
      const path = `/v1/orders/${order.id}`;
      expect(await eventOf('GET', path, { token: otherUser.token })).toBeUndefined();
    });

    it.each([
      ['without a token', undefined],
      ['with a token that does not exist', TYPED_WORD],
    ])('has a line for a request %s', async (_, token) => {
      expect(await eventOf('GET', '/v1/users/me', { token })).toBe(
        `warn session-refused user=- ${FROM} route="GET /v1/users/me"`,
      );
    });

    it('leaves out an id in the path that is not well-formed', async () => {
      expect(await eventOf('GET', `/v1/users/${TYPED_WORD}`, { token: user.token })).toMatch(
        withSession(`${prefix} route="GET /v1/users/:id"`),
      );
    });
  });

  describe('of rejected input', () => {
    it('has a line for an invalid parameter, without its value', async () => {
      const path = `/v1/orders?limit=${encodeURIComponent(TYPED_TEXT)}`;
      expect(await eventOf('GET', path, { token: user.token })).toMatch(
        new RegExp(
          `^warn input-refused user=${user.id} ${FROM} route="GET /v1/orders" session=${UUID}$`,
        ),
      );
    });

    it('has a line for a body that is not JSON, without its text', async () => {
      expect(await eventOf('POST', '/v1/users', { body: `{"password":"${TYPED_TEXT}"` })).toBe(
        `warn input-refused user=- ${FROM} route="POST /v1/users"`,
      );
    });

    it('has a line for a transition that the order does not allow', async () => {
      const { id } = await placeOrder(app, user.token);
      const cancel = { token: user.token, body: {} };
      await app.call('POST', `/v1/orders/${id}/cancel`, cancel);

      expect(await eventOf('POST', `/v1/orders/${id}/cancel`, cancel)).toMatch(
        new RegExp(
          `^warn rule-refused user=${user.id} ${FROM} route="POST /v1/orders/:id/cancel" ` +
            `object=${id} session=${UUID}$`,
        ),
      );
    });
  });

  describe('of changes of accounts and rights', () => {
    const passwordChange = (token: string, currentPassword: string): RequestOptions => ({
      token,
      body: { currentPassword, newPassword: 'eleven tall ships at anchor' },
    });

    it('has a line for a registration, with the new account', async () => {
      const username = uniqueUsername();
      const body = { username, email: `${username}@example.com`, password: PASSWORD };
      expect(await eventOf('POST', '/v1/users', { body })).toMatch(
        new RegExp(`^info user-registered user=${UUID} ${FROM} route="POST /v1/users"$`),
      );
    });

    it('has a line for a change of roles, with the account and the administrator', async () => {
      const { id } = await registerUser(app);
      const options = { token: adminToken, body: { roles: ['user', 'support'] } };
      expect(await eventOf('PUT', `/v1/users/${id}/roles`, options)).toMatch(
        new RegExp(`^info roles-changed user=${UUID} .* object=${id} session=${UUID}$`),
      );
    });

    it('has a line for a change of the password', async () => {
      const { id, token } = await registerUser(app);
      const path = `/v1/users/${id}/password`;
      expect(await eventOf('PUT', path, passwordChange(token, PASSWORD))).toMatch(
        new RegExp(`^info password-changed user=${id} .* object=${id} session=${UUID}$`),
      );
    });

    it('has a line for a change of the password with a wrong current one', async () => {
      const { id, token } = await registerUser(app);
      const path = `/v1/users/${id}/password`;
      expect(await eventOf('PUT', path, passwordChange(token, TYPED_TEXT))).toMatch(
        new RegExp(`^warn password-wrong user=${id} .* object=${id} session=${UUID}$`),
      );
    });

    it('has a line for the end of other sessions, and for the end of the current one', async () => {
      const { token } = await registerUser(app);
      expect(await eventOf('DELETE', '/v1/sessions?keep=current', { token })).toMatch(
        /^info sessions-ended /,
      );
      expect(await eventOf('DELETE', '/v1/sessions/current', { token })).toMatch(
        /^info session-ended /,
      );
    });

    it('has a line for the deletion of a user', async () => {
      const { id } = await registerUser(app);
      expect(await eventOf('DELETE', `/v1/users/${id}`, { token: adminToken })).toMatch(
        new RegExp(`^info user-deleted .* object=${id}`),
      );
    });
  });

  it('accounts for every request of a flood, in a line or in a count', async () => {
    const requests = 3 * MAX_LINES_PER_SECOND;
    await Promise.all(Array.from({ length: requests }, () => app.call('GET', '/v1/users/me')));

    await eventually('all requests are logged or counted', () => {
      const { written, counted } = countsOf('session-refused');
      return written + counted === requests;
    });
  });

  it('accounts for every failed login of a flood, by account and address', async () => {
    const victims = [await registerUser(app), await registerUser(app)];
    const logins = victims.flatMap(({ username }) =>
      Array.from({ length: 2 * MAX_LINES_PER_SECOND }, () => ({ username, password: TYPED_TEXT })),
    );
    lines.length = 0;
    const replies = await Promise.all(
      logins.map((body) => app.call('POST', '/v1/sessions', { body })),
    );
    const isAnswered = (wanted: number): number =>
      replies.filter(({ status }) => status === wanted).length;

    await eventually('all failed logins are logged or counted', () => {
      const hasAll = ([event, status]: readonly [string, number]): boolean => {
        const { written, counted } = countsOf(event);
        return written + counted === isAnswered(status);
      };
      // Logins that find the queue of hashes full are shed.
      return (
        [
          ['login-failed', 401],
          ['guesses-limited', 429],
          ['requests-shed', 503],
        ] as const
      ).every(hasAll);
    });
    expect(isAnswered(401) + isAnswered(429) + isAnswered(503)).toBe(logins.length);
    const reports = events().filter((line) => /login-failed .*unwritten=/.test(line));
    const accounts = victims.map(({ id }) => `user=${id} ${FROM}`);
    const isOfVictim = (line: string): boolean => accounts.some((text) => line.includes(text));
    expect(reports.filter((line) => !isOfVictim(line))).toEqual([]);
  });

  /** Lines of an event, and the sum of what its reports count. */
  function countsOf(event: string): { written: number; counted: number } {
    const ofEvent = events().filter((line) => line.startsWith(`warn ${event} `));
    const counts = ofEvent.flatMap((line) => / unwritten=(\d+)$/.exec(line)?.[1] ?? []);
    return {
      written: ofEvent.length - counts.length,
      counted: counts.reduce((sum, count) => sum + Number(count), 0),
    };
  }

  it('contains nothing that callers write, and no token', async () => {
    const login = { username: `${TYPED_TEXT}@example.com`, password: TYPED_TEXT };
    const headers = { 'User-Agent': TYPED_WORD, Cookie: TYPED_WORD };
    const roles = { token: user.token, body: { roles: [TYPED_WORD] } };
    await app.call('POST', '/v1/sessions', { body: login });
    await app.call('DELETE', `/v1/orders/${TYPED_WORD}?${TYPED_WORD}`, { headers });
    await app.call('GET', `/v1/${TYPED_WORD}`, { token: TYPED_WORD });
    await app.call('PUT', `/v1/users/${TYPED_WORD}/roles`, roles);

    expect(events().map((line) => line.split(' ')[1])).toEqual(['login-failed', 'access-refused']);
    expect(lines.join('')).not.toMatch(/nothing.that.anyone/);
    expect(lines.join('')).not.toContain(user.token);
  });

  it('has a line for a request that the rate limit rejects', async () => {
    const env = { LOG_LEVEL: 'info', RATE_LIMIT_PER_MINUTE: '2' };
    const limited = await startApp(env, app.databaseUrl, log);
    try {
      for (let request = 0; request < 3; request++) await limited.call('GET', '/v1/users/me');
      expect(events().at(-1)).toMatch(
        /^warn requests-limited user=- address=127\.0\.0\.1 route="GET \/v1\/users\/me"/,
      );
    } finally {
      await limited.close();
    }
  });
});
