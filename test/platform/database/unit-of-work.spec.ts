/**
 * The one place that commits: what `run` resolves with is committed and published, and after a
 * rejection neither the database nor the cache has changed.
 */
import { randomUUID } from 'node:crypto';
import { beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Session } from '../../../src/auth/sessions/session.entity.js';
import { Order } from '../../../src/orders/order.entity.js';
import {
  CacheUnavailableError,
  deleteKeys,
} from '../../../src/platform/cache/store/cache-store.js';
import { DEFAULT_CACHE_TIMINGS } from '../../../src/platform/cache/cache-timings.js';
import { WriteRejectedError } from '../../../src/platform/cache/write/invalidation.errors.js';
import { sqlStateOf } from '../../../src/platform/database/sql-state.js';
import type { Transaction } from '../../../src/platform/database/transaction.js';
import {
  TransactionAbortedError,
  TransactionTooLongError,
} from '../../../src/platform/database/unit-of-work.js';
import { User } from '../../../src/users/user.entity.js';
import { startApp } from '../../support/app.js';
import { pretendEpoch } from '../../support/pretend-epoch.js';
import {
  backendOf,
  Gate,
  newUser,
  rejectionOf,
  uniqueName,
  type WriteNode,
  WriteTest,
} from './write-node.js';

const test = new WriteTest();

