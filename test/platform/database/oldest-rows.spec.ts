/** Where the first batches of a process begin, whatever happens to them. */
import { expect, it } from '@jest/globals';
import { DatabaseError } from 'pg';
import type { DataSource } from 'typeorm';
import { OldestRows } from '../../../src/platform/database/oldest-rows.js';

it.each([
  ['took too long → behind what earlier processes deleted', '57014', 'later'],
  ['failed with its connection → at the first row again', undefined, 'start'],
])('a first batch that %s', async (_, code, expected) => {
  const starts: unknown[] = [];
  const error = Object.assign(new DatabaseError('failed', 0, 'error'), { code });
  const dataSource = {
    query: (_sql: string, [from]: unknown[]) => {
      starts.push(from);
      return starts.length === 1
        ? Promise.reject(error)
        : Promise.resolve([{ count: 0, last: null }]);
    },
  };
  const rows = new OldestRows(dataSource as unknown as DataSource, {
    sql: 'DELETE',
    start: 'start',
    laterStart: 'later',
    batchRows: 10,
  });

  await expect(rows.removeBatch()).rejects.toBe(error);
  await rows.removeBatch();

  expect(starts).toEqual(['start', expected]);
});
