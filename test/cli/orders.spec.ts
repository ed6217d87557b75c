/** `holdfast orders refund`: what it changes, and what it says when it must not. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { compile } from '../../scripts/compile.mjs';
import * as ordersCommand from '../../src/cli/orders.js';
import { startApp, type TestApp } from '../support/app.js';
import { logInAsAdmin, placeOrder, registerUser, type TestUser } from '../support/factories.js';
import { type CommandResult, runCommandHere } from '../support/run-command.js';

const SERVICE_USER_ID = '00000000-0000-0000-0000-000000000000';

let compiled: Awaited<ReturnType<typeof compile>>;
let app: TestApp;
let psql: Client;
let owner: TestUser;
let adminToken: string;

beforeAll(async () => {
  [compiled, app] = await Promise.all([compile(), startApp()]);
  psql = new Client({ connectionString: app.databaseUrl });
  await psql.connect();
  owner = await registerUser(app);
  adminToken = await logInAsAdmin(app);
});
afterAll(async () => {
  await psql?.end();
  await app?.close();
  await compiled?.remove();
});

async function holdfastOrders(words: string[], env = {}): Promise<CommandResult> {
  const settings = { PATH: process.env.PATH, DATABASE_URL: app.databaseUrl, ...env };
  const args = [join(compiled.folder, 'src/cli/main.js'), 'orders', ...words];
  try {
    const result = await promisify(execFile)(process.execPath, args, { env: settings });
    return { code: 0, ...result };
  } catch (error) {
    return error as CommandResult;
  }
}

const refund = (id: string, reason = 'lost at sea', env = {}): Promise<CommandResult> =>
  holdfastOrders(['refund', id, '--reason', reason], env);

/** One at a time. */
const holdfastOrdersHere = (words: string[]): Promise<CommandResult> =>
  runCommandHere('holdfast orders', ordersCommand, words, { DATABASE_URL: app.databaseUrl });

const refundHere = (id: string): Promise<CommandResult> =>
  holdfastOrdersHere(['refund', id, '--reason', 'lost at sea']);

/** Places an order and moves it on. @returns its id */
async function orderAfter(...actions: string[]): Promise<string> {
  const { id } = await placeOrder(app, owner.token);
  for (const action of actions) {
    const token = action === 'pay' ? owner.token : adminToken;
    const { status } = await app.call('POST', `/v1/orders/${id}/${action}`, { token });
    expect(status).toBe(200);
  }
  return id as string;
}

const read = async (path: string): Promise<Record<string, unknown>> =>
  (await app.call('GET', path, { token: owner.token })).body;

const countMessages = async (id: string): Promise<number> => {
  const { rows } = await psql.query<{ count: number }>(
    `SELECT count(*)::int FROM outbox WHERE subject = $1 AND type = 'order.refunded'`,
    [`orders/${id}`],
  );
  return rows[0]?.count ?? 0;
};

describe('a shipped order', () => {
  it('is refunded, which its event, its message and every cached read show', async () => {
    const id = await orderAfter('pay', 'ship');
    // The running service has it in its cache.
    expect(await read(`/v1/orders/${id}`)).toMatchObject({ status: 'shipped' });
    const { code, stdout, stderr } = await refund(id);
    expect([code, stdout, stderr]).toEqual([
      0,
      `Refunded the order ${id}: 9998 minor units of EUR are due\n`,
      '',
    ]);
    expect(await read(`/v1/orders/${id}`)).toMatchObject({ status: 'refunded', version: 4 });
    const { data } = await read(`/v1/orders/${id}/events`);
    expect((data as object[]).at(-1)).toMatchObject({
      version: 4,
      type: 'order.refunded',
      data: { reason: 'lost at sea', refundDue: { amount: 9_998, currency: 'EUR' } },
      actorId: SERVICE_USER_ID,
    });
    const { rows } = await psql.query<{ data: object }>(
      `SELECT data FROM outbox WHERE subject = $1 AND type = 'order.refunded'`,
      [`orders/${id}`],
    );
    expect(rows.map((row) => row.data)).toEqual([
      expect.objectContaining({
        status: 'refunded',
        previous: { status: 'shipped', total: 9_998 },
        refundDue: { amount: 9_998, currency: 'EUR' },
      }),
    ]);
  });

  it('is refunded once by commands at the same time and by a repetition', async () => {
    const id = await orderAfter('pay', 'ship');
    const [first, second] = await Promise.all([refund(id), refund(id)]);
    const third = await refund(id);
    expect([first.code, second.code, third.code]).toEqual([0, 0, 0]);
    expect(third.stdout).toBe(`The order ${id} is refunded already: nothing was changed\n`);
    expect(await countMessages(id)).toBe(1);
    expect(await read(`/v1/orders/${id}`)).toMatchObject({ version: 4 });
  });

  it('is refunded where nodes reject writes without a cache', async () => {
    const id = await orderAfter('pay', 'ship');
    expect((await refund(id, 'lost', { CACHE_DEGRADED_WRITES: 'reject' })).code).toBe(0);
  });

  it('cannot be refunded by an admin over HTTP', async () => {
    const id = await orderAfter('pay', 'ship');
    const { status, body } = await app.call('POST', `/v1/orders/${id}/refund`, {
      token: adminToken,
    });
    expect([status, body.code, body.allowed]).toEqual([409, 'invalid-transition', ['deliver']]);
    expect(body.detail).toBe('The order is shipped; refund needs an operator of the service then');
  });
});

describe('any other order', () => {
  it.each([
    ['placed', []],
    ['paid', ['pay']],
    ['delivered', ['pay', 'ship', 'deliver']],
  ])('that is %s → exit code 1, and nothing changes', async (status, actions) => {
    const id = await orderAfter(...actions);
    const { code, stderr } = await refundHere(id);
    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining(`holdfast orders: ${id}: The order is ${status}; `),
    ]);
    expect(await read(`/v1/orders/${id}`)).toMatchObject({ status, version: actions.length + 1 });
    expect(await countMessages(id)).toBe(0);
  });

  it('that does not exist → exit code 1', async () => {
    const { code, stderr } = await refundHere('019aa3f2-6b0d-7c55-8a21-4e9d7f3b2c10');
    expect([code, stderr]).toEqual([1, expect.stringContaining('Not found')]);
  });
});

it.each([
  ['another verb', ['cancel', SERVICE_USER_ID, '--reason', 'x']],
  ['no id', ['refund', '--reason', 'x']],
  ['no reason', ['refund', SERVICE_USER_ID]],
  ['an empty reason', ['refund', SERVICE_USER_ID, '--reason', '']],
  ['a reason of two lines', ['refund', SERVICE_USER_ID, '--reason', 'a\nb']],
  ['a reason of 501 characters', ['refund', SERVICE_USER_ID, '--reason', 'x'.repeat(501)]],
])('%s → exit code 2 and one line', async (_, words) => {
  const { code, stderr } = await holdfastOrdersHere(words);
  expect([code, stderr.trim().split('\n')]).toEqual([2, [expect.stringMatching(/^holdfast/)]]);
});
