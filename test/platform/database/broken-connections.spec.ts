/**
 * Connections of UnitOfWork that break or fall silent at each phase of a write: nothing is half
 * written, no key is served that could be old, and no other write gets the connection.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { FENCE_MS } from '../../../src/platform/cache/cache-timings.js';
import { User } from '../../../src/users/user.entity.js';
import { eventually } from '../../support/eventually.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import {
  backendOf,
  giveUpSoon,
  newUser,
  rejectionOf,
  ScriptedStore,
  uniqueName,
  type WriteNode,
  WriteTest,
} from './write-node.js';

const test = new WriteTest();

const kill = (pid: number): Promise<unknown> =>
  test.psql.query('SELECT pg_terminate_backend($1)', [pid]);

const awaitUserState = (node: WriteNode, id: string, state: string): Promise<unknown> =>
  eventually(`the cache entry is ${state}`, async () => (await node.userState(id)) === state);

describe('a connection that breaks before COMMIT', () => {
  it('leaves nothing, and the same write succeeds on the next connection', async () => {
    const values = newUser();
    const writing = test.node.unitOfWork.run(async (transaction) => {
      await transaction.insert(User, values);
      await kill(await backendOf(transaction));
      await transaction.manager.query('SELECT 1');
    });

    expect(await rejectionOf(writing)).toBeInstanceOf(Error);

    expect(await test.rowOf(values.id)).toBeUndefined();
    expect(await test.node.userState(values.id)).toBe('absent');
    expect((await test.createUser(values)).version).toBe(1);
  });
});

describe('a connection that breaks during COMMIT', () => {
  it('leaves the fence until PostgreSQL says that the transaction is over', async () => {
    const user = await test.createUser();
    await test.pauseCommits();
    const rejection = rejectionOf(test.rename(user, uniqueName()));
    await kill(await test.waitingBackend());

    expect(await rejection).toBeInstanceOf(Error);

    await awaitUserState(test.node, user.id, 'absent');
    expect((await test.node.users.findById(user.id))?.username).toBe(user.username);
  });
});

describe('a connection on which the answer to COMMIT is lost', () => {
  let proxy: TcpProxy;
  let node: WriteNode;
  /** How far the clock of the store is ahead. */
  let aheadMs = 0;

  beforeAll(async () => {
    const url = new URL(test.database.url);
    proxy = await TcpProxy.start(Number(url.port));
    url.port = String(proxy.port);
    const store = new ScriptedStore({ now: () => Date.now() + aheadMs });
    // No lock timeout: a COMMIT that waits must not be refused.
    node = await test.createNode({ poolSize: 3, store, lockTimeout: 0 }, url.href);
  });
  afterAll(() => proxy.close());

  /** Renames the user; from COMMIT on no answer arrives. @returns what `run` rejects with */
  const renameWithoutAnswer = (user: User, username: string): Promise<unknown> =>
    rejectionOf(
      node.unitOfWork.run(async (transaction) => {
        await transaction.update(user, { username });
        giveUpSoon(transaction);
        proxy.halfOpen('down');
      }),
    );

  it('leaves the keys fenced until PostgreSQL can be asked', async () => {
    const user = await test.createUser();
    const username = uniqueName();

    expect(await renameWithoutAnswer(user, username)).toBeInstanceOf(Error);

    expect((await test.rowOf(user.id))?.version).toBe(2);
    expect(await node.userState(user.id)).toBe('fence');
    await test.makeRoundTrips();
    expect(await node.userState(user.id)).toBe('fence');

    proxy.heal();
    await awaitUserState(node, user.id, 'absent');
    expect((await node.users.findById(user.id))?.username).toBe(username);
  });

  it('leaves the keys fenced, past a fence’s deadline, until COMMIT takes effect', async () => {
    const user = await test.createUser();
    const username = uniqueName();
    await test.pauseCommits();
    expect(await renameWithoutAnswer(user, username)).toBeInstanceOf(Error);
    proxy.heal();

    // Twice almost a whole fence passes, and the fence is renewed each time.
    for (let renewal = 0; renewal < 2; renewal++) {
      const { length } = node.store.steps;
      await eventually('the fence is renewed', () => node.store.steps.length > length);
      aheadMs += 0.9 * FENCE_MS;
      // If a reader filled now, its row would be old as soon as COMMIT takes effect.
      expect((await node.users.findById(user.id))?.version).toBe(1);
      expect(await node.userState(user.id)).toBe('fence');
    }

    await test.resumeCommits();
    await awaitUserState(node, user.id, 'absent');
    expect((await node.users.findById(user.id))?.username).toBe(username);
    expect(await node.userState(user.id)).toBe('value');
  });
});

describe('a connection that falls silent before COMMIT', () => {
  it('is not used again: the next write would commit what was given up', async () => {
    const node = await test.createNode({ poolSize: 1, lockTimeout: 0 });
    const [abandoned, next] = [newUser(), newUser()];
    let pid = 0;
    await test.psql.query('SELECT pg_advisory_lock(8)');
    const writing = node.unitOfWork.run(async (transaction) => {
      pid = await backendOf(transaction);
      await transaction.insert(User, abandoned);
      giveUpSoon(transaction);
      await transaction.manager.query('SELECT pg_advisory_xact_lock(8)');
    });
    expect(await rejectionOf(writing)).toMatchObject({
      message: expect.stringMatching(/timeout/),
    });

    // From here on the connection would work again.
    await test.psql.query('SELECT pg_advisory_unlock(8)');
    await eventually('its backend no longer runs a statement', async () => {
      const { rowCount } = await test.psql.query(
        `SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'active'`,
        [pid],
      );
      return rowCount === 0;
    });
    await node.unitOfWork.run((transaction) => transaction.insert(User, next));

    expect(await test.rowOf(abandoned.id)).toBeUndefined();
    expect(await test.rowOf(next.id)).toBeDefined();
    expect(await node.userState(abandoned.id)).toBe('absent');
    expect(await node.userState(next.id)).toBe('value');
  });
});
