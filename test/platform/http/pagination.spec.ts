/** Limits and cursors of every list. What a page contains is tested with its module. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  decodeCursor,
  decodePosition,
  encodeCursor,
  encodePosition,
} from '../../../src/platform/http/pagination.js';
import type { Problem } from '../../../src/platform/http/problems/problem.js';
import { placeOrder } from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { pointersOf } from '../../support/problem.js';
import { ROUTES, type RouteTarget, startRouteTarget } from './routes.js';

const LISTS = ROUTES.filter(({ isList }) => isList).map(({ path }) => path);

let target: RouteTarget;

/** Every list has at least two rows, so that its first page of one has a next page. */
beforeAll(async () => {
  target = await startRouteTarget();
  const { app, owner, orderId } = target;
  await placeOrder(app, owner.token);
  // A second event of the order.
  await app.call('PATCH', `/v1/orders/${orderId}`, {
    token: owner.token,
    body: { note: 'changed' },
    headers: { 'If-Match': '*' },
  });
});
afterAll(() => target.app.close());

const read = (path: string, query: string): Promise<Reply> =>
  target.send({ method: 'GET', path: `${path}?${query}` });

const cursorOf = async (path: string, filters = ''): Promise<string> => {
  const { body } = await read(path, `limit=1${filters}`);
  expect(body.next).toEqual(expect.any(String));
  return body.next as string;
};

describe.each(LISTS)('%s', (path) => {
  it.each([1, 100])('accepts the limit %i', async (limit) => {
    const { status, body } = await read(path, `limit=${limit}`);
    expect([status, Array.isArray(body.data)]).toEqual([200, true]);
  });

  it.each([
    ...['0', '101', '-1', 'abc', '1e1', '1.0', '0x10', '%201', '', '%2B1'],
    ...['99999999999999999999', '%D9%A1', '1&limit=2'],
  ])('rejects the limit "%s"', async (limit) => {
    expect(pointersOf(await read(path, `limit=${limit}`))).toEqual(['/limit']);
  });

  it('rejects a limit that is a list', async () => {
    expect(pointersOf(await read(path, 'limit[]=1'))).toEqual(['/limit[]']);
  });

  it('accepts its own cursor', async () => {
    const cursor = await cursorOf(path);
    expect((await read(path, `limit=1&cursor=${cursor}`)).status).toBe(200);
  });

  it('rejects cursors of other lists', async () => {
    const others = await Promise.all(
      LISTS.filter((list) => list !== path).map((list) => cursorOf(list)),
    );
    const replies = await Promise.all(others.map((cursor) => read(path, `cursor=${cursor}`)));
    expect(replies.map(pointersOf)).toEqual(others.map(() => ['/cursor']));
  });

  it.each(['', 'x', 'null', 'W10', 'MQ', 'a'.repeat(201)])(
    'rejects the cursor "%s"',
    async (cursor) => {
      expect(pointersOf(await read(path, `cursor=${cursor}`))).toEqual(['/cursor']);
    },
  );

  it('rejects its own cursor when it was changed', async () => {
    const cursor = await cursorOf(path);
    const text = Buffer.from(cursor, 'base64url').toString();
    const [time, ...rest] = JSON.parse(text) as [number, ...unknown[]];
    const earlier = JSON.stringify([time - 1, ...rest]);
    const forged = Buffer.from(text.replace(/\d/, '9')).toString('base64url');
    const changed = [
      Buffer.from(earlier).toString('base64url'),
      `${cursor}%3D`,
      `${cursor}.`,
      cursor.slice(0, -2),
      `${forged}A`,
      `${cursor}&cursor=${cursor}`,
    ];
    const replies = await Promise.all(changed.map((query) => read(path, `cursor=${query}`)));
    expect(replies.map(pointersOf)).toEqual(changed.map(() => ['/cursor']));
  });
});

/** A client can make cursors with a right checksum: it has no secret. */
describe('a cursor that a client has made', () => {
  const id = '01a200b9-5891-7713-ae4d-bf3daf71cc29';
  const forge = (time: number): string =>
    encodeCursor({ createdAt: { getTime: () => time } as Date, id }, 'list');
  const codeOf = (decode: () => unknown): string => {
    try {
      decode();
    } catch (error) {
      return (error as Problem).problemType.code;
    }
    return 'accepted';
  };

  it('is accepted with a time of the calendar', () => {
    expect(codeOf(() => decodeCursor(forge(Date.now()), 'list'))).toBe('accepted');
  });

  it.each([-8.64e15, 8.64e15, Date.parse('0000-12-31T23:59:59.999Z'), 2 ** 53, 1.5, NaN])(
    'is rejected with the time %p, which PostgreSQL does not know',
    (time) => {
      expect(codeOf(() => decodeCursor(forge(time), 'list'))).toBe('validation-failed');
    },
  );

  it.each([-1, 1e15, 1.5, NaN])('is rejected with the position %p', (position) => {
    const cursor = encodePosition(position, 'list');
    expect(codeOf(() => decodePosition(cursor, 'list'))).toBe('validation-failed');
  });
});

describe('a cursor of /v1/orders with a filter', () => {
  it('is accepted with the same filter', async () => {
    const cursor = await cursorOf('/v1/orders', '&status=placed');
    const { status } = await read('/v1/orders', `limit=1&status=placed&cursor=${cursor}`);
    expect(status).toBe(200);
  });

  it.each([
    ['without a filter', () => ''],
    ['with another status', () => 'status=paid&'],
    ['with a user', () => `status=placed&userId=${target.owner.id}&`],
    ['with a time', () => 'status=placed&createdFrom=2020-01-01T00:00:00Z&'],
  ])('is rejected %s', async (_, filters) => {
    const cursor = await cursorOf('/v1/orders', '&status=placed');
    const reply = await read('/v1/orders', `limit=1&${filters()}cursor=${cursor}`);
    expect(pointersOf(reply)).toEqual(['/cursor']);
  });
});
