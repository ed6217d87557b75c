/** Sessions through the API: log in, list, end, expire. */
import { createHash, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { SessionsService } from '../../../src/auth/sessions/sessions.service.js';
import { createToken } from '../../../src/auth/sessions/token.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { logIn, PASSWORD, registerUser, type TestUser } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem, pointersOf, withoutRequestFields } from '../../support/problem.js';
import { TestClock } from '../../support/test-clock.js';

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7/;
const RFC3339_MILLISECONDS = /\.\d{3}Z$/;
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

describe('sessions', () => {
  let app: TestApp;

  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const tryLogIn = (username: unknown, password: unknown, headers = {}): Promise<Reply> =>
    app.call('POST', '/v1/sessions', { body: { username, password }, headers });
  const list = (token: string): Promise<Reply> => app.call('GET', '/v1/sessions', { token });
  const getCurrent = (token: string): Promise<Reply> =>
    app.call('GET', '/v1/sessions/current', { token });
  const end = (token: string, path: string): Promise<Reply> =>
    app.call('DELETE', `/v1/sessions${path}`, { token });
  const idOf = async (token: string): Promise<string> =>
    (await getCurrent(token)).body.id as string;

  async function isLive(token: string): Promise<boolean> {
    const reply = await getCurrent(token);
    if (reply.status !== 200) expectProblem(reply, 401, 'unauthenticated');
    return reply.status === 200;
  }
  const areLive = (tokens: readonly string[]): Promise<boolean[]> =>
    Promise.all(tokens.map(isLive));

  /** A user with three sessions. */
  async function startThree(): Promise<{ user: TestUser; tokens: [string, string, string] }> {
    const user = await registerUser(app);
    const second = await logIn(app, user.username);
    const third = await logIn(app, user.username);
    return { user, tokens: [user.token, second, third] };
  }

  describe('logging in', () => {
    it('a login answers 201 with the session and its token, never to be stored', async () => {
      const user = await registerUser(app);
      const headers = { 'User-Agent': 'lighthouse/1.0 (é)' };
      const reply = await tryLogIn(user.username, PASSWORD, headers);
      expect([reply.status, reply.headers.get('cache-control')]).toEqual([201, 'no-store']);
      const { token, ...session } = reply.body;
      expect(token).toMatch(/^hf_[\w-]{49}$/);
      expect(reply.headers.get('location')).toBe(`/v1/sessions/${session.id}`);
      const time: unknown = expect.stringMatching(RFC3339_MILLISECONDS);
      expect(session).toEqual({
        id: expect.stringMatching(UUID_V7),
        userId: user.id,
        createdAt: time,
        lastSeenAt: time,
        expiresAt: time,
        idleExpiresAt: time,
        userAgent: 'lighthouse/1.0 (?)',
        ip: '127.0.0.1',
        current: true,
      });
      const lastSeenAt = Date.parse(session.lastSeenAt);
      expect(Date.parse(session.expiresAt) - lastSeenAt).toBe(86_400_000);
      expect(Date.parse(session.idleExpiresAt) - lastSeenAt).toBe(3_600_000);
      expect((await getCurrent(token)).body).toEqual(session);
    });

    it.each(['/v1/sessions', '/v1/sessions/current'])(
      'the token and its hash are not in the answer of GET %s',
      async (path) => {
        const { token } = await registerUser(app);
        const reply = await app.call('GET', path, { token });
        expect(reply.status).toBe(200);
        expect(reply.text).not.toContain(token);
        expect(reply.text).not.toContain(sha256(token));
        expect(reply.headers.get('cache-control')).toBe('private, no-cache');
      },
    );

    it('a login accepts the username and the email address, whatever their case', async () => {
      const { username, email } = await registerUser(app);
      const names = [username, username.toUpperCase(), email, email.toUpperCase()];
      const replies = await Promise.all(names.map((name) => tryLogIn(name, PASSWORD)));
      expect(replies.map(({ status }) => status)).toEqual([201, 201, 201, 201]);
    });

    it('a wrong password and an unknown user get the same answer', async () => {
      const { username, email } = await registerUser(app);
      const reference = await tryLogIn(username, 'ten tall ships at anchor');
      expectProblem(reference, 401, 'invalid-credentials');
      const rejected = await Promise.all([
        tryLogIn(email, 'ten tall ships at anchor'),
        tryLogIn('nobody-has-this', PASSWORD),
        tryLogIn('nobody@example.com', PASSWORD),
        tryLogIn(username, PASSWORD.toUpperCase()),
        tryLogIn(username, `${PASSWORD} `),
        tryLogIn(username, 'x'),
        tryLogIn("' OR 1=1 --", PASSWORD),
      ]);
      const expected = withoutRequestFields(reference);
      expect(rejected.map(withoutRequestFields)).toEqual(rejected.map(() => expected));
      rejected.forEach((reply) => expectProblem(reply, 401, 'invalid-credentials'));
    });

    it('a login that lacks a member or has a malformed one is rejected by name', async () => {
      const empty = await app.call('POST', '/v1/sessions', { body: {} });
      expect(pointersOf(empty).sort()).toEqual(['/password', '/username']);
      expect(pointersOf(await tryLogIn(1, PASSWORD))).toEqual(['/username']);
      expect(pointersOf(await tryLogIn('someone', 'a\0'))).toEqual(['/password']);
    });
  });

  describe('listing', () => {
    it('the list has your own sessions, newest first, and marks the current one', async () => {
      const { user, tokens } = await startThree();
      await registerUser(app);
      const [first, second, third] = [
        await idOf(tokens[0]),
        await idOf(tokens[1]),
        await idOf(tokens[2]),
      ];
      const { status, body } = await list(tokens[1]);
      expect([status, body.next]).toEqual([200, null]);
      const listed = (body.data as Record<string, unknown>[]).map(({ id, userId, current }) => ({
        id,
        userId,
        current,
      }));
      expect(listed).toEqual([
        { id: third, userId: user.id, current: false },
        { id: second, userId: user.id, current: true },
        { id: first, userId: user.id, current: false },
      ]);
    });
  });

  describe('reading one', () => {
    const get = (token: string, id: string): Promise<Reply> =>
      app.call('GET', `/v1/sessions/${id}`, { token });

    it('the Location of a login is the session', async () => {
      const { username } = await registerUser(app);
      const login = await tryLogIn(username, PASSWORD);
      const { token, ...session } = login.body;
      const reply = await app.call('GET', login.headers.get('location') as string, { token });
      expect([reply.status, reply.body]).toEqual([200, session]);
      expect(reply.text).not.toContain(sha256(token));
    });

    it('a session that is not the current one says so', async () => {
      const { user, tokens } = await startThree();
      const [id, currentId] = [await idOf(tokens[1]), await idOf(tokens[0])];
      const { status, body } = await get(tokens[0], id.toUpperCase());
      expect([status, body.id, body.userId, body.current]).toEqual([200, id, user.id, false]);
      expect((await get(tokens[0], currentId)).body.current).toBe(true);
    });

    it("another user's session looks like one that does not exist", async () => {
      const { tokens } = await startThree();
      const stranger = await registerUser(app);
      const hidden = await get(stranger.token, await idOf(tokens[0]));
      const missing = await get(stranger.token, randomUUID());
      expectProblem(hidden, 404, 'not-found');
      expect(withoutRequestFields(hidden)).toEqual(withoutRequestFields(missing));
    });

    it('a session that has ended is 404, from the answer to its end on', async () => {
      const { tokens } = await startThree();
      const id = await idOf(tokens[1]);
      expect((await get(tokens[0], id)).status).toBe(200);
      await end(tokens[0], `/${id}`);
      expectProblem(await get(tokens[0], id), 404, 'not-found');
    });

    it('is answered by the cache', async () => {
      const { token } = await registerUser(app);
      const id = await idOf(token);
      await get(token, id);
      expect((await get(token, id)).headers.get('cache-status')).toBe('holdfast; hit');
    });
  });

  describe('ending', () => {
    it('DELETE /v1/sessions/current ends this session only', async () => {
      const { tokens } = await startThree();
      expect((await end(tokens[0], '/current')).status).toBe(204);
      expect(await areLive(tokens)).toEqual([false, true, true]);
      expect((await list(tokens[1])).body.data).toHaveLength(2);
    });

    it('DELETE /v1/sessions/{id} ends that session only, and once', async () => {
      const { tokens } = await startThree();
      const id = await idOf(tokens[1]);
      expect((await end(tokens[0], `/${id.toUpperCase()}`)).status).toBe(204);
      expect(await areLive(tokens)).toEqual([true, false, true]);
      expectProblem(await end(tokens[0], `/${id}`), 404, 'not-found');
    });

    it("another user's session looks like one that does not exist, and stays", async () => {
      const { tokens } = await startThree();
      const stranger = await registerUser(app);
      const hidden = await end(stranger.token, `/${await idOf(tokens[0])}`);
      const missing = await end(stranger.token, `/${randomUUID()}`);
      expectProblem(hidden, 404, 'not-found');
      expect(withoutRequestFields(hidden)).toEqual(withoutRequestFields(missing));
      expect(await areLive(tokens)).toEqual([true, true, true]);
    });

    it('DELETE /v1/sessions ends all of your own sessions', async () => {
      const { tokens } = await startThree();
      const stranger = await registerUser(app);
      expect((await end(tokens[1], '')).status).toBe(204);
      expect(await areLive([...tokens, stranger.token])).toEqual([false, false, false, true]);
    });

    it('DELETE /v1/sessions?keep=current ends all but the current session', async () => {
      const { tokens } = await startThree();
      expect((await end(tokens[1], '?keep=current')).status).toBe(204);
      expect(await areLive(tokens)).toEqual([false, true, false]);
    });

    it.each(['?keep=all', '?keep=', '?keep=current&keep=current', '?keep=CURRENT'])(
      'DELETE /v1/sessions%s is rejected and ends nothing',
      async (query) => {
        const { tokens } = await startThree();
        expect(pointersOf(await end(tokens[0], query))).toEqual(['/keep']);
        expect(await areLive(tokens)).toEqual([true, true, true]);
      },
    );

    it('no request that follows the end of a session is accepted, however close', async () => {
      const { username } = await registerUser(app);
      const statuses: number[][] = [];
      for (let round = 0; round < 10; round++) {
        const token = await logIn(app, username);
        await Promise.all([getCurrent(token), getCurrent(token), getCurrent(token)]);
        const ended = await end(token, '/current');
        const late = await Promise.all([getCurrent(token), list(token), end(token, '')]);
        statuses.push([ended, ...late].map(({ status }) => status));
      }
      expect(statuses).toEqual(Array<number[]>(10).fill([204, 401, 401, 401]));
    });
  });

  describe('the challenge of a 401 (RFC 6750)', () => {
    const challengeOf = (reply: Reply): string | null => reply.headers.get('www-authenticate');

    it('names no error when no token was sent', async () => {
      const anonymous = await app.call('GET', '/v1/users/me');
      expect(challengeOf(anonymous)).toBe('Bearer realm="holdfast"');
      const login = await tryLogIn('nobody-has-this', PASSWORD);
      expect(challengeOf(login)).toBe('Bearer realm="holdfast"');
    });

    it.each(['Bearer nonsense', 'Basic YTpi'])(
      'is "invalid_token" for %s, which is not a token',
      async (value) => {
        const headers = { Authorization: value };
        const reply = await app.call('GET', '/v1/users/me', { headers });
        expect(challengeOf(reply)).toBe('Bearer realm="holdfast", error="invalid_token"');
      },
    );

    it('is "invalid_token" for the token of an ended session', async () => {
      const { token } = await registerUser(app);
      await end(token, '/current');
      const reply = await app.call('GET', '/v1/users/me', { token });
      expect(challengeOf(reply)).toBe('Bearer realm="holdfast", error="invalid_token"');
    });
  });

  it('a user has at most 100 sessions: a login ends the least recently used one', async () => {
    const user = await registerUser(app);
    const client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    const oldTokens = Array.from({ length: 99 }, createToken);
    await client.query(
      `INSERT INTO sessions (id, user_id, token_hash, created_at, last_seen_at, expires_at)
       SELECT gen_random_uuid(), $1, hash, now() - interval '30 minutes',
              now() - make_interval(mins => 10, secs => position::int), now() + interval '1 day'
       FROM unnest($2::text[]) WITH ORDINALITY AS token (hash, position)`,
      [user.id, oldTokens.map(sha256)],
    );
    await client.end();
    const [mostRecent, leastRecent] = [oldTokens[0] as string, oldTokens[98] as string];
    expect((await list(user.token)).body.data).toHaveLength(100);
    const added = await logIn(app, user.username);
    expect((await list(added)).body.data).toHaveLength(100);
    expect(await areLive([added, user.token, mostRecent, leastRecent])).toEqual([
      true,
      true,
      true,
      false,
    ]);
  });

  it('expired sessions are removed in transactions of 200, locked ones later', async () => {
    const user = await registerUser(app);
    const client = new pg.Client({ connectionString: app.databaseUrl });
    const blocker = new pg.Client({ connectionString: app.databaseUrl });
    await Promise.all([client.connect(), blocker.connect()]);
    /** Seconds since the end of each expired session that is left. */
    async function expiredSeconds(): Promise<number[]> {
      const { rows } = await client.query<{ age: number }>(
        `SELECT right(token_hash, 8)::int AS age FROM sessions
         WHERE user_id = $1 AND expires_at < now() ORDER BY age`,
        [user.id],
      );
      return rows.map(({ age }) => age);
    }
    try {
      await client.query(
        `INSERT INTO sessions (id, user_id, token_hash, created_at, last_seen_at, expires_at)
         SELECT gen_random_uuid(), $1, lpad(age::text, 64, '0'), now() - interval '2 days',
                now() - interval '2 days', now() - make_interval(secs => age)
         FROM generate_series(1, 451) AS age`,
        [user.id],
      );
      await blocker.query('BEGIN');
      await blocker.query(
        `SELECT FROM sessions WHERE token_hash = lpad('451', 64, '0') FOR UPDATE`,
      );
      const sessions = app.app.get(SessionsService, { strict: false });
      // Several times: the timer of the service may purge at the same moment.
      await eventually('all but the locked session are removed', async () => {
        await sessions.purge();
        return (await expiredSeconds()).length === 1;
      });
      expect(await expiredSeconds()).toEqual([451]);
      const { rows } = await client.query<{ events: number }>(
        `SELECT count(*)::int AS events FROM outbox
         WHERE type LIKE '%session.ended' AND data->>'userId' = $1
         GROUP BY xmin::text ORDER BY events`,
        [user.id],
      );
      const removed = rows.map(({ events }) => events);
      expect(Math.max(...removed)).toBe(200);
      expect(removed.reduce((sum, count) => sum + count)).toBe(450);
      await blocker.query('ROLLBACK');
      await eventually('the session is removed that was locked', async () => {
        await sessions.purge();
        return (await expiredSeconds()).length === 0;
      });
      expect(await isLive(user.token)).toBe(true);
    } finally {
      await Promise.all([client.end(), blocker.end()]);
    }
  });

  it('one purge of expired sessions runs at most 25 transactions', async () => {
    let transactions = 0;
    const unitOfWork = {
      run: () => {
        transactions++;
        return Promise.resolve(200);
      },
    };
    const unused = undefined as never;
    const sessions = new SessionsService(
      unused,
      unused,
      unused,
      unitOfWork as never,
      unused,
      unused,
      unused,
    );
    await sessions.purge();
    expect(transactions).toBe(25);
  });
});

describe('sessions as time passes', () => {
  const IDLE_MS = 3_600_000;
  const ABSOLUTE_MS = 86_400_000;
  let clock: TestClock;
  let app: TestApp;

  beforeAll(async () => {
    clock = new TestClock();
    const env = {
      SESSION_IDLE_SECONDS: String(IDLE_MS / 1000),
      SESSION_ABSOLUTE_SECONDS: String(ABSOLUTE_MS / 1000),
    };
    app = await startApp(env, undefined, undefined, [clock.provider]);
  });
  afterAll(() => app.close());

  const get = (path: string, token: string): Promise<Reply> => app.call('GET', path, { token });
  const statusOf = async (token: string): Promise<number> =>
    (await get('/v1/sessions/current', token)).status;

  it('a session that is used just before its idle time ends goes on', async () => {
    const { token } = await registerUser(app);
    clock.advance(IDLE_MS - 1);
    expect(await statusOf(token)).toBe(200);
    clock.advance(IDLE_MS - 1);
    expect(await statusOf(token)).toBe(200);
  });

  it('a session that is not used for the idle time ends, and is not listed any more', async () => {
    const { username, token } = await registerUser(app);
    clock.advance(IDLE_MS);
    expectProblem(await get('/v1/sessions/current', token), 401, 'unauthenticated');
    const newToken = await logIn(app, username);
    expect((await get('/v1/sessions', newToken)).body.data).toHaveLength(1);
  });

  it('a session that is used all the time ends at its absolute time', async () => {
    const { token } = await registerUser(app);
    const { body } = await get('/v1/sessions/current', token);
    const endMs = Date.parse(body.expiresAt as string);
    expect(endMs).toBe(clock.now.getTime() + ABSOLUTE_MS);
    const statuses: number[] = [];
    while (clock.now.getTime() + IDLE_MS / 2 < endMs) {
      clock.advance(IDLE_MS / 2);
      statuses.push(await statusOf(token));
    }
    expect(statuses).toEqual(Array<number>(47).fill(200));
    clock.advance(endMs - clock.now.getTime() - 1);
    expect(await statusOf(token)).toBe(200);
    clock.advance(1);
    expect(await statusOf(token)).toBe(401);
  });

  it('the idle end of a session is never after its absolute end', async () => {
    const { token } = await registerUser(app);
    for (let half = 0; half < 47; half++) {
      clock.advance(IDLE_MS / 2);
      await statusOf(token);
    }
    const { body } = await get('/v1/sessions/current', token);
    expect(body.lastSeenAt).toBe(clock.now.toISOString());
    expect(body.idleExpiresAt).toBe(body.expiresAt);
  });
});
