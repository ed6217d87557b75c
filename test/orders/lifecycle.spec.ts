/**
 * The life of an order over HTTP: every status, action and role, compared with the table of
 * transitions that the service itself reads (src/orders/order-lifecycle.ts).
 */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { withLifecycle } from '../../scripts/docs/lifecycle.js';
import {
  describeParty,
  ORDER_ACTIONS,
  ORDER_STATUSES,
  type OrderAction,
  type OrderStatus,
  type Party,
  type Transition,
  TRANSITIONS,
  validateLifecycle,
} from '../../src/orders/order-lifecycle.js';
import { startApp, type TestApp } from '../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerSupportUser,
  registerUser,
  type TestUser,
} from '../support/factories.js';
import type { Reply } from '../support/http-client.js';
import {
  expectProblem,
  pointersOf,
  validationErrorsOf,
  withoutRequestFields,
} from '../support/problem.js';

type Path = readonly (readonly [action: OrderAction, party: Party])[];

/** The actions that move a new order into a status, and who takes them. */
const PATHS: Readonly<Record<OrderStatus, Path>> = {
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

/** A caller of the tests: the parties of the table that it is, and whether it sees the order. */
const ROLES = {
  owner: { parties: ['owner'], sees: true },
  admin: { parties: ['admin'], sees: true },
  'admin who owns the order': { parties: ['owner', 'admin'], sees: true },
  support: { parties: [], sees: true },
  'support who owns the order': { parties: ['owner'], sees: true },
  stranger: { parties: [], sees: false },
} as const satisfies Record<string, { parties: readonly Party[]; sees: boolean }>;
type Role = keyof typeof ROLES;
const ROLE_NAMES = Object.keys(ROLES) as Role[];

interface OrderBody {
  readonly id: string;
  readonly version: number;
  readonly status: OrderStatus;
}

let app: TestApp;
let owner: TestUser;
let support: TestUser;
let stranger: TestUser;
let adminToken: string;

beforeAll(async () => {
  app = await startApp();
  owner = await registerUser(app);
  support = await registerSupportUser(app);
  stranger = await registerUser(app);
  adminToken = await logInAsAdmin(app);
});
afterAll(() => app?.close());

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

const readOrder = async (id: string): Promise<Record<string, unknown>> =>
  (await app.call('GET', `/v1/orders/${id}`, { token: adminToken })).body;

function tokenOf(role: Role): string {
  const tokens: Record<Role, string> = {
    owner: owner.token,
    admin: adminToken,
    'admin who owns the order': adminToken,
    support: support.token,
    'support who owns the order': support.token,
    stranger: stranger.token,
  };
  return tokens[role];
}

/** The token of the user whose order a caller of this role acts on. */
const ownerTokenFor = (role: Role): string =>
  role.endsWith('who owns the order') ? tokenOf(role) : owner.token;

/** Places an order and moves it into a status. */
async function orderIn(status: OrderStatus, ownerToken: string = owner.token): Promise<OrderBody> {
  let order: OrderBody = await placeOrder(app, ownerToken);
  for (const [action, party] of PATHS[status]) {
    const token = party === 'owner' ? ownerToken : adminToken;
    const reply = await act(token, order.id, action);
    if (reply.status !== 200) throw new Error(reply.text);
    order = reply.body;
  }
  return order;
}

/** The owners of these tests are not deleted. */
const canTake = (role: Role, { by, ifOwnerDeleted }: Transition): boolean =>
  !ifOwnerDeleted && (ROLES[role].parties as readonly Party[]).includes(by);

/** The transitions that callers of the API take with the order of a user who is not deleted. */
const TRANSITIONS_OF_API = TRANSITIONS.filter(
  ({ by, ifOwnerDeleted }) => by !== 'operator' && !ifOwnerDeleted,
);

/** The actions that the table allows, each once, in the order of the table. */
function actionsOf(role: Role, status: OrderStatus): OrderAction[] {
  const open = TRANSITIONS.filter((step) => step.from === status && canTake(role, step));
  return [...new Set(open.map(({ action }) => action))];
}

function expectedOutcome(role: Role, status: OrderStatus, action: OrderAction): string {
  if (!ROLES[role].sees) return '404 not-found';
  const steps = TRANSITIONS.filter((step) => step.action === action && canTake(role, step));
  if (steps.length === 0) return '403 forbidden';
  const step = steps.find(({ from }) => from === status);
  if (step) return `200 ${step.to}`;
  return `409 invalid-transition, allowed: ${actionsOf(role, status).join(' ')}`;
}

function outcomeOf({ status, body }: Reply): string {
  if (status === 200) return `200 ${body.status}`;
  const { code, allowed } = body as { code: string; allowed?: string[] };
  return allowed ? `${status} ${code}, allowed: ${allowed.join(' ')}` : `${status} ${code}`;
}

describe('the table of transitions', () => {
  const copy = (index: number): Transition => ({ ...(TRANSITIONS[index] as Transition) });
  const replace = (index: number, changes: object): Transition[] =>
    TRANSITIONS.with(index, { ...copy(index), ...changes });

  it('holds the transitions of the HTTP contract, and those for what it leaves open', () => {
    const lines = TRANSITIONS.map(
      (step) => `${step.action}: ${step.from} → ${step.to}, ${describeParty(step)}`,
    );
    expect(lines.sort()).toEqual([
      'cancel: paid → cancelled, admin',
      'cancel: placed → cancelled, admin, if the owner is deleted',
      'cancel: placed → cancelled, owner',
      'deliver: shipped → delivered, admin',
      'pay: placed → paid, owner',
      'refund: delivered → refunded, admin',
      'refund: shipped → refunded, operator',
      'ship: paid → shipped, admin',
    ]);
    const statuses = new Set(TRANSITIONS.flatMap(({ from, to }) => [from, to]));
    expect([...statuses].sort()).toEqual([...ORDER_STATUSES].sort());
  });

  it('is consistent', () => {
    expect(validateLifecycle(TRANSITIONS)).toEqual([]);
  });

  it.each<[change: string, table: Transition[], problem: string]>([
    ['without the refunds', TRANSITIONS.slice(0, -2), 'no transition leads to "refunded"'],
    [
      'with a status that only itself leads to',
      replace(6, { from: 'refunded' }).slice(0, -1),
      'no transition leads to "refunded"',
    ],
    ['with an unknown status', replace(0, { to: 'lost' }), '"lost" is not a status'],
    [
      'with an unknown action',
      [...TRANSITIONS, { ...copy(0), action: 'lose' as never }],
      '"lose" is not an action',
    ],
    ['without any cancel', TRANSITIONS.toSpliced(3, 3), '"cancel" is never possible'],
    [
      'with a transition twice',
      [...TRANSITIONS, copy(0)],
      '"pay" from "placed" by owner is listed twice',
    ],
    [
      'with one event for two statuses',
      replace(1, { event: 'order.paid' }),
      '"order.paid" does not identify one status',
    ],
    [
      'with the event of a new order',
      replace(1, { event: 'order.placed' }),
      '"order.placed" does not identify one status',
    ],
    [
      'with a cycle, so that versions have no bound',
      [...TRANSITIONS, { ...copy(1), from: 'delivered' }],
      'actions can be taken for ever from "placed"',
    ],
    [
      'with a status that only the owner can leave',
      TRANSITIONS.filter(({ ifOwnerDeleted }) => !ifOwnerDeleted),
      'only the owner can take an order out of "placed"',
    ],
    [
      'with a status that keeps the money of a lost parcel',
      TRANSITIONS.filter(({ by }) => by !== 'operator'),
      'no transition returns the money of a "shipped" order',
    ],
  ])('%s → is reported as inconsistent', (_, table, problem) => {
    expect(validateLifecycle(table)).toContain(problem);
  });

  it('is inconsistent → startup fails and names the problem', async () => {
    const table = TRANSITIONS as Transition[];
    const removed = table.pop() as Transition;
    try {
      await expect(startApp({}, app.databaseUrl)).rejects.toThrow(
        /order-lifecycle\.ts is inconsistent: no transition returns the money of a "shipped"/,
      );
    } finally {
      table.push(removed);
    }
  });

  it('is shown in docs/reference/orders.md (else run npm run docs -- lifecycle)', async () => {
    const page = await readFile('docs/reference/orders.md', 'utf8');
    expect(page).toBe(withLifecycle(page));
    expect(page).toContain('placed --> paid: pay (owner)');
  });

  it('is shown in the OpenAPI document: a path for each action', async () => {
    const { body } = await app.call('GET', '/docs/openapi.json');
    const actions = Object.keys(body.paths as object).flatMap(
      (path) => /^\/v1\/orders\/\{id\}\/(?!events)(.+)$/.exec(path)?.[1] ?? [],
    );
    expect(actions.sort()).toEqual([...ORDER_ACTIONS].sort());
  });

  it.each(TRANSITIONS)(
    'is shown in the OpenAPI document, except what operators do: $action from $from by $by',
    async (transition) => {
      const { action, from, to, by } = transition;
      const { body } = await app.call('GET', '/docs/openapi.json');
      const { description } = body.paths[`/v1/orders/{id}/${action}`].post as {
        description: string;
      };
      const move = `from \`${from}\` to \`${to}\` (${describeParty(transition)})`;
      expect(description.includes(move)).toBe(by !== 'operator');
    },
  );
});

describe.each(ORDER_STATUSES)('an order that is %s', (status) => {
  it.each(ROLE_NAMES)('can be moved by the %s exactly as the table says', async (role) => {
    const ownerToken = ownerTokenFor(role);
    const allowed = actionsOf(role, status);
    const rejected = ORDER_ACTIONS.filter((action) => !allowed.includes(action));
    const expected = Object.fromEntries(
      ORDER_ACTIONS.map((action) => [action, expectedOutcome(role, status, action)]),
    );

    // All rejected actions on one order, each allowed action on an order of its own.
    const outcomes: Record<string, string> = {};
    const order = await orderIn(status, ownerToken);
    const before = await readOrder(order.id);
    for (const action of rejected) {
      const reply = await act(tokenOf(role), order.id, action, { reason: 'as agreed' });
      expectProblem(reply, reply.status, reply.body.code);
      outcomes[action] = outcomeOf(reply);
    }
    const after = await readOrder(order.id);
    for (const action of allowed) {
      const { id } = await orderIn(status, ownerToken);
      outcomes[action] = outcomeOf(await act(tokenOf(role), id, action, { reason: 'as agreed' }));
    }

    expect(outcomes).toEqual(expected);
    expect(after).toEqual(before);
  });

  it('cannot be changed by anyone but its owner', async () => {
    const order = await orderIn(status);
    const before = await readOrder(order.id);
    const tag = `"${order.version}"`;
    expectProblem(await patch(stranger.token, order.id, { note: 'x' }, tag), 404, 'not-found');
    expectProblem(await patch(support.token, order.id, { note: 'x' }, tag), 403, 'forbidden');
    expectProblem(await patch(adminToken, order.id, { note: 'x' }, tag), 403, 'forbidden');
    expect(await readOrder(order.id)).toEqual(before);
  });
});

describe('a change by the owner', () => {
  it('of a placed order → replaces the note and takes the next version', async () => {
    const order = await orderIn('placed');
    const before = await readOrder(order.id);
    const reply = await patch(owner.token, order.id, { note: 'x' }, '"1"');
    expect([reply.status, reply.body]).toEqual([
      200,
      { ...before, note: 'x', version: 2, updatedAt: reply.body.updatedAt },
    ]);
  });

  it.each(ORDER_STATUSES.filter((status) => status !== 'placed'))(
    'of an order that is %s → 409, and no action is allowed to the owner',
    async (status) => {
      const order = await orderIn(status);
      const before = await readOrder(order.id);
      const reply = await patch(owner.token, order.id, { note: 'x' }, `"${order.version}"`);
      expectProblem(reply, 409, 'invalid-transition');
      expect(reply.body.allowed).toEqual([]);
      expect(await readOrder(order.id)).toEqual(before);
    },
  );

  const ITEMS = [{ sku: 'ROPE', name: 'Rope', quantity: 3, unitPrice: 250 }];
  it.each<[what: string, change: object, expected: object]>([
    ['items', { items: ITEMS }, { items: ITEMS, total: 750, note: 'first', version: 2 }],
    ['note', { note: null }, { items: ORDER.items, total: 9_998, note: null, version: 2 }],
    [
      'items and note',
      { items: ITEMS, note: 'second' },
      { items: ITEMS, total: 750, note: 'second', version: 2 },
    ],
    ['nothing', {}, { items: ORDER.items, total: 9_998, note: 'first', version: 1 }],
  ])('that names %s → changes nothing else', async (_, change, expected) => {
    const { id } = await placeOrder(app, owner.token, { ...ORDER, note: 'first' });
    const reply = await patch(owner.token, id, change, '"1"');
    expect([reply.status, reply.body]).toEqual([200, expect.objectContaining(expected)]);
    expect(reply.headers.get('etag')).toBe(`"${reply.body.version}"`);
    expect(await readOrder(id)).toEqual(reply.body);
  });

  it.each(['currency', 'status', 'total', 'userId'])(
    'of %s → is rejected as an unknown property',
    async (name) => {
      const { id } = await placeOrder(app, owner.token);
      const reply = await patch(owner.token, id, { [name]: 'EUR' }, '"1"');
      expect(validationErrorsOf(reply)).toEqual([`/${name} unknown-property`]);
    },
  );

  it.each<[what: string, items: unknown]>([
    ['null', null],
    ['an empty list', []],
    ['an empty item', [{}]],
    ['101 items', Array(101).fill(ORDER.items[0])],
  ])('of items to %s → is rejected with pointers into items', async (_, items) => {
    const { id } = await placeOrder(app, owner.token);
    const pointers = pointersOf(await patch(owner.token, id, { items }, '"1"'));
    expect(pointers.filter((pointer) => !pointer.startsWith('/items'))).toEqual([]);
    expect(pointers).not.toEqual([]);
  });

  it('that fails several checks → 401, then 403 or 404, then 412 or 428, then 409', async () => {
    const { id } = await orderIn('paid');
    const change = { note: 'x' };
    expectProblem(await patch('nobody', id, change), 401, 'unauthenticated');
    expectProblem(await patch(stranger.token, id, change), 404, 'not-found');
    expectProblem(await patch(adminToken, id, change), 403, 'forbidden');
    expectProblem(await patch(owner.token, id, change), 428, 'precondition-required');
    expectProblem(await patch(owner.token, id, change, '"1"'), 412, 'version-mismatch');
    expectProblem(await patch(owner.token, id, change, 'W/"2"'), 412, 'version-mismatch');
    expectProblem(await patch(owner.token, id, change, '"2"'), 409, 'invalid-transition');
    expectProblem(await patch(owner.token, id, change, '*'), 409, 'invalid-transition');
  });
});

describe('an action', () => {
  it.each(TRANSITIONS_OF_API)(
    '$action from $from by $by → answers with the next version, which reads return too',
    async ({ action, from, to, by }) => {
      const order = await orderIn(from);
      const reply = await act(by === 'owner' ? owner.token : adminToken, order.id, action);
      expect(reply.body).toMatchObject({
        id: order.id,
        status: to,
        version: order.version + 1,
        items: ORDER.items,
        total: 9_998,
      });
      expect(reply.headers.get('etag')).toBe(`"${order.version + 1}"`);
      expect(await readOrder(order.id)).toEqual(reply.body);
    },
  );

  it.each(ORDER_ACTIONS)(
    '%s by a stranger → gets the same 404 as for a missing order',
    async (action) => {
      const { id } = await placeOrder(app, owner.token);
      const hidden = await act(stranger.token, id, action);
      const missing = await act(stranger.token, crypto.randomUUID(), action);
      expectProblem(hidden, 404, 'not-found');
      expect(withoutRequestFields(hidden)).toEqual(withoutRequestFields(missing));
    },
  );

  it.each(['"2"', 'W/"1"', '"x"'])('with If-Match: %s on version 1 → 412', async (tags) => {
    const { id } = await placeOrder(app, owner.token);
    const reply = await act(owner.token, id, 'pay', undefined, { 'If-Match': tags });
    expectProblem(reply, 412, 'version-mismatch');
    expect(reply.headers.get('etag')).toBe('"1"');
  });

  it.each(['"9", "1"', '*'])('with If-Match: %s on version 1 → 200', async (tags) => {
    const { id } = await placeOrder(app, owner.token);
    const reply = await act(owner.token, id, 'pay', undefined, { 'If-Match': tags });
    expect(reply.status).toBe(200);
  });

  it('without If-Match → 200', async () => {
    const { id } = await placeOrder(app, owner.token);
    expect((await act(owner.token, id, 'pay')).status).toBe(200);
  });

  it('that fails several checks → 401, then 403 or 404, then 412, then 409', async () => {
    const { id } = await orderIn('shipped');
    const outdated = { 'If-Match': '"1"' };
    const current = { 'If-Match': '"3"' };
    expectProblem(await act('nobody', id, 'pay', {}, outdated), 401, 'unauthenticated');
    expectProblem(await act(stranger.token, id, 'pay', {}, outdated), 404, 'not-found');
    expectProblem(await act(owner.token, id, 'ship', {}, outdated), 403, 'forbidden');
    expectProblem(await act(owner.token, id, 'pay', {}, outdated), 412, 'version-mismatch');
    expectProblem(await act(owner.token, id, 'pay', {}, current), 409, 'invalid-transition');
  });

  it('sent six times at once → happens once, and the others get 409', async () => {
    const order = await placeOrder(app, owner.token);
    const actions = ['pay', 'cancel', 'pay', 'cancel', 'pay', 'cancel'];
    const replies = await Promise.all(actions.map((action) => act(owner.token, order.id, action)));
    expect(replies.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409, 409, 409]);
    const winner = replies.find(({ status }) => status === 200) as Reply;
    expect(await readOrder(order.id)).toEqual(winner.body);
    const events = await app.call('GET', `/v1/orders/${order.id}/events`, { token: owner.token });
    expect(events.body.data).toHaveLength(2);
  });

  it.each<[what: string, reason: unknown]>([
    ['an empty reason', ''],
    ['a reason of 501 characters', 'x'.repeat(501)],
    ['a number as reason', 1],
    ['null as reason', null],
    ['a reason of two lines', 'a\nb'],
  ])('with %s → is rejected', async (_, reason) => {
    const { id } = await placeOrder(app, owner.token);
    expect(pointersOf(await act(owner.token, id, 'pay', { reason }))).toEqual(['/reason']);
  });

  it('with an empty body → is accepted', async () => {
    const { id } = await placeOrder(app, owner.token);
    expect((await act(owner.token, id, 'pay', '')).status).toBe(200);
  });

  it('with a reason of 500 characters outside the BMP → is accepted', async () => {
    const { id } = await placeOrder(app, owner.token);
    const reply = await act(owner.token, id, 'pay', { reason: '🐙'.repeat(500) });
    expect(reply.status).toBe(200);
  });
});
