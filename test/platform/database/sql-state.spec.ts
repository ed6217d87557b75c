/** PostgreSQL's own error behind the errors of TypeORM and pg. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { DataSource, QueryFailedError } from 'typeorm';
import { dataSourceOptions } from '../../../src/platform/database/data-source.js';
import { databaseErrorOf, sqlStateOf } from '../../../src/platform/database/sql-state.js';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { rejectionOf } from './write-node.js';

describe('the SQLSTATE', () => {
  let database: TestDatabase;
  let client: pg.Client;
  let dataSource: DataSource;

  beforeAll(async () => {
    database = await createTestDatabase();
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
    dataSource = await new DataSource(dataSourceOptions(database.url, 1)).initialize();
  });
  afterAll(async () => {
    await dataSource.destroy();
    await client.end();
    await database.drop();
  });

  it.each([
    ['pg', (sql: string): Promise<unknown> => client.query(sql)],
    ['TypeORM', (sql: string): Promise<unknown> => dataSource.query(sql)],
  ])('of a statement that failed through %s is found', async (_, query) => {
    expect(sqlStateOf(await rejectionOf(query('SELECT 1 / 0')))).toBe('22012');
  });

  it('comes with the name of the constraint that was violated', async () => {
    const sql = `INSERT INTO users (id, username) VALUES (gen_random_uuid(), 'without-email')`;
    const error = databaseErrorOf(await rejectionOf(dataSource.query(sql)));
    expect(error?.constraint).toBe('users_deleted_is_empty');
  });

  it.each([
    ['a broken connection', Object.assign(new Error('write EPIPE'), { code: 'EPIPE' })],
    ['a timeout of the driver', new Error('Query read timeout')],
    ['an error of the service', new RangeError('mine')],
    ['a value that is not an error', 'text'],
    ['nothing', undefined],
  ])('does not exist for %s', (_, error) => {
    expect(sqlStateOf(error)).toBeUndefined();
  });

  it('does not exist for a query that a broken connection failed', () => {
    const cause = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' });
    expect(sqlStateOf(new QueryFailedError('SELECT 1', [], cause))).toBeUndefined();
  });
});
