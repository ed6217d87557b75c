/**
 * What `@OnEvent` promises: an event is handled once, in the transaction of its handler's writes;
 * the events of one subject in order; on one node at a time; and a handler that fails blocks the
 * subject of its event, nothing else.
 */
import { Injectable, Module, type Provider } from '@nestjs/common';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Test, type TestingModule } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import pg from 'pg';
import { Registry } from 'prom-client';
import { DataSource, type EntityManager } from 'typeorm';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { InboxPurge } from '../../../src/platform/inbox/inbox-purge.js';
import { CONSUMER_LOCK } from '../../../src/platform/inbox/consumer-lock.js';
import { Delivery } from '../../../src/platform/inbox/inbox.entity.js';
import { InboxModule } from '../../../src/platform/inbox/inbox.module.js';
import { InboxService } from '../../../src/platform/inbox/inbox.service.js';
import { type ConsumedEvent, OnEvent } from '../../../src/platform/inbox/on-event.decorator.js';
import { eventually } from '../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';

interface Note {
  readonly subject: string;
  readonly n: number;
}

interface Node {
  readonly inbox: InboxService;
  readonly noteTaker: NoteTaker;
  readonly module: TestingModule;
}

/**
 * Writes each event into the table `notes`, in the transaction that it gets. An event with
 * `pauseMs` takes that long, an event with `waits` until the test opens the gate. An event with
 * `poison` fails after the write.
 */
@Injectable()
class NoteTaker {
  /** Handlers that run at this moment, and the most that ever did. */
  running = 0;
  maxRunning = 0;
  calls = 0;
  isWaiting = false;
  openGate: () => void = () => undefined;
  private readonly gate = new Promise<void>((resolve) => {
    this.openGate = resolve;
  });

  @OnEvent('note-taker', 'test.')
  async takeNote({ eventId, subject, data }: ConsumedEvent, manager: EntityManager): Promise<void> {
    this.calls++;
    this.running++;
    this.maxRunning = Math.max(this.maxRunning, this.running);
    try {
      await manager.query('INSERT INTO notes (event_id, subject, n) VALUES ($1, $2, $3)', [
        eventId,
        subject,
        data.n,
      ]);
      if (data.pauseMs !== undefined) await sleep(data.pauseMs as number);
      if (data.waits) {
        this.isWaiting = true;
        await this.gate;
      }
      if (data.poison) throw new Error('this event is poison');
    } finally {
      this.running--;
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
const nodes: Node[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  psql = await connect();
  await psql.query(
    `CREATE TABLE notes (
       at bigint GENERATED ALWAYS AS IDENTITY, event_id uuid, subject text, n integer)`,
  );
});

afterAll(async () => {
  await psql?.end();
  await database?.drop();
});

beforeEach(async () => {
  await psql.query('TRUNCATE notes, inbox, outbox, event_consumers');
});

afterEach(stopNodes);

async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  return client;
}

const createModule = (providers: Provider[]): Promise<TestingModule> =>
  Test.createTestingModule({
    imports: [
      { module: RegistryModule, global: true },
      TypeOrmModule.forRoot({ ...dataSourceOptions(database.url, 5), autoLoadEntities: true }),
      InboxModule,
    ],
    providers,
  }).compile();

/** Starts a node with the note taker, and waits until the note taker gets events. */
async function startNode(): Promise<Node> {
  const module = await createModule([NoteTaker]);
  module.useLogger(false);
  await module.init();
  const node = { inbox: module.get(InboxService), noteTaker: module.get(NoteTaker), module };
  nodes.push(node);
  await eventually('the note taker is registered', async () => {
    const { rowCount } = await psql.query(`SELECT FROM event_consumers WHERE name = 'note-taker'`);
    return rowCount === 1;
  });
  return node;
}

/** Ends every node. Each finishes the batch that it delivers, so afterwards nothing changes. */
async function stopNodes(): Promise<void> {
  await Promise.all(nodes.splice(0).map(({ module }) => module.close()));
}

const append = (subject: string, n: number, data: object = {}, client = psql): Promise<unknown> =>
  client.query(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'test.happened', $2, $3)`,
    [randomUUID(), subject, { n, ...data }],
  );

async function selectNotes(): Promise<Note[]> {
  const { rows } = await psql.query<Note>('SELECT subject, n FROM notes ORDER BY at');
  return rows;
}

const awaitNotes = (count: number): Promise<unknown> =>
  eventually(`${count} notes are written`, async () => {
    const notes = await selectNotes();
    return notes.length >= count;
  });

async function countRows(where: string): Promise<number> {
  const { rows } = await psql.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM inbox WHERE ${where}`,
  );
  return rows[0]?.count ?? NaN;
}