describe('a committed write', () => {
  it('of a new row is in the database, and in the cache with the same version', async () => {
    const user = await test.createUser();

    expect(await test.rowOf(user.id)).toEqual({ username: user.username, version: 1 });
    expect(await test.node.userState(user.id)).toBe('value');
    expect(await test.node.users.findById(user.id)).toEqual(user);
  });

  it('of a changed row is in the database, and in the cache with the same version', async () => {
    const username = uniqueName();
    const changed = await test.rename(await test.createUser(), username);

    expect(changed).toBeInstanceOf(User);
    expect(changed).toMatchObject({ username, version: 2 });
    expect(await test.rowOf(changed!.id)).toEqual({ username, version: 2 });
    expect(await test.node.users.findById(changed!.id)).toEqual(changed);
  });

  it('returns the row with the values that the database added', async () => {
    const created = await test.createUser();

    const { id } = created;
    const stored = await test.node.dataSource.getRepository(User).findOneByOrFail({ id });
    expect(created).toEqual(stored);
    expect(created.createdAt).toBeInstanceOf(Date);
  });

  it('does not change the object with the values', async () => {
    const values = newUser();
    const copy = { ...values };

    await test.createUser(values);

    expect(values).toEqual(copy);
  });

  it('that renames a user fences both names, and leaves neither in the cache', async () => {
    const { users, stateOf } = test.node;
    const user = await test.createUser();
    const newName = uniqueName();
    const keys = [`user:username:${user.username}`, `user:username:${newName}`];
    await users.findByAlias('username', user.username as string);
    expect(await Promise.all(keys.map(stateOf))).toEqual(['value', 'absent']);

    let during: string[] = [];
    await test.node.unitOfWork.run(async (transaction) => {
      await transaction.update(user, { username: newName });
      during = await Promise.all(keys.map(stateOf));
    });

    expect(during).toEqual(['fence', 'fence']);
    expect(await Promise.all(keys.map(stateOf))).toEqual(['absent', 'absent']);
    expect(await test.node.userState(user.id)).toBe('value');
  });

  it('that places an order fences the list of its user', async () => {
    const { id: userId } = await test.createUser();
    const key = `order:ofUser:${userId}`;
    let during = '';
    await test.node.unitOfWork.run(async (transaction) => {
      await transaction.insert(Order, {
        id: randomUUID(),
        userId,
        status: 'placed',
        currency: 'EUR',
        items: [{ sku: 'S', name: 'N', quantity: 1, unitPrice: 1 }],
        total: 1,
      });
      during = await test.node.stateOf(key);
    });

    expect([during, await test.node.stateOf(key)]).toEqual(['fence', 'absent']);
  });

  it('that touches no cached row does nothing to the cache', async () => {
    test.node.store.steps.length = 0;

    const result = await test.node.unitOfWork.run(({ manager }) =>
      manager.query('SELECT 1 AS one'),
    );

    expect(result).toEqual([{ one: 1 }]);
    expect(test.node.store.steps).toEqual([]);
  });

  describe('that deletes a session', () => {
    async function newSession(): Promise<Partial<Session> & { id: string }> {
      const { id: userId } = await test.createUser();
      const id = randomUUID();
      return {
        id,
        userId,
        tokenHash: id.replaceAll('-', '').padEnd(64, '0'),
        userAgent: null,
        ip: null,
        lastSeenAt: new Date(),
        expiresAt: new Date(Date.now() + 1_000_000),
      };
    }
    const insert = (values: Partial<Session> & { id: string }): Promise<Session> =>
      test.node.unitOfWork.run((transaction) => transaction.insert(Session, values));
    const remove = (session: Session): Promise<boolean> =>
      test.node.unitOfWork.run((transaction) => transaction.remove(session));

    it('leaves a negative entry with the next version', async () => {
      const session = await insert(await newSession());

      expect(await remove(session)).toBe(true);

      expect(await pretendEpoch(test.node.store).get([`session:id:${session.id}`])).toEqual([
        { state: 'none', version: session.version + 1 },
      ]);
    });

    it('lets the same id be inserted again, with a greater version', async () => {
      const values = await newSession();
      const session = await insert(values);
      await remove(session);

      const again = await insert(values);

      expect(again.version).toBeGreaterThan(session.version + 1);
      expect(await test.node.stateOf(`session:id:${session.id}`)).toBe('value');
    });
  });

  describe('to an old version of a row', () => {
    type Write = (transaction: Transaction, old: User) => Promise<User | null | boolean>;

    it.each<[name: string, write: Write]>([
      ['update', (transaction, old) => transaction.update(old, { roles: [] })],
      ['remove', (transaction, old) => transaction.remove(old)],
    ])('changes nothing and leaves no fence (%s)', async (_, write) => {
      const old = await test.createUser();
      await test.rename(old, uniqueName());

      const result = await test.node.unitOfWork.run((transaction) => write(transaction, old));

      expect(result === null || result === false).toBe(true);
      expect(await test.node.userState(old.id)).toBe('absent');
      expect((await test.rowOf(old.id))?.version).toBe(2);
    });

    it('leaves no fence on a name that it would have set', async () => {
      const old = await test.createUser();
      await test.rename(old, uniqueName());
      const lostName = uniqueName();

      expect(await test.rename(old, lostName)).toBeNull();

      expect(await test.node.stateOf(`user:username:${lostName}`)).toBe('absent');
    });
  });

  it('is in the cache after a concurrent writer of the same row was first', async () => {
    const user = await test.createUser();
    const [hasWritten, mayCommit] = [new Gate(), new Gate()];
    const lockAndRename = async (transaction: Transaction): Promise<User | null> => {
      const row = (await transaction.lock(User, user.id)) as User;
      return transaction.update(row, { username: uniqueName() });
    };
    const first = test.node.unitOfWork.run(async (transaction) => {
      const after = await lockAndRename(transaction);
      hasWritten.open();
      await mayCommit.opened;
      return after;
    });
    await hasWritten.opened;
    const second = test.node.unitOfWork.run(lockAndRename);
    await test.waitingBackend();

    mayCommit.open();

    expect([(await first)?.version, (await second)?.version]).toEqual([2, 3]);
    expect(await test.node.users.findById(user.id)).toEqual(await second);
    expect(await test.node.userState(user.id)).toBe('value');
  });
});

describe('the order of a write', () => {
  it('is fence, COMMIT, publish, answer, and nobody fills the cache in between', async () => {
    const user = await test.createUser();
    await test.pauseCommits();
    const [isPublishing, mayPublish] = [new Gate(), new Gate()];
    test.node.store.before.publish = () => {
      isPublishing.open();
      return mayPublish.opened;
    };
    let isAnswered = false;
    const username = uniqueName();
    const writing = test.rename(user, username).then((after) => {
      isAnswered = true;
      return after;
    });

    // Inside of COMMIT: readers get the old row from the database and do not fill.
    await test.waitingBackend();
    expect(await test.node.userState(user.id)).toBe('fence');
    expect((await test.rowOf(user.id))?.version).toBe(1);
    expect((await test.node.users.findById(user.id))?.version).toBe(1);
    expect(await test.node.userState(user.id)).toBe('fence');

    // Committed and not published: readers get the new row from the database and do not fill.
    await test.resumeCommits();
    await isPublishing.opened;
    expect(await test.rowOf(user.id)).toEqual({ username, version: 2 });
    expect((await test.node.users.findById(user.id))?.version).toBe(2);
    expect(await test.node.userState(user.id)).toBe('fence');
    expect(isAnswered).toBe(false);

    mayPublish.open();
    expect((await writing)?.version).toBe(2);
    expect(await test.node.userState(user.id)).toBe('value');
  });

  it('has no COMMIT before the last fence is set', async () => {
    const user = await test.createUser();
    const [hasWorked, maySetFence] = [new Gate(), new Gate()];
    test.node.store.before.fence = () => maySetFence.opened;
    const writing = test.node.unitOfWork.run(async (transaction) => {
      const after = await transaction.update(user, { username: uniqueName() });
      hasWorked.open();
      return after;
    });

    await hasWorked.opened;
    await test.makeRoundTrips();
    expect((await test.rowOf(user.id))?.version).toBe(1);

    maySetFence.open();
    expect((await writing)?.version).toBe(2);
    expect((await test.rowOf(user.id))?.version).toBe(2);
  });
});

