/**
 * Why the relay works as it does: each naive relay looks correct and is led into the interleaving
 * that breaks it; the real relay is led into the same one. One audit judges both. PostgreSQL is
 * real; the broker is a list of the event ids that arrived.
 */
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import {
  BrokerUnavailableError,
  EventRejectedError,
} from '../../../src/platform/outbox/outbox-broker.js';
import { OutboxPartitions } from '../../../src/platform/outbox/outbox-partitions.js';
import { RelayPass } from '../../../src/platform/outbox/relay-pass.js';
import { eventually } from '../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { audit, type Verdict, type WrittenEvent } from './audit.js';

interface WaitingRow {
  readonly id: string;
  readonly position: string;
}

let database: TestDatabase;
let arrivals: string[];
const clients: Client[] = [];
const openPartitions: OutboxPartitions[] = [];

beforeEach(async () => {
  database = await createTestDatabase();
  arrivals = [];
});

afterEach(async () => {
  await Promise.all(openPartitions.splice(0).map((partitions) => partitions.close()));
  await Promise.all(clients.splice(0).map((client) => client.end()));
  await database.drop();
});

async function connect(): Promise<Client> {
  const client = new Client({ connectionString: database.url });
  client.on('error', () => undefined);
  await client.connect();
  clients.push(client);
  return client;
}

