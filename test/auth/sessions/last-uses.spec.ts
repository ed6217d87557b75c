/**
 * The last uses of sessions: measured while they are buffered, written later, at last at shutdown.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { LastUsesService } from '../../../src/auth/sessions/last-uses.service.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { registerUser, type TestUser } from '../../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { TestClock } from '../../support/test-clock.js';

const TEN_MINUTES_MS = 600_000;

describe('last uses of sessions', () => {
  let database: TestDatabase;
  let client: pg.Client;
  let clock: TestClock;
  let app: TestApp;

  beforeAll(async () => {
    database = await createTestDatabase();
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
    clock = new TestClock();
    app = await startApp({}, database.url, undefined, [clock.provider]);
  });
  afterAll(async () => {
    await app.close();
    await client.end();
    await database.drop();
  });

  const lastUsesOf = (node: TestApp): LastUsesService =>
    node.app.get(LastUsesService, { strict: false });
  /** The timer of a node could write a last use at any moment. */
  const stopTimer = (node: TestApp): Promise<void> => lastUsesOf(node).onApplicationShutdown();
  const use = (node: TestApp, { token }: TestUser): Promise<unknown> =>
    node.call('GET', '/v1/users/me', { token });

  async function lastSeenAtOf({ id }: TestUser): Promise<Date> {
    const sql = 'SELECT last_seen_at FROM sessions WHERE user_id = $1';
    const { rows } = await client.query<{ last_seen_at: Date }>(sql, [id]);
    return rows[0]?.last_seen_at as Date;
  }

  /** A user whose session was used ten minutes ago. */
  async function registerIdleUser(): Promise<TestUser> {
    const user = await registerUser(app);
    clock.advance(TEN_MINUTES_MS);
    return user;
  }

  describe('while they are buffered', () => {
    beforeEach(() => stopTimer(app));

    const measure = async (): Promise<{ unwritten: number; oldestSeconds: number }> => {
      const { text } = await app.call('GET', '/metrics');
      const valueOf = (name: string): number =>
        Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
      return {
        unwritten: valueOf('holdfast_sessions_unflushed'),
        oldestSeconds: valueOf('holdfast_sessions_unflushed_oldest_seconds'),
      };
    };

    it('metrics show how many they are and how old the oldest is', async () => {
      const user = await registerIdleUser();
      expect(await measure()).toEqual({ unwritten: 0, oldestSeconds: 0 });
      await use(app, user);
      clock.advance(7_000);
      await use(app, user);
      expect(await measure()).toEqual({ unwritten: 1, oldestSeconds: 7 });
      await lastUsesOf(app).flush();
      expect(await measure()).toEqual({ unwritten: 0, oldestSeconds: 0 });
      expect(await lastSeenAtOf(user)).toEqual(clock.now);
    });

    it('GET /v1/sessions/current shows the last use', async () => {
      const user = await registerIdleUser();
      const written = await lastSeenAtOf(user);
      const { body } = await app.call('GET', '/v1/sessions/current', { token: user.token });
      expect(body.lastSeenAt).toBe(clock.now.toISOString());
      expect(await lastSeenAtOf(user)).toEqual(written);
    });

    it('a use of a session that was seen less than a minute ago is not buffered', async () => {
      const user = await registerUser(app);
      await lastUsesOf(app).flush();
      clock.advance(59_999);
      await use(app, user);
      expect((await measure()).unwritten).toBe(0);
      clock.advance(1);
      await use(app, user);
      expect((await measure()).unwritten).toBe(1);
    });

    it('a use whose row is locked stays buffered and is written the next time', async () => {
      const user = await registerIdleUser();
      const written = await lastSeenAtOf(user);
      const blocker = new pg.Client({ connectionString: database.url });
      await blocker.connect();
      await blocker.query('BEGIN');
      await blocker.query('SELECT FROM sessions WHERE user_id = $1 FOR UPDATE', [user.id]);
      await use(app, user);
      await lastUsesOf(app).flush();
      expect(await lastSeenAtOf(user)).toEqual(written);
      expect((await measure()).unwritten).toBe(1);
      await blocker.query('ROLLBACK');
      await blocker.end();
      await lastUsesOf(app).flush();
      expect(await lastSeenAtOf(user)).toEqual(clock.now);
      expect((await measure()).unwritten).toBe(0);
    });

    it('a use of a session that has ended meanwhile is forgotten', async () => {
      const user = await registerIdleUser();
      await use(app, user);
      await app.call('DELETE', '/v1/sessions/current', { token: user.token });
      await lastUsesOf(app).flush();
      expect((await measure()).unwritten).toBe(0);
    });
  });

  it('are written by a timer', async () => {
    const user = await registerIdleUser();
    const node = await startApp({}, database.url, undefined, [clock.provider]);
    try {
      await use(node, user);
      await eventually(
        'the last use is written',
        async () => (await lastSeenAtOf(user)).getTime() === clock.now.getTime(),
      );
    } finally {
      await node.close();
    }
  });

  it('are written at shutdown', async () => {
    const user = await registerIdleUser();
    const written = await lastSeenAtOf(user);
    const node = await startApp({}, database.url, undefined, [clock.provider]);
    await stopTimer(node);
    await use(node, user);
    expect(await lastSeenAtOf(user)).toEqual(written);
    await node.close();
    expect(await lastSeenAtOf(user)).toEqual(clock.now);
  });
});
