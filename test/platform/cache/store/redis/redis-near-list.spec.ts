/** The list of nodes with near caches in Redis, and the texts between them. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import type { NearList } from '../../../../../src/platform/cache/near/near-list.js';
import type { RedisStore } from '../../../../../src/platform/cache/store/redis/redis-store.js';
import { eventually } from '../../../../support/eventually.js';
import { type RedisServer, sendRedisCommand } from '../../../../support/redis.js';
import { RedisFixtures } from './redis-fixtures.js';

const fixtures = new RedisFixtures();
const NAME = 'epoch:near';

let server: RedisServer;
let store: RedisStore;
let list: NearList;

const renew = (node: string, renewal: string, wholeList?: string) =>
  list.renew(NAME, { node, renewal, wholeList });

beforeEach(async () => {
  server = await fixtures.startServer();
  store = await fixtures.openReadyStore(server.url);
  list = store.nearList;
});

describe('the list in Redis', () => {
  it('is new until somebody knows that it is whole', async () => {
    const first = await renew('a', '1');
    expect([first.isWhole, first.count]).toEqual([false, 0]);
    await list.markWhole(NAME, 'another');
    expect((await renew('a', '2')).isWhole).toBe(false);
    expect((await renew('a', '3', 'another')).isWhole).toBe(false);
    expect(await renew('a', '4', first.id)).toEqual({ ...first, isWhole: true });
  });

  it('keeps its id while it is there, and has another one when it was lost', async () => {
    const first = await renew('a', '1');
    await list.markWhole(NAME, first.id);
    expect(await renew('a', '2')).toEqual({ ...first, isWhole: true });
    await sendRedisCommand(server.port, 'FLUSHALL');
    const next = await list.revoke(NAME, 'message');
    expect(next).toEqual({ id: next.id, isWhole: false, count: 1, nodes: [] });
    expect(next.id).not.toBe(first.id);
  });

  it('numbers revocations and names the nodes', async () => {
    await renew('a', '1');
    await renew('b', '7');
    await list.revoke(NAME, 'first');
    const { count, nodes } = await list.revoke(NAME, 'second');
    expect([count, nodes]).toEqual([
      2,
      [
        { node: 'a', renewal: '1' },
        { node: 'b', renewal: '7' },
      ],
    ]);
    expect((await renew('a', '2')).count).toBe(2);
  });

  it('loses a node that has not renewed since', async () => {
    await renew('a', '2');
    await list.remove(NAME, { node: 'a', renewal: '1' });
    expect((await list.revoke(NAME, 'message')).nodes).toHaveLength(1);
    await list.remove(NAME, { node: 'a', renewal: '2' });
    expect((await list.revoke(NAME, 'message')).nodes).toHaveLength(0);
  });

  it('replaces a value of another type', async () => {
    await sendRedisCommand(server.port, `SET ${store.redisKeyOf(NAME)} nonsense`);
    expect((await renew('a', '1')).isWhole).toBe(false);
  });

  it('delivers revocations to all listeners, answers to one', async () => {
    const texts: string[] = [];
    const listen = (node: string) =>
      list.listen(NAME, node, {
        onRevocation: (text) => texts.push(`${node} ${text}`),
        onAnswer: (text) => texts.push(`${node} ${text}`),
        onLost: () => texts.push(`${node} lost`),
      });
    const first = await listen('a');
    await listen('b');
    const { id } = await list.revoke(NAME, '{}');
    await list.answer(NAME, 'b', 'hello');
    await eventually('both have heard', () => texts.length === 3);
    expect(texts.toSorted()).toEqual([`a ${id}:1:{}`, `b ${id}:1:{}`, 'b hello']);
    first.close();
    await server.kill();
    await eventually('the other listener is lost', () => texts.includes('b lost'));
    expect(texts).not.toContain('a lost');
  });
});