const awaitAllHandled = (): Promise<unknown> =>
  eventually('every event is handled', async () => (await countRows('handled_at IS NULL')) === 0);

const numbersOf = (notes: readonly Note[]): number[] => notes.map(({ n }) => n);
const ascending = (numbers: readonly number[]): number[] => [...numbers].sort((a, b) => a - b);
const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

describe('a consumer', () => {
  it('gets each event of its types once, in the order of its subject', async () => {
    await startNode();

    await psql.query(
      `INSERT INTO outbox (id, type, subject, data)
       VALUES (gen_random_uuid(), 'other.thing', 'a/1', '{}')`,
    );
    for (const n of upTo(250)) await append(`a/${n % 7}`, n);
    await awaitNotes(250);
    await stopNodes();

    const notes = await selectNotes();
    const numbersBySubject = upTo(7).map((subject) =>
      numbersOf(notes.filter((note) => note.subject === `a/${subject}`)),
    );
    expect(ascending(numbersOf(notes))).toEqual(upTo(250));
    expect(numbersBySubject).toEqual(numbersBySubject.map(ascending));
  });

  it('gets an event whose transaction commits after later events were handled', async () => {
    await startNode();
    const lateWriter = await connect();

    await lateWriter.query('BEGIN');
    await append('a/late', 1, {}, lateWriter);
    await append('a/other', 2);
    await awaitNotes(1);
    // Its position is lower than that of the other event: a cursor by position would miss it.
    await lateWriter.query('COMMIT');
    await lateWriter.end();
    await awaitNotes(2);

    expect(numbersOf(await selectNotes())).toEqual([2, 1]);
  });

  it('gets nothing while a node or a program elsewhere has its lock', async () => {
    const { noteTaker, module } = await startNode();
    const program = await connect();
    const lock = `SELECT pg_advisory_lock(${CONSUMER_LOCK})`;
    await program.query(lock, ['note-taker']);
    await append('b/locked', 1);

    const dataSource = module.get(DataSource);
    const transaction = dataSource.transaction.bind(dataSource) as DataSource['transaction'];
    let attempts = 0;
    dataSource.transaction = ((work: (manager: EntityManager) => Promise<unknown>) => {
      attempts++;
      return transaction(work);
    }) as DataSource['transaction'];
    // The first may have begun before the event was there, so it does not count.
    await eventually('the node has tried again', () => attempts >= 2);
    expect([noteTaker.calls, await countRows('attempts > 0')]).toEqual([0, 0]);
    await program.end();
    await awaitNotes(1);
  });

  it('is served by one node at a time and handles each event once, on three nodes', async () => {
    const threeNodes = [await startNode(), await startNode(), await startNode()];

    for (const n of upTo(120)) await append(`b/${n % 5}`, n, { pauseMs: 2 });
    await awaitAllHandled();
    await stopNodes();

    expect(ascending(numbersOf(await selectNotes()))).toEqual(upTo(120));
    expect(Math.max(...threeNodes.map(({ noteTaker }) => noteTaker.maxRunning))).toBe(1);
  });

  it('ignores an event that is delivered again after it was handled', async () => {
    const { inbox, module } = await startNode();
    await append('c/1', 1);
    await awaitNotes(1);
    const dataSource = module.get(DataSource);
    const delivery = await dataSource.getRepository(Delivery).findOneByOrFail({});

    const results: boolean[] = [];
    for (let repeat = 0; repeat < 10; repeat++) {
      results.push(await dataSource.transaction((manager) => inbox.deliver(manager, delivery)));
    }

    expect(results).toEqual(Array.from({ length: 10 }, () => false));
    expect(await selectNotes()).toHaveLength(1);
  });

  it('handles an event once that is delivered ten times at the same moment', async () => {
    const { inbox, module } = await startNode();
    await append('c/1', 1);
    await awaitNotes(1);
    const dataSource = module.get(DataSource);
    const delivery = await dataSource.getRepository(Delivery).findOneByOrFail({});
    await psql.query('BEGIN; TRUNCATE notes; UPDATE inbox SET handled_at = NULL; COMMIT');

    const results = await Promise.all(
      Array.from({ length: 10 }, () =>
        dataSource.transaction((manager) => inbox.deliver(manager, delivery)),
      ),
    );
    await awaitAllHandled();
    await stopNodes();

    // None of the ten if the polling loop was faster than all of them.
    expect(results.filter((hasRun) => hasRun).length).toBeLessThanOrEqual(1);
    expect(await selectNotes()).toEqual([{ subject: 'c/1', n: 1 }]);
  });

  it('gets an event once whose delivery is inserted ten times', async () => {
    await startNode();
    await append('c/1', 1);
    await awaitNotes(1);

    await psql.query(
      `INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at)
       SELECT 'note-taker', id, position, type, subject, data, occurred_at
         FROM outbox, generate_series(1, 10)
       ON CONFLICT DO NOTHING`,
    );
    // The loop handles this event after it has seen the table as it is now.
    await append('c/2', 2);
    await awaitNotes(2);

    expect(numbersOf(await selectNotes())).toEqual([1, 2]);
  });

  it('loses and repeats nothing when its connections are cut during a batch', async () => {
    const { noteTaker } = await startNode();

    for (const n of upTo(60)) await append(`d/${n % 3}`, n, { waits: n === 30 });
    await eventually('a batch is being delivered', () => noteTaker.isWaiting);
    await psql.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()`,
    );
    noteTaker.openGate();
    await awaitAllHandled();
    await stopNodes();

    expect(ascending(numbersOf(await selectNotes()))).toEqual(upTo(60));
    expect(noteTaker.calls).toBeGreaterThan(60);
  });

  it('keeps nothing of a failed event and blocks its subject until a retry succeeds', async () => {
    await startNode();
    await append('e/1', 1);
    await append('e/1', 2, { poison: true });
    await append('e/1', 3);
    await append('e/2', 4);
    await eventually('the poison has failed', () => countRows('last_error IS NOT NULL'));

    // Delivered in a later batch, which would also deliver the third event if it were not blocked.
    await append('e/3', 5);
    await awaitNotes(3);
    const notesWhileBlocked = ascending(numbersOf(await selectNotes()));
    await psql.query(
      `UPDATE inbox SET data = data - 'poison', retry_at = now() WHERE data ? 'poison'`,
    );
    await awaitNotes(5);

    expect(notesWhileBlocked).toEqual([1, 4, 5]);
    expect(numbersOf(await selectNotes()).slice(-2)).toEqual([2, 3]);
  });

  it('records the error of a failed event, its next attempt, and the age in a metric', async () => {
    const { module } = await startNode();
    await append('e/1', 1, { poison: true });
    await eventually('the event has failed', () => countRows('last_error IS NOT NULL'));

    const { rows } = await psql.query(
      'SELECT last_error, retry_at > occurred_at AS has_retry, handled_at FROM inbox',
    );
    const metrics = await module.get<Registry>(Registry).metrics();

    expect(rows).toEqual([
      { last_error: 'this event is poison', has_retry: true, handled_at: null },
    ]);
    expect(metrics).toMatch(/holdfast_inbox_oldest_seconds\{consumer="note-taker"\} [0-9.]*[1-9]/);
  });
});

describe('the purge of the inbox', () => {
  it('removes deliveries handled more than a day ago, at most 1000 at once', async () => {
    const { module } = await startNode();
    const purge = module.get(InboxPurge);
    // Its timer would remove rows between two batches of the test.
    await purge.onApplicationShutdown();
    await psql.query(
      `INSERT INTO inbox
              (consumer, event_id, position, type, subject, data, occurred_at, handled_at)
       SELECT 'removed', gen_random_uuid(), n, 'x', 'x', '{}', now() - interval '2 days',
              CASE WHEN n > 20 THEN now() - interval '25 hours'
                   WHEN n > 10 THEN now() - interval '23 hours' END
         FROM generate_series(1, 1520) AS n`,
    );

    const hasMoreAfterFirst = await purge.removeBatch();
    const rowsAfterFirst = await countRows('true');
    const hasMoreAfterSecond = await purge.removeBatch();

    expect([hasMoreAfterFirst, rowsAfterFirst]).toEqual([true, 520]);
    expect(hasMoreAfterSecond).toBe(false);
    expect(await countRows('handled_at IS NULL')).toBe(10);
    expect(await countRows('handled_at IS NOT NULL')).toBe(10);
  });
});

describe('the start of the application', () => {
  it('fails when two handlers use the same consumer name', async () => {
    @Injectable()
    class SecondNoteTaker {
      @OnEvent('note-taker', 'other.')
      async takeNote(_event: ConsumedEvent, _manager: EntityManager): Promise<void> {}
    }
    const module = await createModule([NoteTaker, SecondNoteTaker]);
    module.useLogger(false);

    await expect(module.init()).rejects.toThrow(
      'Two @OnEvent methods use the consumer name "note-taker"',
    );
    await module.close();
  });
});
