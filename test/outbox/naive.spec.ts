/**
 * Why the relay is as it is: relays that look right, each led into the interleaving that breaks it, and judged by the same
 * audit as the real one, which is led into the same. PostgreSQL is real; the broker is a list of what arrived.
 */
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { loadConfig } from '../../src/config.js';
import { BrokerGoneError, EventRefusedError } from '../../src/outbox/outbox.broker.js';
import { OutboxLanes } from '../../src/outbox/outbox.lanes.js';
import { OutboxRelay } from '../../src/outbox/outbox.relay.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';
import { audit, type Verdict } from './audit.js';

let database: TestDatabase;
const clients: Client[] = [];
const lanes: OutboxLanes[] = [];
let arrivals: string[];

const connect = async (): Promise<Client> => {
  const client = new Client({ connectionString: database.url });
  client.on('error', () => undefined);
  await client.connect();
  clients.push(client);
  return client;
};

beforeEach(async () => {
  database = await createTestDatabase();
  arrivals = [];
});
afterEach(async () => {
  await Promise.all(lanes.splice(0).map((one) => one.close()));
  await Promise.all(clients.splice(0).map((client) => client.end()));
  await database.drop();
});

const append = async (client: Client, subject = 'orders/1'): Promise<string> => {
  const id = randomUUID();
  await client.query(
    `INSERT INTO outbox (id, type, subject, data) VALUES ($1, 'a.b', $2, '{"version": 1}')`,
    [id, subject],
  );
  return id;
};

async function judged(): Promise<Verdict> {
  const { rows } = await (
    await connect()
  ).query('SELECT id, subject FROM outbox ORDER BY position');
  return audit(rows as { id: string; subject: string }[], arrivals);
}

