/**
 * What a node does about its registration in one pass, with a real PostgreSQL. The test changes
 * what the node finds there, looks between two of its statements, and moves its clock.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Client } from 'pg';
import { Registry } from 'prom-client';
import { CacheMetrics } from '../../../../src/platform/cache/cache-metrics.js';
import { DEFAULT_CACHE_TIMINGS } from '../../../../src/platform/cache/cache-timings.js';
import { CachedEntities, type CachedTable } from '../../../../src/platform/cache/cached-entity.js';
import { SERVER } from '../../../../src/platform/cache/epoch/epoch-table.js';
import { Membership } from '../../../../src/platform/cache/epoch/membership.js';
import { ReadGate } from '../../../../src/platform/cache/read/read-gate.js';
import type { EpochStore } from '../../../../src/platform/cache/store/epoch-store.js';
import { MemoryStore } from '../../../../src/platform/cache/store/memory-store.js';
import { createTestDatabase, type TestDatabase } from '../../../support/postgres.js';
import { newGate } from '../../../support/pretend-epoch.js';
import { registerCleanup } from '../cleanup.js';

Logger.overrideLogger(false);

const { gateTimeoutMs } = DEFAULT_CACHE_TIMINGS;
/** More than a node waits between two signs of life. */
const LONGER_THAN_A_BEAT_MS = 1_000;

const afterThisTest = registerCleanup();

let database: TestDatabase;
let psql: Client;
let aheadMs: number;

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
  await psql.query('UPDATE cache_epoch SET cache = NULL, server = NULL');
  aheadMs = 0;
  const now = performance.now.bind(performance);
  const clock = jest.spyOn(performance, 'now').mockImplementation(() => now() + aheadMs);
  afterThisTest(() => clock.mockRestore());
});

/** One node: its gate, its membership and the connection on which it asks PostgreSQL. */
class Node {
  readonly cache = new MemoryStore();
  readonly gate: ReadGate = newGate();
  readonly membership: Membership;
  private readonly client = new Client({ connectionString: database.url });
  private readonly beforeStatements: [start: string, look: () => unknown][] = [];

  private constructor(tables: readonly CachedTable[]) {
    const entities = Object.assign(new CachedEntities(), { tables: () => tables });
    const metrics = new CacheMetrics(new Registry());
    this.membership = new Membership(
      this.cache,
      this.gate,
      entities,
      metrics,
      DEFAULT_CACHE_TIMINGS,
    );
  }

  static async start(tables: readonly CachedTable[] = []): Promise<Node> {
    const node = new Node(tables);
    await node.client.connect();
    afterThisTest(() => node.client.end());
    return node;
  }

  /** A node that uses the cache. */
  static async startMember(): Promise<Node> {
    const node = await Node.start();
    // The first pass begins an epoch, the second registers and opens the gate.
    for (let pass = 0; pass < 2; pass++) await node.pass();
    expect([node.membership.state, node.gate.isOpen]).toEqual(['member', true]);
    return node;
  }

  /** Calls `look` before the next statement that begins with `start`. */
  before(start: string, look: () => unknown): void {
    this.beforeStatements.push([start, look]);
  }

  /** As DatabaseInvalidations does it when no row is waiting. */
  async pass(): Promise<EpochStore | undefined> {
    const pass = this.gate.takePass();
    const store = await this.membership.renew(this.watchedClient());
    if (store) this.gate.open(pass, store);
    return store;
  }

  leave(): Promise<void> {
    return this.membership.leave(this.watchedClient());
  }

  private watchedClient(): Client {
    const query = async (text: string, values?: unknown[]): Promise<unknown> => {
      const index = this.beforeStatements.findIndex(([start]) => text.trim().startsWith(start));
      const [found] = index === -1 ? [] : this.beforeStatements.splice(index, 1);
      await found?.[1]();
      return this.client.query(text, values);
    };
    return { query } as unknown as Client;
  }
}

async function readers(): Promise<string[]> {
  const { rows } = await psql.query<{ id: string }>('SELECT registration AS id FROM cache_readers');
  return rows.map(({ id }) => id);
}

async function epochInDatabase(): Promise<{ epoch: string; cache: string | null }> {
  const { rows } = await psql.query('SELECT epoch, cache FROM cache_epoch');
  return rows[0] as { epoch: string; cache: string | null };
}

/** Another node, which the test lets live or not. */
async function registerOther(): Promise<string> {
  const node = randomUUID();
  await psql.query('INSERT INTO cache_readers SELECT $1, epoch FROM cache_epoch', [node]);
  return node;
}

const removeRegistrations = (): Promise<unknown> => psql.query('DELETE FROM cache_readers');
const beatOf = (node: string): Promise<unknown> =>
  psql.query('UPDATE cache_readers SET beat = beat + 1 WHERE registration = $1', [node]);

describe('a node whose registration was taken out', () => {
  it('registers again, with its gate closed', async () => {
    const node = await Node.startMember();
    await removeRegistrations();
    const wasOpen: boolean[] = [];
    node.before('SELECT register_cache_reader', () => wasOpen.push(node.gate.isOpen));
    await node.pass();
    expect([wasOpen, await readers()]).toEqual([[false], [node.membership.registrationId]]);
  });

  it('opens its gate with the pass after the one that registered it', async () => {
    const node = await Node.startMember();
    await removeRegistrations();
    await node.pass();
    expect(node.gate.isOpen).toBe(false);
    await node.pass();
    expect(node.gate.isOpen).toBe(true);
  });

  it('notices it with its next sign of life, if it was still there a moment before', async () => {
    const node = await Node.startMember();
    aheadMs += LONGER_THAN_A_BEAT_MS;
    node.before('UPDATE cache_readers SET beat', removeRegistrations);
    await node.pass();
    expect(await readers()).toEqual([node.membership.registrationId]);
    expect(node.gate.isOpen).toBe(false);
  });

  it('is not registered for an epoch that has moved meanwhile', async () => {
    const node = await Node.startMember();
    const { epoch } = await epochInDatabase();
    await removeRegistrations();
    node.before('SELECT register_cache_reader', () =>
      psql.query(`SELECT move_cache_epoch($1, 'another cache', 'server')`, [epoch]),
    );
    expect(await node.pass()).toBeUndefined();
    expect([await readers(), node.gate.isOpen]).toEqual([[], false]);
  });
});

