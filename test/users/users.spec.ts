/** Users through the API: registered, read by whom they concern, changed under their version, deleted without their orders. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type Call, type Reply, startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  logIn,
  PASSWORD,
  person,
  type Person,
  placeOrder,
  supportPerson,
  uniqueName,
} from '../support/factories.js';
import { anonymous, expectProblem, faultsOf, pointersOf } from '../support/problem.js';

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const MILLISECONDS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

describe('users', () => {
  let app: TestApp;
  let admin: string;

  beforeAll(async () => {
    app = await startApp();
    admin = await adminToken(app);
  });
  afterAll(() => app.close());

  const register = (change: object = {}): Promise<Reply> => {
    const username = uniqueName();
    return app.call('POST', '/v1/users', {
      body: { username, email: `${username}@example.com`, password: PASSWORD, ...change },
    });
  };
  const get = (
    path: string,
    token?: string,
    headers: Record<string, string> = {},
  ): Promise<Reply> => app.call('GET', path, { token, headers });
  const patch = (
    id: string,
    token: string,
    body: object,
    ifMatch?: string | string[],
  ): Promise<Reply> =>
    app.call('PATCH', `/v1/users/${id}`, {
      token,
      body,
      headers: ifMatch === undefined ? {} : { 'If-Match': ifMatch },
    });
  const status = async (reply: Promise<Reply>): Promise<number> => (await reply).status;

  describe('registering', () => {
    it('answers 201 with the user, where it is and its version, and no trace of the password', async () => {
      const username = uniqueName();
      const reply = await register({ username, email: `${username}@Example.COM` });
      expect(reply.status).toBe(201);
      expect(reply.body).toEqual({
        id: expect.stringMatching(UUID_V7),
        username,
        email: `${username}@Example.COM`,
        roles: ['user'],
        version: 1,
        createdAt: expect.stringMatching(MILLISECONDS),
        updatedAt: reply.body.createdAt,
      });
      expect(reply.headers.get('location')).toBe(`/v1/users/${reply.body.id}`);
      expect(reply.headers.get('etag')).toBe('"1"');
      const read = await get(reply.headers.get('location') as string, admin);
      expect([read.status, read.body]).toEqual([200, reply.body]);
    });

    it('takes a username once, whatever its case', async () => {
      const username = uniqueName();
      expect((await register({ username: username.toUpperCase() })).body.username).toBe(username);
      for (const again of [username, username.toUpperCase(), `U${username.slice(1)}`])
        expectProblem(await register({ username: again }), 409, 'username-taken');
    });

    it('takes an email address once, whatever its case', async () => {
      const email = `${uniqueName()}@example.com`;
      expect(await status(register({ email }))).toBe(201);
      for (const again of [email, email.toUpperCase(), email.replace('example', 'ExAmPlE')])
        expectProblem(await register({ email: again }), 409, 'email-taken');
    });

    it('takes a name once of many who want it at the same moment', async () => {
      const username = uniqueName();
      const replies = await Promise.all(Array.from({ length: 6 }, () => register({ username })));
      expect(replies.map((reply) => reply.status).sort()).toEqual([201, 409, 409, 409, 409, 409]);
      replies
        .filter((reply) => reply.status === 409)
        .forEach((reply) => expectProblem(reply, 409, 'username-taken'));
    });

    it('takes usernames of 3 to 32 characters', async () => {
      const tail = Date.now().toString(36).slice(-4);
      for (const username of [`${tail.slice(-2)}_`, `._-${tail}`, `${tail}${'z'.repeat(28)}`])
        expect(await status(register({ username }))).toBe(201);
    });

    it('gives nobody a role, a version or an id of their own choice', async () => {
      for (const extra of ['roles', 'id', 'version', 'isAdmin', 'createdAt', 'deletedAt'])
        expect(faultsOf(await register({ [extra]: ['admin'] }))).toEqual([
          `/${extra} unknown-property`,
        ]);
    });
  });

  describe('passwords', () => {
    it('have 15 to 128 code points, of any Unicode', async () => {
      const fine = [
        'fifteen letters'.slice(0, 15),
        '🐙🦀🐡🦈🐳🐬🦭🐧🦜🦢🦩🐊🐢🦎🐍',
        'пароль из слов на кириллице',
        '灯台守は波を数えて朝を待ちながら歌う',
        `${'long lines of words that nobody guesses, '.repeat(4).slice(0, 127)}🐙`,
        '   spaces   count   ',
      ];
      for (const password of fine)
        expect([password, await status(register({ password }))]).toEqual([password, 201]);
      for (const password of [
        '🐙🦀🐡🦈🐳🐬🦭🐧🦜🦢🦩🐊🐢🦎',
        'fourteen chars',
        `${'nobody guesses this line of words '.repeat(4)}`.slice(0, 129),
      ])
        expect(pointersOf(await register({ password }))).toEqual(['/password']);
    });

    it('are not common ones', async () => {
      const common = [
        'passwordpassword',
        'PASSWORDPASSWORD',
        '123456789012345',
        'qwertyuiopasdfgh',
        'password1234567',
        'iloveyouiloveyou',
        '111111111111111',
        'abcdefghijklmnop',
        '1qaz2wsx3edc4rfv',
        'qwerty123456789',
        'P@ssw0rdP@ssw0rd',
      ];
      for (const password of common) {
        const reply = await register({ password });
        expect([password, reply.status]).toEqual([password, 400]);
        expect(faultsOf(reply)).toEqual(['/password common']);
      }
    });

    it('are not common ones in other letters, spaced out, or with a tail', async () => {
      for (const password of [
        'pàsswördpàsswörd',
        'ｐａｓｓｗｏｒｄ１２３４５６７８',
        'парольпарольпароль',
        'абвгдежзийклмно',
        '🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙🐙',
        'i l o v e y o u i l o v e y o u',
        '123-456-789-012-345',
        'Holdfast-Holdfast-1',
        'holdfast password!',
      ]) {
        const reply = await register({ password });
        expect([password, reply.status]).toEqual([password, 400]);
        expect(faultsOf(reply)).toEqual(['/password common']);
      }
    });

    it('are not made of the username or the email address', async () => {
      const username = `lighthouse.keeper.${Date.now().toString(36)}`;
      const email = `${username}@windy-shore.example`;
      const mine = [
        ...[
          username,
          username.toUpperCase(),
          email,
          email.toUpperCase(),
          `${username}2026!`,
          `x-${email}-1`,
        ],
        ...[
          'lighthouse keeper',
          'LightHouse_Keeper_99',
          'lïghthöuse.këeper',
          'keeperkeeperkeeper',
          'windy-shore-lighthouse',
        ],
      ];
      for (const password of mine)
        expect([password, faultsOf(await register({ username, email, password }))]).toEqual([
          password,
          ['/password own-name'],
        ]);
      const phrase = 'the lighthouse keeper counts waves';
      expect(await status(register({ username, email, password: phrase }))).toBe(201);
      const token = await logIn(app, username, phrase);
      const { body } = await get('/v1/users/me', token);
      const change = await app.call('PUT', `/v1/users/${body.id as string}/password`, {
        token,
        body: { currentPassword: phrase, newPassword: 'LightHouse_Keeper_99' },
      });
      expect(faultsOf(change)).toEqual(['/newPassword own-name']);
    });

    it('are counted in NFC', async () => {
      const accented = 'ế'.normalize('NFD');
      expect([...accented]).toHaveLength(3);
      const words = 'lőng wörds thát nobódy guessés, '.repeat(4).normalize('NFC').slice(0, 120);
      expect(await status(register({ password: words + accented.repeat(8) }))).toBe(201);
      expect(pointersOf(await register({ password: words + accented.repeat(9) }))).toEqual([
        '/password',
      ]);
      expect(pointersOf(await register({ password: 'gélé òù çà'.normalize('NFD') }))).toEqual([
        '/password',
      ]);
    });

    it('are the same in either normal form', async () => {
      const username = uniqueName();
      const password = 'é à ü ñ å ç ő š ł – été';
      expect(password.normalize('NFD')).not.toBe(password.normalize('NFC'));
      await register({ username, password: password.normalize('NFD') });
      for (const form of ['NFC', 'NFD'] as const)
        expect(await logIn(app, username, password.normalize(form))).toMatch(/./);
    });

    it('change for who knows the old one, and end every session but this', async () => {
      const someone = await person(app);
      const others = [await logIn(app, someone.username), await logIn(app, someone.username)];
      const next = 'eleven tall ships at anchor';
      const change = (body: object): Promise<Reply> =>
        app.call('PUT', `/v1/users/${someone.id}/password`, { token: someone.token, body });

      expectProblem(
        await change({ currentPassword: 'not the one it was', newPassword: next }),
        403,
        'wrong-password',
      );
      expect(
        pointersOf(await change({ currentPassword: PASSWORD, newPassword: 'too short' })),
      ).toEqual(['/newPassword']);
      expect(
        faultsOf(await change({ currentPassword: PASSWORD, newPassword: 'passwordpassword' })),
      ).toEqual(['/newPassword common']);
      expect(
        faultsOf(await change({ currentPassword: PASSWORD, newPassword: someone.email })),
      ).toEqual(['/newPassword own-name']);
      for (const token of others) expect(await status(get('/v1/users/me', token))).toBe(200);

      const changed = await change({ currentPassword: PASSWORD, newPassword: next });
      expect([changed.status, changed.text]).toEqual([204, '']);
      for (const token of others)
        expectProblem(await get('/v1/users/me', token), 401, 'unauthenticated');
      expect(await status(get('/v1/users/me', someone.token))).toBe(200);
      expectProblem(
        await app.call('POST', '/v1/sessions', {
          body: { username: someone.username, password: PASSWORD },
        }),
        401,
        'invalid-credentials',
      );
      expect(await logIn(app, someone.username, next)).toMatch(/./);
    });

    it('are nobody else’s to change: 404 to a stranger, 403 to an admin', async () => {
      const [someone, stranger] = [await person(app), await person(app)];
      const body = { currentPassword: PASSWORD, newPassword: 'eleven tall ships at anchor' };
      const path = `/v1/users/${someone.id}/password`;
      expectProblem(await app.call('PUT', path, { token: stranger.token, body }), 404, 'not-found');
      expectProblem(await app.call('PUT', path, { token: admin, body }), 403, 'forbidden');
      expectProblem(
        await app.call('PUT', `/v1/users/${crypto.randomUUID()}/password`, { token: admin, body }),
        404,
        'not-found',
      );
      expect(await status(get('/v1/users/me', someone.token))).toBe(200);
    });
  });

  describe('reading', () => {
    it('is for oneself and an admin; to others there is no such user', async () => {
      const [someone, stranger, support] = [
        await person(app),
        await person(app),
        await supportPerson(app),
      ];
      const me = await get('/v1/users/me', someone.token);
      expect(me.body).toMatchObject({
        id: someone.id,
        username: someone.username,
        email: someone.email,
        roles: ['user'],
      });
      for (const token of [someone.token, admin]) {
        for (const id of [someone.id, someone.id.toUpperCase()]) {
          const read = await get(`/v1/users/${id}`, token);
          expect([read.status, read.body]).toEqual([200, me.body]);
        }
      }
      const missing = await get(`/v1/users/${crypto.randomUUID()}`, stranger.token);
      for (const token of [stranger.token, support.token]) {
        const hidden = await get(`/v1/users/${someone.id}`, token);
        expectProblem(hidden, 404, 'not-found');
        expect(anonymous(hidden)).toEqual(anonymous(missing));
      }
    });

    it('carries a strong ETag, Cache-Control and Cache-Status, and gives 304 for what the caller has', async () => {
      const someone = await person(app);
      const path = `/v1/users/${someone.id}`;
      const read = await get(path, someone.token);
      expect(
        ['etag', 'cache-control', 'cache-status'].map((name) => read.headers.get(name)),
      ).toEqual([
        '"1"',
        'private, no-cache',
        'holdfast; hit', // the guard has just read it
      ]);
      expect(
        (await get(path, someone.token, { 'Cache-Control': 'no-cache' })).headers.get(
          'cache-status',
        ),
      ).toBe('holdfast; fwd=request');
      for (const tags of ['"1"', 'W/"1"', '"0", "1"', '*']) {
        const same = await get(path, someone.token, { 'If-None-Match': tags });
        expect([
          same.status,
          same.text,
          same.headers.get('etag'),
          same.headers.get('cache-control'),
        ]).toEqual([304, '', '"1"', 'private, no-cache']);
        expect(same.headers.get('cache-status')).toBe('holdfast; hit');
        expect(same.headers.get('content-type')).toBeNull();
      }
      for (const tags of ['"2"', '1', '"11"'])
        expect(await status(get(path, someone.token, { 'If-None-Match': tags }))).toBe(200);
      expect((await get('/v1/users/me', someone.token, { 'If-None-Match': '"1"' })).status).toBe(
        304,
      );
    });
  });

  describe('listing', () => {
    it('is for admins', async () => {
      for (const { token } of [await person(app), await supportPerson(app)])
        expectProblem(await get('/v1/users', token), 403, 'forbidden');
      const page = await get('/v1/users?limit=1', admin);
      expect([page.status, page.body.data.length, page.headers.get('cache-control')]).toEqual([
        200,
        1,
        'private, no-cache',
      ]);
    });

    it('finds one by username in any case, as it is now', async () => {
      const someone = await person(app);
      const find = async (username: string): Promise<string[]> =>
        (await get(`/v1/users?username=${username}`, admin)).body.data.map(({ id }: Person) => id);
      expect(await find(someone.username)).toEqual([someone.id]);
      expect(await find(someone.username.toUpperCase())).toEqual([someone.id]);
      expect(await find('nobody-has-this')).toEqual([]);
      const renamed = uniqueName();
      await patch(someone.id, someone.token, { username: renamed }, '*');
      expect([await find(someone.username), await find(renamed)]).toEqual([[], [someone.id]]);
      expect(pointersOf(await get('/v1/users?username=a%20b', admin))).toEqual(['/username']);
      expect(pointersOf(await get(`/v1/users?username=${renamed}&cursor=W10`, admin))).toEqual([
        '/cursor',
      ]);
    });

    it('pages newest first by Link, each user once, while users come and go', async () => {
      const people: Person[] = [];
      for (let made = 0; made < 7; made++) people.push(await person(app));
      const seen: string[] = [];
      let next: string | undefined = '/v1/users?limit=3';
      for (let page = 0; next !== undefined; page++) {
        const reply: Reply = await get(next, admin);
        seen.push(...reply.body.data.map(({ id }: Person) => id));
        next = /^<([^>]+)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
        expect(next === undefined).toBe(reply.body.next === null);
        if (next) expect(new URL(next, app.url).searchParams.get('cursor')).toBe(reply.body.next);
        if (page === 0) {
          await person(app);
          await app.call('DELETE', `/v1/users/${people[6]?.id}`, { token: admin });
          await patch((people[1] as Person).id, admin, { username: uniqueName() }, '*');
        }
      }
      expect(new Set(seen).size).toBe(seen.length);
      expect(seen.filter((id) => people.some((one) => one.id === id))).toEqual(
        people.map(({ id }) => id).reverse(),
      );
      expect(
        (await get('/v1/users?limit=100', admin)).body.data.map(({ id }: Person) => id),
      ).not.toContain(people[6]?.id);
    });
  });

  describe('changing', () => {
    it('needs If-Match: 428 without, 412 with an old, a weak or a garbled one', async () => {
      const someone = await person(app);
      const body = { email: `${uniqueName()}@example.com` };
      expectProblem(await patch(someone.id, someone.token, body), 428, 'precondition-required');
      for (const tags of ['"0"', '"2"', 'W/"1"', '1', '"1', '', '"0", W/"1"', '"0","2"']) {
        const stale = await patch(someone.id, someone.token, body, tags);
        expectProblem(stale, 412, 'version-mismatch');
        expect(stale.headers.get('etag')).toBe('"1"');
      }
      expect((await get('/v1/users/me', someone.token)).body).toMatchObject({
        version: 1,
        email: someone.email,
      });
    });

    it('takes the tag, a list with it, a repeated header, or *', async () => {
      const someone = await person(app);
      let version = 1;
      for (const tags of ['"1"', '"0", "2"', ['"7"', '"3"'], '*', ' W/"5", "5" ']) {
        const email = `${uniqueName()}@example.com`;
        const reply = await patch(someone.id, someone.token, { email }, tags);
        version++;
        expect([
          reply.status,
          reply.body.version,
          reply.headers.get('etag'),
          reply.body.email,
        ]).toEqual([200, version, `"${version}"`, email]);
        expect((await get('/v1/users/me', someone.token)).body).toEqual(reply.body);
        expect(reply.body.updatedAt >= reply.body.createdAt).toBe(true);
      }
    });

    it('lets one of many writers with the same tag win', async () => {
      const someone = await person(app);
      const replies = await Promise.all(
        Array.from({ length: 8 }, () =>
          patch(someone.id, someone.token, { username: uniqueName() }, '"1"'),
        ),
      );
      expect(replies.map((reply) => reply.status).sort()).toEqual([
        200,
        ...Array<number>(7).fill(412),
      ]);
      const won = replies.find((reply) => reply.status === 200) as Reply;
      expect((await get('/v1/users/me', someone.token)).body).toEqual(won.body);
    });

    it('keeps names unique and is refused in the order 404, 428, 412, 409', async () => {
      const [someone, other, stranger] = [await person(app), await person(app), await person(app)];
      const taken = { username: other.username.toUpperCase() };
      expectProblem(await patch(someone.id, stranger.token, taken), 404, 'not-found');
      expectProblem(await patch(someone.id, someone.token, taken), 428, 'precondition-required');
      expectProblem(await patch(someone.id, someone.token, taken, '"9"'), 412, 'version-mismatch');
      expectProblem(await patch(someone.id, someone.token, taken, '"1"'), 409, 'username-taken');
      expectProblem(
        await patch(someone.id, someone.token, { email: other.email.toUpperCase() }, '"1"'),
        409,
        'email-taken',
      );
      expect(
        (await patch(someone.id, admin, { username: someone.username.toUpperCase() }, '"1"')).body
          .username,
      ).toBe(someone.username);
    });

    it('touches nothing but username and email', async () => {
      const someone = await person(app);
      for (const name of ['roles', 'password', 'id', 'version'])
        expect(faultsOf(await patch(someone.id, someone.token, { [name]: 'admin' }, '*'))).toEqual([
          `/${name} unknown-property`,
        ]);
      for (const name of ['username', 'email'])
        expect(pointersOf(await patch(someone.id, someone.token, { [name]: null }, '*'))).toEqual([
          `/${name}`,
        ]);
      const same = await patch(someone.id, someone.token, {}, '"1"');
      expect([same.status, same.body.version]).toEqual([200, 1]);
    });
  });

  describe('roles', () => {
    const setRoles = (id: string, token: string, roles: unknown, headers = {}): Promise<Reply> =>
      app.call('PUT', `/v1/users/${id}/roles`, { token, body: { roles }, headers } as Call);

    it('are an admin’s to set and in force on the very next request', async () => {
      const someone = await person(app);
      expectProblem(await get('/v1/users', someone.token), 403, 'forbidden');
      const raised = await setRoles(someone.id, admin, ['user', 'admin']);
      expect([
        raised.status,
        raised.body.roles,
        raised.body.version,
        raised.headers.get('etag'),
      ]).toEqual([200, ['user', 'admin'], 2, '"2"']);
      expect(await status(get('/v1/users', someone.token))).toBe(200);
      await setRoles(someone.id, admin, ['user']);
      expectProblem(await get('/v1/users', someone.token), 403, 'forbidden');
    });

    it('are refused to others, whether the user exists or not', async () => {
      const [someone, support] = [await person(app), await supportPerson(app)];
      for (const token of [someone.token, support.token])
        for (const id of [someone.id, crypto.randomUUID()])
          expectProblem(await setRoles(id, token, ['admin']), 403, 'forbidden');
      expectProblem(await setRoles(crypto.randomUUID(), admin, ['admin']), 404, 'not-found');
    });

    it('are known words, each once, at least one', async () => {
      const someone = await person(app);
      for (const roles of [
        [],
        ['root'],
        ['user', 'user'],
        'admin',
        null,
        [null],
        ['ADMIN'],
        ['user', 'support', 'admin', 'x'],
        {},
      ])
        expect(pointersOf(await setRoles(someone.id, admin, roles))).toEqual(['/roles']);
      expectProblem(
        await setRoles(someone.id, admin, ['user'], { 'If-Match': '"9"' }),
        412,
        'version-mismatch',
      );
      expect(
        (await setRoles(someone.id, admin, ['support', 'user'], { 'If-Match': '"1"' })).body.roles,
      ).toEqual(['support', 'user']);
    });
  });

  describe('deleting', () => {
    it('ends the sessions at once, keeps the orders, frees the names', async () => {
      const someone = await person(app);
      const second = await logIn(app, someone.username);
      const order = await placeOrder(app, someone.token);
      const gone = await app.call('DELETE', `/v1/users/${someone.id}`, { token: someone.token });
      expect([gone.status, gone.text]).toEqual([204, '']);

      for (const token of [someone.token, second])
        expectProblem(await get('/v1/users/me', token), 401, 'unauthenticated');
      expectProblem(
        await app.call('POST', '/v1/sessions', {
          body: { username: someone.username, password: PASSWORD },
        }),
        401,
        'invalid-credentials',
      );
      expectProblem(await get(`/v1/users/${someone.id}`, admin), 404, 'not-found');
      for (const method of ['DELETE', 'PATCH', 'PUT'])
        expectProblem(
          await app.call(method, `/v1/users/${someone.id}${method === 'PUT' ? '/roles' : ''}`, {
            token: admin,
            headers: { 'If-Match': '*' },
            ...(method === 'DELETE' ? {} : { body: method === 'PUT' ? { roles: ['user'] } : {} }),
          }),
          404,
          'not-found',
        );
      expect((await get(`/v1/orders/${order.id}`, admin)).body).toEqual(order);
      expect((await get(`/v1/users/${someone.id}/orders`, admin)).body.data).toEqual([order]);

      const heir = await register({ username: someone.username, email: someone.email });
      expect(heir.status).toBe(201);
      expect(heir.body.id).not.toBe(someone.id);
      expect((await get(`/v1/users?username=${someone.username}`, admin)).body.data).toEqual([
        heir.body,
      ]);
      expect((await get('/v1/orders', await logIn(app, someone.username))).body.data).toEqual([]);
    });

    it('is for oneself and an admin, and honours If-Match', async () => {
      const [someone, stranger] = [await person(app), await person(app)];
      const remove = (token: string, headers = {}): Promise<Reply> =>
        app.call('DELETE', `/v1/users/${someone.id}`, { token, headers });
      expectProblem(await remove(stranger.token), 404, 'not-found');
      expectProblem(await remove(admin, { 'If-Match': '"9"' }), 412, 'version-mismatch');
      expect(await status(get('/v1/users/me', someone.token))).toBe(200);
      expect((await remove(admin, { 'If-Match': '"1"' })).status).toBe(204);
      expectProblem(await get('/v1/users/me', someone.token), 401, 'unauthenticated');
    });
  });
});
