/** What the relay and `holdfast outbox skip` do in PostgreSQL, without a broker. */
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import {
  OutboxPartitions,
  type Settlement,
} from '../../../src/platform/outbox/outbox-partitions.js';
import {
  NEWEST_POSITION,
  type NewestPosition,
  QueueFloors,
} from '../../../src/platform/database/queue-floors.js';
import {
  ALL_PARTITIONS,
  FIND_BUSY,
  MAX_BATCH,
  MAX_DATA_BYTES,
  type PartitionState,
  TAKE,
} from '../../../src/platform/outbox/outbox-statements.js';
import { eventually } from '../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { explain } from '../database/query-plans.js';
import { TcpProxy } from '../../support/tcp-proxy.js';

const NOTHING: Settlement = { published: [], rejected: [], blocked: [] };

let database: TestDatabase;
let psql: Client;
let partitions: OutboxPartitions;

beforeEach(async () => {
  database = await createTestDatabase();
  psql = new Client({ connectionString: database.url });
  await psql.connect();
  partitions = new OutboxPartitions(database.url);
  await partitions.open();
});

afterEach(async () => {
  await partitions.close();
  await psql.end();
  await database.drop();
});

async function append(data: object = {}): Promise<{ id: string; position: string }> {
  const { rows } = await psql.query<{ id: string; position: string }>(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'test.made', 'tests/1', $2)
     RETURNING id, position`,
    [randomUUID(), data],
  );
  return rows[0] as { id: string; position: string };
}

async function onlyBusyPartition(): Promise<number> {
  const busy = await partitions.findBusy();
  expect(busy).toHaveLength(1);
  return busy[0] as number;
}

/** Appends two events, the first of which the broker rejected for good. */
async function appendRejected(): Promise<{ rejectedId: string; nextId: string }> {
  const rejected = await append();
  const next = await append();
  await partitions.settle({
    ...NOTHING,
    rejected: [{ position: rejected.position, retrySeconds: null, error: 'too large' }],
    blocked: [{ position: next.position, isDue: false }],
  });
  return { rejectedId: rejected.id, nextId: next.id };
}

it('a batch leaves data above the bound in PostgreSQL and reports its size', async () => {
  await append({ text: 'x'.repeat(MAX_DATA_BYTES) });

  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(batch?.events).toHaveLength(1);
  expect(batch?.events[0]?.data).toBeNull();
  expect(batch?.events[0]?.dataBytes).toBeGreaterThan(MAX_DATA_BYTES);
});

it('a batch has the events of a subject in the order in which they were appended', async () => {
  const appended = [await append(), await append(), await append()];

  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(batch).toMatchObject({ state: 'free', events: appended, queued: [] });
});

it('a batch with a retry has its subject in order, with what came meanwhile', async () => {
  const { rejectedId, nextId } = await appendRejected();
  const { id: laterId } = await append();
  await psql.query('UPDATE outbox SET retry_at = now() WHERE id = $1', [rejectedId]);

  const [batch] = await partitions.take(await onlyBusyPartition());

  const ids = [{ id: rejectedId }, { id: nextId }, { id: laterId }];
  expect(batch).toMatchObject({ state: 'retrying', events: ids, queued: [] });
});

it('a batch publishes no new event of a subject whose retry is not due', async () => {
  await appendRejected();
  const later = await append();

  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(batch).toMatchObject({ state: 'blocked', events: [], queued: [{ id: later.id }] });
});

it('a settlement records confirms, rejections and the events behind them', async () => {
  const [published, retried, parked, queued, due, untouched] = [
    await append(),
    await append(),
    await append(),
    await append(),
    await append(),
    await append(),
  ];

  await partitions.settle({
    published: [published.position],
    rejected: [
      { position: retried.position, retrySeconds: 3_600, error: 'full' },
      { position: parked.position, retrySeconds: null, error: 'too large' },
    ],
    blocked: [
      { position: queued.position, isDue: false },
      { position: due.position, isDue: true },
    ],
  });

  const { rows } = await psql.query(
    `SELECT id, published_at IS NOT NULL AS published, held, attempts, last_error AS error,
            CASE WHEN retry_at = 'infinity' THEN 'never' WHEN retry_at <= now() THEN 'now'
                 WHEN retry_at <= now() + interval '1 hour' THEN 'within an hour' END AS retry
       FROM outbox ORDER BY position`,
  );
  const plain = { published: false, attempts: 0, error: null, retry: null };
  expect(rows).toEqual([
    { ...plain, id: published.id, published: true, held: false, attempts: 1 },
    { ...plain, id: retried.id, held: true, attempts: 1, error: 'full', retry: 'within an hour' },
    { ...plain, id: parked.id, held: true, attempts: 1, error: 'too large', retry: 'never' },
    { ...plain, id: queued.id, held: true },
    { ...plain, id: due.id, held: true, retry: 'now' },
    { ...plain, id: untouched.id, held: false },
  ]);
});

describe('events of 60 KB each', () => {
  /** Rows that are larger than a batch together, of as many subjects, all in one partition. */
  const INSERT_LARGE = `
    INSERT INTO outbox (id, type, subject, data, held, retry_at)
    SELECT gen_random_uuid(), 'test.made', subject, jsonb_build_object('text', repeat('x', 60000)),
           $3, CASE WHEN $3 AND event = 1 THEN now() END
      FROM (SELECT 'tests/' || n AS subject FROM generate_series(1, 1000) AS n
             WHERE hashtext('tests/' || n) & 15 = 3 ORDER BY n LIMIT $1) AS subjects,
           generate_series(1, $2) AS event ORDER BY event, subject`;
  const EVENT_BYTES = 60_000;
  const PARTITION = 3;

  it('are taken up to the bound of bytes, and the others follow', async () => {
    await psql.query(INSERT_LARGE, [2, 15, false]);
    const takeAndPublish = async (): Promise<number[]> => {
      const batch = await partitions.take(PARTITION);
      const published = batch.flatMap(({ events }) => events).map(({ position }) => position);
      await partitions.settle({ ...NOTHING, published });
      return published.map(Number).sort((a, b) => a - b);
    };

    const batches = [await takeAndPublish(), await takeAndPublish()];

    const positions = Array.from({ length: 30 }, (_, index) => index + 1);
    const count = Math.ceil(MAX_BATCH.bytes / EVENT_BYTES);
    expect(batches).toEqual([positions.slice(0, count), positions.slice(count)]);
  });

  it('behind the bound are not read', async () => {
    await psql.query(INSERT_LARGE, [2, 100, false]);
    await psql.query('VACUUM ANALYZE outbox');
    const { readRows } = await explain(psql, { sql: TAKE, parameters: [PARTITION, 0] });
    // Each event of the batch, the one before it, and a look for a blocked event of its subject.
    expect(readRows).toBeLessThanOrEqual(3 * Math.ceil(MAX_BATCH.bytes / EVENT_BYTES));
  });

  it('that are blocked are taken by whole subjects up to the bound, and none is reordered', async () => {
    // The bound falls into the third of four subjects.
    await psql.query(INSERT_LARGE, [4, 7, true]);
    await psql.query(INSERT_LARGE, [4, 1, false]);

    const batch = await partitions.take(PARTITION);

    const outcomes = batch.map(({ state, events, queued }) => [
      state,
      events.length,
      queued.length,
    ]);
    expect(outcomes.sort()).toEqual([
      // Its later event queues behind what is blocked.
      ['blocked', 0, 1],
      ['retrying', 8, 0],
      ['retrying', 8, 0],
      ['retrying', 8, 0],
    ]);
  });
});

it('a locked partition is refused to other connections until it is unlocked', async () => {
  const otherPartitions = new OutboxPartitions(database.url);
  await otherPartitions.open();
  let hasRunMeanwhile: boolean | undefined;

  await partitions.lock(3, async () => {
    hasRunMeanwhile = await otherPartitions.lock(3, async () => undefined);
  });
  const hasRunAfterwards = await otherPartitions.lock(3, async () => undefined);
  await otherPartitions.close();

  expect([hasRunMeanwhile, hasRunAfterwards]).toEqual([false, true]);
});

it('skip gives up a rejected event and makes the next one of its subject due', async () => {
  const { rejectedId, nextId } = await appendRejected();

  const isSkipped = await partitions.skip(rejectedId);
  const [batch] = await partitions.take(await onlyBusyPartition());

  expect(isSkipped).toBe(true);
  expect(batch).toMatchObject({ state: 'retrying', events: [{ id: nextId }], queued: [] });
});

it('skip does nothing to an event that the broker did not reject', async () => {
  const { nextId } = await appendRejected();

  expect(await partitions.skip(nextId)).toBe(false);
  expect(await partitions.skip(randomUUID())).toBe(false);
});

it('skip waits until the relay that has locked the partition unlocks it', async () => {
  const { rejectedId } = await appendRejected();
  const { rows } = await psql.query<{ partition: number }>(
    'SELECT hashtext(subject) & 15 AS partition FROM outbox LIMIT 1',
  );
  const relayPartitions = new OutboxPartitions(database.url);
  await relayPartitions.open();
  let skipping: Promise<boolean> | undefined;

  await relayPartitions.lock(rows[0]?.partition as number, async () => {
    skipping = partitions.skip(rejectedId);
    await eventually('skip waits for the lock', async () => {
      const { rowCount } = await psql.query(
        `SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
          WHERE NOT granted AND datname = current_database()`,
      );
      return rowCount === 1;
    });
  });
  const isSkipped = await skipping;
  await relayPartitions.close();

  expect(isSkipped).toBe(true);
});

describe('a relay whose link to PostgreSQL loses every packet', () => {
  const [SHORT_MS, HEARTBEAT_MS] = [800, 50];
  let link: TcpProxy;
  let relay: OutboxPartitions;

  beforeEach(async () => {
    const url = new URL(database.url);
    link = await TcpProxy.start(Number(url.port));
    url.port = String(link.port);
    const timeouts = { query: SHORT_MS, idleSession: SHORT_MS, heartbeat: HEARTBEAT_MS };
    relay = new OutboxPartitions(url.href, timeouts);
    await relay.open();
  });
  afterEach(async () => {
    link.close();
    await relay.close();
  });

  const loseEveryPacket = (): void => {
    link.halfOpen('up');
    link.halfOpen('down');
  };
  const tryLock = (): Promise<boolean> => partitions.lock(3, async () => undefined);

  it('loses its locks, although its connection stays open', async () => {
    let isLockedBefore = false;
    const working = relay.lock(3, async () => {
      isLockedBefore = !(await tryLock());
      loseEveryPacket();
      await eventually('the partition is free for other relays', tryLock);
    });
    await working;

    expect(isLockedBefore).toBe(true);
  });

  it('notices it while it waits for the broker, and settles nothing', async () => {
    const { position } = await append();
    const working = relay.lock(3, async () => {
      loseEveryPacket();
      await eventually('the partition is free for other relays', tryLock);
      await eventually('the connection counts as lost', async () => {
        const failure = await relay.findBusy().catch((error: Error) => error);
        return failure instanceof Error && /closed/.test(failure.message);
      });
      await relay.settle({ ...NOTHING, published: [position] });
    });

    await expect(working).rejects.toThrow('The connection to PostgreSQL is closed');
    expect(await partitions.findBusy()).toHaveLength(1);
  });

  it('would keep its locks while it waits for the broker and the link works', async () => {
    const startedAt = Date.now();
    await relay.lock(3, async () => {
      await eventually('more than the idle timeout has passed', () =>
        Promise.resolve(Date.now() - startedAt > 2 * SHORT_MS),
      );
      expect(await tryLock()).toBe(false);
    });
  });

  it('is recognised by TCP probes of PostgreSQL, too', async () => {
    const { rows } = await psql.query<{ pid: number }>(
      `SELECT pid FROM pg_stat_activity
        WHERE application_name = 'holdfast-outbox' AND datname = current_database()`,
    );
    expect(rows).toHaveLength(2);
    const show = async (name: string): Promise<unknown> => {
      const [row] = await (relay as unknown as Queryable).query(`SHOW ${name}`);
      return row?.[name];
    };

    const settings = ['tcp_keepalives_idle', 'tcp_keepalives_count', 'idle_session_timeout'];
    expect(await Promise.all(settings.map(show))).toEqual(['10', '3', '800ms']);
  });
});

interface Queryable {
  query(sql: string): Promise<Record<string, unknown>[]>;
}

describe('behind a snapshot that keeps VACUUM from removing what was published', () => {
  const PUBLISHED = 20_000;
  let snapshot: Client;

  beforeEach(async () => {
    snapshot = new Client({ connectionString: database.url });
    await snapshot.connect();
    await snapshot.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM outbox');
    await psql.query('SET session_replication_role = replica');
    await psql.query(
      `INSERT INTO outbox (id, type, subject, data)
       SELECT gen_random_uuid(), 'test.made', 'tests/1', '{}'
         FROM generate_series(1, ${PUBLISHED})`,
    );
    await psql.query('UPDATE outbox SET published_at = now()');
    await psql.query('SET session_replication_role = origin');
    await append();
    await psql.query('VACUUM ANALYZE outbox');
  });
  afterEach(() => snapshot.end());

  const pagesOfTake = async (partition: number, floor: number): Promise<number> => {
    const { pages } = await explain(psql, { sql: TAKE, parameters: [partition, floor] });
    return pages;
  };

  it('a batch reads a bounded number of pages: it begins behind what was published', async () => {
    const floors = new QueueFloors<number>();
    const read = async (...parameters: unknown[]): Promise<PartitionState[]> =>
      (await psql.query<PartitionState>(FIND_BUSY, parameters)).rows;
    floors.observe((await psql.query(NEWEST_POSITION)).rows[0]);
    const states = await floors.findFirst(ALL_PARTITIONS, read);
    const { part = NaN } = states.find(({ position }) => position !== null) ?? {};

    const [withoutFloor, withFloor] = [
      await pagesOfTake(part, 0),
      await pagesOfTake(part, floors.of(part)),
    ];

    expect(withoutFloor).toBeGreaterThan(200);
    expect(withFloor).toBeLessThan(40);
  });

  it('a partition without events raises its floor, too', async () => {
    const floors = new QueueFloors<number>();
    const newest = (await psql.query<NewestPosition>(NEWEST_POSITION)).rows[0]!;
    floors.observe(newest);
    const nothingWaits = async (parts: readonly number[]): Promise<PartitionState[]> =>
      parts.map((part) => ({ part, position: null, ageSeconds: null, hasRetry: false }));

    await floors.findFirst([5], nothingWaits);

    expect(floors.of(5)).toBe(newest.position);
  });

  it('the relay takes exactly the event that waits', async () => {
    const busy = await onlyBusyPartition();
    await partitions.findBusy();

    const batches = await partitions.take(busy);

    expect(batches.flatMap(({ events }) => events)).toHaveLength(1);
  });
});

it('an open transaction with a lower position keeps the floor below it', async () => {
  const late = new Client({ connectionString: database.url });
  await late.connect();
  await late.query('BEGIN');
  await late.query(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'test.made', 'tests/1', '{}')`,
    [randomUUID()],
  );
  const { position } = await append();
  await partitions.settle({ ...NOTHING, published: [position] });
  for (let pass = 0; pass < 3; pass++) await partitions.findBusy();

  await late.query('COMMIT');
  const busy = await partitions.findBusy();
  await late.end();

  expect(busy).toHaveLength(1);
});
