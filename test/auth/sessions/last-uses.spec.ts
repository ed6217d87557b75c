/** The write-behind of lastSeenAt: what is not written yet can be seen, is written in time, and at the latest when a node stops. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import pg from 'pg';
import { LastUses } from '../../src/auth/last-uses.js';
import { startApp, type TestApp } from '../support/app.js';
import { person } from '../support/factories.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

let database: TestDatabase;
let psql: pg.Client;
let app: TestApp;

beforeAll(async () => {
  database = await createTestDatabase();
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  app = await startApp({}, database.url);
});
afterAll(async () => {
  await app.close();
  await psql.end();
  await database.drop();
});

const metric = async (name: string): Promise<number> => {
  const { text } = await app.call('GET', '/metrics');
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
};
const age = async (userId: string): Promise<number> => {
  const sql =
    'SELECT extract(epoch FROM now() - last_seen_at)::float8 AS age FROM sessions WHERE user_id = $1';
  return (await psql.query<{ age: number }>(sql, [userId])).rows[0]?.age as number;
};
/** A person whose session was last used ten minutes ago, as far as every cache knows. */
async function idlePerson() {
  const someone = await person(app);
  await psql.query(
    `UPDATE sessions SET last_seen_at = now() - interval '10 minutes' WHERE user_id = $1`,
    [someone.id],
  );
  for (const until = Date.now() + 5_000; Date.now() < until; await sleep(10)) {
    const { rows } = await psql.query('SELECT FROM cache_invalidations');
    if (rows.length === 0) break;
  }
  return someone;
}

it('shows how many wait and for how long, and nothing once they are written', async () => {
  const someone = await idlePerson();
  // Its own timer too would be right, but at any moment.
  await app.app.get(LastUses, { strict: false }).onApplicationShutdown();
  expect([
    await metric('holdfast_sessions_unflushed'),
    await metric('holdfast_sessions_unflushed_oldest_seconds'),
  ]).toEqual([0, 0]);
  await app.call('GET', '/v1/users/me', { token: someone.token });
  await sleep(100);
  await app.call('GET', '/v1/users/me', { token: someone.token });
  expect(await metric('holdfast_sessions_unflushed')).toBe(1);
  const oldest = await metric('holdfast_sessions_unflushed_oldest_seconds');
  expect(oldest).toBeGreaterThanOrEqual(0.1);
  expect(oldest).toBeLessThan(5);
  await app.app.get(LastUses, { strict: false }).flush();
  expect([
    await metric('holdfast_sessions_unflushed'),
    await metric('holdfast_sessions_unflushed_oldest_seconds'),
  ]).toEqual([0, 0]);
  expect(await age(someone.id)).toBeLessThan(60);
});

it('writes what waits when the node stops', async () => {
  const someone = await idlePerson();
  const stopping = await startApp({}, database.url);
  await stopping.call('GET', '/v1/users/me', { token: someone.token });
  expect(await age(someone.id)).toBeGreaterThan(500);
  await stopping.close();
  expect(await age(someone.id)).toBeLessThan(60);
});
