/** The short form of `npm run verify -- migrations`: what must hold on a busy machine too. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../support/postgres.js';
import { type PhaseResult, runCampaign } from './campaign.js';
import { UNCOUNTED_ORDERS } from './rows.js';

const ORDERS = 20_000;

describe('20 000 orders that are migrated under load', () => {
  let database: TestDatabase;
  let phases: PhaseResult[];

  beforeAll(async () => {
    database = await createTestDatabase();
    phases = await runCampaign({ url: database.url, orders: ORDERS, clients: 1, seed: 1 });
  });
  afterAll(() => database?.drop());

  it('fail no request: no deadlock, no timeout', () => {
    expect(phases.flatMap(({ failed }) => failed)).toEqual([]);
    expect(phases.every(({ requests }) => requests > 0)).toBe(true);
  });

  it('are counted once each: in the totals or by an event that waits for the consumer', async () => {
    const client = new Client({ connectionString: database.url });
    await client.connect();
    const { rows } = await client.query(UNCOUNTED_ORDERS).finally(() => client.end());
    expect(rows).toEqual([{ difference: '0' }]);
  });
});
