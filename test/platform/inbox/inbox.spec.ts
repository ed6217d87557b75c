/**
 * What `@OnEvent` promises: an event is handled once, in the transaction of what its handler does; those of one subject in
 * their order; by one node at a time; and a handler that fails holds back its subject alone.
 */
import { Injectable, Module } from '@nestjs/common';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import pg from 'pg';
import { Registry } from 'prom-client';
import { DataSource, type EntityManager } from 'typeorm';
import { dataSourceOptions } from '../../src/database/data-source.js';
import { Delivery } from '../../src/inbox/inbox.entity.js';
import { InboxModule } from '../../src/inbox/inbox.module.js';
import { Inbox } from '../../src/inbox/inbox.service.js';
import { type ConsumedEvent, OnEvent } from '../../src/inbox/on-event.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

/** Writes down what it is given, in its transaction; `poison` fails, after it has written. */
@Injectable()
class Clerk {
  running = 0;
  most = 0;

  @OnEvent('clerk', 'test.')
  async note({ eventId, subject, data }: ConsumedEvent, manager: EntityManager): Promise<void> {
    this.most = Math.max(this.most, ++this.running);
    try {
      await manager.query('INSERT INTO notes (event_id, subject, n) VALUES ($1, $2, $3)', [
        eventId,
        subject,
        data.n,
      ]);
      if (data.sleep) await sleep(data.sleep as number);
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
class Metrics {}

let database: TestDatabase;
let psql: pg.Client;
const nodes: {
  inbox: Inbox;
  clerk: Clerk;
  dataSource: DataSource;
  registry: Pick<Registry, 'metrics'>;
  close(): Promise<void>;
}[] = [];

async function startNode() {
  const module = await Test.createTestingModule({
    imports: [
      { module: Metrics, global: true },
      TypeOrmModule.forRoot({ ...dataSourceOptions(database.url, 5), autoLoadEntities: true }),
      InboxModule,
    ],
    providers: [Clerk],
  }).compile();
  module.useLogger(false);
  await module.init();
  const node = {
    inbox: module.get(Inbox),
    clerk: module.get(Clerk),
    dataSource: module.get(DataSource),
    registry: module.get<Registry>(Registry),
    close: () => module.close(),
  };
  nodes.push(node);
  return node;
}

beforeAll(async () => {
  database = await createTestDatabase();
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  await psql.query(
    'CREATE TABLE notes (at bigint GENERATED ALWAYS AS IDENTITY, event_id uuid, subject text, n integer)',
  );
});
afterAll(async () => {
  await psql?.end();
  await database?.drop();
});
beforeEach(async () => {
  await psql.query('TRUNCATE notes, inbox, outbox');
});
afterEach(async () => {
  await Promise.all(nodes.splice(0).map((node) => node.close()));
});

const tell = (subject: string, n: number, more: object = {}, client = psql): Promise<unknown> =>
  client.query(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'test.happened', $2, $3)`,
    [randomUUID(), subject, { n, ...more }],
  );
const notes = async (): Promise<{ subject: string; n: number }[]> =>
  (await psql.query('SELECT subject, n FROM notes ORDER BY at')).rows as {
    subject: string;
    n: number;
  }[];
async function until(what: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 10_000; !(await what()); await sleep(25))
    if (Date.now() > deadline) throw new Error('it did not come to that');
}

describe('a consumer', () => {
  it('is given each event of its kind, those of a subject in their order, whoever commits first', async () => {
    await startNode();
    await until(
      async () =>
        (await psql.query(`SELECT FROM event_consumers WHERE name = 'clerk'`)).rowCount === 1,
    );
    const late = new pg.Client({ connectionString: database.url });
    await late.connect();
    await late.query('BEGIN');
    await tell('a/late', 1, {}, late);
    await psql.query(
      `INSERT INTO outbox (id, type, subject, data) VALUES (gen_random_uuid(), 'other.thing', 'a/1', '{}')`,
    );
    for (let n = 1; n <= 250; n++) await tell(`a/${n % 7}`, n);
    await until(async () => (await notes()).length === 250);
    // Its position lies before all of those: a cursor would have passed it.
    await late.query('COMMIT');
    await late.end();
    await until(async () => (await notes()).length === 251);
    const seen = await notes();
    for (let subject = 0; subject < 7; subject++) {
      const own = seen.filter((note) => note.subject === `a/${subject}`).map(({ n }) => n);
      expect(own).toEqual([...own].sort((a, b) => a - b));
    }
    expect(new Set(seen.map(({ n, subject }) => `${subject} ${n}`)).size).toBe(251);
  });

  it('is served by one node at a time, and each event is handled once, however many nodes there are', async () => {
    const three = [await startNode(), await startNode(), await startNode()];
    for (let n = 0; n < 120; n++) await tell(`b/${n % 5}`, n, { sleep: 2 });
    await until(async () => (await notes()).length >= 120);
    await sleep(100);
    expect((await notes()).length).toBe(120);
    expect(Math.max(...three.map(({ clerk }) => clerk.most))).toBe(1);
    const { rows } = await psql.query(
      'SELECT count(*)::int AS n FROM inbox WHERE handled_at IS NULL',
    );
    expect(rows).toEqual([{ n: 0 }]);
  });

  it('does an event once that is delivered ten times, one after another and at the same time', async () => {
    const { inbox, dataSource } = await startNode();
    await until(
      async () =>
        (await psql.query(`SELECT FROM event_consumers WHERE name = 'clerk'`)).rowCount === 1,
    );
    await tell('c/1', 1);
    await until(async () => (await notes()).length === 1);
    const [delivery] = await dataSource.getRepository(Delivery).find();
    const again = (): Promise<boolean> =>
      dataSource.transaction((manager) => inbox.deliver(manager, delivery as Delivery));
    for (let n = 0; n < 10; n++) expect(await again()).toBe(false);
    // As if it had never been handled: ten at once, and one does it.
    await psql.query('UPDATE inbox SET handled_at = NULL');
    await psql.query('TRUNCATE notes');
    const ran = await Promise.all(Array.from({ length: 10 }, again));
    await sleep(50);
    expect(ran.filter(Boolean).length).toBeLessThanOrEqual(1);
    expect(await notes()).toEqual([{ subject: 'c/1', n: 1 }]);
    // The same row of the outbox told again changes nothing either.
    await psql.query(
      `INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at)
       SELECT 'clerk', id, position, type, subject, data, occurred_at FROM outbox, generate_series(1, 10) ON CONFLICT DO NOTHING`,
    );
    await sleep(700);
    expect(await notes()).toHaveLength(1);
  });

  it('loses nothing and does nothing twice when its connection is cut in the middle of a batch', async () => {
    await startNode();
    for (let n = 0; n < 60; n++) await tell(`d/${n % 3}`, n, { sleep: 5 });
    for (let cut = 0; cut < 4; cut++) {
      await sleep(60);
      await psql.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`,
      );
    }
    await until(
      async () => (await psql.query('SELECT FROM inbox WHERE handled_at IS NULL')).rowCount === 0,
    );
    expect((await notes()).map(({ n }) => n).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 60 }, (_, n) => n),
    );
  });

  it('that fails keeps nothing of it, holds back that subject alone, is told, and gets it again', async () => {
    const { registry } = await startNode();
    await until(
      async () =>
        (await psql.query(`SELECT FROM event_consumers WHERE name = 'clerk'`)).rowCount === 1,
    );
    await tell('e/1', 1);
    await tell('e/1', 2, { poison: true });
    await tell('e/1', 3);
    await tell('e/2', 4);
    await until(async () => (await notes()).length === 2);
    await sleep(700);
    expect(await notes()).toEqual([
      { subject: 'e/1', n: 1 },
      { subject: 'e/2', n: 4 },
    ]);
    const { rows } = await psql.query(
      `SELECT last_error, attempts > 0 AS tried, retry_at > occurred_at AS again FROM inbox WHERE data ? 'poison'`,
    );
    expect(rows).toEqual([{ last_error: 'this event is poison', tried: true, again: true }]);
    expect(await registry.metrics()).toMatch(
      /holdfast_inbox_oldest_seconds\{consumer="clerk"\} [0-9.]*[1-9]/,
    );
    await psql.query(
      `UPDATE inbox SET data = data - 'poison', retry_at = now() WHERE data ? 'poison'`,
    );
    await until(async () => (await notes()).length === 4);
    expect((await notes()).map(({ n }) => n)).toEqual([1, 4, 2, 3]);
  });

  it('forgets what it has handled after a day, a bounded number at a time, and never what waits', async () => {
    const { inbox } = await startNode();
    await inbox.purge();
    await psql.query(
      `INSERT INTO inbox (consumer, event_id, position, type, subject, data, occurred_at, handled_at)
       SELECT 'gone', gen_random_uuid(), n, 'x', 'x', '{}', now() - interval '2 days',
              CASE WHEN n > 10 THEN now() - interval '25 hours' END FROM generate_series(1, 1510) AS n`,
    );
    const purge = async (): Promise<number> => {
      (inbox as unknown as { purgedAt: number }).purgedAt = 0;
      await inbox.purge();
      return Number((await psql.query('SELECT count(*) FROM inbox')).rows[0].count);
    };
    expect(await purge()).toBe(510);
    expect(await purge()).toBe(10);
    expect(await purge()).toBe(10);
  });
});

it('two handlers of one name are refused at boot', async () => {
  @Injectable()
  class Double {
    @OnEvent('clerk', 'other.')
    async note(_event: ConsumedEvent, _manager: EntityManager): Promise<void> {}
  }
  const module = await Test.createTestingModule({
    imports: [
      { module: Metrics, global: true },
      TypeOrmModule.forRoot({ ...dataSourceOptions(database.url, 2), autoLoadEntities: true }),
      InboxModule,
    ],
    providers: [Clerk, Double],
  }).compile();
  module.useLogger(false);
  await expect(module.init()).rejects.toThrow('two handlers are called clerk');
  await module.get(DataSource).destroy();
});