describe('a write whose work throws', () => {
  it('changes nothing in the database and leaves no fence', async () => {
    const user = await test.createUser();
    const values = newUser();
    const failure = new Error('changed my mind');
    let during: string[] = [];
    const writing = test.node.unitOfWork.run(async (transaction) => {
      await transaction.insert(User, values);
      await transaction.update(user, { username: uniqueName() });
      during = await Promise.all([values.id, user.id].map(test.node.userState));
      throw failure;
    });

    expect(await rejectionOf(writing)).toBe(failure);

    expect(during).toEqual(['fence', 'fence']);
    expect(await test.rowOf(values.id)).toBeUndefined();
    expect((await test.rowOf(user.id))?.version).toBe(1);
    const after = await Promise.all([values.id, user.id].map(test.node.userState));
    expect(after).toEqual(['absent', 'absent']);
    expect(await test.node.stateOf(`user:username:${values.username}`)).toBe('absent');
    expect(await test.node.users.findById(user.id)).toEqual(user);
  });

  it('removes a fence that was still under way', async () => {
    const user = await test.createUser();
    const maySetFence = new Gate();
    test.node.store.before.fence = () => maySetFence.opened;
    const writing = test.node.unitOfWork.run((transaction) => {
      void transaction.update(user, { username: uniqueName() }).catch(() => undefined);
      return Promise.reject(new Error('at once'));
    });
    const rejection = rejectionOf(writing);
    await test.makeRoundTrips();

    maySetFence.open();

    expect(await rejection).toMatchObject({ message: 'at once' });
    expect(await test.node.userState(user.id)).toBe('absent');
  });
});

describe('a write that is rejected because of the rows that it found', () => {
  const REJECTION = new Error('the row has another version');
  const reject = (): Promise<never> => Promise.reject(REJECTION);

  /** The cache does not know the row, as if the write of an earlier attempt was not published. */
  async function createUnpublishedUser(): Promise<User> {
    const user = await test.createUser();
    const key = `user:id:${user.id}`;
    const epoch = pretendEpoch(test.node.store);
    await deleteKeys(epoch, [key]);
    await epoch.lease([key], 'reader', 60_000);
    await epoch.fill('reader', [{ key, version: 0, payload: null, ttlMs: 60_000 }]);
    expect(await test.node.users.findById(user.id)).toBeNull();
    return user;
  }

  it.each<[how: string, look: (transaction: Transaction, id: string) => unknown]>([
    ['locked', (transaction, id) => transaction.lock(User, id)],
    ['locked for reading', (transaction, id) => transaction.lock(User, id, 'share')],
    ['observed', (transaction, id) => transaction.observe(User, id)],
  ])('is answered when no node shows older rows than those that it %s', async (_, look) => {
    const user = await createUnpublishedUser();
    const writing = test.node.unitOfWork.run(async (transaction) => {
      await look(transaction, user.id);
      await reject();
    });

    expect(await rejectionOf(writing)).toBe(REJECTION);

    expect(await test.node.users.findById(user.id)).toEqual(user);
  });

  it('leaves the keys of a conflict to the database when the cache is gone', async () => {
    const existing = await test.createUser();
    const unavailable = (): Promise<never> => Promise.reject(new CacheUnavailableError('gone'));
    test.node.store.before = { fence: unavailable, publish: unavailable, unfence: unavailable };

    const writing = test.createUser(newUser(existing.username as string));

    expect(sqlStateOf(await rejectionOf(writing))).toBe('23505');
    expect(await test.enqueuedKeys()).toContain(`user:username:${existing.username}`);
  });

  it('does nothing to the cache when it failed without a look at the rows', async () => {
    const user = await createUnpublishedUser();
    test.node.store.steps.length = 0;
    const writing = test.node.unitOfWork.run(async (transaction) => {
      await transaction.lock(User, user.id);
      await transaction.manager.query('SELECT 1 / 0');
    });

    expect(sqlStateOf(await rejectionOf(writing))).toBe('22012');

    expect(test.node.store.steps).toEqual([]);
  });
});

