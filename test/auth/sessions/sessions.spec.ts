/** Sessions through the API: a token shown once, listed, ended in every way that there is, and dead from that answer on. */
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { SessionsService } from '../../src/auth/sessions.service.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { logIn, PASSWORD, person, type Person } from '../support/factories.js';
import { anonymous, expectProblem, pointersOf } from '../support/problem.js';

describe('sessions', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const open = (username: unknown, password: unknown, headers = {}): Promise<Reply> =>
    app.call('POST', '/v1/sessions', { body: { username, password }, headers });
  const list = (token: string): Promise<Reply> => app.call('GET', '/v1/sessions', { token });
  const current = (token: string): Promise<Reply> =>
    app.call('GET', '/v1/sessions/current', { token });
  const isAlive = async (token: string): Promise<boolean> => {
    const reply = await current(token);
    if (reply.status !== 200) expectProblem(reply, 401, 'unauthenticated');
    return reply.status === 200;
  };

  describe('logging in', () => {
    it('answers 201 with the session and its token, this once, never to be stored', async () => {
      const someone = await person(app);
      const reply = await open(someone.username, PASSWORD, { 'User-Agent': 'lighthouse/1.0 (é)' });
      expect(reply.status).toBe(201);
      expect(reply.headers.get('cache-control')).toBe('no-store');
      const { token, ...session } = reply.body;
      expect(reply.headers.get('location')).toBe(`/v1/sessions/${session.id}`);
      expect(session).toEqual({
        id: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7/),
        userId: someone.id,
        createdAt: expect.stringMatching(/\.\d{3}Z$/),
        lastSeenAt: expect.stringMatching(/\.\d{3}Z$/),
        expiresAt: expect.stringMatching(/\.\d{3}Z$/),
        idleExpiresAt: expect.stringMatching(/\.\d{3}Z$/),
        userAgent: 'lighthouse/1.0 (?)',
        ip: '127.0.0.1',
        current: true,
      });
      expect(Date.parse(session.expiresAt) - Date.parse(session.createdAt)).toBeGreaterThan(
        86_399_000,
      );
      expect(Date.parse(session.idleExpiresAt) - Date.parse(session.lastSeenAt)).toBe(3_600_000);
      expect(token).toMatch(/^hf_[\w-]{43}$/);
      for (const read of [await current(token), await list(token)]) {
        expect(read.text).not.toContain(token);
        expect(read.text).not.toContain(createHash('sha256').update(token).digest('hex'));
        expect(read.headers.get('cache-control')).toBe('private, no-cache');
      }
      expect((await current(token)).body).toEqual(session);
    });

    it('is by username or email address, in any case', async () => {
      const { username, email } = await person(app);
      for (const name of [username, username.toUpperCase(), email, email.toUpperCase()])
        expect((await open(name, PASSWORD)).status).toBe(201);
    });

    it('refuses a wrong password and an unknown user in the same words', async () => {
      const { username, email } = await person(app);
      const refusals = await Promise.all([
        open(username, 'ten tall ships at anchor'),
        open(email, 'ten tall ships at anchor'),
        open('nobody-has-this', PASSWORD),
        open('nobody@example.com', PASSWORD),
        open(username, PASSWORD.toUpperCase()),
        open(username, `${PASSWORD} `),
        open(username, 'x'),
        open("' OR 1=1 --", PASSWORD),
      ]);
      for (const refusal of refusals) {
        expectProblem(refusal, 401, 'invalid-credentials');
        expect(anonymous(refusal)).toEqual(anonymous(refusals[0] as Reply));
      }
    });

    it('names what is missing or malformed', async () => {
      expect(pointersOf(await app.call('POST', '/v1/sessions', { body: {} })).sort()).toEqual([
        '/password',
        '/username',
      ]);
      expect(pointersOf(await open(1, PASSWORD))).toEqual(['/username']);
      expect(pointersOf(await open('someone', 'a\0'))).toEqual(['/password']);
    });
  });

  describe('ending', () => {
    const end = (token: string, path: string): Promise<Reply> =>
      app.call('DELETE', `/v1/sessions${path}`, { token });
    const idOf = async (token: string): Promise<string> => (await current(token)).body.id as string;
    let someone: Person;
    let tokens: string[];
    beforeAll(async () => {
      someone = await person(app);
    });
    const three = async (): Promise<[string, string, string]> => {
      await end(await logIn(app, someone.username), '');
      tokens = [];
      for (let made = 0; made < 3; made++) tokens.push(await logIn(app, someone.username));
      return tokens as [string, string, string];
    };
    const alive = (): Promise<boolean[]> => Promise.all(tokens.map(isAlive));

    it('lists one’s own, newest first, and marks the current one', async () => {
      const [first, second, third] = await three();
      const { status, body } = await list(second);
      const ids = [await idOf(third), await idOf(second), await idOf(first)];
      expect([status, body.next]).toEqual([200, null]);
      expect(
        body.data.map(({ id, current: is, userId }: Record<string, unknown>) => [id, is, userId]),
      ).toEqual([
        [ids[0], false, someone.id],
        [ids[1], true, someone.id],
        [ids[2], false, someone.id],
      ]);
    });

    it('of the current one ends this one', async () => {
      const [first] = await three();
      expect((await end(first, '/current')).status).toBe(204);
      expect(await alive()).toEqual([false, true, true]);
      expect((await list(tokens[1] as string)).body.data).toHaveLength(2);
    });

    it('of one by id ends that one, and only once', async () => {
      const [first, second] = await three();
      const id = await idOf(second);
      expect((await end(first, `/${id.toUpperCase()}`)).status).toBe(204);
      expect(await alive()).toEqual([true, false, true]);
      expectProblem(await end(first, `/${id}`), 404, 'not-found');
    });

    it('of another user’s is 404 and ends nothing', async () => {
      const [first] = await three();
      const stranger = await person(app);
      const [hidden, missing] = [
        await end(stranger.token, `/${await idOf(first)}`),
        await end(stranger.token, `/${crypto.randomUUID()}`),
      ];
      expectProblem(hidden, 404, 'not-found');
      expect(anonymous(hidden)).toEqual(anonymous(missing));
      expect(await alive()).toEqual([true, true, true]);
    });

    it('of all ends all', async () => {
      const [, second] = await three();
      const stranger = await person(app);
      expect((await end(second, '')).status).toBe(204);
      expect(await alive()).toEqual([false, false, false]);
      expect(await isAlive(stranger.token)).toBe(true);
    });

    it('of all others keeps the current one', async () => {
      const [, second] = await three();
      expect((await end(second, '?keep=current')).status).toBe(204);
      expect(await alive()).toEqual([false, true, false]);
    });

    it('refuses to keep anything else', async () => {
      const [first] = await three();
      for (const query of ['?keep=all', '?keep=', '?keep=current&keep=current', '?keep=CURRENT'])
        expect(pointersOf(await end(first, query))).toEqual(['/keep']);
      expect(await alive()).toEqual([true, true, true]);
    });

    it('is told as RFC 6750 has it: the bare challenge without a token, "invalid_token" with one that is none', async () => {
      const [first] = await three();
      await end(first, '/current');
      const challenge = (reply: Reply): string | null => reply.headers.get('www-authenticate');
      expect(challenge(await app.call('GET', '/v1/users/me'))).toBe('Bearer realm="holdfast"');
      expect(challenge(await open('nobody-has-this', PASSWORD))).toBe('Bearer realm="holdfast"');
      for (const value of [`Bearer ${first}`, 'Bearer nonsense', 'Basic YTpi'])
        expect(
          challenge(await app.call('GET', '/v1/users/me', { headers: { Authorization: value } })),
        ).toBe('Bearer realm="holdfast", error="invalid_token"');
    });

    it('is final for a request that comes right behind the answer, every time', async () => {
      for (let round = 0; round < 10; round++) {
        const token = await logIn(app, someone.username);
        await Promise.all([current(token), current(token), current(token)]);
        expect((await end(token, '/current')).status).toBe(204);
        const after = await Promise.all([current(token), list(token), end(token, '')]);
        after.forEach((reply) => expectProblem(reply, 401, 'unauthenticated'));
      }
    });
  });

  it('are at most a hundred a user: the one used longest ago gives way', async () => {
    const someone = await person(app);
    const client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    const oldTokens = Array.from({ length: 99 }, () => randomBytes(8).toString('hex'));
    await client.query(
      `INSERT INTO sessions (id, user_id, token_hash, created_at, last_seen_at, expires_at)
       SELECT gen_random_uuid(), $1, hash, now() - interval '30 minutes', now() - make_interval(mins => 10, secs => ordinal::int), now() + interval '1 day'
       FROM unnest($2::text[]) WITH ORDINALITY AS one (hash, ordinal)`,
      [someone.id, oldTokens.map((token) => createHash('sha256').update(token).digest('hex'))],
    );
    await client.end();
    const [youngest, oldest] = [oldTokens[0] as string, oldTokens[98] as string];
    expect((await list(someone.token)).body.data).toHaveLength(100);
    const added = await logIn(app, someone.username);
    expect((await list(added)).body.data).toHaveLength(100);
    expect(await Promise.all([added, someone.token, youngest, oldest].map(isAlive))).toEqual([
      true,
      true,
      true,
      false,
    ]);
  });

  it('past their absolute end are removed two hundred a transaction, and no more than 25 transactions at a time', async () => {
    const someone = await person(app);
    const [client, holder] = [0, 1].map(
      () => new pg.Client({ connectionString: app.databaseUrl }),
    ) as [pg.Client, pg.Client];
    await Promise.all([client.connect(), holder.connect()]);
    try {
      await client.query(
        `INSERT INTO sessions (id, user_id, token_hash, created_at, last_seen_at, expires_at)
         SELECT gen_random_uuid(), $1, lpad(age::text, 64, '0'), now() - interval '2 days', now() - interval '2 days', now() - make_interval(secs => age)
         FROM generate_series(1, 451) AS age`,
        [someone.id],
      );
      // A row that another transaction has is left for the next time, and waited for by nobody.
      await holder.query(
        `BEGIN; SELECT FROM sessions WHERE token_hash = lpad('451', 64, '0') FOR UPDATE`,
      );
      const left = async (): Promise<number[]> => {
        const { rows } = await client.query(
          `SELECT right(token_hash, 8)::int AS age FROM sessions WHERE user_id = $1 AND expires_at < now() ORDER BY age`,
          [someone.id],
        );
        return rows.map(({ age }) => age as number);
      };
      const sessions = app.app.get(SessionsService, { strict: false });
      await sessions.purge();
      expect(await left()).toEqual([451]);
      const { rows } = await client.query(
        `SELECT count(*)::int AS ended FROM outbox WHERE type LIKE '%session.ended' AND data->>'userId' = $1 GROUP BY xmin::text`,
        [someone.id],
      );
      expect(rows.map(({ ended }) => ended as number).sort()).toEqual([200, 200, 50]);
      await holder.query('ROLLBACK');
      await sessions.purge();
      expect(await left()).toEqual([]);
      expect(await isAlive(someone.token)).toBe(true);
      // Were there always more, it would stop all the same.
      let transactions = 0;
      const { purge } = SessionsService.prototype;
      await purge.call({
        unitOfWork: { run: () => Promise.resolve(++transactions && 200) },
      } as never);
      expect(transactions).toBe(25);
    } finally {
      await Promise.all([client.end(), holder.end()]);
    }
  });
});