describe('a node that leaves', () => {
  it('closes its gate before its registration ends', async () => {
    const node = await Node.startMember();
    const wasOpen: boolean[] = [];
    node.before('DELETE FROM cache_readers', () => wasOpen.push(node.gate.isOpen));
    await node.leave();
    expect([wasOpen, await readers()]).toEqual([[false], []]);
  });

  it('leaves also when the cache is gone', async () => {
    const node = await Node.startMember();
    await node.cache.close();
    expect(node.membership.state).toBe('no-cache');
    await node.pass();
    expect([await readers(), node.membership.epochStore]).toEqual([[], undefined]);
  });
});

describe('another node that is registered', () => {
  it('is not removed as long as its gate may be open', async () => {
    const node = await Node.startMember();
    const silent = await registerOther();
    await node.pass();
    aheadMs += gateTimeoutMs - LONGER_THAN_A_BEAT_MS;
    await node.pass();
    expect(await readers()).toContain(silent);
  });

  it('is removed when it has shown no life for longer', async () => {
    const node = await Node.startMember();
    const silent = await registerOther();
    await node.pass();
    aheadMs += gateTimeoutMs;
    await node.pass();
    expect(await readers()).not.toContain(silent);
  });

  it('is not removed while it shows life', async () => {
    const node = await Node.startMember();
    const living = await registerOther();
    for (let beat = 0; beat < 3; beat++) {
      await node.pass();
      aheadMs += gateTimeoutMs;
      await beatOf(living);
    }
    await node.pass();
    expect(await readers()).toContain(living);
  });

  it('is not removed when it shows life between the look and the removal', async () => {
    const node = await Node.startMember();
    const living = await registerOther();
    await node.pass();
    aheadMs += gateTimeoutMs;
    node.before('DELETE FROM cache_readers', () => beatOf(living));
    await node.pass();
    expect(await readers()).toContain(living);
  });

  it('keeps a node with another cache from registering and from moving the epoch', async () => {
    const first = await Node.startMember();
    const before = await epochInDatabase();
    const second = await Node.start();
    expect([await second.pass(), second.membership.state]).toEqual([undefined, 'other-cache']);
    expect(await readers()).toEqual([first.membership.registrationId]);
    expect(await epochInDatabase()).toEqual(before);
  });
});

describe('a node of an older release', () => {
  it('ends the use of the cache, and of the keys that were cached so far', async () => {
    const node = await Node.startMember();
    const before = await epochInDatabase();
    const older = new Client({
      connectionString: database.url,
      application_name: 'holdfast-invalidations',
    });
    await older.connect();
    afterThisTest(() => older.end());
    expect([await node.pass(), node.membership.state]).toEqual([undefined, 'older-release']);
    expect([node.gate.isOpen, await readers()]).toEqual([false, []]);
    await node.pass();
    const after = await epochInDatabase();
    expect([after.cache, after.epoch === before.epoch]).toEqual([null, false]);
  });
});

describe('a database that enqueues fewer keys than the release caches', () => {
  it('keeps the node from the cache', async () => {
    const keys = ['order', 'ofUser,user_id', 'note,note'];
    const node = await Node.start([{ table: 'orders', keys }]);
    for (let pass = 0; pass < 3; pass++) expect(await node.pass()).toBeUndefined();
    expect([node.membership.state, await readers()]).toEqual(['migrations-pending', []]);
  });
});

describe('a PostgreSQL server on which the epoch did not begin', () => {
  const replaceServer = (): Promise<unknown> =>
    psql.query(`UPDATE cache_epoch SET server = 'the server before'`);

  it('ends the use of the cache', async () => {
    const node = await Node.startMember();
    await replaceServer();
    expect([await node.pass(), node.membership.state]).toEqual([undefined, 'new-server']);
    expect([node.gate.isOpen, await readers()]).toEqual([false, []]);
  });

  it('is not trusted before every gate has closed that it may not know of', async () => {
    const node = await Node.startMember();
    const { epoch } = await epochInDatabase();
    await replaceServer();
    await node.pass();
    aheadMs += gateTimeoutMs - LONGER_THAN_A_BEAT_MS;
    await node.pass();
    expect((await epochInDatabase()).epoch).toBe(epoch);
    aheadMs += LONGER_THAN_A_BEAT_MS;
    await node.pass();
    expect((await epochInDatabase()).epoch).not.toBe(epoch);
    await node.pass();
    expect(node.membership.state).toBe('member');
  });

  it('is told by its history and its start', async () => {
    const { rows } = await psql.query<{ server: string; system: string; started: string }>(
      `SELECT ${SERVER} AS server, system_identifier AS system,
              extract(epoch FROM pg_postmaster_start_time()) AS started FROM pg_control_system()`,
    );
    const [{ server, system, started }] = rows as [(typeof rows)[number]];
    expect(server).toBe(`${system}.00000001.${started}`);
  });
});
