/**
 * The one place that commits, over a real PostgreSQL and a store that can be held and broken at each step: what it resolved
 * with is durable and published, what it rejected with left nothing in the database nor in the cache.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Client } from 'pg';
import { Registry } from 'prom-client';
import { DataSource } from 'typeorm';
import { Session } from '../../src/auth/session.entity.js';
import { CacheMetrics } from '../../src/cache/cache.metrics.js';
import { type CacheStore, CacheUnavailableError } from '../../src/cache/cache.store.js';
import { CachedEntity, CachedRepository } from '../../src/cache/cached-repository.js';
import { DatabaseInvalidations } from '../../src/cache/database-invalidations.js';
import {
  CachedEntities,
  type DegradedWrites,
  FENCE_MS,
  InvalidationService,
  WriteRejectedError,
} from '../../src/cache/invalidation.service.js';
import { MemoryStore } from '../../src/cache/memory.store.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { dataSourceOptions } from '../../src/database/data-source.js';
import {
  type Transaction,
  TransactionAbortedError,
  TransactionTooLongError,
  UnitOfWork,
  sqlStateOf,
} from '../../src/database/unit-of-work.js';
import { Order } from '../../src/orders/order.entity.js';
import { User } from '../../src/users/user.entity.js';
import { Link } from '../campaign/proxy.js';
import { Random } from '../campaign/random.js';
import { startApp } from '../support/app.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

type Step = 'fence' | 'publish' | 'unfence';

/** A store whose writing steps wait, fail and are counted as the test says. */
class ScriptedStore extends MemoryStore {
  readonly steps: Step[] = [];
  before: Partial<Record<Step, () => Promise<void>>> = {};

  override async fence(...args: Parameters<CacheStore['fence']>): Promise<void> {
    this.steps.push('fence');
    await this.before.fence?.();
    await super.fence(...args);
  }
  override async publish(...args: Parameters<CacheStore['publish']>): Promise<void> {
    this.steps.push('publish');
    await this.before.publish?.();
    await super.publish(...args);
  }
  override async unfence(...args: Parameters<CacheStore['unfence']>): Promise<void> {
    this.steps.push('unfence');
    await this.before.unfence?.();
    await super.unfence(...args);
  }
}

interface Node {
  readonly dataSource: DataSource;
  readonly store: ScriptedStore;
  readonly unitOfWork: UnitOfWork;
  readonly users: CachedRepository<User>;
  state(id: string): Promise<string>;
  stateOf(key: string): Promise<string>;
}

const opened: DataSource[] = [];

async function makeNode(
  url: string,
  {
    degradedWrites = 'allow' as DegradedWrites,
    pool = 5,
    driver = {},
    store = new ScriptedStore(),
  } = {},
): Promise<Node> {
  const options = dataSourceOptions(url, pool);
  const extra = { ...(options.extra as object), ...driver };
  const dataSource = await new DataSource({
    ...options,
    extra,
    entities: [User, Session, Order],
  }).initialize();
  opened.push(dataSource);
  const entities = new CachedEntities();
  const users = new CachedEntity(User, dataSource.getRepository(User));
  for (const entity of [Session, Order] as const)
    entities.add(
      new CachedEntity<Session | Order>(entity, dataSource.getRepository(entity) as never),
    );
  entities.add(users);
  const [gate, metrics] = [new ReadGate(), new CacheMetrics(new Registry())];
  gate.open(gate.pass());
  const database = new DatabaseInvalidations(store, dataSource, gate, metrics);
  const invalidation = new InvalidationService(store, entities, degradedWrites, database);
  const stateOf = async (key: string): Promise<string> => (await store.get([key]))[0]?.state ?? '';
  return {
    dataSource,
    store,
    unitOfWork: new UnitOfWork(dataSource, invalidation),
    users: new CachedRepository(users, store, metrics, gate),
    state: (id) => stateOf(users.rowKey(id)),
    stateOf,
  };
}

