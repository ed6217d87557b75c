/** The past of one order over HTTP: its events, and its state at a version or a time. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../../support/app.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerSupportUser,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem, pointersOf } from '../../support/problem.js';

const HOUR_MS = 3_600_000;

let app: TestApp;
let owner: TestUser;
let support: TestUser;
let adminToken: string;
let adminId: string;
let id: string;
/** The order after each of its four events. */
const states: Record<string, unknown>[] = [];

beforeAll(async () => {
  app = await startApp();
  owner = await registerUser(app);
  support = await registerSupportUser(app);
  adminToken = await logInAsAdmin(app);
  adminId = (await get('/v1/users/me', adminToken)).body.id;
  states.push(await placeOrder(app, owner.token, { ...ORDER, note: 'first' }));
  id = states[0]?.id as string;
  const requests: [method: string, suffix: string, token: string, body: object][] = [
    ['PATCH', '', owner.token, { note: null, items: [{ ...ORDER.items[0], quantity: 1 }] }],
    ['POST', '/pay', owner.token, { reason: 'by card' }],
    ['POST', '/ship', adminToken, {}],
  ];
  for (const [method, suffix, token, body] of requests) {
    // Times have milliseconds: the events must be at least two of them apart.
    await sleep(5);
    const headers = { 'If-Match': '*' };
    const reply = await app.call(method, `/v1/orders/${id}${suffix}`, { token, body, headers });
    states.push(reply.body as Record<string, unknown>);
  }
});
afterAll(() => app?.close());

const get = (path: string, token: string = owner.token): Promise<Reply> =>
  app.call('GET', path, { token });

const VERSIONS = [1, 2, 3, 4];
const stateOf = (version: number): Record<string, unknown> =>
  states[version - 1] as Record<string, unknown>;
/** The time of the event that made this version, shifted by milliseconds. */
const timeOf = (version: number, shiftMs = 0): string =>
  new Date(Date.parse(stateOf(version).updatedAt as string) + shiftMs).toISOString();

describe('the events of an order', () => {
  it('are listed oldest first, with the actor and the data of each', async () => {
    const { status, body, headers } = await get(`/v1/orders/${id}/events`);
    expect([status, body.next, headers.get('cache-control')]).toEqual([
      200,
      null,
      'private, no-cache',
    ]);
    const event = (version: number, type: string, actorId: string, data: object): object => ({
      version,
      type,
      data,
      actorId,
      occurredAt: timeOf(version),
    });
    expect(body.data).toEqual([
      event(1, 'order.placed', owner.id, {
        userId: owner.id,
        currency: 'EUR',
        items: ORDER.items,
        total: 9_998,
        note: 'first',
      }),
      event(2, 'order.changed', owner.id, {
        note: null,
        items: [{ ...ORDER.items[0], quantity: 1 }],
        total: 4_999,
      }),
      event(3, 'order.paid', owner.id, { reason: 'by card' }),
      event(4, 'order.shipped', adminId, {}),
    ]);
  });

  it('are listed in pages, linked by Link', async () => {
    const versions: number[] = [];
    let next: string | undefined = `/v1/orders/${id}/events?limit=3`;
    while (next !== undefined) {
      const reply: Reply = await get(next, support.token);
      const events = reply.body.data as { version: number }[];
      versions.push(...events.map(({ version }) => version));
      next = /^<([^>]+)>; rel="next"$/.exec(reply.headers.get('link') ?? '')?.[1];
    }
    expect(versions).toEqual(VERSIONS);
  });

  it('with the cursor of another order → the cursor is rejected', async () => {
    const other = await placeOrder(app, owner.token);
    const { body } = await get(`/v1/orders/${id}/events?limit=1`);
    const reply = await get(`/v1/orders/${other.id}/events?cursor=${body.next}`);
    expect(pointersOf(reply)).toEqual(['/cursor']);
  });
});

describe('an order as it was', () => {
  it.each(VERSIONS)('at version %i → has the state and ETag of the version', async (version) => {
    const { status, body, headers } = await get(`/v1/orders/${id}?at=${version}`);
    expect([status, body, headers.get('etag')]).toEqual([200, stateOf(version), `"${version}"`]);
  });

  it.each([5, 999_999_999_999_999])('at the future version %i → 404', async (version) => {
    expectProblem(await get(`/v1/orders/${id}?at=${version}`), 404, 'not-found');
  });

  it.each(VERSIONS)('at the time of event %i → has its state from then on', async (version) => {
    const at = await get(`/v1/orders/${id}?at=${timeOf(version)}`);
    const after = await get(`/v1/orders/${id}?at=${timeOf(version, 1)}`);
    expect([at.body, after.body]).toEqual([stateOf(version), stateOf(version)]);
  });

  it.each([2, 3, 4])('a millisecond before event %i → has the state before', async (version) => {
    const { body } = await get(`/v1/orders/${id}?at=${timeOf(version, -1)}`);
    expect(body).toEqual(stateOf(version - 1));
  });

  it('a millisecond before it was placed → 404', async () => {
    expectProblem(await get(`/v1/orders/${id}?at=${timeOf(1, -1)}`), 404, 'not-found');
  });

  it('at a time in the future → has its current state', async () => {
    expect((await get(`/v1/orders/${id}?at=9999-12-31T23:59:59Z`)).body).toEqual(stateOf(4));
  });

  it('at a time with another offset → has the state of that moment', async () => {
    const local = timeOf(2, 2 * HOUR_MS).replace('Z', '%2B02:00');
    expect((await get(`/v1/orders/${id}?at=${local}`)).body).toEqual(stateOf(2));
  });

  it.each([
    '',
    '0',
    '-1',
    '01',
    '1.0',
    '1e0',
    'x',
    '2026-01-31',
    '2026-01-31T10:00:00',
    '2026-02-30T00:00:00Z',
    '1234567890123456',
    '1&at=2',
  ])('at "%s" → is rejected', async (at) => {
    expect(pointersOf(await get(`/v1/orders/${id}?at=${at}`))).toEqual(['/at']);
  });
});

describe('an order now', () => {
  it('is unchanged by reads of its past', async () => {
    await get(`/v1/orders/${id}?at=1`);
    expect((await get(`/v1/orders/${id}`)).body).toEqual(stateOf(4));
  });
});
