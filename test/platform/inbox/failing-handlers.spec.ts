/**
 * Handlers that fail, hang, or take their connection with them: the events of other subjects go on,
 * each attempt counts, the delays grow, and the last attempt makes a dead letter.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable, Module } from '@nestjs/common';
import { Test, type TestingModule } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import pg from 'pg';
import { Registry } from 'prom-client';
import { DataSource, type EntityManager } from 'typeorm';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { RETRY, SKIP } from '../../../src/platform/inbox/inbox-statements.js';
import { InboxModule } from '../../../src/platform/inbox/inbox.module.js';
import { type ConsumedEvent, OnEvent } from '../../../src/platform/inbox/on-event.decorator.js';
import { MAX_ATTEMPTS } from '../../../src/platform/inbox/retry-policy.js';
import { eventually } from '../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { StatementRecorder } from '../database/query-plans.js';

/** PostgreSQL ends a session that is idle in a transaction for so long, unless told otherwise. */
const IDLE_IN_TRANSACTION_MS = 300;
const HANDLER_TIMEOUT_MS = 2_000;

/** What the handler does with an event, by its `mode`. Each writes a note first. */
@Injectable()
class Patient {
  readonly signals: AbortSignal[] = [];
  calls = 0;
  lateWrite: Promise<unknown> | undefined;

  @OnEvent('patient', 'test.', { timeoutMs: HANDLER_TIMEOUT_MS })
  async handle(
    { subject, data }: ConsumedEvent,
    manager: EntityManager,
    signal: AbortSignal,
  ): Promise<void> {
    const note = (): Promise<unknown> =>
      manager.query('INSERT INTO notes (subject, n) VALUES ($1, $2)', [subject, data.n]);
    this.calls++;
    await note();
    switch (data.mode) {
      case 'slow':
        await sleep(IDLE_IN_TRANSACTION_MS * 3);
        break;
      case 'hang':
        this.signals.push(signal);
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        this.lateWrite = note();
        await this.lateWrite;
        break;
      case 'cut':
        await manager.query('SELECT pg_terminate_backend(pg_backend_pid())');
        break;
      case 'swallow':
        await manager.query('SELECT 1 / 0').catch(() => undefined);
        break;
      case 'throw':
        throw new Error('this event is poison');
    }
  }
}

@Module({
  providers: [{ provide: Registry, useFactory: () => new Registry() }],
  exports: [Registry],
})
class RegistryModule {}

let database: TestDatabase;
let psql: pg.Client;
let module: TestingModule | undefined;

beforeAll(async () => {
  database = await createTestDatabase();
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  await psql.query(
    'CREATE TABLE notes (at bigint GENERATED ALWAYS AS IDENTITY, subject text, n int)',
  );
});
beforeEach(async () => {
  await psql.query('TRUNCATE notes, inbox, inbox_dead_letters, outbox, event_consumers');
});
afterEach(async () => {
  await module?.close();
  module = undefined;
});
afterAll(async () => {
  await psql?.end();
  await database?.drop();
});

async function startNode(): Promise<Patient> {
  const timeouts = { idleInTransaction: IDLE_IN_TRANSACTION_MS };
  module = await Test.createTestingModule({
    imports: [
      { module: RegistryModule, global: true },
      TypeOrmModule.forRoot({
        ...dataSourceOptions(database.url, 5, { timeouts }),
        autoLoadEntities: true,
      }),
      InboxModule,
    ],
    providers: [Patient],
  }).compile();
  module.useLogger(false);
  await module.init();
  await eventually('the consumer is registered', async () => {
    const { rowCount } = await psql.query('SELECT FROM event_consumers');
    return rowCount === 1;
  });
  return module.get(Patient);
}

