/**
 * When a write that was not fenced or published may be acknowledged: what it waits for in
 * PostgreSQL, with a node, an older release or a server that the test puts there.
 */
import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import type { DataSource } from 'typeorm';
import { InvalidationWaits } from '../../../../src/platform/cache/write/invalidation-waits.js';
import { eventually } from '../../../support/eventually.js';
import { Gate } from '../../../support/gate.js';
import { createTestDatabase, type TestDatabase } from '../../../support/postgres.js';
import { registerCleanup } from '../cleanup.js';

const NEVER_MS = 3_600_000;
const SOON_MS = 50;

const afterThisTest = registerCleanup();

let database: TestDatabase;
let psql: Client;
/** Answers of PostgreSQL to the waits. */
let answers: number;
/** Before each question. */
let beforeQuestion: () => Promise<unknown>;
/** Before each answer. */
let beforeAnswer: () => Promise<unknown>;
let waits: InvalidationWaits;

beforeAll(async () => {
  database = await createTestDatabase();
  psql = new Client({ connectionString: database.url });
  await psql.connect();
});
afterAll(async () => {
  await psql?.end();
  await database?.drop();
});

beforeEach(async () => {
  await psql.query('TRUNCATE cache_readers, cache_invalidations');
  await psql.query('UPDATE cache_epoch SET server = NULL');
  answers = 0;
  beforeQuestion = async () => undefined;
  beforeAnswer = async () => undefined;
  waits = createWaits(NEVER_MS);
});

function createWaits(timeoutMs: number): InvalidationWaits {
  const query = async (sql: string, values: unknown[]): Promise<unknown[]> => {
    await beforeQuestion();
    const { rows } = await psql.query(sql, values);
    await beforeAnswer();
    answers++;
    return rows as unknown[];
  };
  return new InvalidationWaits({ query } as unknown as DataSource, timeoutMs);
}

/** A wait, and whether it is over. */
function begin(key = 'k'): { isOver: boolean; over: Promise<void> } {
  const wait = { isOver: false, over: Promise.resolve() };
  wait.over = waits.wait([key]).then(() => {
    wait.isOver = true;
  });
  return wait;
}

/** PostgreSQL has answered several times, and the wait has seen it. */
async function someAnswers(): Promise<void> {
  const before = answers;
  await eventually('PostgreSQL has answered', () => answers >= before + 3);
  await nextTurn();
}

const registerReader = (): Promise<unknown> =>
  psql.query('INSERT INTO cache_readers SELECT $1, epoch FROM cache_epoch', [randomUUID()]);
const removeReaders = (): Promise<unknown> => psql.query('DELETE FROM cache_readers');
const enqueue = (key = 'k'): Promise<unknown> =>
  psql.query('INSERT INTO cache_invalidations (keys) VALUES ($1)', [[key]]);
const apply = (): Promise<unknown> => psql.query('DELETE FROM cache_invalidations');

/** @returns ends it */
async function startOlderNode(): Promise<() => Promise<void>> {
  const older = new Client({
    connectionString: database.url,
    application_name: 'holdfast-invalidations',
  });
  await older.connect();
  let isOpen = true;
  const stop = async (): Promise<void> => {
    if (isOpen) await older.end();
    isOpen = false;
  };
  afterThisTest(stop);
  return stop;
}

describe('a wait', () => {
  it('lasts while a node answers from the cache and its key is not invalidated', async () => {
    await registerReader();
    await enqueue();
    const wait = begin();
    await someAnswers();
    expect(wait.isOver).toBe(false);
    await apply();
    await wait.over;
  });

  it('ends when the last node has left, although the key is not invalidated', async () => {
    await registerReader();
    await enqueue();
    const wait = begin();
    await someAnswers();
    expect(wait.isOver).toBe(false);
    await removeReaders();
    await wait.over;
  });

  it('does not last for the keys of others', async () => {
    await registerReader();
    await enqueue('other');
    await begin('k').over;
    expect(answers).toBe(1);
  });

  it('lasts while a node of an older release may answer from its cache', async () => {
    const stopOlder = await startOlderNode();
    await enqueue();
    const wait = begin();
    await someAnswers();
    expect(wait.isOver).toBe(false);
    await stopOlder();
    await wait.over;
  });

  it('does not trust a row to be applied that an older release may have deleted', async () => {
    const stopOlder = await startOlderNode();
    await registerReader();
    const wait = begin();
    await someAnswers();
    expect(wait.isOver).toBe(false);
    await stopOlder();
    await wait.over;
  });

  it('does not trust a server that may have lost registrations and rows', async () => {
    await psql.query(`UPDATE cache_epoch SET server = 'the server before'`);
    const wait = begin();
    await someAnswers();
    expect(wait.isOver).toBe(false);
    await psql.query('UPDATE cache_epoch SET server = NULL');
    await wait.over;
  });

  it('does not take an error of PostgreSQL for an answer', async () => {
    let failures = 0;
    let isBroken = true;
    beforeQuestion = async () => {
      if (!isBroken) return;
      failures++;
      throw new Error('gone');
    };
    const wait = begin();
    await eventually('it has asked several times', () => failures > 2);
    expect(wait.isOver).toBe(false);
    isBroken = false;
    await wait.over;
  });

  it('does not end with an answer to a question from before it', async () => {
    await registerReader();
    const mayAnswer = new Gate();
    let isAnswering = false;
    beforeAnswer = () => {
      isAnswering = true;
      return mayAnswer.opened;
    };
    const first = begin('first');
    await eventually('PostgreSQL is about to answer', () => isAnswering);
    await enqueue('second');
    const second = begin('second');
    beforeAnswer = async () => undefined;
    mayAnswer.open();
    await first.over;
    await someAnswers();
    expect(second.isOver).toBe(false);
    await apply();
    await second.over;
  });

  it.each([
    ['rows are waiting', async () => undefined],
    ['PostgreSQL cannot be asked', () => Promise.reject(new Error('gone'))],
    ['PostgreSQL is silent', () => new Promise<never>(() => undefined)],
  ])('ends when every gate has closed by itself, although %s', async (_, question) => {
    await registerReader();
    await enqueue();
    beforeQuestion = question;
    waits = createWaits(SOON_MS);
    await begin().over;
    expect(await psql.query('SELECT FROM cache_invalidations')).toMatchObject({ rowCount: 1 });
  });
});
