/** ADMIN_USERNAME and ADMIN_PASSWORD: what a start makes of them. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import type { DestinationStream } from 'pino';
import { migrateDatabase } from '../../src/platform/database/migrate.js';
import { findEmailFaults } from '../../src/platform/http/validation/faults.js';
import { RESERVED_USERNAMES } from '../../src/users/reserved-usernames.js';
import { ADMIN, startApp, type TestApp } from '../support/app.js';
import { logIn, PASSWORD, registerUser, uniqueUsername } from '../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { validationErrorsOf } from '../support/problem.js';

describe('the admin of the configuration', () => {
  let database: TestDatabase;
  let client: pg.Client;
  let running: TestApp[];

  beforeAll(async () => {
    database = await createTestDatabase();
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
    running = [];
  });
  afterAll(async () => {
    for (const app of running) await app.close();
    await client.end();
    await database.drop();
  });

  async function start(
    env: Readonly<Record<string, string>> = {},
    log?: DestinationStream,
  ): Promise<TestApp> {
    const app = await startApp(env, database.url, log);
    running.push(app);
    return app;
  }
  function recordLog(): { lines: string[]; log: DestinationStream } {
    const lines: string[] = [];
    return { lines, log: { write: (line: string) => void lines.push(line) } };
  }
  const rolesOf = async (app: TestApp, token: string): Promise<string[]> =>
    (await app.call('GET', '/v1/users/me', { token })).body.roles as string[];

  it('is created once by nodes that start at the same moment', async () => {
    const admin = { ADMIN_USERNAME: 'concurrent-admin', ADMIN_PASSWORD: ADMIN.password };
    const [app] = await Promise.all([start(admin), start(admin), start(admin)]);
    const token = await logIn(app, 'concurrent-admin', ADMIN.password);
    expect(await rolesOf(app, token)).toEqual(['user', 'admin']);
  });

  it('is remembered by id, with a valid email address that nobody can take before', async () => {
    const username = 'remembered-admin';
    const app = await start({ ADMIN_USERNAME: username, ADMIN_PASSWORD: ADMIN.password });
    const token = await logIn(app, username, ADMIN.password);
    const me = await app.call('GET', '/v1/users/me', { token });
    const { rows } = await client.query('SELECT * FROM bootstrap_admins WHERE username = $1', [
      username,
    ]);
    expect(rows).toEqual([{ username, user_id: me.body.id }]);
    expect(me.body.email).toBe(`${me.body.id}@bootstrap.invalid`);
    expect(findEmailFaults(me.body.email, 'email')).toEqual([]);
    const patch = { token, body: { email: me.body.email }, headers: { 'If-Match': '"1"' } };
    expect((await app.call('PATCH', `/v1/users/${me.body.id}`, patch)).status).toBe(200);
  });

  it('is never a user who registered the name: the log says so, and the start goes on', async () => {
    const app = await start();
    const user = await registerUser(app);
    const { lines, log } = recordLog();
    const env = { ADMIN_USERNAME: user.username, ADMIN_PASSWORD: ADMIN.password };
    const restarted = await start({ ...env, LOG_LEVEL: 'error' }, log);
    expect(await rolesOf(restarted, user.token)).toEqual(['user']);
    await logIn(restarted, user.username, PASSWORD);
    expect(lines.map((line) => JSON.parse(line) as object)).toMatchObject([
      {
        level: 'error',
        msg:
          `Did not make ${user.username} an admin: somebody else registered that name. ` +
          'Set ADMIN_USERNAME to another name, or delete that user, and start again',
      },
    ]);
  });

  it('has the role admin again after a start, under any name, with one event', async () => {
    const admin = { ADMIN_USERNAME: 'demoted-admin', ADMIN_PASSWORD: ADMIN.password };
    const app = await start(admin);
    const token = await logIn(app, 'demoted-admin', ADMIN.password);
    const { id } = (await app.call('GET', '/v1/users/me', { token })).body as { id: string };
    const renaming = { token, body: { username: 'renamed' }, headers: { 'If-Match': '"1"' } };
    expect((await app.call('PATCH', `/v1/users/${id}`, renaming)).status).toBe(200);
    const demotion = { token, body: { roles: ['user'] } };
    expect((await app.call('PUT', `/v1/users/${id}/roles`, demotion)).status).toBe(200);

    const [restarted] = await Promise.all([start(admin), start(admin)]);

    expect(await rolesOf(restarted, token)).toEqual(['user', 'admin']);
    const { rows } = await client.query<{ roles: string[] }>(
      `SELECT data -> 'roles' AS roles FROM outbox
        WHERE subject = $1 AND type = 'user.roles-changed' ORDER BY position`,
      [`users/${id}`],
    );
    expect(rows.map(({ roles }) => roles)).toEqual([['user'], ['user', 'admin']]);
    const named = await client.query(`SELECT 1 FROM users WHERE username = 'demoted-admin'`);
    expect(named.rows).toEqual([]);
  });

  it('is the admin of that name whom an earlier release created', async () => {
    const admin = { ADMIN_USERNAME: 'earlier-admin', ADMIN_PASSWORD: ADMIN.password };
    const app = await start(admin);
    const token = await logIn(app, 'earlier-admin', ADMIN.password);
    const { id } = (await app.call('GET', '/v1/users/me', { token })).body as { id: string };
    await client.query('DELETE FROM bootstrap_admins WHERE user_id = $1', [id]);

    await start(admin);

    const { rows } = await client.query(
      'SELECT user_id FROM bootstrap_admins WHERE username = $1',
      ['earlier-admin'],
    );
    expect(rows).toEqual([{ user_id: id }]);
  });

  it('is created anew after it was deleted', async () => {
    const admin = { ADMIN_USERNAME: 'deleted-admin', ADMIN_PASSWORD: ADMIN.password };
    const app = await start(admin);
    const token = await logIn(app, 'deleted-admin', ADMIN.password);
    const { id } = (await app.call('GET', '/v1/users/me', { token })).body as { id: string };
    expect((await app.call('DELETE', `/v1/users/${id}`, { token })).status).toBe(204);

    const restarted = await start(admin);

    const newToken = await logIn(restarted, 'deleted-admin', ADMIN.password);
    expect(await rolesOf(restarted, newToken)).toEqual(['user', 'admin']);
  });

  it('stays as it is when the user is an admin already', async () => {
    const app = await start();
    const token = await logIn(app, ADMIN.username, ADMIN.password);
    const before = await app.call('GET', '/v1/users/me', { token });
    const restarted = await start({ ADMIN_PASSWORD: 'another password of the same admin' });
    const after = await restarted.call('GET', '/v1/users/me', { token });
    expect(after.body).toEqual(before.body);
    await logIn(restarted, ADMIN.username, ADMIN.password);
  });

  it('cannot have a common password: the start fails', async () => {
    const env = { ADMIN_USERNAME: 'careless', ADMIN_PASSWORD: 'passwordpassword' };
    await expect(start(env)).rejects.toThrow('ADMIN_PASSWORD is easy to guess');
  });

  it('is not created while migrations are pending, and the log reports it', async () => {
    const outdated = await createTestDatabase();
    await migrateDatabase(outdated.url, 'down');
    const { lines, log } = recordLog();
    const env = { MIGRATIONS: 'manual', LOG_LEVEL: 'warn' };
    const app = await startApp(env, outdated.url, log);
    await app.close();
    await outdated.drop();
    const warning = `Did not create admin ${ADMIN.username}: migrations are pending`;
    expect(lines.filter((line) => line.includes(warning))).toHaveLength(1);
  });
});

describe('a reserved username', () => {
  const CONFIGURED = 'captain-of-all';
  let app: TestApp;

  beforeAll(async () => {
    app = await startApp({ ADMIN_USERNAME: CONFIGURED, ADMIN_PASSWORD: ADMIN.password });
  });
  afterAll(() => app.close());

  const RESERVED = [...RESERVED_USERNAMES, 'Admin', CONFIGURED];

  it.each(RESERVED)('cannot be registered: %s', async (username) => {
    const body = { username, email: `${uniqueUsername()}@example.com`, password: PASSWORD };
    const reply = await app.call('POST', '/v1/users', { body });
    expect(validationErrorsOf(reply)).toEqual(['/username reserved']);
    const name = username.toLowerCase();
    expect(reply.body.detail).toBe(`username ${name} is reserved; choose another one`);
  });

  it.each(RESERVED)('cannot be taken by a new name: %s', async (username) => {
    const user = await registerUser(app);
    const change = { token: user.token, body: { username }, headers: { 'If-Match': '"1"' } };
    const reply = await app.call('PATCH', `/v1/users/${user.id}`, change);
    expect(validationErrorsOf(reply)).toEqual(['/username reserved']);
  });

  it('cannot be given by an admin', async () => {
    const token = await logIn(app, CONFIGURED, ADMIN.password);
    const user = await registerUser(app);
    const change = { token, body: { username: 'admin' }, headers: { 'If-Match': '"1"' } };
    const reply = await app.call('PATCH', `/v1/users/${user.id}`, change);
    expect(validationErrorsOf(reply)).toEqual(['/username reserved']);
  });

  it('stays with the user who has it', async () => {
    const token = await logIn(app, CONFIGURED, ADMIN.password);
    const { id, version } = (await app.call('GET', '/v1/users/me', { token })).body as {
      id: string;
      version: number;
    };
    const body = { username: CONFIGURED, email: `${uniqueUsername()}@example.com` };
    const change = { token, body, headers: { 'If-Match': `"${version}"` } };
    expect((await app.call('PATCH', `/v1/users/${id}`, change)).status).toBe(200);
  });
});
