/** The client of the service's pool: each query is measured, and silent connections can be cut. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type pg from 'pg';
import {
  watchClients,
  type WatchedClients,
} from '../../../src/platform/database/watched-client.js';
import { eventually } from '../../support/eventually.js';
import { rejectionOf } from './write-node.js';

describe('a watched client', () => {
  let watched: WatchedClients;
  let measured: [operation: string, seconds: number][];
  let clients: pg.Client[];

  beforeEach(() => {
    measured = [];
    clients = [];
    watched = watchClients((operation, seconds) => measured.push([operation, seconds]));
  });
  afterEach(() => Promise.all(clients.map((client) => client.end().catch(() => undefined))));

  async function connect(): Promise<pg.Client> {
    const client = new watched.Client({ connectionString: process.env.TEST_POSTGRES_URL });
    client.on('error', () => undefined);
    await client.connect();
    clients.push(client);
    return client;
  }

  it.each([
    ['SELECT 1', 'SELECT'],
    ['  select 1', 'SELECT'],
    ['WITH one AS (SELECT 1) SELECT * FROM one', 'WITH'],
    ['SHOW server_version', 'OTHER'],
    ['SELECTED nonsense', 'OTHER'],
  ])('reports %p as %s', async (sql, operation) => {
    const client = await connect();

    await client.query(sql).catch(() => undefined);

    expect(measured).toEqual([[operation, expect.any(Number)]]);
  });

  it('reports a query that is given as an object', async () => {
    const client = await connect();
    await client.query({ text: 'SELECT $1::int', values: [1] });
    expect(measured.map(([operation]) => operation)).toEqual(['SELECT']);
  });

  it('reports a query that failed', async () => {
    const client = await connect();
    await rejectionOf(client.query('SELECT 1 / 0'));
    expect(measured.map(([operation]) => operation)).toEqual(['SELECT']);
  });

  it('that waits for an answer is cut, and its query fails', async () => {
    const client = await connect();
    const rejection = rejectionOf(client.query('SELECT pg_sleep(60)'));

    watched.cutSilent(0);

    expect(await rejection).toMatchObject({
      message: expect.stringMatching(/^Connection terminated/),
    });
  });

  it('that has waited for a shorter time is not cut', async () => {
    const client = await connect();
    const answer = client.query('SELECT pg_sleep(0.1)');

    watched.cutSilent(3_600_000);

    await expect(answer).resolves.toBeDefined();
  });

  it('that has its answer is not cut', async () => {
    const client = await connect();
    await client.query('SELECT 1');

    watched.cutSilent(0);

    await eventually('the connection still works', () => client.query('SELECT 1'));
  });
});
