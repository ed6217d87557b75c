/** Errors of PostgreSQL over HTTP: which problem each SQLSTATE is, and that no text of it leaks. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from '../../../support/app.js';
import { ORDER, registerUser, type TestUser } from '../../../support/factories.js';
import type { Reply } from '../../../support/http-client.js';
import { expectProblem } from '../../../support/problem.js';

const SECRET = 'the secret text of an error';

/** Placing an order whose note is a SQLSTATE fails with that SQLSTATE. */
const FAIL_WITH_NOTE = `
  CREATE FUNCTION fail_with_note() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.note ~ '^[0-9A-Z]{5}$' THEN
      RAISE EXCEPTION 'SELECT ${SECRET}'
        USING ERRCODE = NEW.note, CONSTRAINT = 'a_constraint', DETAIL = '${SECRET}';
    END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER fail BEFORE INSERT ON orders
    FOR EACH ROW EXECUTE FUNCTION fail_with_note()`;

describe('an error of PostgreSQL', () => {
  let app: TestApp;
  let owner: TestUser;
  let client: pg.Client;

  beforeAll(async () => {
    app = await startApp();
    owner = await registerUser(app);
    client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    await client.query(FAIL_WITH_NOTE);
  });
  afterAll(async () => {
    await client.end();
    await app.close();
  });

  const place = (note: string, key: string = randomUUID()): Promise<Reply> =>
    app.call('POST', '/v1/orders', {
      token: owner.token,
      body: { ...ORDER, note },
      headers: { 'Idempotency-Key': key },
    });

  it.each([
    ['23514', 400, 'value-refused'],
    ['23502', 400, 'value-refused'],
    ['22003', 400, 'value-refused'],
    ['22P02', 400, 'value-refused'],
    ['22021', 400, 'value-refused'],
    ['23503', 409, 'conflict'],
    ['23505', 409, 'conflict'],
    ['23001', 500, 'internal-error'],
    ['42601', 500, 'internal-error'],
    ['42P01', 500, 'internal-error'],
    ['XX000', 500, 'internal-error'],
    ['P0001', 500, 'internal-error'],
    ['40001', 503, 'overloaded'],
    ['40P01', 503, 'overloaded'],
    ['53100', 503, 'overloaded'],
    ['53300', 503, 'overloaded'],
    ['55P03', 503, 'overloaded'],
    ['57014', 503, 'overloaded'],
    ['08006', 503, 'database-unavailable'],
    ['57P01', 503, 'database-unavailable'],
    ['57P03', 503, 'database-unavailable'],
    ['3D000', 503, 'database-unavailable'],
  ])('%s is %i %s, and the idempotency key can be used again', async (sqlState, status, code) => {
    const key = randomUUID();
    const reply = await place(sqlState, key);
    expectProblem(reply, status, code);
    expect(reply.text).not.toMatch(new RegExp(`${SECRET}|a_constraint|${sqlState}|fail_with_note`));
    expect(reply.headers.has('retry-after')).toBe(status === 503);
    const { rows } = await client.query('SELECT 1 FROM idempotency_keys WHERE key = $1', [key]);
    expect(rows).toEqual([]);
    // Another body with a used key would be 422.
    expect((await place('another body', key)).status).toBe(201);
  });

  it('from a constraint that validation does not know is 400 value-refused', async () => {
    await client.query(
      `ALTER TABLE orders ADD CONSTRAINT orders_no_tuesdays CHECK (note <> 'on a tuesday')`,
    );
    const reply = await place('on a tuesday');
    expectProblem(reply, 400, 'value-refused');
    expect(reply.text).not.toMatch(/tuesday|violates|orders_/);
  });
});
