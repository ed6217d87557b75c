/** Users through the API: read, list, change, set roles. Accounts: test/auth/accounts.spec.ts. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../support/app.js';
import {
  logInAsAdmin,
  registerSupportUser,
  registerUser,
  type TestUser,
  uniqueUsername,
} from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import {
  expectProblem,
  pointersOf,
  validationErrorsOf,
  withoutRequestFields,
} from '../support/problem.js';

type Headers = Readonly<Record<string, string | string[]>>;

describe('users', () => {
  let app: TestApp;
  let admin: string;

  beforeAll(async () => {
    app = await startApp();
    admin = await logInAsAdmin(app);
  });
  afterAll(() => app.close());

  const get = (path: string, token: string, headers: Headers = {}): Promise<Reply> =>
    app.call('GET', path, { token, headers });
  const getMe = (token: string): Promise<Reply> => get('/v1/users/me', token);

  /** @param ifMatch a list sends the header once for each item; undefined sends none */
  function patch(
    id: string,
    token: string,
    body: object,
    ifMatch?: string | string[],
  ): Promise<Reply> {
    const headers: Headers = ifMatch === undefined ? {} : { 'If-Match': ifMatch };
    return app.call('PATCH', `/v1/users/${id}`, { token, body, headers });
  }

  const uniqueEmail = (): string => `${uniqueUsername()}@example.com`;

  describe('reading', () => {
    it('a user is readable by the user and by an admin', async () => {
      const user = await registerUser(app);
      const me = await getMe(user.token);
      expect(me.body).toMatchObject({
        id: user.id,
        username: user.username,
        email: user.email,
        roles: ['user'],
      });
      const byUser = await get(`/v1/users/${user.id}`, user.token);
      expect([byUser.status, byUser.body]).toEqual([200, me.body]);
      const byAdmin = await get(`/v1/users/${user.id.toUpperCase()}`, admin);
      expect([byAdmin.status, byAdmin.body]).toEqual([200, me.body]);
    });

    it('to other users, an existing user looks like one that does not exist', async () => {
      const [user, stranger] = [await registerUser(app), await registerUser(app)];
      const support = await registerSupportUser(app);
      const missing = await get(`/v1/users/${randomUUID()}`, stranger.token);
      const toStranger = await get(`/v1/users/${user.id}`, stranger.token);
      const toSupport = await get(`/v1/users/${user.id}`, support.token);
      expectProblem(toStranger, 404, 'not-found');
      expect(withoutRequestFields(toStranger)).toEqual(withoutRequestFields(missing));
      expect(withoutRequestFields(toSupport)).toEqual(withoutRequestFields(missing));
    });

    it('a user has a strong ETag, Cache-Control and Cache-Status', async () => {
      const user = await registerUser(app);
      const path = `/v1/users/${user.id}`;
      const { headers } = await get(path, user.token);
      expect(headers.get('etag')).toBe('"1"');
      expect(headers.get('cache-control')).toBe('private, no-cache');
      // A hit, because the guard has read the user before.
      expect(headers.get('cache-status')).toBe('holdfast; hit');
      const uncached = await get(path, user.token, { 'Cache-Control': 'no-cache' });
      expect(uncached.headers.get('cache-status')).toBe('holdfast; fwd=request');
    });

    it.each(['"1"', 'W/"1"', '"0", "1"', '*'])(
      'If-None-Match: %s of an unchanged user → 304 without a body',
      async (tags) => {
        const user = await registerUser(app);
        const reply = await get(`/v1/users/${user.id}`, user.token, { 'If-None-Match': tags });
        expect([reply.status, reply.text]).toEqual([304, '']);
        expect(reply.headers.get('etag')).toBe('"1"');
        expect(reply.headers.get('cache-control')).toBe('private, no-cache');
        expect(reply.headers.get('cache-status')).toBe('holdfast; hit');
        expect(reply.headers.get('content-type')).toBeNull();
      },
    );

    it.each(['"1"', 'W/"1"', '*'])(
      'If-None-Match: %s on /v1/users/me → 200, since it may be the tag of another user',
      async (tags) => {
        const user = await registerUser(app);
        const reply = await get('/v1/users/me', user.token, { 'If-None-Match': tags });
        expect([reply.status, reply.body.id]).toEqual([200, user.id]);
        expect(reply.headers.get('cache-control')).toBe('no-store');
      },
    );

    it('the ETag of /v1/users/me is for If-Match of a change', async () => {
      const user = await registerUser(app);
      const etag = (await get('/v1/users/me', user.token)).headers.get('etag') as string;
      const body = { email: `${uniqueUsername()}@example.com` };
      const headers = { 'If-Match': etag };
      const path = `/v1/users/${user.id}`;
      const reply = await app.call('PATCH', path, { token: user.token, body, headers });
      expect([etag, reply.status]).toEqual(['"1"', 200]);
    });

    it.each(['"2"', '1', '"11"'])(
      'If-None-Match: %s, which is not the current version → 200',
      async (tags) => {
        const user = await registerUser(app);
        const reply = await get(`/v1/users/${user.id}`, user.token, { 'If-None-Match': tags });
        expect([reply.status, reply.body.id]).toEqual([200, user.id]);
      },
    );
  });

  describe('listing', () => {
    const idsOf = (reply: Reply): string[] => reply.body.data.map(({ id }: TestUser) => id);

    it('the list of users is for admins', async () => {
      const [user, support] = [await registerUser(app), await registerSupportUser(app)];
      expectProblem(await get('/v1/users', user.token), 403, 'forbidden');
      expectProblem(await get('/v1/users', support.token), 403, 'forbidden');
      const page = await get('/v1/users?limit=1', admin);
      expect([page.status, page.body.data.length]).toEqual([200, 1]);
      expect(page.headers.get('cache-control')).toBe('private, no-cache');
    });

    it('the list finds a user by the current username, whatever its case', async () => {
      const user = await registerUser(app);
      const find = async (username: string): Promise<string[]> =>
        idsOf(await get(`/v1/users?username=${username}`, admin));
      expect(await find(user.username)).toEqual([user.id]);
      expect(await find(user.username.toUpperCase())).toEqual([user.id]);
      expect(await find('nobody-has-this')).toEqual([]);
      const newUsername = uniqueUsername();
      await patch(user.id, user.token, { username: newUsername }, '*');
      expect(await find(user.username)).toEqual([]);
      expect(await find(newUsername)).toEqual([user.id]);
    });

    it.each([
      ['a malformed username', 'username=a%20b', '/username'],
      ['a cursor with a username', 'username=ada&cursor=W10', '/cursor'],
    ])('the list rejects %s', async (_, query, pointer) => {
      expect(pointersOf(await get(`/v1/users?${query}`, admin))).toEqual([pointer]);
    });

    /** Reads pages until there is no `Link`; calls `afterFirstPage` between the first two. */
    async function readAllPages(
      firstPath: string,
      afterFirstPage: () => Promise<void>,
    ): Promise<string[]> {
      const ids: string[] = [];
      let path: string | undefined = firstPath;
      let pages = 0;
      while (path !== undefined) {
        const reply: Reply = await get(path, admin);
        ids.push(...idsOf(reply));
        path = /^<([^>]+)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
        const linkedCursor = path && new URL(path, app.url).searchParams.get('cursor');
        expect(linkedCursor ?? null).toBe(reply.body.next);
        pages++;
        if (pages === 1) await afterFirstPage();
      }
      return ids;
    }

    it('pages newest first by Link, each user once, while users come, change and go', async () => {
      const users: TestUser[] = [];
      for (let count = 0; count < 7; count++) users.push(await registerUser(app));
      const [, changed, , , , , newest] = users as [TestUser, TestUser, ...TestUser[]];
      const ids = await readAllPages('/v1/users?limit=3', async () => {
        await registerUser(app);
        await app.call('DELETE', `/v1/users/${newest?.id}`, { token: admin });
        await patch(changed.id, admin, { username: uniqueUsername() }, '*');
      });
      expect(new Set(ids).size).toBe(ids.length);
      const expected = users.map(({ id }) => id).reverse();
      expect(ids.filter((id) => expected.includes(id))).toEqual(expected);
      expect(idsOf(await get('/v1/users?limit=100', admin))).not.toContain(newest?.id);
    });
  });

  describe('changing', () => {
    it('a change without If-Match → 428, and nothing changes', async () => {
      const user = await registerUser(app);
      const reply = await patch(user.id, user.token, { email: uniqueEmail() });
      expectProblem(reply, 428, 'precondition-required');
      expect((await getMe(user.token)).body).toMatchObject({ version: 1, email: user.email });
    });

    it.each(['"0"', '"2"', 'W/"1"', '"0", W/"1"', '"0","2"'])(
      'a change with If-Match: %s, which does not name the version → 412, and nothing changes',
      async (tags) => {
        const user = await registerUser(app);
        const reply = await patch(user.id, user.token, { email: uniqueEmail() }, tags);
        expectProblem(reply, 412, 'version-mismatch');
        expect(reply.headers.get('etag')).toBe('"1"');
        expect((await getMe(user.token)).body).toMatchObject({ version: 1, email: user.email });
      },
    );

    it.each([
      ['its tag', '"1"'],
      ['a list with its tag', '"0", "1"'],
      ['a repeated header', ['"7"', '"1"']],
      ['any tag', '*'],
      ['its tag among a weak one and spaces', ' W/"1", "1" '],
    ])('a change with If-Match that names the version is made: %s', async (_, tags) => {
      const user = await registerUser(app);
      const email = uniqueEmail();
      const reply = await patch(user.id, user.token, { email }, tags);
      expect([reply.status, reply.headers.get('etag')]).toEqual([200, '"2"']);
      expect(reply.body).toMatchObject({ version: 2, email });
      expect(reply.body.updatedAt >= reply.body.createdAt).toBe(true);
      expect((await getMe(user.token)).body).toEqual(reply.body);
    });

    it('each change increases the version by one', async () => {
      const user = await registerUser(app);
      const first = await patch(user.id, user.token, { email: uniqueEmail() }, '"1"');
      const second = await patch(user.id, user.token, { email: uniqueEmail() }, '"2"');
      expect([first.body.version, second.body.version]).toEqual([2, 3]);
      expect((await getMe(user.token)).body).toEqual(second.body);
    });

    it('of several changes of one version at the same moment, one is made', async () => {
      const user = await registerUser(app);
      const replies = await Promise.all(
        Array.from({ length: 8 }, () =>
          patch(user.id, user.token, { username: uniqueUsername() }, '"1"'),
        ),
      );
      const made = replies.filter(({ status }) => status === 200);
      expect(made).toHaveLength(1);
      expect(replies.filter(({ status }) => status === 412)).toHaveLength(7);
      expect((await getMe(user.token)).body).toEqual(made[0]?.body);
    });

    it('a change that breaks several rules is rejected as 404, 428, 412, 409', async () => {
      const [user, neighbour] = [await registerUser(app), await registerUser(app)];
      const stranger = await registerUser(app);
      const taken = { username: neighbour.username.toUpperCase() };
      expectProblem(await patch(user.id, stranger.token, taken), 404, 'not-found');
      expectProblem(await patch(user.id, user.token, taken), 428, 'precondition-required');
      expectProblem(await patch(user.id, user.token, taken, '"9"'), 412, 'version-mismatch');
      expectProblem(await patch(user.id, user.token, taken, '"1"'), 409, 'username-taken');
    });

    it('the names of another user are taken, whatever their case; your own are not', async () => {
      const [user, neighbour] = [await registerUser(app), await registerUser(app)];
      const username = { username: neighbour.username.toUpperCase() };
      expectProblem(await patch(user.id, user.token, username, '"1"'), 409, 'username-taken');
      const email = { email: neighbour.email.toUpperCase() };
      expectProblem(await patch(user.id, user.token, email, '"1"'), 409, 'email-taken');
      const ownUsername = { username: user.username.toUpperCase() };
      const reply = await patch(user.id, admin, ownUsername, '"1"');
      expect([reply.status, reply.body.username]).toEqual([200, user.username]);
    });

    it.each(['roles', 'password', 'id', 'version'])('a change cannot set %s', async (property) => {
      const user = await registerUser(app);
      const reply = await patch(user.id, user.token, { [property]: 'admin' }, '*');
      expect(validationErrorsOf(reply)).toEqual([`/${property} unknown-property`]);
    });

    it.each(['username', 'email'])('a change cannot set %s to null', async (property) => {
      const user = await registerUser(app);
      const reply = await patch(user.id, user.token, { [property]: null }, '*');
      expect(pointersOf(reply)).toEqual([`/${property}`]);
    });

    it('a change without properties keeps the version', async () => {
      const user = await registerUser(app);
      const reply = await patch(user.id, user.token, {}, '"1"');
      expect([reply.status, reply.body.version]).toEqual([200, 1]);
    });
  });

  describe('roles', () => {
    const setRoles = (
      id: string,
      token: string,
      roles: unknown,
      headers: Headers = {},
    ): Promise<Reply> =>
      app.call('PUT', `/v1/users/${id}/roles`, { token, body: { roles }, headers });

    it("roles that an admin sets apply to the user's next request", async () => {
      const user = await registerUser(app);
      expectProblem(await get('/v1/users', user.token), 403, 'forbidden');
      const reply = await setRoles(user.id, admin, ['user', 'admin']);
      expect([reply.status, reply.headers.get('etag')]).toEqual([200, '"2"']);
      expect(reply.body).toMatchObject({ roles: ['user', 'admin'], version: 2 });
      expect((await get('/v1/users', user.token)).status).toBe(200);
      await setRoles(user.id, admin, ['user']);
      expectProblem(await get('/v1/users', user.token), 403, 'forbidden');
    });

    it('only admins set roles; others get 403, whether the user exists or not', async () => {
      const [user, support] = [await registerUser(app), await registerSupportUser(app)];
      const setAdmin = (id: string, token: string): Promise<Reply> =>
        setRoles(id, token, ['admin']);
      expectProblem(await setAdmin(user.id, user.token), 403, 'forbidden');
      expectProblem(await setAdmin(randomUUID(), user.token), 403, 'forbidden');
      expectProblem(await setAdmin(user.id, support.token), 403, 'forbidden');
      expectProblem(await setAdmin(randomUUID(), support.token), 403, 'forbidden');
      expectProblem(await setAdmin(randomUUID(), admin), 404, 'not-found');
    });

    it.each([
      ['no role', [], '/roles'],
      ['an unknown role', ['root'], '/roles/0'],
      ['a repeated role', ['user', 'user'], '/roles/1'],
      ['a string', 'admin', '/roles'],
      ['null', null, '/roles'],
      ['a list with null', [null], '/roles/0'],
      ['a role in upper case', ['ADMIN'], '/roles/0'],
      ['more roles than there are', ['user', 'support', 'admin', 'x'], '/roles/3'],
      ['an object', {}, '/roles'],
    ])('a list of known roles, each once, is required: %s is rejected', async (_, roles, at) => {
      const user = await registerUser(app);
      expect(pointersOf(await setRoles(user.id, admin, roles))).toEqual([at]);
    });

    it('If-Match is optional for roles, and applies when it is sent', async () => {
      const user = await registerUser(app);
      const outdated = await setRoles(user.id, admin, ['user'], { 'If-Match': '"9"' });
      expectProblem(outdated, 412, 'version-mismatch');
      const current = await setRoles(user.id, admin, ['support', 'user'], { 'If-Match': '"1"' });
      expect(current.body.roles).toEqual(['support', 'user']);
    });
  });
});
