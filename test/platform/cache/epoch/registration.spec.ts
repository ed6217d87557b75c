/** A node's registration as a reader, over a real PostgreSQL whose answers a test can lose. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Client } from 'pg';
import { Registry } from 'prom-client';
import { CacheMetrics } from '../../../../src/platform/cache/cache-metrics.js';
import {
  type CacheTimings,
  DEFAULT_CACHE_TIMINGS,
} from '../../../../src/platform/cache/cache-timings.js';
import { CachedEntities } from '../../../../src/platform/cache/cached-entity.js';
import { type CacheReader, EpochTable } from '../../../../src/platform/cache/epoch/epoch-table.js';
import { Membership } from '../../../../src/platform/cache/epoch/membership.js';
import { ReadGate } from '../../../../src/platform/cache/read/read-gate.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { eventually } from '../../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../../support/postgres.js';

Logger.overrideLogger(false);

/** Every pass shows life, and a silent node is noticed at once. */
const NO_SILENCE: CacheTimings = { ...DEFAULT_CACHE_TIMINGS, gateTimeoutMs: 0 };

let database: TestDatabase;
let client: Client;
let gate: ReadGate;
let membership: Membership;

beforeAll(async () => {
  database = await createTestDatabase();
  client = new Client({ connectionString: database.url });
  await client.connect();
});
afterAll(async () => {
  await client?.end();
  await database?.drop();
});
beforeEach(async () => {
  await client.query('TRUNCATE cache_readers');
  gate = new ReadGate(DEFAULT_CACHE_TIMINGS);
  membership = createMembership();
});

const createMembership = (
  timings: CacheTimings = DEFAULT_CACHE_TIMINGS,
  store = new MemoryStore(),
): Membership =>
  new Membership(store, gate, new CachedEntities(), new CacheMetrics(new Registry()), timings);

/** The first pass of a node without others moves the epoch, the second registers. */
async function join(node: Membership = membership): Promise<void> {
  await eventually('the node is registered', () => node.renew(client));
}

const readers = async (): Promise<readonly CacheReader[]> =>
  (await new EpochTable(client).readStatus()).readers;

/** The client, but its next statement with this text fails as on a broken connection. */
function failingAt(text: string): Client {
  let hasFailed = false;
  return new Proxy(client, {
    get(target, name) {
      if (name !== 'query') return Reflect.get(target, name) as unknown;
      return (sql: string, values?: unknown[]) => {
        if (hasFailed || !sql.includes(text)) return target.query(sql, values);
        hasFailed = true;
        return Promise.reject(new Error('Connection terminated unexpectedly'));
      };
    },
  });
}

describe('a registration', () => {
  it('whose beat fails counts as silent until one succeeds', async () => {
    await join();
    const [before] = await readers();
    // The registration itself showed life just now.
    await eventually('the next beat is due', async () => {
      await membership.renew(client);
      return (await readers())[0]!.beat > before!.beat;
    });
    const [beaten] = await readers();
    await eventually('a beat fails', () =>
      membership.renew(failingAt('SET beat = beat + 1')).then(
        () => false,
        () => true,
      ),
    );
    await membership.renew(client);
    expect((await readers())[0]!.beat).toBeGreaterThan(beaten!.beat);
  });

  it('is a new one each time, so that a late removal of the last one does not end it', async () => {
    await join();
    const [first] = await readers();
    await membership.leave(client);
    expect(await readers()).toEqual([]);
    await join();
    const [second] = await readers();
    expect(second!.registration).not.toBe(first!.registration);
    await new EpochTable(client).remove(first!.registration);
    expect(await readers()).toHaveLength(1);
  });

  it('that could not be ended is removed by its own node as a silent one', async () => {
    const store = new MemoryStore();
    const node = createMembership(NO_SILENCE, store);
    await join(node);
    const [stray] = await readers();
    const removal = 'DELETE FROM cache_readers WHERE registration = $1';
    await expect(node.leave(failingAt(removal))).rejects.toThrow('Connection terminated');
    await eventually('only a new registration is left', async () => {
      await node.renew(client);
      const present = await readers();
      return present.length === 1 && present[0]!.registration !== stray!.registration;
    });
  });

  it('that another node has removed is taken again, and the gate is closed meanwhile', async () => {
    await join();
    const store = membership.epochStore!;
    gate.open(gate.takePass(), store);
    expect(gate.isOpen).toBe(true);
    await client.query('DELETE FROM cache_readers');
    await membership.renew(client);
    expect(gate.isOpen).toBe(false);
    expect(await readers()).toHaveLength(1);
  });

  it('does not wait for a silent node that holds its registration in a transaction', async () => {
    const frozen = new Client({ connectionString: database.url });
    await frozen.connect();
    try {
      await join();
      await frozen.query('BEGIN');
      await frozen.query('SELECT FROM cache_readers FOR SHARE');
      const other = createMembership(NO_SILENCE);
      await client.query(`SET statement_timeout = '20s'`);
      for (let pass = 0; pass < 3; pass++) await other.renew(client);
      expect(other.state).toBe('other-cache');
      await frozen.query('COMMIT');
      await eventually('the silent node is removed', async () => {
        await other.renew(client);
        return other.state === 'member';
      });
    } finally {
      await client.query('RESET statement_timeout');
      await frozen.end();
    }
  });
});
