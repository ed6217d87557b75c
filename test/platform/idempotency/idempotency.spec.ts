/** Idempotency-Key: one order for one key, the same bytes again, and nothing kept of what was refused. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import { adminToken, ORDER, person, type Person, placeOrder } from '../support/factories.js';
import { expectProblem } from '../support/problem.js';

describe('an Idempotency-Key', () => {
  let app: TestApp;
  let owner: Person;
  let client: pg.Client;

  beforeAll(async () => {
    app = await startApp();
    owner = await person(app);
    client = new pg.Client({ connectionString: app.databaseUrl });
    await client.connect();
  });
  afterAll(async () => {
    await client.end();
    await app.close();
  });

  const place = (
    key?: string | string[],
    body: unknown = ORDER,
    token: string = owner.token,
  ): Promise<Reply> =>
    app.call('POST', '/v1/orders', {
      token,
      body,
      headers: key === undefined ? {} : { 'Idempotency-Key': key },
    });
  const orders = async (token: string = owner.token): Promise<{ id: string }[]> =>
    (await app.call('GET', '/v1/orders?limit=100', { token })).body.data as { id: string }[];
  /** Runs `work` and gives how many orders it added. */
  const added = async (work: () => Promise<unknown>): Promise<number> => {
    const before = (await orders()).length;
    await work();
    return (await orders()).length - before;
  };
  const sameAnswer = (one: Reply, other: Reply): void => {
    expect([other.status, other.text]).toEqual([one.status, one.text]);
    for (const name of ['location', 'etag', 'content-type'])
      expect(other.headers.get(name)).toBe(one.headers.get(name));
  };

  it('is needed to place an order: 400 without', async () => {
    expect(
      await added(async () => expectProblem(await place(), 400, 'idempotency-key-required')),
    ).toBe(0);
  });

  it('has 1 to 255 printable characters', async () => {
    for (const key of [
      'x'.repeat(256),
      '""',
      `"${'x'.repeat(256)}"`,
      '"open',
      'shut"',
      '"a"b"',
      '"a\\x"',
      'ключ',
      'a\tb',
      '',
    ])
      expectProblem(
        await place(/[^\x00-\xff]/.test(key) ? Buffer.from(key).toString('latin1') : key),
        400,
        'idempotency-key-malformed',
      );
    expectProblem(await place(['one', 'two']), 400, 'idempotency-key-malformed');
    for (const key of ['k', 'x'.repeat(255), `"${'y'.repeat(255)}"`, 'a b', 'a"b', '{}', "it's"])
      expect((await place(key)).status).toBe(201);
  });

  it('gets the same bytes again, and no second order', async () => {
    const key = crypto.randomUUID();
    let first: Reply | undefined;
    expect(
      await added(async () => {
        first = await place(key);
        for (let times = 0; times < 3; times++) {
          const again = await place(key);
          sameAnswer(first, again);
          expect(again.headers.get('idempotent-replayed')).toBe('true');
        }
      }),
    ).toBe(1);
    expect(first?.headers.get('idempotent-replayed')).toBeNull();
    await app.call('POST', `/v1/orders/${first?.body.id}/pay`, { token: owner.token });
    sameAnswer(first as Reply, await place(key));
  });

  it('is the same key bare and quoted, with what is escaped in it', async () => {
    for (const [bare, quoted] of [
      ['same-key', '"same-key"'],
      ['with "quotes" and \\ in it', '"with \\"quotes\\" and \\\\ in it"'],
    ] as const) {
      const first = await place(bare);
      const again = await place(quoted);
      sameAnswer(first, again);
      expect(again.headers.get('idempotent-replayed')).toBe('true');
    }
  });

  it('belongs to one request: another body is 422', async () => {
    const key = crypto.randomUUID();
    const first = await place(key);
    for (const body of [
      { ...ORDER, note: 'another' },
      { ...ORDER, currency: 'CHF' },
      { ...ORDER, note: null },
    ])
      expectProblem(await place(key, body), 422, 'idempotency-key-reused');
    expectProblem(
      await app.call('POST', `/v1/orders/${first.body.id}/pay`, {
        token: owner.token,
        headers: { 'Idempotency-Key': key },
      }),
      422,
      'idempotency-key-reused',
    );
    sameAnswer(first, await place(key));
    sameAnswer(first, await place(key, ` ${JSON.stringify(ORDER, null, 2)}\n`));
  });

  it('is one user’s own', async () => {
    const key = crypto.randomUUID();
    const other = await person(app);
    const [mine, theirs] = [
      await place(key),
      await place(key, { ...ORDER, note: 'theirs' }, other.token),
    ];
    expect([mine.status, theirs.status, theirs.headers.get('idempotent-replayed')]).toEqual([
      201,
      201,
      null,
    ]);
    expect((await orders(other.token)).map(({ id }) => id)).toEqual([theirs.body.id]);
  });

  it('is not used up by a refusal', async () => {
    const key = crypto.randomUUID();
    expect((await place(key, { ...ORDER, currency: 'eur' })).status).toBe(400);
    expect((await place(key, '{')).status).toBe(400);
    expect(
      (
        await place(key, {
          ...ORDER,
          items: Array(100).fill({ ...ORDER.items[0], quantity: 10_000, unitPrice: 1e12 }),
        })
      ).status,
    ).toBe(400);
    expect((await place(key, ORDER, 'nobody')).status).toBe(401);
    const reply = await place(key);
    expect([reply.status, reply.headers.get('idempotent-replayed')]).toEqual([201, null]);
  });

  it('of ten requests at the same moment makes exactly one order; the others get its answer or 409 with Retry-After', async () => {
    for (let round = 0; round < 3; round++) {
      const key = crypto.randomUUID();
      let replies: Reply[] = [];
      expect(
        await added(
          async () => (replies = await Promise.all(Array.from({ length: 10 }, () => place(key)))),
        ),
      ).toBe(1);
      const made = replies.filter((reply) => reply.status === 201);
      expect(
        made.filter((reply) => reply.headers.get('idempotent-replayed') === null),
      ).toHaveLength(1);
      made.forEach((reply) => sameAnswer(made[0] as Reply, reply));
      for (const waiting of replies.filter((reply) => reply.status !== 201)) {
        expectProblem(waiting, 409, 'idempotency-key-in-flight');
        expect(waiting.headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
      }
      const after = await place(key);
      sameAnswer(made[0] as Reply, after);
      expect(after.headers.get('idempotent-replayed')).toBe('true');
    }
  });

  it('is refused with 409 as long as its first request runs, and free when that failed', async () => {
    const key = crypto.randomUUID();
    const lock = `pg_advisory_xact_lock(hashtextextended('${owner.id}:${key}', 0))`;
    await client.query(`BEGIN; SELECT ${lock}`);
    const waiting = await place(key);
    expectProblem(waiting, 409, 'idempotency-key-in-flight');
    expect(waiting.headers.get('retry-after')).toBe('1');
    await client.query('ROLLBACK');
    expect((await place(key)).status).toBe(201);
  });

  it('may come with an action, which then happens once', async () => {
    const order = await placeOrder(app, owner.token);
    const admin = await adminToken(app);
    const act = (action: string, token: string, key: string, body: object = {}): Promise<Reply> =>
      app.call('POST', `/v1/orders/${order.id}/${action}`, {
        token,
        body,
        headers: { 'Idempotency-Key': key },
      });
    const first = await act('pay', owner.token, 'pay-1');
    const again = await act('pay', owner.token, 'pay-1');
    expect([first.status, again.status, again.text, again.headers.get('etag')]).toEqual([
      200,
      200,
      first.text,
      '"2"',
    ]);
    expect(again.headers.get('idempotent-replayed')).toBe('true');
    expectProblem(await act('pay', owner.token, 'pay-2'), 409, 'invalid-transition');
    expectProblem(
      await act('pay', owner.token, 'pay-1', { reason: 'x' }),
      422,
      'idempotency-key-reused',
    );
    expectProblem(await act('ship', admin, 'x'.repeat(256)), 400, 'idempotency-key-malformed');
    expect((await act('ship', admin, 'pay-1')).status).toBe(200);
    const events = await app.call('GET', `/v1/orders/${order.id}/events`, { token: owner.token });
    expect(events.body.data).toHaveLength(3);
  });

  it('is forgotten after 24 hours', async () => {
    const key = crypto.randomUUID();
    const first = await place(key);
    const age = (interval: string): Promise<unknown> =>
      client.query(`UPDATE idempotency_keys SET created_at = now() - $2::interval WHERE key = $1`, [
        key,
        interval,
      ]);
    await age('23 hours 59 minutes');
    sameAnswer(first, await place(key));
    await age('24 hours 1 second');
    const anew = await place(key, { ...ORDER, note: 'a new day' });
    expect([anew.status, anew.headers.get('idempotent-replayed')]).toEqual([201, null]);
    expect(anew.body.id).not.toBe(first.body.id);
  });
});
