/** ADMIN_USERNAME and ADMIN_PASSWORD: what a start makes of them. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { migrateDatabase } from '../../src/platform/database/migrate.js';
import { ADMIN, startApp, type TestApp } from '../support/app.js';
import { logIn, PASSWORD, registerUser } from '../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

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

  async function start(env: Readonly<Record<string, string>> = {}): Promise<TestApp> {
    const app = await startApp(env, database.url);
    running.push(app);
    return app;
  }
  const rolesOf = async (app: TestApp, token: string): Promise<string[]> =>
    (await app.call('GET', '/v1/users/me', { token })).body.roles as string[];

  it('is created once by nodes that start at the same moment', async () => {
    const admin = { ADMIN_USERNAME: 'concurrent-admin', ADMIN_PASSWORD: ADMIN.password };
    const [app] = await Promise.all([start(admin), start(admin), start(admin)]);
    const token = await logIn(app, 'concurrent-admin', ADMIN.password);
    expect(await rolesOf(app, token)).toEqual(['user', 'admin']);
  });

  it('is an existing user with a new role: the password stays, an event is sent', async () => {
    const app = await start();
    const user = await registerUser(app);
    const restarted = await start({
      ADMIN_USERNAME: user.username,
      ADMIN_PASSWORD: ADMIN.password,
    });
    expect(await rolesOf(restarted, user.token)).toEqual(['user', 'admin']);
    await logIn(restarted, user.username, PASSWORD);
    const { rows } = await client.query<{ data: { version: number; roles: string[] } }>(
      `SELECT data FROM outbox WHERE subject = $1 AND type LIKE '%user.roles-changed'`,
      [`users/${user.id}`],
    );
    expect(rows.map(({ data }) => data)).toEqual([{ version: 2, roles: ['user', 'admin'] }]);
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
    const lines: string[] = [];
    const log = { write: (line: string) => void lines.push(line) };
    const env = { MIGRATIONS: 'manual', LOG_LEVEL: 'warn' };
    const app = await startApp(env, outdated.url, log);
    await app.close();
    await outdated.drop();
    const warning = `Did not create admin ${ADMIN.username}: migrations are pending`;
    expect(lines.filter((line) => line.includes(warning))).toHaveLength(1);
  });
});