/** A promise and what ends it. */
function gateway(): { opened: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

let serial = 0;
const someone = (): Partial<User> & { id: string; username: string } => {
  const username = `someone-${serial++}`;
  return {
    id: randomUUID(),
    username,
    email: `${username}@example.com`,
    roles: ['user'],
    deletedAt: null,
  };
};
/** Waits until the row's key is in this state. */
async function becomes({ state }: Node, id: string, wanted: string): Promise<void> {
  for (const end = Date.now() + 4_000; (await state(id)) !== wanted; await sleep(10)) {
    if (Date.now() > end) throw new Error(`still ${await state(id)}, not ${wanted}`);
  }
}
const rejection = async (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'resolved',
    (error: unknown) => error,
  );

let database: TestDatabase;
let node: Node;
/** Another program's connection. */
let psql: Client;

const rows = async (id: string): Promise<{ username: string; version: number }[]> => {
  const { rows } = await psql.query('SELECT username, version::int FROM users WHERE id = $1', [id]);
  return rows as { username: string; version: number }[];
};
const made = (values = someone()): Promise<User> =>
  node.unitOfWork.run((transaction) => transaction.insert(User, values));

beforeAll(async () => {
  Logger.overrideLogger(false);
  database = await createTestDatabase();
  psql = new Client({ connectionString: database.url });
  await psql.connect();
  node = await makeNode(database.url);
});
afterEach(async () => {
  node.store.before = {};
  await psql.query('DROP TRIGGER IF EXISTS at_commit ON users; DROP SEQUENCE IF EXISTS attempts');
  await psql.query('TRUNCATE cache_invalidations');
});
afterAll(async () => {
  await Promise.all(opened.map((dataSource) => dataSource.destroy()));
  await psql.end();
  await database.drop();
});

/** Runs `body` (PL/pgSQL) inside every COMMIT that changed a user, as a deferred constraint does. */
async function atCommit(body: string): Promise<void> {
  await psql.query(
    `CREATE OR REPLACE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${body} RETURN NULL; END $$`,
  );
  await psql.query(`CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE OR DELETE ON users
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit()`);
}

/** The pid of a backend that waits for a lock. */
async function waiter(): Promise<number> {
  for (const end = Date.now() + 3_000; Date.now() < end; await sleep(5)) {
    const { rows } = await psql.query(
      `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    );
    if (rows.length > 0) return (rows[0] as { pid: number }).pid;
  }
  throw new Error('nobody waits');
}

describe('what was committed', () => {
  it('is in the database and, at the same version, in the cache', async () => {
    const user = await made();
    expect(await rows(user.id)).toEqual([{ username: user.username, version: 1 }]);
    expect(await node.state(user.id)).toBe('value');
    const changed = await node.unitOfWork.run((transaction) =>
      transaction.update(user, { username: 'changed-1' }),
    );
    expect(changed).toMatchObject({ username: 'changed-1', version: 2 });
    expect(changed).toBeInstanceOf(User);
    expect(await node.users.findById(user.id)).toEqual(changed);
    expect(await rows(user.id)).toEqual([{ username: 'changed-1', version: 2 }]);
  });

  it('is given as the database made it', async () => {
    const created = await made();
    const inDatabase = await node.dataSource
      .getRepository(User)
      .findOneByOrFail({ id: created.id });
    expect(created).toEqual(inDatabase);
    expect(created.createdAt).toBeInstanceOf(Date);
  });

  it('drops the pointers of what it was called before and is called now, and publishes the row alone', async () => {
    const user = await made();
    const [before, after] = [`user:username:${user.username}`, 'user:username:renamed-1'];
    expect(await node.users.findByAlias('username', user.username as string)).toEqual(user);
    expect(await node.stateOf(before)).toBe('value');
    let seen: string[] = [];
    await node.unitOfWork.run(async (transaction) => {
      await transaction.update(user, { username: 'renamed-1' });
      seen = await Promise.all([before, after].map(node.stateOf));
    });
    expect(seen).toEqual(['fence', 'fence']);
    expect(await Promise.all([before, after].map(node.stateOf))).toEqual(['absent', 'absent']);
    expect(await node.state(user.id)).toBe('value');
  });

  it('leaves "nothing there" after a deletion, at the next version', async () => {
    const user = await made();
    const values = {
      id: randomUUID(),
      userId: user.id,
      tokenHash: 'a'.repeat(64),
      userAgent: null,
      ip: null,
    };
    const times = { lastSeenAt: new Date(), expiresAt: new Date(Date.now() + 1e6) };
    const session = await node.unitOfWork.run((transaction) =>
      transaction.insert(Session, { ...values, ...times }),
    );
    expect(await node.unitOfWork.run((transaction) => transaction.remove(session))).toBe(true);
    expect(await node.store.get([`session:id:${session.id}`])).toEqual([
      { state: 'none', version: session.version + 1 },
    ]);
    const again = await node.unitOfWork.run((transaction) =>
      transaction.insert(Session, { ...values, ...times }),
    );
    expect(again.version).toBeGreaterThan(session.version + 1);
    expect(await node.stateOf(`session:id:${session.id}`)).toBe('value');
  });

  it('touches no key when it wrote no cached row', async () => {
    node.store.steps.length = 0;
    expect(await node.unitOfWork.run(({ manager }) => manager.query('SELECT 1 AS one'))).toEqual([
      { one: 1 },
    ]);
    expect(node.store.steps).toEqual([]);
  });

  it('may be nothing: of an old version neither update nor remove finds a row, and no fence stays', async () => {
    const old = await made();
    await node.unitOfWork.run((transaction) =>
      transaction.update(old, { username: `newer-${serial++}` }),
    );
    const done = await node.unitOfWork.run(async (transaction) => [
      await transaction.update(old, { username: 'lost' }),
      await transaction.remove(old),
    ]);
    expect(done).toEqual([null, false]);
    expect(await node.state(old.id)).toBe('absent');
    expect(await node.stateOf('user:username:lost')).toBe('absent');
    expect((await rows(old.id))[0]?.version).toBe(2);
  });

  it('is the newest of two writers that were after one row', async () => {
    const user = await made();
    const [first, second] = [gateway(), gateway()];
    const rename = (username: string) => (transaction: Transaction) =>
      transaction.lock(User, user.id).then((row) => transaction.update(row as User, { username }));
    const one = node.unitOfWork.run(async (transaction) => {
      const after = await rename(`first-${serial++}`)(transaction);
      first.open();
      await second.opened;
      return after;
    });
    await first.opened;
    const other = node.unitOfWork.run(rename(`second-${serial++}`));
    await waiter();
    second.open();
    expect([(await one)?.version, (await other)?.version]).toEqual([2, 3]);
    expect(await node.users.findById(user.id)).toEqual(await other);
    expect(await node.state(user.id)).toBe('value');
  });
});

describe('the order of a write', () => {
  it('is fence, COMMIT, publish, answer: nobody fills in between', async () => {
    const user = await made();
    await psql.query('SELECT pg_advisory_lock(7)');
    await atCommit('PERFORM pg_advisory_xact_lock(7);');
    const publishing = gateway();
    const published = gateway();
    node.store.before.publish = () => (publishing.open(), published.opened);
    let answered = false;
    const username = `ordered-${serial++}`;
    const writing = node.unitOfWork.run((transaction) => transaction.update(user, { username }));
    void writing.then(() => (answered = true));

    // Held inside COMMIT.
    await waiter();
    expect(await node.state(user.id)).toBe('fence');
    expect((await rows(user.id))[0]?.version).toBe(1);
    expect((await node.users.findById(user.id))?.version).toBe(1);
    expect(await node.state(user.id)).toBe('fence');

    // Committed, not yet published.
    await psql.query('SELECT pg_advisory_unlock(7)');
    await publishing.opened;
    expect((await rows(user.id))[0]).toEqual({ username, version: 2 });
    expect((await node.users.findById(user.id))?.version).toBe(2);
    expect(await node.state(user.id)).toBe('fence');
    expect(answered).toBe(false);

    published.open();
    expect((await writing)?.version).toBe(2);
    expect(await node.state(user.id)).toBe('value');
  });

  it('has no COMMIT before the last fence stands', async () => {
    const user = await made();
    const fenced = gateway();
    node.store.before.fence = () => fenced.opened;
    const writing = node.unitOfWork.run((transaction) =>
      transaction.update(user, { username: `slow-${serial++}` }),
    );
    await sleep(100);
    const open = `SELECT state FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'`;
    expect((await psql.query(open)).rowCount).toBe(1);
    expect((await rows(user.id))[0]?.version).toBe(1);
    fenced.open();
    expect((await writing)?.version).toBe(2);
    expect((await rows(user.id))[0]?.version).toBe(2);
  });
});