describe('sessions that end by themselves', () => {
  const IDLE_MS = 1_000;
  const ABSOLUTE_MS = 3_000;
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({
      SESSION_IDLE_SECONDS: String(IDLE_MS / 1000),
      SESSION_ABSOLUTE_SECONDS: String(ABSOLUTE_MS / 1000),
    });
  });
  afterAll(() => app.close());
  const statusOf = async (token: string): Promise<number> =>
    (await app.call('GET', '/v1/users/me', { token })).status;

  it('end when they were not used for the idle time', async () => {
    const someone = await person(app);
    await sleep(IDLE_MS + 300);
    expectProblem(
      await app.call('GET', '/v1/sessions/current', { token: someone.token }),
      401,
      'unauthenticated',
    );
    const next = await logIn(app, someone.username);
    expect((await app.call('GET', '/v1/sessions', { token: next })).body.data).toHaveLength(1);
  });

  it('live on while they are used, and end at the absolute time whatever they do', async () => {
    const { body } = await app.call('POST', '/v1/sessions', {
      body: { username: (await person(app)).username, password: PASSWORD },
    });
    const end = Date.parse(body.expiresAt);
    expect(end - Date.parse(body.createdAt)).toBeLessThanOrEqual(ABSOLUTE_MS + 50);
    let used = 0;
    while (Date.now() < end - 300) {
      expect([Date.now(), await statusOf(body.token)]).toEqual([expect.any(Number), 200]);
      used++;
      await sleep(300);
    }
    expect(used).toBeGreaterThan(IDLE_MS / 300);
    await sleep(Math.max(0, end - Date.now()) + 20);
    expect(await statusOf(body.token)).toBe(401);
  });
});
