/** What PostgreSQL itself guards: the epoch moves, nodes register and transactions commit. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { EpochTable } from '../../../../src/platform/cache/epoch/epoch-table.js';
import { eventually } from '../../../support/eventually.js';
import { createTestDatabase, type TestDatabase } from '../../../support/postgres.js';
import { registerCleanup } from '../cleanup.js';

const USER_KEYS = 'user;username,username;email,email,lower';

let database: TestDatabase;
let psql: Client;
let table: EpochTable;
let epoch: string;

const afterThisTest = registerCleanup();

beforeAll(async () => {
  database = await createTestDatabase();
  psql = new Client({ connectionString: database.url });
  await psql.connect();
  table = new EpochTable(psql);
});
afterAll(async () => {
  await psql?.end();
  await database?.drop();
});
beforeEach(async () => {
  await psql.query('TRUNCATE cache_readers, cache_invalidations');
  ({ epoch } = await table.readStatus());
});

/** A transaction that has inserted a user, with the notices that it got. */
class Writer {
  readonly notices: (string | undefined)[] = [];
  readonly userId = randomUUID();

  private constructor(private readonly client: Client) {
    client.on('notice', ({ code }) => this.notices.push(code));
  }

  static async begin(declared: string | undefined, isolation = 'READ COMMITTED'): Promise<Writer> {
    const client = new Client({ connectionString: database.url });
    await client.connect();
    afterThisTest(() => client.end());
    const writer = new Writer(client);
    await client.query(`BEGIN ISOLATION LEVEL ${isolation}`);
    if (declared !== undefined) {
      await client.query(`SELECT set_config('holdfast.fenced', $1, true)`, [declared]);
    }
    await client.query(
      `INSERT INTO users (id, username, email) VALUES ($1, $2, $2 || '@epochs.test')`,
      [writer.userId, `u${writer.userId.slice(0, 8)}`],
    );
    return writer;
  }

  async commit(): Promise<void> {
    await this.client.query('COMMIT');
  }

  /** Runs the triggers now, and keeps the transaction open. */
  async runTriggers(): Promise<void> {
    await this.client.query('SET CONSTRAINTS ALL IMMEDIATE');
  }

  async isEnqueued(): Promise<boolean> {
    const { rowCount } = await psql.query('SELECT FROM cache_invalidations WHERE $1 = ANY(keys)', [
      `user:id:${this.userId}`,
    ]);
    return rowCount === 1;
  }
}

describe('at COMMIT, a change', () => {
  it('that was fenced in the current epoch is confirmed and not enqueued', async () => {
    const writer = await Writer.begin(`${epoch}|${USER_KEYS}|`);
    await writer.commit();
    expect([writer.notices, await writer.isEnqueued()]).toEqual([['HF001'], false]);
  });

  it.each([
    ['that declares nothing', () => undefined],
    ['of another epoch', () => `other|${USER_KEYS}|`],
    ['of a release that knows a key less', () => `${epoch}|user;username,username|`],
    ['of a release that knows a key more', () => `${epoch}|${USER_KEYS};more,more|`],
    ['of another table only', () => `${epoch}|order;ofUser,user_id|`],
    ['of a release before the epochs', () => 'on'],
  ])('%s is enqueued and not confirmed', async (_, declaration) => {
    const writer = await Writer.begin(declaration());
    await writer.commit();
    expect([writer.notices, await writer.isEnqueued()]).toEqual([[], true]);
  });

  it('of another isolation level is enqueued: it may not see the current epoch', async () => {
    const writer = await Writer.begin(`${epoch}|${USER_KEYS}|`, 'REPEATABLE READ');
    await writer.commit();
    expect([writer.notices, await writer.isEnqueued()]).toEqual([[], true]);
  });

  it('is enqueued when the epoch has moved since the transaction began', async () => {
    const writer = await Writer.begin(`${epoch}|${USER_KEYS}|`);
    expect(await table.move(epoch, 'another cache', 'server')).toBe(true);
    await writer.commit();
    expect([writer.notices, await writer.isEnqueued()]).toEqual([[], true]);
  });
});

describe('the epoch', () => {
  it('does not move while a node is registered', async () => {
    const node = randomUUID();
    expect(await table.register(node, epoch)).toBe(true);
    expect(await table.move(epoch, 'another cache', 'server')).toBe(false);
    await table.remove(node);
    expect(await table.move(epoch, 'another cache', 'server')).toBe(true);
    expect(await table.readStatus()).toMatchObject({ cache: 'another cache', readers: [] });
  });

  it('does not move between the check of a COMMIT and its end', async () => {
    const writer = await Writer.begin(`${epoch}|${USER_KEYS}|`);
    await writer.runTriggers();
    expect(await table.move(epoch, 'another cache', 'server')).toBe(false);
    await writer.commit();
    expect(await table.move(epoch, 'another cache', 'server')).toBe(true);
  });

  it('moves once for two nodes that move it at the same time, and never comes back', async () => {
    const moves = [await table.move(epoch, 'a', 'server'), await table.move(epoch, 'b', 'server')];
    expect(moves).toEqual([true, false]);
    const { epoch: second } = await table.readStatus();
    await table.move(second, 'a', 'server');
    expect(new Set([epoch, second, (await table.readStatus()).epoch]).size).toBe(3);
  });
});

describe('a node', () => {
  it('is not registered for an epoch that has moved', async () => {
    await table.move(epoch, 'another cache', 'server');
    expect(await table.register(randomUUID(), epoch)).toBe(false);
    expect((await table.readStatus()).readers).toEqual([]);
  });

  it('is not registered while the epoch moves', async () => {
    const mover = new Client({ connectionString: database.url });
    await mover.connect();
    afterThisTest(() => mover.end());
    await mover.query('BEGIN');
    await mover.query(`SELECT move_cache_epoch($1, 'another cache', 'server')`, [epoch]);
    const registered = table.register(randomUUID(), epoch);
    await eventually('the registration waits', async () => {
      const { rowCount } = await mover.query(
        `SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
          WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()`,
      );
      return rowCount === 1;
    });
    await mover.query('COMMIT');
    expect(await registered).toBe(false);
  });

  it('that beats is not removed by one that saw an earlier beat', async () => {
    const node = randomUUID();
    await table.register(node, epoch);
    const [reader] = (await table.readStatus()).readers;
    expect(await table.beat(node, epoch)).toBe(true);
    await table.removeSilent(reader!);
    expect((await table.readStatus()).readers).toHaveLength(1);
    await table.removeSilent({ ...reader!, beat: reader!.beat + 1 });
    expect((await table.readStatus()).readers).toEqual([]);
    expect(await table.beat(node, epoch)).toBe(false);
  });
});