describe('a write with a statement that PostgreSQL refuses', () => {
  it('changes nothing', async () => {
    const existing = await test.createUser();
    const values = newUser();
    const writing = test.node.unitOfWork.run(async (transaction) => {
      await transaction.insert(User, values);
      await transaction.insert(User, newUser(existing.username as string));
    });

    expect(sqlStateOf(await rejectionOf(writing))).toBe('23505');

    expect(await test.rowOf(values.id)).toBeUndefined();
    expect(await test.node.userState(values.id)).toBe('absent');
  });

  // PostgreSQL answers COMMIT without an error then: it answers ROLLBACK.
  it('is rejected although the work ignores the failure', async () => {
    const values = newUser();
    const writing = test.node.unitOfWork.run(async (transaction) => {
      const created = await transaction.insert(User, values);
      await transaction.manager.query('SELECT 1 / 0').catch(() => undefined);
      return created;
    });

    expect(await rejectionOf(writing)).toBeInstanceOf(TransactionAbortedError);

    expect(await test.rowOf(values.id)).toBeUndefined();
    expect(await test.node.userState(values.id)).toBe('absent');
  });
});

describe('the connection of a write', () => {
  let node: WriteNode;
  beforeAll(async () => {
    node = await test.createNode({ poolSize: 1 });
  });

  const backendOfNextWrite = (): Promise<number> => node.unitOfWork.run(backendOf);

  it('is used again after a rollback', async () => {
    const before = await backendOfNextWrite();
    await rejectionOf(node.unitOfWork.run(() => Promise.reject(new Error('changed my mind'))));
    expect(await backendOfNextWrite()).toBe(before);
  });

  it('is used again after PostgreSQL refused COMMIT', async () => {
    const before = await backendOfNextWrite();
    await test.atCommit(`RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';`);
    const writing = node.unitOfWork.run((transaction) => transaction.insert(User, newUser()));
    await rejectionOf(writing);
    expect(await backendOfNextWrite()).toBe(before);
  });
});

describe('a write whose COMMIT PostgreSQL refuses', () => {
  it('changes nothing and is not tried again', async () => {
    const user = await test.createUser();
    await test.atCommit(`RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';`);
    const work = jest.fn((transaction: Transaction) =>
      transaction.update(user, { username: uniqueName() }),
    );

    const rejection = await rejectionOf(test.node.unitOfWork.run(work));

    expect(sqlStateOf(rejection)).toBe('23514');
    expect(work).toHaveBeenCalledTimes(1);
    expect((await test.rowOf(user.id))?.version).toBe(1);
    expect(await test.node.userState(user.id)).toBe('absent');
  });
});

describe('a write that takes too long for its fences', () => {
  it('is rolled back', async () => {
    const user = await test.createUser();
    const startedAt = performance.now();
    const clock = jest.spyOn(performance, 'now').mockReturnValue(startedAt);
    try {
      const writing = test.node.unitOfWork.run(async (transaction) => {
        await transaction.update(user, { username: uniqueName() });
        clock.mockReturnValue(startedAt + DEFAULT_CACHE_TIMINGS.fenceMs / 2 + 1);
      });
      expect(await rejectionOf(writing)).toBeInstanceOf(TransactionTooLongError);
    } finally {
      clock.mockRestore();
    }
    expect((await test.rowOf(user.id))?.version).toBe(1);
    expect(await test.node.userState(user.id)).toBe('absent');
  });
});

