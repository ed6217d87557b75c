/** The security log: a line for each refusal and each change of rights, with who and from where, none of what was typed, and no flood. */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { LINES_A_SECOND } from '../../src/telemetry/security-log.js';
import { type Call, type Reply, startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  PASSWORD,
  person,
  type Person,
  placeOrder,
  uniqueName,
} from '../support/factories.js';

const WRONG = 'nothing that anyone should read';

describe('the security log', () => {
  const lines: string[] = [];
  let app: TestApp;
  let someone: Person;
  let other: Person;
  let admin: string;

  beforeAll(async () => {
    app = await startApp({ LOG_LEVEL: 'info', RATE_LIMIT_PER_MINUTE: '400' }, undefined, {
      write: (line) => void lines.push(line),
    });
    [someone, other, admin] = [await person(app), await person(app), await adminToken(app)];
  });
  afterAll(() => app.close());
  beforeEach(() => void lines.splice(0));

  const events = (): string[] =>
    lines
      .map(
        (line) => JSON.parse(line) as { context: string; msg: string; level: string; time: string },
      )
      .filter(({ context }) => context === 'Security')
      .map(({ level, msg }) => `${level} ${msg}`);
  /** The one line that a request makes, without its request id, which is the answer's. */
  async function told(method: string, path: string, call: Call = {}): Promise<string | undefined> {
    lines.splice(0);
    const id = randomUUID();
    await app.call(method, path, { ...call, headers: { ...call.headers, 'X-Request-Id': id } });
    const [line, ...more] = events();
    expect(more).toEqual([]);
    if (line === undefined) return undefined;
    expect(line).toContain(` request=${id}`);
    return line.replace(` request=${id}`, '').replace(/ session=[0-9a-f-]{36}/, ' session');
  }
  const login = (username: string, password = PASSWORD): [string, string, Call] => [
    'POST',
    '/v1/sessions',
    { body: { username, password } },
  ];

  it('tells of logins and of those that fail, by the account if there is one, never by what was typed', async () => {
    const route = 'address=127.0.0.1 route="POST /v1/sessions"';
    expect(await told(...login(someone.username))).toBe(
      `info logged-in user=${someone.id} ${route}`,
    );
    expect(await told(...login(someone.email, WRONG))).toBe(
      `warn login-failed user=${someone.id} ${route}`,
    );
    expect(await told(...login(WRONG, WRONG))).toBe(`warn login-failed user=- ${route}`);
    const victim = await person(app);
    const refusals: (string | undefined)[] = [];
    for (let guess = 0; guess < 11; guess++)
      refusals.push(await told(...login(victim.username, WRONG)));
    expect(refusals[9]).toBe(`warn login-failed user=${victim.id} ${route}`);
    expect(refusals[10]).toBe(`warn guesses-limited user=${victim.id} ${route}`);
  });

  it('tells of access that is refused, also where the answer says that there is nothing', async () => {
    const order = await placeOrder(app, other.token);
    const as = { token: someone.token };
    const by = `user=${someone.id} address=127.0.0.1`;
    const list = `GET /v1/users`;
    expect(await told('GET', '/v1/users', as)).toBe(
      `warn access-refused ${by} route="${list}" session`,
    );
    expect(await told('GET', `/v1/users/${other.id}`, as)).toBe(
      `warn access-refused ${by} route="${list}/:id" object=${other.id} session`,
    );
    expect(await told('GET', `/v1/orders/${order.id}`, as)).toBe(
      `warn access-refused ${by} route="GET /v1/orders/:id" object=${order.id} session`,
    );
    expect(await told('POST', `/v1/orders/${order.id}/cancel`, { ...as, body: {} })).toMatch(
      /^warn access-refused .* object=/,
    );
    expect(await told('GET', `/v1/orders/${randomUUID()}`, as)).toBeUndefined();
    expect(await told('GET', `/v1/orders/${order.id}`, { token: other.token })).toBeUndefined();
    const anonymous = `user=- address=127.0.0.1 route="GET /v1/users/me"`;
    expect(await told('GET', '/v1/users/me')).toBe(`warn session-refused ${anonymous}`);
    expect(await told('GET', '/v1/users/me', { token: WRONG.replaceAll(' ', '-') })).toBe(
      `warn session-refused ${anonymous}`,
    );
    expect(await told('GET', `/v1/users/${WRONG.replaceAll(' ', '-')}`, as)).toBe(
      `warn access-refused ${by} route="GET /v1/users/:id" session`,
    );
  });

  it('tells of input and of moves that are refused, by no word of theirs', async () => {
    const { token, id } = other;
    const by = `user=${id} address=127.0.0.1 route=`;
    expect(await told('GET', `/v1/orders?limit=${encodeURIComponent(WRONG)}`, { token })).toBe(
      `warn input-refused ${by}"GET /v1/orders" session`,
    );
    expect(await told('POST', '/v1/users', { body: `{"password":"${WRONG}"` })).toBe(
      'warn input-refused user=- address=127.0.0.1 route="POST /v1/users"',
    );
    const order = await placeOrder(app, token);
    await app.call('POST', `/v1/orders/${order.id}/cancel`, { token, body: {} });
    expect(await told('POST', `/v1/orders/${order.id}/cancel`, { token, body: {} })).toBe(
      `warn rule-refused ${by}"POST /v1/orders/:id/cancel" object=${order.id} session`,
    );
  });

  it('tells of what changes who may do what', async () => {
    const username = uniqueName();
    const body = { username, email: `${username}@example.com`, password: PASSWORD };
    expect(await told('POST', '/v1/users', { body })).toMatch(
      /^info user-registered user=[0-9a-f-]{36} address=127\.0\.0\.1 route="POST \/v1\/users"$/,
    );
    const { id, token } = await person(app);
    const roles = { token: admin, body: { roles: ['user', 'support'] } };
    expect(await told('PUT', `/v1/users/${id}/roles`, roles)).toMatch(
      new RegExp(`^info roles-changed user=[0-9a-f-]{36} address=.* object=${id} session$`),
    );
    const password = (currentPassword: string): Call => ({
      token,
      body: { currentPassword, newPassword: 'eleven tall ships at anchor' },
    });
    const by = `user=${id} address=127.0.0.1`;
    const route = `route="PUT /v1/users/:id/password" object=${id} session`;
    expect(await told('PUT', `/v1/users/${id}/password`, password(WRONG))).toBe(
      `warn password-wrong ${by} ${route}`,
    );
    expect(await told('PUT', `/v1/users/${id}/password`, password(PASSWORD))).toBe(
      `info password-changed ${by} ${route}`,
    );
    expect(await told('DELETE', '/v1/sessions?keep=current', { token })).toMatch(
      /^info sessions-ended /,
    );
    expect(await told('DELETE', '/v1/sessions/current', { token })).toMatch(/^info session-ended /);
    expect(await told('DELETE', `/v1/users/${id}`, { token: admin })).toMatch(
      /^info user-deleted .* object=/,
    );
  });

  it('writes so many lines of an event a second, counts the rest, and leaves room for the others', async () => {
    await sleep(1_100);
    lines.splice(0);
    const most = 3 * LINES_A_SECOND;
    const flood: Reply[] = await Promise.all(
      Array.from({ length: most }, () => app.call('GET', '/v1/users/me')),
    );
    expect(flood.every(({ status }) => status === 401)).toBe(true);
    await app.call(...login(WRONG, WRONG));
    await sleep(1_200);
    const [written, counts] = [
      events(),
      events().flatMap((line) => /unwritten=(\d+)/.exec(line)?.[1] ?? []),
    ];
    const refused = written.filter((line) => line.startsWith('warn session-refused user='));
    expect(counts.length).toBeGreaterThan(0);
    expect(refused.length + counts.reduce((sum, count) => sum + Number(count), 0)).toBe(most);
    expect(refused.length).toBeLessThan(most);
    expect(written.filter((line) => line.startsWith('warn login-failed'))).toHaveLength(1);
  });

  it('has nothing of what callers write', async () => {
    const call = (method: string, path: string, options?: Call): Promise<Reply> =>
      app.call(method, path, options);
    const marked = WRONG.replaceAll(' ', '-');
    await call(...login(`${WRONG}@example.com`, WRONG));
    await call('DELETE', `/v1/orders/${marked}?${marked}`, {
      headers: { 'User-Agent': marked, Cookie: marked },
    });
    await call('GET', `/v1/${marked}`, { token: marked });
    await call('PUT', `/v1/users/${marked}/roles`, {
      token: someone.token,
      body: { roles: [marked] },
    });
    expect(events().map((line) => line.split(' ')[1])).toEqual(['login-failed', 'access-refused']);
    expect(lines.join('')).not.toMatch(/nothing.that.anyone/);
    for (const { token } of [someone, other]) expect(lines.join('')).not.toContain(token);
  });

  it('tells of the general limit', async () => {
    const limited = await startApp(
      { LOG_LEVEL: 'info', RATE_LIMIT_PER_MINUTE: '2' },
      app.databaseUrl,
      {
        write: (line) => void lines.push(line),
      },
    );
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
