/** What is left of a deleted user: nothing that the user typed, in no table but those of orders. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from '../support/app.js';
import { eventually } from '../support/eventually.js';
import { logInAsAdmin, ORDER, PASSWORD, uniqueUsername } from '../support/factories.js';

let app: TestApp;
let client: pg.Client;

beforeAll(async () => {
  app = await startApp();
  client = new pg.Client({ connectionString: app.databaseUrl });
  await client.connect();
  // A consumer of users' events.
  await client.query(`INSERT INTO event_consumers VALUES ('users-of-this-test', 'user.')`);
});
afterAll(async () => {
  await client?.end();
  await app?.close();
});

/** The tables with a row that has the text, each row as text. */
async function tablesWith(text: string): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT relname AS name FROM pg_class
      WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname`,
  );
  const found: string[] = [];
  for (const { name } of rows) {
    const sql = `SELECT FROM "${name}" AS row WHERE strpos(lower(row::text), $1) > 0 LIMIT 1`;
    const { rowCount } = await client.query(sql, [text.toLowerCase()]);
    if (rowCount === 1) found.push(name);
  }
  return found;
}

interface Traces {
  readonly id: string;
  readonly token: string;
  readonly username: string;
  readonly newUsername: string;
  readonly email: string;
  readonly userAgent: string;
  readonly note: string;
}

/** A user who leaves text wherever a user can. */
async function leaveTraces(): Promise<Traces> {
  const [username, newUsername] = [uniqueUsername(), uniqueUsername()];
  const email = `mail-of-${username}@example.com`;
  const [userAgent, note] = [`agent-${randomUUID()}`, `note-${randomUUID()}`];
  const registered = await app.call('POST', '/v1/users', {
    body: { username, email, password: PASSWORD },
    headers: { 'Idempotency-Key': randomUUID() },
  });
  const login = await app.call('POST', '/v1/sessions', {
    body: { username, password: PASSWORD },
    headers: { 'User-Agent': userAgent },
  });
  const { id } = registered.body as { id: string };
  const { token } = login.body as { token: string };
  await app.call('POST', '/v1/orders', {
    token,
    body: { ...ORDER, note },
    headers: { 'Idempotency-Key': randomUUID() },
  });
  const rename = { token, body: { username: newUsername }, headers: { 'If-Match': '"1"' } };
  expect((await app.call('PATCH', `/v1/users/${id}`, rename)).status).toBe(200);
  return { id, token, username, newUsername, email, userAgent, note };
}

it.each(['the user', 'an admin'])('deleted by %s → no text of the user is left', async (by) => {
  const { id, token, note, ...traces } = await leaveTraces();
  const texts = [traces.username, traces.newUsername, traces.email, traces.userAgent];
  const before = await Promise.all(texts.map(tablesWith));
  // The search finds what there is.
  const holders = ['idempotency_keys', 'inbox', 'outbox', 'sessions', 'users'];
  expect(before.flat()).toEqual(expect.arrayContaining(holders));

  const deleter = by === 'the user' ? token : await logInAsAdmin(app);
  const { status } = await app.call('DELETE', `/v1/users/${id}`, { token: deleter });

  expect(status).toBe(204);
  await eventually('no table has a text of the user', async () => {
    const after = await Promise.all(texts.map(tablesWith));
    return after.flat().length === 0;
  });
  const { rowCount } = await client.query('SELECT FROM credentials WHERE user_id = $1', [id]);
  expect(rowCount).toBe(0);
  // The orders stay, with what was ordered.
  expect(await tablesWith(note)).toEqual(['order_events', 'orders']);
});

it.each(['outbox', 'inbox'])('the events in %s keep type, subject and version', async (table) => {
  const { id, token } = await leaveTraces();
  await app.call('DELETE', `/v1/users/${id}`, { token });
  const { rows } = await client.query(
    `SELECT type, data FROM ${table} WHERE subject = $1 ORDER BY position`,
    [`users/${id}`],
  );
  expect(rows).toEqual([
    { type: 'user.registered', data: { version: 1 } },
    { type: 'user.changed', data: { version: 2 } },
    { type: 'user.deleted', data: { version: 3 } },
  ]);
});

it('the events of other users keep their data', async () => {
  const other = await leaveTraces();
  const { id, token } = await leaveTraces();
  await app.call('DELETE', `/v1/users/${id}`, { token });
  expect(await tablesWith(other.username)).toEqual(expect.arrayContaining(['inbox', 'outbox']));
});