describe('a write that fails in a way that may pass', () => {
  it('is tried again after a deadlock', async () => {
    const [a, b] = [await test.createUser(), await test.createUser()];
    await test.psql.query(`ALTER DATABASE ${test.database.name} SET deadlock_timeout = '50ms'`);
    const node = await test.createNode({});
    await test.psql.query(`ALTER DATABASE ${test.database.name} RESET deadlock_timeout`);
    const haveBothLocked = new Gate();
    let locked = 0;
    let runs = 0;
    const renameInOrder =
      (...ids: readonly string[]) =>
      async (transaction: Transaction): Promise<void> => {
        runs++;
        for (const id of ids) {
          const row = (await transaction.lock(User, id)) as User;
          await transaction.update(row, { username: uniqueName() });
          locked++;
          if (locked === 2) haveBothLocked.open();
          await haveBothLocked.opened;
        }
      };

    await Promise.all([
      node.unitOfWork.run(renameInOrder(a.id, b.id)),
      node.unitOfWork.run(renameInOrder(b.id, a.id)),
    ]);

    expect(runs).toBe(3);
    const versions = [await test.rowOf(a.id), await test.rowOf(b.id)].map((row) => row?.version);
    expect(versions).toEqual([3, 3]);
    const cached = await Promise.all([a.id, b.id].map((id) => node.users.findById(id)));
    expect(cached.map((row) => row?.version)).toEqual([3, 3]);
    // Stored by the later publication, or by this read where the earlier publication came last: a
    // fence that was left behind would keep the reader from storing it.
    expect(await Promise.all([a.id, b.id].map(node.userState))).toEqual(['value', 'value']);
  });

  it('is tried again after a serialization failure', async () => {
    const user = await test.createUser();
    let runs = 0;
    const after = await test.node.unitOfWork.run(async (transaction) => {
      runs++;
      await transaction.manager.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
      const row = await transaction.manager.findOneByOrFail(User, { id: user.id });
      if (runs === 1) {
        await test.psql.query('UPDATE users SET roles = roles WHERE id = $1', [user.id]);
      }
      return transaction.update(row, { username: uniqueName() });
    });

    expect(runs).toBe(2);
    expect(after?.version).toBe(3);
    expect(await test.node.users.findById(user.id)).toEqual(after);
  });

  it('is tried again when COMMIT itself fails, and the failed attempt leaves nothing', async () => {
    await test.psql.query('CREATE SEQUENCE attempts');
    await test.atCommit(`
      IF nextval('attempts') < 3 THEN
        RAISE EXCEPTION 'again' USING ERRCODE = 'serialization_failure';
      END IF;`);
    const ids: string[] = [];
    const user = await test.node.unitOfWork.run((transaction) => {
      const values = newUser();
      ids.push(values.id);
      return transaction.insert(User, values);
    });

    expect(ids).toHaveLength(3);
    expect(ids[2]).toBe(user.id);
    const versions: (number | undefined)[] = [];
    for (const id of ids) versions.push((await test.rowOf(id))?.version);
    expect(versions).toEqual([undefined, undefined, 1]);
    const states = await Promise.all(ids.map(test.node.userState));
    expect(states).toEqual(['absent', 'absent', 'value']);
    await test.psql.query('DROP TRIGGER zz_at_commit ON users; DROP SEQUENCE attempts');
  });

  it('is given up after the third attempt', async () => {
    const user = await test.createUser();
    const work = jest.fn(async (transaction: Transaction) => {
      await transaction.update(user, { username: uniqueName() });
      await transaction.manager.query(
        `DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = 'deadlock_detected'; END $$`,
      );
    });

    const rejection = await rejectionOf(test.node.unitOfWork.run(work));

    expect(sqlStateOf(rejection)).toBe('40P01');
    expect(work).toHaveBeenCalledTimes(3);
    expect((await test.rowOf(user.id))?.version).toBe(1);
    expect(await test.node.userState(user.id)).toBe('absent');
  });
});