async function append(client: Client, subject = 'orders/1'): Promise<string> {
  const id = randomUUID();
  await client.query(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'a.b', $2, '{"version": 1}')`,
    [id, subject],
  );
  return id;
}

async function judge(): Promise<Verdict> {
  const client = await connect();
  const { rows } = await client.query<WrittenEvent>(
    'SELECT id, subject FROM outbox ORDER BY position',
  );
  return audit(rows, arrivals);
}

async function selectWaiting(client: Client): Promise<WaitingRow[]> {
  const { rows } = await client.query<WaitingRow>(
    'SELECT id, position FROM outbox WHERE published_at IS NULL ORDER BY position',
  );
  return rows;
}

/** Not now(): the column has milliseconds, and rounding may put it into the future. */
const makeRetriesDue = (client: Client): Promise<unknown> =>
  client.query(
    `UPDATE outbox SET retry_at = now() - interval '1 minute' WHERE retry_at IS NOT NULL`,
  );

/** A promise that the test resolves. */
function signal(): { readonly received: Promise<void>; send(): void } {
  let send = (): void => undefined;
  const received = new Promise<void>((resolve) => {
    send = resolve;
  });
  return { received, send };
}

/**
 * The relay of one node, which publishes to the list.
 * @param beforeArrival runs before each arrival; it may wait, or throw as the broker does
 */
async function startRelay(
  beforeArrival: () => Promise<void> = async () => undefined,
): Promise<RelayPass> {
  const partitions = new OutboxPartitions(database.url);
  openPartitions.push(partitions);
  await partitions.open();
  return new RelayPass({
    partitions,
    publish: async ({ id }) => {
      await beforeArrival();
      arrivals.push(id);
    },
    onPublished: () => undefined,
    onRejected: () => undefined,
    isStopping: () => false,
  });
}

/** Runs passes until no event waits that could be published now. */
async function drain(relay: RelayPass): Promise<void> {
  await eventually('nothing is left to relay', async () => {
    const hasRelayed = await relay.run();
    return !hasRelayed;
  });
}

describe('when a transaction gets the lower position and commits later', () => {
  /** Runs `relay` before and after the transaction commits. */
  async function commitLate(relay: () => Promise<unknown>): Promise<void> {
    const [lateWriter, writer] = [await connect(), await connect()];
    await lateWriter.query('BEGIN');
    await append(lateWriter, 'orders/late');
    await append(writer, 'orders/other');
    await relay();
    await lateWriter.query('COMMIT');
    await relay();
  }

  it('a relay that remembers the last position loses its event', async () => {
    const client = await connect();
    let lastPosition = '0';

    await commitLate(async () => {
      const { rows } = await client.query<WaitingRow>(
        'SELECT id, position FROM outbox WHERE position > $1 ORDER BY position',
        [lastPosition],
      );
      for (const { id, position } of rows) {
        arrivals.push(id);
        lastPosition = position;
      }
    });

    expect(await judge()).toMatchObject({
      written: 2,
      lost: [expect.any(String)],
      outOfOrder: [],
    });
  });

  it('the real relay publishes its event', async () => {
    const relay = await startRelay();

    await commitLate(() => relay.run());

    expect(await judge()).toMatchObject({ written: 2, lost: [], outOfOrder: [], repeats: 0 });
  });
});

describe('when a node is slow with the first event of an order while the second is written', () => {
  it('a relay that takes rows with SKIP LOCKED publishes the second event first', async () => {
    const [slow, quick, writer] = [await connect(), await connect(), await connect()];
    const take = async (client: Client): Promise<string[]> => {
      await client.query('BEGIN');
      const { rows } = await client.query<{ id: string }>(
        `SELECT id FROM outbox WHERE published_at IS NULL
          ORDER BY position LIMIT 100 FOR UPDATE SKIP LOCKED`,
      );
      return rows.map(({ id }) => id);
    };
    const publish = async (client: Client, ids: string[]): Promise<void> => {
      arrivals.push(...ids);
      await client.query('UPDATE outbox SET published_at = now() WHERE id = ANY($1)', [ids]);
      await client.query('COMMIT');
    };

    const first = await append(writer);
    const takenBySlow = await take(slow);
    await append(writer);
    await publish(quick, await take(quick));
    await publish(slow, takenBySlow);

    expect(await judge()).toMatchObject({ written: 2, lost: [], outOfOrder: [first] });
  });

  it('the real relay of another node waits for the slow one', async () => {
    const writer = await connect();
    const [isPublishing, mayGoOn] = [signal(), signal()];
    const slow = await startRelay(() => {
      isPublishing.send();
      return mayGoOn.received;
    });
    const quick = await startRelay();

    await append(writer);
    const slowPass = slow.run();
    await isPublishing.received;
    await append(writer);
    const hasQuickRelayed = await quick.run();
    const arrivalsMeanwhile = [...arrivals];
    mayGoOn.send();
    await slowPass;
    await quick.run();

    expect(hasQuickRelayed).toBe(false);
    expect(arrivalsMeanwhile).toEqual([]);
    expect(await judge()).toMatchObject({ written: 2, lost: [], outOfOrder: [], repeats: 0 });
  });

  it('the real relay that lost its lock repeats events and keeps their order', async () => {
    const writer = await connect();
    const [isPublishing, mayGoOn] = [signal(), signal()];
    const slow = await startRelay(() => {
      isPublishing.send();
      return mayGoOn.received;
    });
    const quick = await startRelay();
    await append(writer);
    await append(writer);

    const slowPass = slow.run().catch((error: Error) => error);
    await isPublishing.received;
    await writer.query(
      `SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON database = pg_database.oid
        WHERE locktype = 'advisory' AND datname = current_database()`,
    );
    await append(writer);
    await eventually('the other node has published all three events', async () => {
      await quick.run();
      return arrivals.length === 3;
    });
    mayGoOn.send();
    const slowResult = await slowPass;
    await drain(quick);

    expect(slowResult).toBeInstanceOf(Error);
    expect(await judge()).toMatchObject({ written: 3, lost: [], outOfOrder: [], repeats: 2 });
  });
});

describe('when the broker rejects the first event of an order once', () => {
  /** Rejects the first event that is about to arrive. */
  function rejectOnce(): () => Promise<void> {
    let hasRejected = false;
    return async () => {
      if (hasRejected) return;
      hasRejected = true;
      throw new EventRejectedError('full', { isPermanent: false });
    };
  }

  it('a relay that does not wait for each confirm publishes the second event first', async () => {
    const client = await connect();
    const beforeArrival = rejectOnce();
    const publish = async (id: string): Promise<void> => {
      await beforeArrival();
      arrivals.push(id);
      await client.query('UPDATE outbox SET published_at = now() WHERE id = $1', [id]);
    };
    const first = await append(client);
    await append(client);

    for (let pass = 0; pass < 2; pass++) {
      for (const { id } of await selectWaiting(client)) {
        await publish(id).catch(() => undefined);
      }
    }

    expect(await judge()).toMatchObject({ written: 2, lost: [], outOfOrder: [first] });
  });

  it('the real relay publishes neither before the retry, and other orders at once', async () => {
    const client = await connect();
    const relay = await startRelay(rejectOnce());
    await append(client);
    await append(client);

    await relay.run();
    const arrivalsOfFirstPass = [...arrivals];
    // More events than a batch takes of a blocked subject queue behind the first two.
    for (let count = 0; count < 30; count++) await append(client);
    const unrelated = await append(client, 'orders/other');
    await relay.run();
    const arrivalsBeforeRetry = [...arrivals];
    await makeRetriesDue(client);
    await drain(relay);

    expect(arrivalsOfFirstPass).toEqual([]);
    expect(arrivalsBeforeRetry).toEqual([unrelated]);
    expect(await judge()).toMatchObject({ written: 33, lost: [], outOfOrder: [], repeats: 0 });
    const { rows } = await client.query('SELECT FROM outbox WHERE held OR retry_at IS NOT NULL');
    expect(rows).toEqual([]);
  });
});

describe('when the broker disconnects in the middle of a blocked subject', () => {
  it('the real relay continues with the next event before any later one', async () => {
    const client = await connect();
    let failure: Error | undefined = new EventRejectedError('full', { isPermanent: false });
    let arrivalsBeforeFailure = 0;
    const relay = await startRelay(async () => {
      if (failure && arrivals.length >= arrivalsBeforeFailure) throw failure;
    });
    for (let count = 0; count < 15; count++) await append(client);
    await relay.run();
    await makeRetriesDue(client);

    failure = new BrokerUnavailableError('gone');
    arrivalsBeforeFailure = 4;
    await expect(relay.run()).rejects.toThrow('gone');
    const arrivalsOfInterruptedPass = arrivals.length;
    await append(client);
    failure = undefined;
    await drain(relay);

    expect(arrivalsOfInterruptedPass).toBe(4);
    expect(await judge()).toMatchObject({ written: 16, lost: [], outOfOrder: [], repeats: 0 });
  });
});