/** A gate that a test opens. */
function gate(): { readonly opened: Promise<void>; open(): void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

/** A node's relay over the list; `before` may wait or fail before an event arrives. */
async function realRelay(before: (id: string) => Promise<void> = async () => undefined) {
  const own = new OutboxLanes(database.url);
  lanes.push(own);
  await own.open();
  const metrics = {
    published: () => undefined,
    refused: () => undefined,
    unroutable: () => undefined,
  };
  const relay = new OutboxRelay(
    loadConfig({}),
    undefined as never,
    metrics as never,
  ) as unknown as {
    pass(lanes: OutboxLanes, broker: unknown): Promise<boolean>;
    logger: { warn(line: string): void };
  };
  relay.logger.warn = () => undefined;
  const broker = {
    publish: async ({ id }: { id: string }) => {
      await before(id);
      arrivals.push(id);
    },
  };
  return { pass: () => relay.pass(own, broker), lanes: own };
}

describe('a transaction that commits late', () => {
  /** The first event gets its position, then the second is written and committed, then the first. */
  async function lead(relay: () => Promise<unknown>): Promise<void> {
    const [late, other] = [await connect(), await connect()];
    await late.query('BEGIN');
    await append(late, 'orders/late');
    await append(other, 'orders/other');
    await relay();
    await late.query('COMMIT');
    await relay();
  }

  it('is passed over by a relay that remembers the position that it has come to', async () => {
    const client = await connect();
    let cursor = '0';
    await lead(async () => {
      const { rows } = await client.query(
        'SELECT id, position FROM outbox WHERE position > $1 ORDER BY position',
        [cursor],
      );
      for (const { id, position } of rows as { id: string; position: string }[]) {
        arrivals.push(id);
        cursor = position;
      }
    });
    expect(await judged()).toMatchObject({
      written: 2,
      lost: [expect.any(String)],
      outOfOrder: [],
    });
  });

  it('is relayed by the real one', async () => {
    const relay = await realRelay();
    await lead(relay.pass);
    expect(await judged()).toMatchObject({ written: 2, lost: [], outOfOrder: [], repeats: 0 });
  });
});

describe('a node that is slow with the first event of an order while the second is written', () => {
  it('is overtaken where rows are taken with SKIP LOCKED and no look at earlier ones', async () => {
    const [slow, quick, writer] = [await connect(), await connect(), await connect()];
    const take = async (client: Client): Promise<string[]> => {
      await client.query('BEGIN');
      const { rows } = await client.query(
        'SELECT id FROM outbox WHERE published_at IS NULL ORDER BY position LIMIT 100 FOR UPDATE SKIP LOCKED',
      );
      return (rows as { id: string }[]).map(({ id }) => id);
    };
    const send = async (client: Client, ids: string[]): Promise<void> => {
      arrivals.push(...ids);
      await client.query('UPDATE outbox SET published_at = now() WHERE id = ANY($1)', [ids]);
      await client.query('COMMIT');
    };
    const first = await append(writer);
    const taken = await take(slow);
    await append(writer);
    await send(quick, await take(quick));
    await send(slow, taken);
    expect(await judged()).toMatchObject({ written: 2, lost: [], outOfOrder: [first] });
  });

  it('is waited for by the real one', async () => {
    const writer = await connect();
    const [reached, mayGoOn] = [gate(), gate()];
    const slow = await realRelay(() => (reached.open(), mayGoOn.opened));
    const quick = await realRelay();
    await append(writer);
    const passing = slow.pass();
    await reached.opened;
    await append(writer);
    expect(await quick.pass()).toBe(false);
    expect(arrivals).toEqual([]);
    mayGoOn.open();
    await passing;
    await quick.pass();
    expect(await judged()).toMatchObject({ written: 2, lost: [], outOfOrder: [], repeats: 0 });
  });

  it('costs a repeat and no order when it has lost its lane and goes on sending', async () => {
    const writer = await connect();
    const [reached, mayGoOn] = [gate(), gate()];
    const slow = await realRelay(() => (reached.open(), mayGoOn.opened));
    const quick = await realRelay();
    await append(writer);
    await append(writer);
    const passing = slow.pass().catch((error: Error) => error);
    await reached.opened;
    await writer.query(
      `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    );
    await append(writer);
    for (let tries = 0; arrivals.length < 3 && tries < 100; tries++) await quick.pass();
    mayGoOn.open();
    expect(await passing).toBeInstanceOf(Error);
    await quick.pass();
    expect(await judged()).toMatchObject({ written: 3, lost: [], outOfOrder: [], repeats: 2 });
  });
});

describe('a broker that refuses the first event of an order once', () => {
  const refusing = () => {
    let refused = false;
    return async (): Promise<void> => {
      if (refused) return;
      refused = true;
      throw new EventRefusedError('full', false);
    };
  };

  it('gets the second before the first from a relay that sends a batch without waiting for each confirm', async () => {
    const client = await connect();
    const first = await append(client);
    await append(client);
    const before = refusing();
    for (let pass = 0; pass < 2; pass++) {
      const { rows } = await client.query(
        'SELECT id FROM outbox WHERE published_at IS NULL ORDER BY position',
      );
      for (const { id } of rows as { id: string }[]) {
        const confirmed = await before().then(
          () => true,
          () => false,
        );
        if (!confirmed) continue;
        arrivals.push(id);
        await client.query('UPDATE outbox SET published_at = now() WHERE id = $1', [id]);
      }
    }
    expect(await judged()).toMatchObject({ written: 2, lost: [], outOfOrder: [first] });
  });

  it('gets neither, and then both, from the real one; another order waits for nothing', async () => {
    const client = await connect();
    await append(client);
    await append(client);
    const relay = await realRelay(refusing());
    await relay.pass();
    expect(arrivals).toEqual([]);
    // The third meets its subject held, and more wait than are sent of a held subject at a time.
    for (let more = 0; more < 30; more++) await append(client);
    const other = await append(client, 'orders/other');
    await relay.pass();
    expect(arrivals).toEqual([other]);
    await client.query('UPDATE outbox SET retry_at = now() WHERE retry_at IS NOT NULL');
    for (let pass = 0; pass < 6; pass++) await relay.pass();
    expect(await judged()).toMatchObject({ written: 33, lost: [], outOfOrder: [], repeats: 0 });
    const { rows } = await client.query('SELECT FROM outbox WHERE held OR retry_at IS NOT NULL');
    expect(rows).toEqual([]);
  });
});

describe('a broker that goes away', () => {
  it('in the middle of a held subject, leaves its next event to be tried, before whatever comes', async () => {
    const client = await connect();
    for (let n = 0; n < 15; n++) await append(client);
    let failure: Error | undefined = new EventRefusedError('full', false);
    let left = 0;
    const relay = await realRelay(async () => {
      if (failure && left-- <= 0) throw failure;
    });
    await relay.pass();
    await client.query('UPDATE outbox SET retry_at = now() WHERE retry_at IS NOT NULL');
    [failure, left] = [new BrokerGoneError('gone'), 4];
    await expect(relay.pass()).rejects.toThrow('gone');
    expect(arrivals).toHaveLength(4);
    await append(client);
    failure = undefined;
    for (let pass = 0; pass < 6; pass++) await relay.pass();
    expect(await judged()).toMatchObject({ written: 16, lost: [], outOfOrder: [], repeats: 0 });
  });
});