describe('a write while the cache is unavailable', () => {
  const unavailable = (): Promise<never> => Promise.reject(new CacheUnavailableError('gone'));

  /** Every key of a rename. */
  const keysOf = (user: User, newName: string): string[] =>
    [`user:id:${user.id}`, `user:username:${user.username}`, `user:username:${newName}`].sort();

  describe('and degraded writes are rejected', () => {
    it('is rejected before COMMIT, and leaves nothing to the database', async () => {
      const node = await test.createNode({ degradedWrites: 'reject' });
      const values = newUser();
      node.store.before.fence = unavailable;

      const writing = node.unitOfWork.run((transaction) => transaction.insert(User, values));

      expect(await rejectionOf(writing)).toBeInstanceOf(WriteRejectedError);
      expect(await test.rowOf(values.id)).toBeUndefined();
      expect(await test.enqueuedKeys()).toEqual([]);
      expect(node.store.steps).not.toContain('publish');
    });

    it('succeeds once the cache is available again', async () => {
      const node = await test.createNode({ degradedWrites: 'reject' });
      const values = newUser();
      const write = (): Promise<User> =>
        node.unitOfWork.run((transaction) => transaction.insert(User, values));
      node.store.before.fence = unavailable;
      await rejectionOf(write());

      node.store.before = {};
      await write();

      expect(await node.userState(values.id)).toBe('value');
    });
  });

  it('leaves its keys to the database, in the same transaction', async () => {
    const user = await test.createUser();
    const newName = uniqueName();
    test.node.store.before = { fence: unavailable, publish: unavailable, unfence: unavailable };

    const after = await test.rename(user, newName);

    expect(after?.version).toBe(2);
    expect(await test.enqueuedKeys()).toEqual(keysOf(user, newName));
  });

  it('leaves its keys to the database before the answer when only publishing fails', async () => {
    const user = await test.createUser();
    const newName = uniqueName();
    test.node.store.before = { publish: unavailable, unfence: unavailable };

    await test.rename(user, newName);

    expect(await test.enqueuedKeys()).toEqual(keysOf(user, newName));
  });

  it('does not affect the next transaction on the same connection', async () => {
    const node = await test.createNode({ poolSize: 1 });
    const write = (): Promise<User> =>
      node.unitOfWork.run((transaction) => transaction.insert(User, newUser()));
    node.store.before.fence = unavailable;
    await write();
    expect(await test.enqueuedKeys()).not.toEqual([]);
    await test.psql.query('TRUNCATE cache_invalidations');

    node.store.before = {};
    await write();

    expect(await test.enqueuedKeys()).toEqual([]);
  });

  it('whose work throws is rejected with the error of the work', async () => {
    test.node.store.before = { fence: unavailable, unfence: unavailable };
    const writing = test.node.unitOfWork.run(async (transaction) => {
      await transaction.insert(User, newUser());
      throw new RangeError('mine');
    });

    expect(await rejectionOf(writing)).toBeInstanceOf(RangeError);
  });

  it.each([
    ['reject', 503, 0],
    ['wait', 201, 1],
  ])('over HTTP, with CACHE_DEGRADED_WRITES=%s, is answered %i', async (mode, status, count) => {
    const env = {
      REDIS_URL: 'redis://127.0.0.1:1',
      CACHE_DEGRADED_WRITES: mode,
      ADMIN_USERNAME: '',
      ADMIN_PASSWORD: '',
    };
    const app = await startApp(env, test.database.url);
    try {
      const { username, email } = newUser();
      const body = { username, email, password: 'nine tall ships at anchor' };

      const reply = await app.call('POST', '/v1/users', { body });

      expect(reply.status).toBe(status);
      const { rowCount } = await test.psql.query('SELECT FROM users WHERE username = $1', [
        username,
      ]);
      expect(rowCount).toBe(count);
    } finally {
      await app.close();
    }
  });

  it('over HTTP, when it is rejected, is the problem cache-unavailable', async () => {
    const env = { REDIS_URL: 'redis://127.0.0.1:1', CACHE_DEGRADED_WRITES: 'reject' };
    const noAdmin = { ADMIN_USERNAME: '', ADMIN_PASSWORD: '' };
    const app = await startApp({ ...env, ...noAdmin }, test.database.url);
    try {
      const { username, email } = newUser();
      const body = { username, email, password: 'nine tall ships at anchor' };

      const reply = await app.call('POST', '/v1/users', { body });

      expect(reply.body).toMatchObject({ code: 'cache-unavailable', status: 503 });
      expect(reply.headers.get('retry-after')).toMatch(/^\d+$/);
    } finally {
      await app.close();
    }
  });
});

describe('a write while the cache is available', () => {
  it('leaves nothing to the database', async () => {
    await test.createUser();
    expect(await test.enqueuedKeys()).toEqual([]);
  });

  it('is rejected when the cache fails through a programming error', async () => {
    const values = newUser();
    test.node.store.before.fence = () => Promise.reject(new TypeError('a mistake'));

    expect(await rejectionOf(test.createUser(values))).toBeInstanceOf(TypeError);
    expect(await test.rowOf(values.id)).toBeUndefined();
  });
});
