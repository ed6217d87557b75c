/** An order's life: every state, every action, every role, expected out of the table that the service itself reads. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  ORDER_ACTIONS,
  ORDER_STATUSES,
  type OrderAction,
  type OrderStatus,
  faultsOfLifecycle,
  type Party,
  type Transition,
  TRANSITIONS,
} from '../../src/orders/order-lifecycle.js';
import { withLifecycle } from '../../scripts/lifecycle.js';
import { type Reply, startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  ORDER,
  person,
  type Person,
  placeOrder,
  supportPerson,
} from '../support/factories.js';
import { anonymous, expectProblem, faultsOf, pointersOf } from '../support/problem.js';

/** Actions that bring a new order into a state, each with the one who takes it. */
const WAY: Readonly<Record<OrderStatus, readonly (readonly [OrderAction, Party])[]>> = {
  placed: [],
  paid: [['pay', 'owner']],
  shipped: [
    ['pay', 'owner'],
    ['ship', 'admin'],
  ],
  delivered: [
    ['pay', 'owner'],
    ['ship', 'admin'],
    ['deliver', 'admin'],
  ],
  cancelled: [['cancel', 'owner']],
  refunded: [
    ['pay', 'owner'],
    ['ship', 'admin'],
    ['deliver', 'admin'],
    ['refund', 'admin'],
  ],
};

const ROLES = [
  'owner',
  'admin',
  'admin who owns it',
  'support',
  'support who owns it',
  'stranger',
] as const;
type Role = (typeof ROLES)[number];
/** As which parties of the table a role acts. */
const PARTIES: Readonly<Record<Role, readonly Party[]>> = {
  owner: ['owner'],
  admin: ['admin'],
  'admin who owns it': ['owner', 'admin'],
  support: [],
  'support who owns it': ['owner'],
  stranger: [],
};

