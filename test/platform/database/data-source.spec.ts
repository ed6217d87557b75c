/** The timeouts of a connection: the defaults, and values that a module of a test provides. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import {
  DATABASE_TIMEOUTS,
  DATABASE_TIMEOUTS_MS,
  dataSourceOptions,
} from '../../../src/platform/database/data-source.js';
import { FENCE_MS } from '../../../src/platform/cache/cache-timings.js';
import { startApp, type TestApp } from '../../support/app.js';
import { REAL_TIMEOUTS } from '../../support/timeouts.js';

const SETTINGS = `
  SELECT name, setting::int AS ms FROM pg_settings
   WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
   ORDER BY name`;

describe('a connection of the service', () => {
  let app: TestApp | undefined;
  afterEach(async () => {
    await app?.close();
    app = undefined;
  });

  const settings = (): Promise<unknown> => app!.app.get(DataSource).query(SETTINGS);

  it('has the default timeouts', async () => {
    app = await startApp({}, undefined, undefined, [REAL_TIMEOUTS]);

    expect(await settings()).toEqual([
      { name: 'idle_in_transaction_session_timeout', ms: DATABASE_TIMEOUTS_MS.idleInTransaction },
      { name: 'lock_timeout', ms: DATABASE_TIMEOUTS_MS.lock },
      { name: 'statement_timeout', ms: DATABASE_TIMEOUTS_MS.statement },
    ]);
  });

  it('has the timeouts that a test provides, and the defaults beside them', async () => {
    const timeouts = { provide: DATABASE_TIMEOUTS, useValue: { statement: 1_234, lock: 567 } };
    app = await startApp({}, undefined, undefined, [timeouts]);

    expect(await settings()).toEqual([
      { name: 'idle_in_transaction_session_timeout', ms: DATABASE_TIMEOUTS_MS.idleInTransaction },
      { name: 'lock_timeout', ms: 567 },
      { name: 'statement_timeout', ms: 1_234 },
    ]);
  });
});

describe('the timeouts', () => {
  it.each(['statement', 'lock', 'idleInTransaction', 'query'] as const)(
    '%s ends before a fence that was set before it',
    (name) => {
      // A transaction is committed only within the first half of its fences.
      expect(DATABASE_TIMEOUTS_MS[name]).toBeLessThan(FENCE_MS / 2);
    },
  );

  it('of the driver is longer than that of a statement, so that PostgreSQL answers first', () => {
    expect(DATABASE_TIMEOUTS_MS.query).toBeGreaterThan(DATABASE_TIMEOUTS_MS.statement);
  });

  it('of the driver can be replaced', () => {
    const options = dataSourceOptions('postgres://localhost/x', 1, { timeouts: { query: 42 } });
    expect(options.extra).toMatchObject({
      query_timeout: 42,
      statement_timeout: DATABASE_TIMEOUTS_MS.statement,
    });
  });
});
