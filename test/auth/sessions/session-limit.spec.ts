/** The maximum number of sessions of a user, reached by logins at two nodes at the same moment. */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { MAX_SESSIONS_PER_USER } from '../../../src/auth/sessions/sessions.service.js';
import { createToken } from '../../../src/auth/sessions/token.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { PASSWORD, registerUser } from '../../support/factories.js';
import { type RedisServer, startRedis } from '../../support/redis.js';

describe('a user with the maximum of sessions logs in on two nodes at once', () => {
  const LOGINS = 16;
  let redis: RedisServer;
  let nodes: [TestApp, TestApp];
  let database: pg.Client;

  beforeAll(async () => {
    redis = await startRedis();
    const start = (databaseUrl?: string): Promise<TestApp> =>
      startApp({ REDIS_URL: redis.url }, databaseUrl);
    const first = await start();
    nodes = [first, await start(first.databaseUrl)];
    database = new pg.Client({ connectionString: first.databaseUrl });
    await database.connect();
  });
  afterAll(async () => {
    await database.end();
    await nodes[1].close();
    await nodes[0].close();
    await redis.stop();
  });

  const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

  /** @returns tokens, the least recently used first */
  async function insertSessions(userId: string): Promise<string[]> {
    const tokens = Array.from({ length: MAX_SESSIONS_PER_USER }, createToken);
    await database.query(
      `INSERT INTO sessions (id, user_id, token_hash, created_at, last_seen_at, expires_at)
       SELECT gen_random_uuid(), $1, hash, now() - interval '40 minutes',
              now() - interval '30 minutes' + make_interval(secs => position::int),
              now() + interval '1 day'
       FROM unnest($2::text[]) WITH ORDINALITY AS token (hash, position)`,
      [userId, tokens.map(sha256)],
    );
    return tokens;
  }

  /** Whether each node accepts the token. */
  async function areAccepted(token: string): Promise<boolean[]> {
    const replies = await Promise.all(
      nodes.map((node) => node.call('GET', '/v1/sessions/current', { token })),
    );
    const statuses = replies.map(({ status }) => status);
    if (statuses.some((status) => status !== 200 && status !== 401)) {
      throw new Error(`GET /v1/sessions/current: ${statuses.join()}`);
    }
    return statuses.map((status) => status === 200);
  }

  async function countSessions(userId: string): Promise<number> {
    const sql = 'SELECT count(*)::int AS sessions FROM sessions WHERE user_id = $1';
    const { rows } = await database.query<{ sessions: number }>(sql, [userId]);
    return rows[0]?.sessions as number;
  }

  /**
   * Writes a use of the least recently used session, which it stays, and commits when two logins
   * wait for its row: they have read the version from before.
   */
  async function blockTwoLogins(userId: string): Promise<{ unblocked: Promise<void> }> {
    const blocker = new pg.Client({ connectionString: nodes[0].databaseUrl });
    await blocker.connect();
    await blocker.query('BEGIN');
    await blocker.query(
      `UPDATE sessions SET version = version + 1
       WHERE id = (SELECT id FROM sessions WHERE user_id = $1 ORDER BY last_seen_at LIMIT 1)`,
      [userId],
    );
    const unblock = async (): Promise<void> => {
      await eventually('two logins wait for a lock', async () => {
        const { rows } = await database.query<{ waiting: number }>(
          `SELECT count(*)::int AS waiting FROM pg_stat_activity
           WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        );
        return (rows[0]?.waiting ?? 0) >= 2;
      });
      await blocker.query('COMMIT');
      await blocker.end();
    };
    return { unblocked: unblock() };
  }

  it('each login ends the least recently used session, and no other ends', async () => {
    const { id: userId, username, token: firstToken } = await registerUser(nodes[0]);
    await nodes[0].call('DELETE', '/v1/sessions/current', { token: firstToken });
    const oldTokens = await insertSessions(userId);
    const counts: number[] = [];
    let isWatching = true;
    const watch = async (): Promise<void> => {
      while (isWatching) counts.push(await countSessions(userId));
    };
    const { unblocked } = await blockTwoLogins(userId);
    const watched = watch();
    const logInAt = async (index: number): Promise<{ token: string; accepted: boolean[] }> => {
      const node = nodes[index % 2] as TestApp;
      // Different devices: logins of one device would wait for its row one after the other.
      const reply = await node.call('POST', '/v1/sessions', {
        body: { username, password: PASSWORD },
        headers: { 'User-Agent': `device ${index}` },
      });
      const token = reply.body.token as string;
      return { token, accepted: await areAccepted(token) };
    };
    const logins = await Promise.all(Array.from({ length: LOGINS }, (_, index) => logInAt(index)));
    isWatching = false;
    await Promise.all([watched, unblocked]);

    expect(logins.map(({ accepted }) => accepted)).toEqual(logins.map(() => [true, true]));
    expect([Math.max(...counts), await countSessions(userId)]).toEqual([
      MAX_SESSIONS_PER_USER,
      MAX_SESSIONS_PER_USER,
    ]);
    const acceptedOld = await Promise.all(oldTokens.map(areAccepted));
    expect(acceptedOld).toEqual(
      oldTokens.map((_, index) => (index < LOGINS ? [false, false] : [true, true])),
    );
    const acceptedNew = await Promise.all(logins.map(({ token }) => areAccepted(token)));
    expect(acceptedNew).toEqual(logins.map(() => [true, true]));
  });
});