describe('what was rolled back', () => {
  it('left nothing behind, and no fence', async () => {
    const user = await made();
    const stranger = someone();
    const failure = new Error('changed my mind');
    const work = async (transaction: Transaction): Promise<void> => {
      await transaction.insert(User, stranger);
      await transaction.update(user, { username: `never-${serial++}` });
      expect([await node.state(stranger.id), await node.state(user.id)]).toEqual([
        'fence',
        'fence',
      ]);
      throw failure;
    };
    expect(await rejection(node.unitOfWork.run(work))).toBe(failure);
    expect([await rows(stranger.id), (await rows(user.id))[0]?.version]).toEqual([[], 1]);
    expect([await node.state(stranger.id), await node.state(user.id)]).toEqual([
      'absent',
      'absent',
    ]);
    expect(await node.stateOf(`user:username:${stranger.username}`)).toBe('absent');
    expect(await node.users.findById(user.id)).toEqual(user);
  });

  it('is unfenced also when a fence was still on its way', async () => {
    const user = await made();
    node.store.before.fence = () => sleep(50);
    const work = (transaction: Transaction): Promise<never> => {
      void transaction.update(user, { username: 'never' }).catch(() => undefined);
      return Promise.reject(new Error('at once'));
    };
    expect(await rejection(node.unitOfWork.run(work))).toMatchObject({ message: 'at once' });
    expect(await node.state(user.id)).toBe('absent');
  });

  it('is what a refused statement makes of the whole', async () => {
    const [taken, stranger] = [await made(), someone()];
    const work = async (transaction: Transaction): Promise<void> => {
      await transaction.insert(User, stranger);
      await transaction.insert(User, { ...someone(), username: taken.username });
    };
    expect(sqlStateOf(await rejection(node.unitOfWork.run(work)))).toBe('23505');
    expect([await rows(stranger.id), await node.state(stranger.id)]).toEqual([[], 'absent']);
  });

  it('is what a swallowed failure makes of it: PostgreSQL would answer COMMIT without an error', async () => {
    const stranger = someone();
    const work = async (transaction: Transaction): Promise<User> => {
      const created = await transaction.insert(User, stranger);
      await transaction.manager.query('SELECT 1 / 0').catch(() => undefined);
      return created;
    };
    expect(await rejection(node.unitOfWork.run(work))).toBeInstanceOf(TransactionAbortedError);
    expect([await rows(stranger.id), await node.state(stranger.id)]).toEqual([[], 'absent']);
  });

  it('is what a refused COMMIT leaves, and it is not tried again', async () => {
    const user = await made();
    await atCommit(`RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';`);
    const work = jest.fn((transaction: Transaction) =>
      transaction.update(user, { username: 'refused' }),
    );
    expect(sqlStateOf(await rejection(node.unitOfWork.run(work)))).toBe('23514');
    expect(work).toHaveBeenCalledTimes(1);
    expect([(await rows(user.id))[0]?.version, await node.state(user.id)]).toEqual([1, 'absent']);
  });

  it('is what lived too long', async () => {
    const user = await made();
    const began = performance.now();
    const clock = jest.spyOn(performance, 'now').mockReturnValue(began);
    try {
      const work = async (transaction: Transaction): Promise<void> => {
        await transaction.update(user, { username: 'late' });
        clock.mockReturnValue(began + 7_501);
      };
      expect(await rejection(node.unitOfWork.run(work))).toBeInstanceOf(TransactionTooLongError);
    } finally {
      clock.mockRestore();
    }
    expect([(await rows(user.id))[0]?.version, await node.state(user.id)]).toEqual([1, 'absent']);
  });
});

