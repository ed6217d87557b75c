/** Accounts through the API: register, change the password, delete. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { LoginThrottle } from '../../src/auth/throttling/login-throttle.service.js';
import { startApp, type TestApp } from '../support/app.js';
import {
  logIn,
  logInAsAdmin,
  PASSWORD,
  placeOrder,
  registerUser,
  uniqueUsername,
} from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import { expectProblem, pointersOf, validationErrorsOf } from '../support/problem.js';

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const RFC3339_MILLISECONDS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const NEW_PASSWORD = 'eleven tall ships at anchor';

describe('accounts', () => {
  let app: TestApp;
  let admin: string;

  beforeAll(async () => {
    app = await startApp();
    admin = await logInAsAdmin(app);
  });
  afterAll(() => app.close());

  /** Registers a user, with these members over valid defaults. */
  function register(members: object = {}): Promise<Reply> {
    const username = uniqueUsername();
    const email = `${username}@example.com`;
    const body = { username, email, password: PASSWORD, ...members };
    return app.call('POST', '/v1/users', { body });
  }
  const get = (path: string, token: string): Promise<Reply> => app.call('GET', path, { token });
  const statusOfMe = async (token: string): Promise<number> =>
    (await get('/v1/users/me', token)).status;
  const tryLogIn = (username: string, password = PASSWORD): Promise<Reply> =>
    app.call('POST', '/v1/sessions', { body: { username, password } });
  const changePassword = (token: string, id: string, body: object): Promise<Reply> =>
    app.call('PUT', `/v1/users/${id}/password`, { token, body });
  const deleteUser = (token: string, id: string, headers = {}): Promise<Reply> =>
    app.call('DELETE', `/v1/users/${id}`, { token, headers });

  describe('registering', () => {
    it('answers 201 with the user, Location and ETag, and without the password', async () => {
      const username = uniqueUsername();
      const email = `${username}@Example.COM`;
      const reply = await register({ username, email });
      expect(reply.status).toBe(201);
      expect(reply.body).toEqual({
        id: expect.stringMatching(UUID_V7),
        username,
        email,
        roles: ['user'],
        version: 1,
        createdAt: expect.stringMatching(RFC3339_MILLISECONDS),
        updatedAt: reply.body.createdAt,
      });
      expect(reply.headers.get('location')).toBe(`/v1/users/${reply.body.id}`);
      expect(reply.headers.get('etag')).toBe('"1"');
      const read = await get(reply.headers.get('location') as string, admin);
      expect([read.status, read.body]).toEqual([200, reply.body]);
    });

    it('accepts a username once, whatever its case', async () => {
      const username = uniqueUsername();
      const registered = await register({ username: username.toUpperCase() });
      expect(registered.body.username).toBe(username);
      expectProblem(await register({ username }), 409, 'username-taken');
      const upperCase = username.toUpperCase();
      expectProblem(await register({ username: upperCase }), 409, 'username-taken');
      const mixedCase = `U${username.slice(1)}`;
      expectProblem(await register({ username: mixedCase }), 409, 'username-taken');
    });

    it('accepts an email address once, whatever its case', async () => {
      const email = `${uniqueUsername()}@example.com`;
      expect((await register({ email })).status).toBe(201);
      expectProblem(await register({ email }), 409, 'email-taken');
      expectProblem(await register({ email: email.toUpperCase() }), 409, 'email-taken');
      const mixedCase = email.replace('example', 'ExAmPlE');
      expectProblem(await register({ email: mixedCase }), 409, 'email-taken');
    });

    it('accepts one of several requests for the same username at the same moment', async () => {
      const username = uniqueUsername();
      const replies = await Promise.all(Array.from({ length: 6 }, () => register({ username })));
      expect(replies.filter(({ status }) => status === 201)).toHaveLength(1);
      const rejected = replies.filter(({ status }) => status !== 201);
      expect(rejected).toHaveLength(5);
      rejected.forEach((reply) => expectProblem(reply, 409, 'username-taken'));
    });

    it('accepts usernames of 3 to 32 characters', async () => {
      const unique = Date.now().toString(36).slice(-4);
      expect((await register({ username: `${unique.slice(-2)}_` })).status).toBe(201);
      expect((await register({ username: `._-${unique}` })).status).toBe(201);
      expect((await register({ username: unique.padEnd(32, 'z') })).status).toBe(201);
      expect(pointersOf(await register({ username: 'zz' }))).toEqual(['/username']);
      expect(pointersOf(await register({ username: unique.padEnd(33, 'z') }))).toEqual([
        '/username',
      ]);
    });

    it.each(['roles', 'id', 'version', 'isAdmin', 'createdAt', 'deletedAt'])(
      'rejects the property %s, which only the service sets',
      async (property) => {
        expect(validationErrorsOf(await register({ [property]: ['admin'] }))).toEqual([
          `/${property} unknown-property`,
        ]);
      },
    );
  });

  describe('passwords', () => {
    it.each([
      ['15 letters', 'fifteen letters'],
      ['15 emoji', '🐙🦀🐡🦈🐳🐬🦭🐧🦜🦢🦩🐊🐢🦎🐍'],
      ['Cyrillic', 'пароль из слов на кириллице'],
      ['Japanese', '灯台守は波を数えて朝を待ちながら歌う'],
      [
        '128 code points',
        `${'long lines of words that nobody guesses, '.repeat(4).slice(0, 127)}🐙`,
      ],
      ['many spaces', '   spaces   count   '],
    ])(
      'a new password of 15 to 128 code points of any Unicode is accepted: %s',
      async (_, password) => {
        expect((await register({ password })).status).toBe(201);
      },
    );

    it.each([
      ['14 letters', 'fourteen chars'],
      ['14 emoji in 28 UTF-16 units', '🐙🦀🐡🦈🐳🐬🦭🐧🦜🦢🦩🐊🐢🦎'],
      ['129 letters', 'nobody guesses this line of words '.repeat(4).slice(0, 129)],
    ])('a new password that is too short or too long is rejected: %s', async (_, password) => {
      expect(pointersOf(await register({ password }))).toEqual(['/password']);
    });

    it('a password is counted in code points of its NFC form', async () => {
      const words = 'lőng wörds thát nobódy guessés, '.repeat(4).normalize('NFC').slice(0, 120);
      // One code point in NFC, three in NFD.
      const accented = 'ế'.normalize('NFD');
      expect([...accented]).toHaveLength(3);
      expect((await register({ password: words + accented.repeat(8) })).status).toBe(201);
      const tooLong = await register({ password: words + accented.repeat(9) });
      expect(pointersOf(tooLong)).toEqual(['/password']);
      const tooShort = await register({ password: 'gélé òù çà'.normalize('NFD') });
      expect(pointersOf(tooShort)).toEqual(['/password']);
    });

    it('a password is the same in either normal form', async () => {
      const username = uniqueUsername();
      const password = 'é à ü ñ å ç ő š ł – été';
      expect(password.normalize('NFD')).not.toBe(password.normalize('NFC'));
      await register({ username, password: password.normalize('NFD') });
      expect((await tryLogIn(username, password.normalize('NFC'))).status).toBe(201);
      expect((await tryLogIn(username, password.normalize('NFD'))).status).toBe(201);
    });

    it('a new password is neither common nor made of the username or email address', async () => {
      const username = `lighthouse.keeper.${Date.now().toString(36)}`;
      const email = `${username}@windy-shore.example`;
      const registerWith = (password: string): Promise<Reply> =>
        register({ username, email, password });
      expect(validationErrorsOf(await registerWith('passwordpassword'))).toEqual([
        '/password common',
      ]);
      expect(validationErrorsOf(await registerWith(`${username}2026!`))).toEqual([
        '/password own-name',
      ]);
      expect(validationErrorsOf(await registerWith('windy-shore-lighthouse'))).toEqual([
        '/password own-name',
      ]);
      const passphrase = 'the lighthouse keeper counts waves';
      const registered = await registerWith(passphrase);
      expect(registered.status).toBe(201);
      const token = await logIn(app, username, passphrase);
      const changeTo = (newPassword: string): Promise<Reply> =>
        changePassword(token, registered.body.id as string, {
          currentPassword: passphrase,
          newPassword,
        });
      expect(validationErrorsOf(await changeTo('passwordpassword'))).toEqual([
        '/newPassword common',
      ]);
      expect(validationErrorsOf(await changeTo('LightHouse_Keeper_99'))).toEqual([
        '/newPassword own-name',
      ]);
      expect(validationErrorsOf(await changeTo(email))).toEqual(['/newPassword own-name']);
    });

    it('a changed password ends every other session of the user', async () => {
      const user = await registerUser(app);
      const otherTokens = [await logIn(app, user.username), await logIn(app, user.username)];
      const changed = await changePassword(user.token, user.id, {
        currentPassword: PASSWORD,
        newPassword: NEW_PASSWORD,
      });
      expect([changed.status, changed.text]).toEqual([204, '']);
      expect(await Promise.all(otherTokens.map(statusOfMe))).toEqual([401, 401]);
      expect(await statusOfMe(user.token)).toBe(200);
      expectProblem(await tryLogIn(user.username), 401, 'invalid-credentials');
      expect((await tryLogIn(user.username, NEW_PASSWORD)).status).toBe(201);
    });

    it('a rejected change of the password changes nothing', async () => {
      const user = await registerUser(app);
      const otherToken = await logIn(app, user.username);
      const wrong = await changePassword(user.token, user.id, {
        currentPassword: 'not the current password',
        newPassword: NEW_PASSWORD,
      });
      expectProblem(wrong, 403, 'wrong-password');
      const tooShort = await changePassword(user.token, user.id, {
        currentPassword: PASSWORD,
        newPassword: 'too short',
      });
      expect(pointersOf(tooShort)).toEqual(['/newPassword']);
      expect(await statusOfMe(otherToken)).toBe(200);
      expect((await tryLogIn(user.username)).status).toBe(201);
    });

    describe('of a user whose password changes meanwhile', () => {
      /** Runs `work` once, between the check of a password and what depends on it. */
      function afterNextCheck(work: () => Promise<unknown>): void {
        const throttle = app.app.get(LoginThrottle, { strict: false });
        const recordSuccess = throttle.recordSuccess.bind(throttle);
        throttle.recordSuccess = async (attempt) => {
          throttle.recordSuccess = recordSuccess;
          await recordSuccess(attempt);
          await work();
        };
      }
      const change = { currentPassword: PASSWORD, newPassword: NEW_PASSWORD };

      it('a login with the old password is rejected', async () => {
        const user = await registerUser(app);
        afterNextCheck(() => changePassword(user.token, user.id, change));
        expectProblem(await tryLogIn(user.username), 401, 'invalid-credentials');
        expect((await tryLogIn(user.username, NEW_PASSWORD)).status).toBe(201);
      });

      it('another change is rejected', async () => {
        const user = await registerUser(app);
        afterNextCheck(() => changePassword(user.token, user.id, change));
        const second = await changePassword(user.token, user.id, {
          currentPassword: PASSWORD,
          newPassword: `${NEW_PASSWORD} again`,
        });
        expectProblem(second, 403, 'wrong-password');
        expect((await tryLogIn(user.username, NEW_PASSWORD)).status).toBe(201);
      });
    });

    it("others cannot change a user's password: strangers get 404, admins 403", async () => {
      const [user, stranger] = [await registerUser(app), await registerUser(app)];
      const body = { currentPassword: PASSWORD, newPassword: NEW_PASSWORD };
      expectProblem(await changePassword(stranger.token, user.id, body), 404, 'not-found');
      expectProblem(await changePassword(admin, user.id, body), 403, 'forbidden');
      expectProblem(await changePassword(admin, randomUUID(), body), 404, 'not-found');
      expect(await statusOfMe(user.token)).toBe(200);
    });
  });

  describe('deleting', () => {
    it('a deleted user has no sessions, and nobody finds the user any more', async () => {
      const user = await registerUser(app);
      const otherToken = await logIn(app, user.username);
      const deleted = await deleteUser(user.token, user.id);
      expect([deleted.status, deleted.text]).toEqual([204, '']);
      expect([await statusOfMe(user.token), await statusOfMe(otherToken)]).toEqual([401, 401]);
      expectProblem(await tryLogIn(user.username), 401, 'invalid-credentials');
      expectProblem(await get(`/v1/users/${user.id}`, admin), 404, 'not-found');
    });

    it.each([
      ['DELETE', '', undefined],
      ['PATCH', '', {}],
      ['PUT', '/roles', { roles: ['user'] }],
    ])('a deleted user cannot be changed: %s /v1/users/{id}%s', async (method, suffix, body) => {
      const user = await registerUser(app);
      await deleteUser(user.token, user.id);
      const headers = { 'If-Match': '*' };
      const reply = await app.call(method, `/v1/users/${user.id}${suffix}`, {
        token: admin,
        headers,
        body,
      });
      expectProblem(reply, 404, 'not-found');
    });

    it('the orders of a deleted user stay', async () => {
      const user = await registerUser(app);
      const order = await placeOrder(app, user.token);
      await deleteUser(user.token, user.id);
      expect((await get(`/v1/orders/${order.id}`, admin)).body).toEqual(order);
      expect((await get(`/v1/users/${user.id}/orders`, admin)).body.data).toEqual([order]);
    });

    it('a new user may take the names of a deleted user, and gets nothing else', async () => {
      const user = await registerUser(app);
      await placeOrder(app, user.token);
      await deleteUser(user.token, user.id);
      const heir = await register({ username: user.username, email: user.email });
      expect(heir.status).toBe(201);
      expect(heir.body.id).not.toBe(user.id);
      const found = await get(`/v1/users?username=${user.username}`, admin);
      expect(found.body.data).toEqual([heir.body]);
      const heirToken = await logIn(app, user.username);
      expect((await get('/v1/orders', heirToken)).body.data).toEqual([]);
    });

    it('users and admins may delete a user, in the version of If-Match', async () => {
      const [user, stranger] = [await registerUser(app), await registerUser(app)];
      expectProblem(await deleteUser(stranger.token, user.id), 404, 'not-found');
      const outdated = await deleteUser(admin, user.id, { 'If-Match': '"9"' });
      expectProblem(outdated, 412, 'version-mismatch');
      expect(await statusOfMe(user.token)).toBe(200);
      expect((await deleteUser(admin, user.id, { 'If-Match': '"1"' })).status).toBe(204);
      expect(await statusOfMe(user.token)).toBe(401);
    });
  });
});