async function append(subject: string, n: number, mode?: string): Promise<string> {
  const id = randomUUID();
  await psql.query(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'test.happened', $2, $3)`,
    [id, subject, { n, mode }],
  );
  return id;
}

const notes = async (): Promise<number[]> => {
  const { rows } = await psql.query<{ n: number }>('SELECT n FROM notes ORDER BY at');
  return rows.map(({ n }) => n);
};

const awaitNotes = (count: number): Promise<unknown> =>
  eventually(`${count} notes are written`, async () => (await notes()).length >= count);

interface Row {
  attempts: number;
  error: string | null;
  isDead: boolean;
  retrySeconds: number;
}

async function selectRow(id: string): Promise<Row> {
  const { rows } = await psql.query<Row>(
    `SELECT attempts, last_error AS error, retry_at = 'infinity' AS "isDead",
            extract(epoch FROM retry_at - clock_timestamp())::float8 AS "retrySeconds"
       FROM inbox WHERE event_id = $1`,
    [id],
  );
  return rows[0]!;
}

const awaitFailure = (id: string): Promise<unknown> =>
  eventually('the event has failed', async () => (await selectRow(id)).error !== null);

/** The next attempt is the last one, and due now. */
const makeNextAttemptLast = (id: string): Promise<unknown> =>
  psql.query(
    `UPDATE inbox SET attempts = ${MAX_ATTEMPTS - 1}, retry_at = now() WHERE event_id = $1`,
    [id],
  );

const awaitDead = (id: string): Promise<unknown> =>
  eventually('the event is a dead letter', async () => {
    const { rowCount } = await psql.query('SELECT FROM inbox_dead_letters WHERE event_id = $1', [
      id,
    ]);
    return rowCount === 1;
  });

describe('a handler', () => {
  it('may take longer than PostgreSQL lets a transaction idle', async () => {
    await startNode();

    await append('a/1', 1, 'slow');
    await append('a/2', 2);
    await awaitNotes(2);

    expect(await notes()).toEqual([1, 2]);
  });

  it('that never resolves is aborted, and events of other subjects go on', async () => {
    const patient = await startNode();

    const hanging = await append('a/1', 1, 'hang');
    await append('a/1', 2);
    await append('a/2', 3);
    await awaitNotes(1);
    await awaitFailure(hanging);

    expect(await notes()).toEqual([3]);
    expect((await selectRow(hanging)).error).toMatch(/The handler did not finish within 2000 ms/);
    expect(patient.signals[0]?.aborted).toBe(true);
  });

  it('writes nothing after its deadline', async () => {
    const patient = await startNode();

    const hanging = await append('a/1', 1, 'hang');
    await awaitFailure(hanging);

    await expect(patient.lateWrite).rejects.toThrow();
    expect(await notes()).toEqual([]);
  });

  it('that ignores a failed statement counts as failed, and others lose nothing', async () => {
    await startNode();
    await psql.query('BEGIN');
    await append('x/1', 1);
    const failing = await append('x/2', 2, 'swallow');
    await append('x/3', 3);
    await psql.query('COMMIT');

    await awaitNotes(2);

    expect((await notes()).sort()).toEqual([1, 3]);
    await eventually('the failure is recorded', async () => {
      const { rows } = await psql.query<{ error: string | null }>(
        'SELECT last_error AS error FROM inbox WHERE event_id = $1',
        [failing],
      );
      return rows[0]?.error?.includes('ignored the failure of a statement');
    });
  });

  it('does not keep others waiting, however many events wait behind it', async () => {
    const patient = await startNode();
    // Floors cannot pass what an open transaction may still commit.
    const writer = new pg.Client({ connectionString: database.url });
    await writer.connect();
    try {
      await writer.query('BEGIN');
      await writer.query(
        `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'other', 'late/1', '{}')`,
        [randomUUID()],
      );
      await append('x/1', 1, 'throw');
      await eventually('it has failed', () => patient.calls > 0);
      for (let n = 2; n < 130; n++) await append('x/1', n);
      await append('y/1', 1_000);

      await awaitNotes(1);

      expect(await notes()).toEqual([1_000]);
    } finally {
      await writer.end();
    }
  });

  it('that takes its connection with it counts as failed, each time', async () => {
    await startNode();

    const cutting = await append('a/1', 1, 'cut');
    await append('a/2', 2);
    await awaitNotes(1);
    await eventually('there was a second attempt', async () => {
      const { attempts } = await selectRow(cutting);
      return attempts >= 2;
    });
    await makeNextAttemptLast(cutting);
    await awaitDead(cutting);

    expect(await notes()).toEqual([2]);
  });

  it('that fails is retried with growing delays', async () => {
    await startNode();
    const failing = await append('a/1', 1, 'throw');
    const delays: number[] = [];
    for (const attempts of [0, 3, 9, 15]) {
      await awaitFailure(failing);
      await psql.query(
        `UPDATE inbox SET attempts = $2, retry_at = now(), last_error = NULL WHERE event_id = $1`,
        [failing, attempts],
      );
      await awaitFailure(failing);
      delays.push((await selectRow(failing)).retrySeconds);
    }

    const [first = 0, second = 0, third = 0, fourth = 0] = delays;
    expect(first).toBeLessThanOrEqual(1);
    expect(second).toBeGreaterThan(4);
    expect(third).toBeGreaterThan(200);
    expect(fourth).toBeLessThanOrEqual(300);
  });
});

describe('an attempt', () => {
  it('counts before the handler runs, so that one that ends the process counts', async () => {
    const patient = await startNode();
    const hanging = await append('a/1', 1, 'hang');

    await eventually('the handler runs', () => patient.signals.length === 1);
    const { attempts } = await selectRow(hanging);

    expect(attempts).toBe(1);
  });

  it('does not count for events of a batch that a stopping node does not begin', async () => {
    const patient = await startNode();
    await psql.query('BEGIN');
    const begun = await append('a/1', 1, 'slow');
    const left = await append('a/2', 2);
    await psql.query('COMMIT');
    await eventually('the first handler runs', () => patient.calls === 1);

    await module?.close();
    module = undefined;

    expect(await notes()).toEqual([1]);
    expect((await selectRow(begun)).attempts).toBe(1);
    expect((await selectRow(left)).attempts).toBe(0);
  });

  it('without an end makes the event a dead letter when no attempt is left', async () => {
    await startNode();
    await module?.close();
    module = undefined;
    // As a process leaves the event that ended in its last attempt.
    const fatal = await append('a/1', 1);
    await psql.query(
      `UPDATE inbox SET attempts = $2, held = true, retry_at = now() WHERE event_id = $1`,
      [fatal, MAX_ATTEMPTS],
    );

    await startNode();
    await awaitDead(fatal);

    expect((await selectRow(fatal)).error).toBe('The handler did not end');
    expect(await notes()).toEqual([]);
  });
});

describe('a dead letter', () => {
  /** A dead letter of a/1, then two events of its subject and one of another, which is handled. */
  async function appendDead(): Promise<string> {
    await startNode();
    const dead = await append('a/1', 1, 'throw');
    await awaitFailure(dead);
    await makeNextAttemptLast(dead);
    await awaitDead(dead);
    await append('a/1', 2);
    await append('a/1', 3);
    await append('a/2', 4);
    await awaitNotes(1);
    return dead;
  }

  it('blocks its subject, and is counted and dated in metrics', async () => {
    const dead = await appendDead();

    const metrics = await module!.get<Registry>(Registry).metrics();

    expect(await notes()).toEqual([4]);
    expect(await selectRow(dead)).toMatchObject({ isDead: true, attempts: MAX_ATTEMPTS });
    expect(metrics).toContain('holdfast_inbox_dead_letters{consumer="patient"} 1');
    expect(metrics).toMatch(/holdfast_inbox_oldest_seconds\{consumer="patient"\} [0-9.]*[1-9]/);
  });

  it('that is retried with success lets its subject continue in order', async () => {
    const dead = await appendDead();

    await psql.query(`UPDATE inbox SET data = data - 'mode' WHERE event_id = $1`, [dead]);
    await psql.query(RETRY, ['patient', dead]);
    await awaitNotes(4);

    expect(await notes()).toEqual([4, 1, 2, 3]);
    expect((await psql.query('SELECT FROM inbox_dead_letters')).rowCount).toBe(0);
  });

  it('alone is skipped or retried: an event behind it keeps its place', async () => {
    await appendDead();
    const { rows } = await psql.query<{ id: string }>(
      `SELECT event_id AS id FROM inbox WHERE subject = 'a/1' AND data ->> 'n' = '2'`,
    );
    const key = ['patient', rows[0]?.id];

    const skipped = await psql.query(SKIP, key);
    const retried = await psql.query(RETRY, key);

    expect([skipped.rowCount, retried.rowCount]).toEqual([0, 0]);
    const { rowCount } = await psql.query(
      'SELECT FROM inbox WHERE event_id = $1 AND handled_at IS NULL AND retry_at IS NULL',
      [rows[0]?.id],
    );
    expect(rowCount).toBe(1);
  });

  it('that is skipped is never handled, and its subject continues in order', async () => {
    const dead = await appendDead();

    await psql.query(SKIP, ['patient', dead]);
    await awaitNotes(3);
    await append('a/1', 5);
    await awaitNotes(4);

    expect(await notes()).toEqual([4, 2, 3, 5]);
    expect((await psql.query('SELECT FROM inbox_dead_letters')).rowCount).toBe(0);
  });
});

it('a batch has no savepoints, and after a failure each event has its own transaction', async () => {
  await startNode();
  const recorder = new StatementRecorder();
  module!.get(DataSource).logger = recorder;

  const savepoints = await recorder.during(/SAVEPOINT/, async () => {
    await psql.query('BEGIN');
    for (let n = 0; n < 100; n++) await append(`a/${n}`, n, n === 50 ? 'throw' : undefined);
    await psql.query('COMMIT');
    await awaitNotes(99);
  });

  expect(savepoints).toEqual([]);
});