describe('what may succeed the next time', () => {
  it('is tried again after a deadlock', async () => {
    const [a, b] = [await made(), await made()];
    const both = gateway();
    let arrived = 0;
    const runs = [0, 0];
    const rename = (mine: number, ids: readonly string[]) => async (transaction: Transaction) => {
      runs[mine] = (runs[mine] ?? 0) + 1;
      for (const id of ids) {
        const row = (await transaction.lock(User, id)) as User;
        await transaction.update(row, { username: `deadlock-${serial++}` });
        if (++arrived === 2) both.open();
        await both.opened;
      }
    };
    await psql.query(`ALTER DATABASE ${database.name} SET deadlock_timeout = '50ms'`);
    const quick = await makeNode(database.url);
    await Promise.all([
      quick.unitOfWork.run(rename(0, [a.id, b.id])),
      quick.unitOfWork.run(rename(1, [b.id, a.id])),
    ]);
    await psql.query(`ALTER DATABASE ${database.name} RESET deadlock_timeout`);
    expect(runs.reduce((sum, one) => sum + one)).toBe(3);
    expect([(await rows(a.id))[0]?.version, (await rows(b.id))[0]?.version]).toEqual([3, 3]);
    for (const { id } of [a, b]) {
      expect(await quick.state(id)).toBe('value');
      expect((await quick.users.findById(id))?.version).toBe(3);
    }
  });

  it('is tried again after a serialization failure', async () => {
    const user = await made();
    let runs = 0;
    const after = await node.unitOfWork.run(async (transaction) => {
      await transaction.manager.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
      const row = await transaction.manager.findOneByOrFail(User, { id: user.id });
      if (++runs === 1) await psql.query('UPDATE users SET roles = roles WHERE id = $1', [user.id]);
      return transaction.update(row, { username: `serial-${serial++}` });
    });
    expect([runs, after?.version]).toEqual([2, 3]);
    expect(await node.users.findById(user.id)).toEqual(after);
  });

  it('is tried again when COMMIT itself fails so', async () => {
    await psql.query('CREATE SEQUENCE attempts');
    await atCommit(
      `IF nextval('attempts') < 3 THEN RAISE EXCEPTION 'again' USING ERRCODE = 'serialization_failure'; END IF;`,
    );
    const work = jest.fn((transaction: Transaction) => transaction.insert(User, someone()));
    const user = await node.unitOfWork.run(work);
    expect(work).toHaveBeenCalledTimes(3);
    expect([await rows(user.id), await node.state(user.id)]).toMatchObject([
      [{ version: 1 }],
      'value',
    ]);
    const [first] = await Promise.all(
      work.mock.results.slice(0, 1).map(({ value }) => value as Promise<User>),
    );
    expect([await rows(first?.id ?? ''), await node.state(first?.id ?? '')]).toEqual([
      [],
      'absent',
    ]);
  });

  it('is given up after three times', async () => {
    const user = await made();
    const work = jest.fn(async (transaction: Transaction) => {
      await transaction.update(user, { username: 'thrice' });
      await transaction.manager.query(
        `DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = 'deadlock_detected'; END $$`,
      );
    });
    expect(sqlStateOf(await rejection(node.unitOfWork.run(work)))).toBe('40P01');
    expect(work).toHaveBeenCalledTimes(3);
    expect([(await rows(user.id))[0]?.version, await node.state(user.id)]).toEqual([1, 'absent']);
  });
});

