/** Which rows a page has, and how many are read. Over HTTP: test/orders/page-bytes.spec.ts. */
import { describe, expect, it } from '@jest/globals';
import { MAX_PAGE_BYTES, MAX_ROWS_PER_READ } from '../../../src/platform/http/bounds/bounds.js';
import {
  decodeCursor,
  decodePosition,
  encodeCursor,
  encodePosition,
  readByKeys,
  readByPosition,
  takePage,
} from '../../../src/platform/http/pagination.js';
import { Problem } from '../../../src/platform/http/problems/problem.js';

const numbers = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

/** Reads of a list that has the numbers below `total`. */
function listOf(total: number) {
  const counts: number[] = [];
  const read = (after: number | undefined, count: number): Promise<number[]> => {
    counts.push(count);
    const first = after === undefined ? 0 : after + 1;
    return Promise.resolve(numbers(total).slice(first, first + count));
  };
  return { read, counts };
}

describe('a page', () => {
  it.each([
    ['is full', 100, { count: 20, last: 19, hasNext: true }],
    ['has the last rows', 20, { count: 20, last: 19, hasNext: false }],
    ['has fewer rows', 7, { count: 7, last: 6, hasNext: false }],
    ['has no rows', 0, { count: 0, last: undefined, hasNext: false }],
  ])('that %s', async (_, total, expected) => {
    const page = await takePage(readByPosition(undefined, 20, listOf(total).read), 20, String);
    expect({ count: page.texts.length, last: page.last, hasNext: page.hasNext }).toEqual(expected);
  });

  it('ends before the row that exceeds its bytes, counted in UTF-8', async () => {
    // Three bytes each.
    const half = '€'.repeat(MAX_PAGE_BYTES / 2 / 3 - 1);
    const page = await takePage(readByPosition(undefined, 20, listOf(9).read), 20, () => half);
    expect([page.texts.length, page.last, page.hasNext]).toEqual([2, 1, true]);
  });

  it('is read in as many rows at a time as its list says', async () => {
    const { read, counts } = listOf(9);
    const page = await takePage(readByPosition(undefined, 20, read, 4), 20, String);
    expect([page.texts.length, counts]).toEqual([9, [4, 4, 4]]);
  });

  it('has one row at least, however large', async () => {
    const large = 'x'.repeat(MAX_PAGE_BYTES + 1);
    const page = await takePage(readByPosition(4, 20, listOf(9).read), 20, () => large);
    expect([page.texts.length, page.last, page.hasNext]).toEqual([1, 5, true]);
  });

  it('reads no more rows at a time than the bound, and the row after it', async () => {
    const { read, counts } = listOf(1_000);
    await takePage(readByPosition(undefined, 100, read), 100, String);
    expect(Math.max(...counts)).toBe(MAX_ROWS_PER_READ);
    expect(counts.reduce((sum, count) => sum + count)).toBe(101);
  });

  it('reads nothing after the last row', async () => {
    const { read, counts } = listOf(MAX_ROWS_PER_READ + 1);
    await takePage(readByPosition(undefined, 100, read), 100, String);
    expect(counts).toHaveLength(2);
  });

  it('of keys reads no more rows at a time than the bound, and leaves missing ones out', async () => {
    const keys = numbers(2 * MAX_ROWS_PER_READ + 1).map(String);
    const counts: number[] = [];
    const read = (part: readonly string[]): Promise<(string | null)[]> => {
      counts.push(part.length);
      return Promise.resolve(part.map((key) => (key === '1' ? null : key)));
    };
    const page = await takePage(readByKeys(keys, read), 100, String);
    expect(page.texts).toEqual(keys.filter((key) => key !== '1'));
    expect(counts).toEqual([MAX_ROWS_PER_READ, MAX_ROWS_PER_READ, 1]);
  });
});

describe('a cursor', () => {
  const id = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a';
  const keyset = { createdAt: new Date('2026-01-31T09:30:00.000Z'), id };

  it('is accepted with the filters of its page only', () => {
    const cursor = encodeCursor(keyset, ['orders', 'placed']);
    expect(decodeCursor(cursor, ['orders', 'placed'])).toEqual(keyset);
    expect(() => decodeCursor(cursor, ['orders', 'paid'])).toThrow(Problem);
  });

  it.each(['0000-12-31T23:59:59.999Z', '+010000-01-01T00:00:00.000Z'])(
    'is rejected with a time outside of the calendar: %s',
    (time) => {
      const cursor = encodeCursor({ createdAt: new Date(time), id }, 'orders');
      expect(() => decodeCursor(cursor, 'orders')).toThrow(Problem);
    },
  );

  it('of numbered rows is accepted for its list only', () => {
    const cursor = encodePosition(7, 'events of a');
    expect(decodePosition(cursor, 'events of a')).toBe(7);
    expect(() => decodePosition(cursor, 'events of b')).toThrow(Problem);
  });
});
