/** What PostgreSQL refuses becomes a coded problem over HTTP, by its SQLSTATE, without a word of PostgreSQL's own. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { ORDER, person, type Person } from '../support/factories.js';
import { expectProblem } from '../support/problem.js';

const SECRET = 'what nobody may see';

describe('an error of PostgreSQL', () => {
  let app: TestApp;
  let owner: Person;
  let client: pg.Client;

  beforeAll(async () => {
    app = await startApp();
    owner = await person(app);
    client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
    // An order whose note is a SQLSTATE meets it.
    await client.query(`
      CREATE FUNCTION refuse_by_note() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        IF NEW.note ~ '^[0-9A-Z]{5}$' THEN
          RAISE EXCEPTION 'SELECT ${SECRET}' USING ERRCODE = NEW.note, CONSTRAINT = 'a_constraint', DETAIL = '${SECRET}';
        END IF;
        RETURN NEW;
      END $$;
      CREATE TRIGGER refuse BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse_by_note()`);
  });
  afterAll(async () => {
    await client.end();
    await app.close();
  });

  const place = (note: string, key: string = crypto.randomUUID()): Promise<Reply> =>
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
  ])('%s is %i %s, and leaves the key unused', async (state, status, code) => {
    const key = crypto.randomUUID();
    const reply = await place(state, key);
    expectProblem(reply, status, code);
    expect(reply.text).not.toMatch(new RegExp(`${SECRET}|a_constraint|${state}|refuse_by_note`));
    expect(reply.headers.get('retry-after') !== null).toBe(status === 503);
    const { rows } = await client.query('SELECT 1 FROM idempotency_keys WHERE key = $1', [key]);
    expect(rows).toEqual([]);
    // Another body, the same key: it is as new.
    expect((await place('all is well', key)).status).toBe(201);
  });

  it('from a constraint that no rule stands in front of is a 400 that says so', async () => {
    await client.query(
      `ALTER TABLE orders ADD CONSTRAINT orders_no_tuesdays CHECK (note <> 'on a tuesday')`,
    );
    const reply = await place('on a tuesday');
    expectProblem(reply, 400, 'value-refused');
    expect(reply.text).not.toMatch(/tuesday|violates|orders_/);
    expect((await app.call('GET', '/problems/value-refused')).status).toBe(200);
  });
});