describe('a connection that breaks', () => {
  const kill = (pid: number): Promise<unknown> =>
    psql.query('SELECT pg_terminate_backend($1)', [pid]);

  it('before COMMIT leaves nothing, and the next one works', async () => {
    const stranger = someone();
    const work = async (transaction: Transaction): Promise<void> => {
      await transaction.insert(User, stranger);
      const [{ pid }] = await transaction.manager.query<[{ pid: number }]>(
        'SELECT pg_backend_pid() AS pid',
      );
      await kill(pid);
      await transaction.manager.query('SELECT 1');
    };
    expect(await rejection(node.unitOfWork.run(work))).toBeInstanceOf(Error);
    expect([await rows(stranger.id), await node.state(stranger.id)]).toEqual([[], 'absent']);
    expect((await made(stranger)).version).toBe(1);
  });

  it('during COMMIT leaves the fence until PostgreSQL tells that the transaction is over', async () => {
    const user = await made();
    await psql.query('SELECT pg_advisory_lock(8)');
    await atCommit('PERFORM pg_advisory_xact_lock(8);');
    const writing = rejection(
      node.unitOfWork.run((transaction) => transaction.update(user, { username: 'unknown' })),
    );
    await kill(await waiter());
    expect(await writing).toBeInstanceOf(Error);
    await becomes(node, user.id, 'absent');
    await psql.query('SELECT pg_advisory_unlock(8)');
    expect((await node.users.findById(user.id))?.username).toBe(user.username);
  });

  describe('and swallows the answer to COMMIT', () => {
    let link: Link;
    let far: Node;
    /** The store's clock is this much ahead of the real one. */
    let ahead = 0;

    beforeAll(async () => {
      const url = new URL(database.url);
      link = await Link.to(Number(url.port), new Random(1));
      url.port = String(link.port);
      const store = new ScriptedStore({ now: () => Date.now() + ahead });
      const extra = { query_timeout: 250, lock_timeout: 0 };
      far = await makeNode(url.href, { pool: 3, driver: extra, store });
    });
    afterAll(() => link.close());

    const renamed = (user: User, username: string): Promise<unknown> =>
      rejection(
        far.unitOfWork.run(async (transaction) => {
          await transaction.update(user, { username });
          link.halfOpen('down');
        }),
      );

    it('drops the keys as soon as PostgreSQL can be asked', async () => {
      const user = await made();
      expect(await renamed(user, 'swallowed-1')).toBeInstanceOf(Error);
      expect([(await rows(user.id))[0]?.version, await far.state(user.id)]).toEqual([2, 'fence']);
      await sleep(1_200);
      expect(await far.state(user.id)).toBe('fence');
      link.heal();
      await becomes(far, user.id, 'absent');
      expect((await far.users.findById(user.id))?.username).toBe('swallowed-1');
    });

    it('keeps them fenced past the deadline of a fence while COMMIT is under way, and drops them when it takes effect', async () => {
      const user = await made();
      await psql.query('SELECT pg_advisory_lock(8)');
      await atCommit('PERFORM pg_advisory_xact_lock(8);');
      expect(await renamed(user, 'swallowed-2')).toBeInstanceOf(Error);
      link.heal();
      for (let renewed = 0; renewed < 2; renewed++) {
        const before = far.store.steps.length;
        while (far.store.steps.length === before) await sleep(20);
        ahead += 0.9 * FENCE_MS;
        // What a reader would fill now would be old as soon as the COMMIT takes effect.
        expect((await far.users.findById(user.id))?.version).toBe(1);
        expect(await far.state(user.id)).toBe('fence');
      }
      await psql.query('SELECT pg_advisory_unlock(8)');
      await becomes(far, user.id, 'absent');
      expect((await far.users.findById(user.id))?.username).toBe('swallowed-2');
      expect(await far.state(user.id)).toBe('value');
    });
  });

  it('that fell silent is not given to the next one, who would commit what was given up', async () => {
    const hasty = await makeNode(database.url, { pool: 1, driver: { query_timeout: 150 } });
    const [stranger, next] = [someone(), someone()];
    const work = async (transaction: Transaction): Promise<void> => {
      await transaction.insert(User, stranger);
      await transaction.manager.query('SELECT pg_sleep(0.6)');
    };
    expect(await rejection(hasty.unitOfWork.run(work))).toMatchObject({
      message: expect.stringMatching(/timeout/),
    });
    await sleep(500);
    await hasty.unitOfWork.run((transaction) => transaction.insert(User, next));
    expect([(await rows(stranger.id)).length, (await rows(next.id)).length]).toEqual([0, 1]);
    expect([await hasty.state(stranger.id), await hasty.state(next.id)]).toEqual([
      'absent',
      'value',
    ]);
  });
});

