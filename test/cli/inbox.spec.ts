/** `holdfast inbox`: what it prints and changes. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { compile } from '../../scripts/compile.mjs';
import { CONSUMER_LOCK } from '../../src/platform/inbox/consumer-lock.js';
import { eventually } from '../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

let compiled: Awaited<ReturnType<typeof compile>>;
let database: TestDatabase;
let psql: Client;

beforeAll(async () => {
  compiled = await compile();
  database = await createTestDatabase();
  psql = new Client({ connectionString: database.url });
  await psql.connect();
});
beforeEach(() => psql.query('TRUNCATE inbox, inbox_dead_letters'));
afterEach(() => psql.query('SELECT pg_advisory_unlock_all()'));
afterAll(async () => {
  await psql?.end();
  await database?.drop();
  await compiled?.remove();
});

/** @returns its standard output */
async function holdfastInbox(...words: string[]): Promise<string> {
  const env = { PATH: process.env.PATH, DATABASE_URL: database.url };
  const args = [join(compiled.folder, 'src/cli/main.js'), 'inbox', ...words];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env });
  return stdout;
}

/** @param state held and retry_at as SQL */
async function insertDelivery(position: number, state: string): Promise<string> {
  const id = randomUUID();
  await psql.query(
    `INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at,
                        attempts, last_error, held, retry_at)
     VALUES ('totals', $1, $2, 'test.made', 'tests/1', '{}', now(), 20, 'poison', ${state})`,
    [id, position],
  );
  return id;
}

/** A dead letter, and two events behind it. */
async function insertDead(): Promise<{ dead: string; next: string; last: string }> {
  const dead = await insertDelivery(1, `true, 'infinity'`);
  const next = await insertDelivery(2, 'true, null');
  const last = await insertDelivery(3, 'true, null');
  await psql.query(
    `INSERT INTO inbox_dead_letters
            (consumer, event_id, type, subject, occurred_at, attempts, last_error)
     SELECT consumer, event_id, type, subject, occurred_at, attempts, last_error
       FROM inbox WHERE event_id = $1`,
    [dead],
  );
  return { dead, next, last };
}

/** The state of each event, in order. */
async function states(): Promise<string[]> {
  const { rows } = await psql.query<{ state: string }>(
    `SELECT CASE WHEN handled_at IS NOT NULL THEN 'handled' WHEN retry_at = 'infinity' THEN 'dead'
                 WHEN retry_at <= now() THEN 'due' ELSE 'waits' END AS state
       FROM inbox ORDER BY position`,
  );
  return rows.map(({ state }) => state);
}

const countDead = async (): Promise<number | null> =>
  (await psql.query('SELECT FROM inbox_dead_letters')).rowCount;

it('list prints each dead letter with its error and what waits behind it', async () => {
  const { dead } = await insertDead();

  const output = await holdfastInbox('list');

  expect(output).toMatch(/^1 dead letters:\n/);
  expect(output).toContain(`totals/${dead}  test.made of tests/1, dead for `);
  expect(output).toContain('2 queued behind it');
  expect(output).toContain('failed 20 times: poison');
});

it.each(['the event', 'all'])('retry of %s makes it due, with all attempts', async (which) => {
  const { dead } = await insertDead();

  await holdfastInbox('retry', which === 'all' ? 'all' : `totals/${dead}`);

  const { rows } = await psql.query('SELECT attempts FROM inbox WHERE event_id = $1', [dead]);
  expect(await states()).toEqual(['due', 'waits', 'waits']);
  expect(rows).toEqual([{ attempts: 0 }]);
  expect(await countDead()).toBe(0);
});

it('skip gives the event up and makes the next one of its subject due', async () => {
  const { dead } = await insertDead();

  await holdfastInbox('skip', `totals/${dead}`);

  expect(await states()).toEqual(['handled', 'due', 'waits']);
  expect(await countDead()).toBe(0);
});

it('skip waits for the lock of the consumer', async () => {
  const { dead } = await insertDead();
  await psql.query(`SELECT pg_advisory_lock(${CONSUMER_LOCK})`, ['totals']);

  const skipping = holdfastInbox('skip', `totals/${dead}`);
  await eventually('the command waits for the lock', async () => {
    const { rowCount } = await psql.query(
      `SELECT FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()`,
    );
    return rowCount === 1;
  });
  const statesMeanwhile = await states();
  await psql.query('SELECT pg_advisory_unlock_all()');
  await skipping;

  expect(statesMeanwhile).toEqual(['dead', 'waits', 'waits']);
  expect(await states()).toEqual(['handled', 'due', 'waits']);
});

it.each(['retry', 'skip'])('%s changes nothing but dead letters', async (verb) => {
  const { next } = await insertDead();

  await expect(holdfastInbox(verb, `totals/${next}`)).rejects.toThrow(
    `the consumer totals has no dead letter with the id ${next}`,
  );
  await expect(holdfastInbox(verb, next)).rejects.toThrow(`${verb} needs <consumer>/<id>`);
  expect(await states()).toEqual(['dead', 'waits', 'waits']);
});