describe('the life of an order', () => {
  let app: TestApp;
  let owner: Person;
  let support: Person;
  let stranger: Person;
  let admin: string;

  beforeAll(async () => {
    app = await startApp();
    [owner, support, stranger, admin] = [
      await person(app),
      await supportPerson(app),
      await person(app),
      await adminToken(app),
    ];
  });
  afterAll(() => app.close());

  const act = (
    token: string,
    id: string,
    action: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Reply> => app.call('POST', `/v1/orders/${id}/${action}`, { token, body, headers });
  const patch = (token: string, id: string, body: object, ifMatch?: string): Promise<Reply> =>
    app.call('PATCH', `/v1/orders/${id}`, {
      token,
      body,
      headers: ifMatch === undefined ? {} : { 'If-Match': ifMatch },
    });
  const read = async (id: string): Promise<Record<string, unknown>> =>
    (await app.call('GET', `/v1/orders/${id}`, { token: admin })).body;
  const tokenOf = (role: Role): string =>
    ({
      owner: owner.token,
      admin,
      'admin who owns it': admin,
      support: support.token,
      'support who owns it': support.token,
      stranger: stranger.token,
    })[role];
  const ownerOf = (role: Role): string =>
    role === 'admin who owns it'
      ? admin
      : role === 'support who owns it'
        ? support.token
        : owner.token;

  /** A new order of `by`, walked into a state. */
  const orderIn = async (
    state: OrderStatus,
    by: string = owner.token,
  ): Promise<{ id: string; version: number }> => {
    let order = await placeOrder(app, by);
    for (const [action, party] of WAY[state]) {
      const step = await act(party === 'owner' ? by : admin, order.id, action);
      if (step.status !== 200) throw new Error(step.text);
      order = step.body;
    }
    expect(order.status).toBe(state);
    return order;
  };

  it('is the contract’s', () => {
    const lines = TRANSITIONS.map(
      ({ action, from, to, by }) => `${action}: ${from} → ${to}, ${by}`,
    );
    expect(lines.sort()).toEqual([
      'cancel: paid → cancelled, admin',
      'cancel: placed → cancelled, owner',
      'deliver: shipped → delivered, admin',
      'pay: placed → paid, owner',
      'refund: delivered → refunded, admin',
      'ship: paid → shipped, admin',
    ]);
    expect([...new Set(TRANSITIONS.flatMap(({ from, to }) => [from, to]))].sort()).toEqual(
      [...ORDER_STATUSES].sort(),
    );
  });

  it.each<[what: string, change: (table: Transition[]) => unknown, fault: string]>([
    ['a state out of reach', (table) => table.pop(), 'no way leads to "refunded"'],
    [
      'an island',
      (table) => (table[5] = { ...step(table, 5), from: 'refunded' }),
      'no way leads to "refunded"',
    ],
    [
      'an unknown state',
      (table) => (table[0] = { ...step(table, 0), to: 'lost' as never }),
      '"lost" is no state',
    ],
    [
      'an unknown action',
      (table) => table.push({ ...step(table, 0), action: 'lose' as never }),
      '"lose" is no action',
    ],
    ['an action that never happens', (table) => table.splice(3, 2), '"cancel" is never possible'],
    [
      'a step twice',
      (table) => table.push(step(table, 0)),
      '"pay" from "placed" by owner is there twice',
    ],
    [
      'an event of two states',
      (table) => (table[1] = { ...step(table, 1), event: 'order.paid' }),
      '"order.paid" does not tell one state',
    ],
    [
      'the event of a beginning',
      (table) => (table[1] = { ...step(table, 1), event: 'order.placed' }),
      '"order.placed" does not tell one state',
    ],
  ])('is none with %s', (_, change, fault) => {
    const table = [...TRANSITIONS];
    change(table);
    expect(faultsOfLifecycle(table)).toContain(fault);
    expect(faultsOfLifecycle(TRANSITIONS)).toEqual([]);
  });
  const step = (table: readonly Transition[], at: number): Transition => table[at] as Transition;

  it('that is none stops the start', async () => {
    const table = TRANSITIONS as Transition[];
    const lost = table.pop() as Transition;
    try {
      await expect(startApp({}, app.databaseUrl)).rejects.toThrow(
        /order-lifecycle.ts: no way leads to "refunded"/,
      );
    } finally {
      table.push(lost);
    }
  });

  it('is drawn and listed in docs/orders.md as the table has it (else: npm run lifecycle)', async () => {
    const document = await readFile('docs/orders.md', 'utf8');
    expect(document).toBe(withLifecycle(document));
    expect(document).toContain('placed --> paid: pay (owner)');
  });

  it('is told by the OpenAPI: every action’s steps and who may take them', async () => {
    const { paths } = (await app.call('GET', '/docs/openapi.json')).body as {
      paths: Record<string, { post?: { description: string } }>;
    };
    const actions = Object.keys(paths).flatMap(
      (path) => /^\/v1\/orders\/\{id\}\/(?!events)(.+)$/.exec(path)?.[1] ?? [],
    );
    expect(actions.sort()).toEqual([...ORDER_ACTIONS].sort());
    for (const { action, from, to, by } of TRANSITIONS)
      expect(paths[`/v1/orders/{id}/${action}`]?.post?.description).toContain(
        `from \`${from}\` to \`${to}\` (${by})`,
      );
  });

  describe.each(ORDER_STATUSES)('when %s', (state) => {
    it.each(ROLES)('goes for %s where the table says, and nowhere else', async (role) => {
      const [token, parties] = [tokenOf(role), PARTIES[role]];
      const open = TRANSITIONS.filter(({ from, by }) => from === state && parties.includes(by));
      const allowed = [...new Set(open.map(({ action }) => action))];
      const order = await orderIn(state, ownerOf(role));
      const before = await read(order.id);
      const stepsLast = [...ORDER_ACTIONS].sort(
        (one, other) => Number(allowed.includes(one)) - Number(allowed.includes(other)),
      );
      let fresh: { id: string; version: number } | undefined = order;
      for (const action of stepsLast) {
        const step = open.find((one) => one.action === action);
        fresh ??= await orderIn(state, ownerOf(role));
        const reply = await act(token, fresh.id, action, { reason: 'as agreed' });
        const told = `${role} ${action} ${state}: ${reply.status}`;
        if (role === 'stranger') {
          expectProblem(reply, 404, 'not-found');
          expect(anonymous(reply)).toEqual(
            anonymous(await act(token, crypto.randomUUID(), action)),
          );
        } else if (!TRANSITIONS.some((one) => one.action === action && parties.includes(one.by))) {
          expect(told).toBe(`${role} ${action} ${state}: 403`);
          expectProblem(reply, 403, 'forbidden');
        } else if (!step) {
          expect(told).toBe(`${role} ${action} ${state}: 409`);
          expectProblem(reply, 409, 'invalid-transition');
          expect(reply.body.allowed).toEqual(allowed);
        } else {
          expect(told).toBe(`${role} ${action} ${state}: 200`);
          expect(reply.body).toMatchObject({
            id: fresh.id,
            status: step.to,
            version: fresh.version + 1,
            items: ORDER.items,
            total: 9_998,
          });
          expect(reply.headers.get('etag')).toBe(`"${fresh.version + 1}"`);
          expect(await read(fresh.id)).toEqual(reply.body);
          fresh = undefined;
          continue;
        }
        expect(await read(order.id)).toEqual(before);
      }
    });

    it(`${state === 'placed' ? 'may' : 'may not'} be changed by its owner, and by nobody else`, async () => {
      const order = await orderIn(state);
      const before = await read(order.id);
      const tag = `"${order.version}"`;
      expectProblem(await patch(stranger.token, order.id, { note: 'x' }, tag), 404, 'not-found');
      for (const token of [support.token, admin])
        expectProblem(await patch(token, order.id, { note: 'x' }, tag), 403, 'forbidden');
      expect(await read(order.id)).toEqual(before);
      const reply = await patch(owner.token, order.id, { note: 'x' }, tag);
      if (state === 'placed') {
        expect([reply.status, reply.body]).toEqual([
          200,
          { ...before, note: 'x', version: 2, updatedAt: reply.body.updatedAt },
        ]);
      } else {
        expectProblem(reply, 409, 'invalid-transition');
        expect(reply.body.allowed).toEqual([]);
        expect(await read(order.id)).toEqual(before);
      }
    });
  });

  describe('a change', () => {
    it('replaces what it names and nothing else', async () => {
      const { id } = await placeOrder(app, owner.token, { ...ORDER, note: 'first' });
      const items = [{ sku: 'ROPE', name: 'Rope', quantity: 3, unitPrice: 250 }];
      const steps: [object, object][] = [
        [{ items }, { items, total: 750, note: 'first', version: 2 }],
        [{ note: null }, { items, total: 750, note: null, version: 3 }],
        [
          { note: 'third', items: ORDER.items },
          { items: ORDER.items, total: 9_998, note: 'third', version: 4 },
        ],
        [{}, { note: 'third', version: 4 }],
      ];
      for (const [at, [body, expected]] of steps.entries()) {
        const reply = await patch(owner.token, id, body, `"${at + 1}"`);
        expect([reply.status, reply.body]).toEqual([200, expect.objectContaining(expected)]);
        expect(reply.headers.get('etag')).toBe(`"${reply.body.version}"`);
        expect(await read(id)).toEqual(reply.body);
      }
    });

    it('names what it cannot change', async () => {
      const { id } = await placeOrder(app, owner.token);
      for (const name of ['currency', 'status', 'total', 'userId'])
        expect(faultsOf(await patch(owner.token, id, { [name]: 'EUR' }, '"1"'))).toEqual([
          `/${name} unknown-property`,
        ]);
      for (const items of [null, [], [{}], Array(101).fill(ORDER.items[0])])
        for (const pointer of pointersOf(await patch(owner.token, id, { items }, '"1"')))
          expect(pointer).toMatch(/^\/items/);
    });

    it('is refused in the order 400, 401, 403 or 404, 412 or 428, 409', async () => {
      const order = await orderIn('paid');
      const refusals: [number, string, Promise<Reply>][] = [
        [401, 'unauthenticated', patch('nobody', order.id, { note: 'x' })],
        [404, 'not-found', patch(stranger.token, order.id, { note: 'x' })],
        [403, 'forbidden', patch(admin, order.id, { note: 'x' })],
        [428, 'precondition-required', patch(owner.token, order.id, { note: 'x' })],
        [412, 'version-mismatch', patch(owner.token, order.id, { note: 'x' }, '"1"')],
        [412, 'version-mismatch', patch(owner.token, order.id, { note: 'x' }, 'W/"2"')],
        [409, 'invalid-transition', patch(owner.token, order.id, { note: 'x' }, '"2"')],
        [409, 'invalid-transition', patch(owner.token, order.id, { note: 'x' }, '*')],
      ];
      for (const [status, code, reply] of refusals) expectProblem(await reply, status, code);
    });
  });

  describe('an action', () => {
    it('honours If-Match and needs none', async () => {
      const order = await placeOrder(app, owner.token);
      for (const tags of ['"2"', 'W/"1"', '"x"', '1']) {
        const stale = await act(owner.token, order.id, 'pay', undefined, { 'If-Match': tags });
        expectProblem(stale, 412, 'version-mismatch');
        expect(stale.headers.get('etag')).toBe('"1"');
      }
      expect(
        (await act(owner.token, order.id, 'pay', undefined, { 'If-Match': '"9", "1"' })).status,
      ).toBe(200);
      expect((await act(admin, order.id, 'ship', undefined, { 'If-Match': '*' })).status).toBe(200);
      expect((await act(admin, order.id, 'deliver')).status).toBe(200);
    });

    it('is refused in the order 401, 403 or 404, 412, 409', async () => {
      const order = await orderIn('shipped');
      const stale = { 'If-Match': '"1"' };
      expectProblem(await act('nobody', order.id, 'pay', {}, stale), 401, 'unauthenticated');
      expectProblem(await act(stranger.token, order.id, 'pay', {}, stale), 404, 'not-found');
      expectProblem(await act(owner.token, order.id, 'ship', {}, stale), 403, 'forbidden');
      expectProblem(await act(owner.token, order.id, 'pay', {}, stale), 412, 'version-mismatch');
      expectProblem(
        await act(owner.token, order.id, 'pay', {}, { 'If-Match': '"3"' }),
        409,
        'invalid-transition',
      );
    });

    it('happens once of many at the same moment', async () => {
      const order = await placeOrder(app, owner.token);
      const replies = await Promise.all(
        ['pay', 'cancel', 'pay', 'cancel', 'pay', 'cancel'].map((action) =>
          act(owner.token, order.id, action),
        ),
      );
      expect(replies.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409, 409, 409]);
      const won = replies.find(({ status }) => status === 200) as Reply;
      expect(await read(order.id)).toEqual(won.body);
      const events = await app.call('GET', `/v1/orders/${order.id}/events`, { token: owner.token });
      expect(events.body.data).toHaveLength(2);
    });

    it('takes a reason of up to 500 characters, no body, or an empty one', async () => {
      const order = await placeOrder(app, owner.token);
      for (const reason of ['', 'x'.repeat(501), 1, null, 'a\nb'])
        expect(pointersOf(await act(owner.token, order.id, 'pay', { reason }))).toEqual([
          '/reason',
        ]);
      expect((await act(owner.token, order.id, 'pay', '')).status).toBe(200);
      expect((await act(admin, order.id, 'ship', { reason: '🐙'.repeat(500) })).status).toBe(200);
    });
  });
});