describe('a cache that cannot be reached', () => {
  const unreachable = (): Promise<never> => Promise.reject(new CacheUnavailableError('gone'));
  const left = async (): Promise<string[]> => {
    const { rows } = await psql.query(
      'SELECT DISTINCT unnest(keys) AS key FROM cache_invalidations ORDER BY 1',
    );
    return (rows as { key: string }[]).map(({ key }) => key);
  };

  it('refuses the write before COMMIT when degraded writes are rejected', async () => {
    const strict = await makeNode(database.url, { degradedWrites: 'reject' });
    const stranger = someone();
    strict.store.before.fence = unreachable;
    const writing = strict.unitOfWork.run((transaction) => transaction.insert(User, stranger));
    expect(await rejection(writing)).toBeInstanceOf(WriteRejectedError);
    expect([await rows(stranger.id), await left(), strict.store.steps.includes('publish')]).toEqual(
      [[], [], false],
    );
    strict.store.before = {};
    await strict.unitOfWork.run((transaction) => transaction.insert(User, stranger));
    expect(await strict.state(stranger.id)).toBe('value');
  });

  it('leaves the keys to the database when they are allowed, in the same transaction', async () => {
    const user = await made();
    node.store.before = { fence: unreachable, publish: unreachable, unfence: unreachable };
    const after = await node.unitOfWork.run((transaction) =>
      transaction.update(user, { username: 'allowed-1' }),
    );
    expect(after?.version).toBe(2);
    expect(await left()).toEqual(
      [`user:id:${user.id}`, `user:username:${user.username}`, 'user:username:allowed-1'].sort(),
    );
  });

  it('leaves the keys to the database when only publishing fails, before the answer', async () => {
    const user = await made();
    node.store.before = { publish: unreachable, unfence: unreachable };
    await node.unitOfWork.run((transaction) => transaction.update(user, { username: 'allowed-2' }));
    expect(await left()).toEqual(
      [`user:id:${user.id}`, `user:username:${user.username}`, 'user:username:allowed-2'].sort(),
    );
  });

  it('leaves nothing to the database when the fences stood and were published', async () => {
    await made();
    expect(await left()).toEqual([]);
  });

  it('keeps no setting of one transaction for the next on its connection', async () => {
    const single = await makeNode(database.url, { pool: 1 });
    single.store.before.fence = unreachable;
    await single.unitOfWork.run((transaction) => transaction.insert(User, someone()));
    expect(await left()).not.toEqual([]);
    await psql.query('TRUNCATE cache_invalidations');
    single.store.before = {};
    await single.unitOfWork.run((transaction) => transaction.insert(User, someone()));
    expect(await left()).toEqual([]);
  });

  it('is another thing than a mistake in it, which is never allowed', async () => {
    const stranger = someone();
    node.store.before.fence = () => Promise.reject(new TypeError('a mistake'));
    expect(await rejection(made(stranger))).toBeInstanceOf(TypeError);
    expect(await rows(stranger.id)).toEqual([]);
  });

  it('does not change what a failed work throws', async () => {
    node.store.before = { fence: unreachable, unfence: unreachable };
    const work = async (transaction: Transaction): Promise<void> => {
      await transaction.insert(User, someone());
      throw new RangeError('mine');
    };
    expect(await rejection(node.unitOfWork.run(work))).toBeInstanceOf(RangeError);
  });

  it.each(['reject', 'allow'])('is told over HTTP (%s)', async (mode) => {
    const env = {
      REDIS_URL: 'redis://127.0.0.1:1',
      CACHE_DEGRADED_WRITES: mode,
      ADMIN_USERNAME: '',
      ADMIN_PASSWORD: '',
    };
    const app = await startApp(env, database.url);
    try {
      const { username, email } = someone();
      const body = { username, email, password: 'nine tall ships at anchor' };
      const reply = await app.call('POST', '/v1/users', { body });
      const { rows } = await psql.query('SELECT FROM users WHERE username = $1', [username]);
      expect([reply.status, rows.length]).toEqual(mode === 'reject' ? [503, 0] : [201, 1]);
      if (mode === 'reject') {
        expect(reply.body).toMatchObject({ code: 'cache-unavailable', status: 503 });
        expect(reply.headers.get('retry-after')).toMatch(/^\d+$/);
      }
    } finally {
      await app.close();
    }
  });
});
