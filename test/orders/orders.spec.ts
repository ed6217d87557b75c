/** Orders through the API: placed once, read strictly, changed under their version, walked through their life. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../support/app.js';
import { adminToken, ORDER, person, type Person, placeOrder } from '../support/factories.js';

describe('an order', () => {
  let app: TestApp;
  let owner: Person;
  let admin: string;

  beforeAll(async () => {
    app = await startApp();
    owner = await person(app);
    admin = await adminToken(app);
  });
  afterAll(() => app.close());

  it('is placed, read and walked to its refund, one event a step', async () => {
    const order = await placeOrder(app, owner.token);
    expect(order).toMatchObject({ userId: owner.id, status: 'placed', total: 9_998, version: 1, note: null });
    const steps = [
      ['pay', owner.token, 'paid'],
      ['ship', admin, 'shipped'],
      ['deliver', admin, 'delivered'],
      ['refund', admin, 'refunded'],
    ] as const;
    for (const [action, token, status] of steps) {
      const acted = await app.call('POST', `/v1/orders/${order.id}/${action}`, { token });
      expect([acted.status, acted.body.status]).toEqual([200, status]);
      const read = await app.call('GET', `/v1/orders/${order.id}`, { token: owner.token });
      expect(read.body).toEqual(acted.body);
    }
    const events = await app.call('GET', `/v1/orders/${order.id}/events`, { token: owner.token });
    expect(events.body.data.map((event: { version: number; type: string }) => [event.version, event.type])).toEqual([
      [1, 'order.placed'],
      [2, 'order.paid'],
      [3, 'order.shipped'],
      [4, 'order.delivered'],
      [5, 'order.refunded'],
    ]);
    const past = await app.call('GET', `/v1/orders/${order.id}?at=2`, { token: owner.token });
    expect(past.body).toMatchObject({ status: 'paid', version: 2 });
  });

  it('is made once for one key, with the same bytes again', async () => {
    const send = (body: object) =>
      app.call('POST', '/v1/orders', { token: owner.token, body, headers: { 'Idempotency-Key': 'key-1' } });
    const [first, again] = [await send(ORDER), await send(ORDER)];
    expect(first.status).toBe(201);
    expect(again.headers.get('idempotent-replayed')).toBe('true');
    expect([again.status, again.text]).toEqual([201, first.text]);
    expect(await send({ ...ORDER, note: 'another' })).toMatchObject({
      status: 422,
      body: { code: 'idempotency-key-reused' },
    });
  });
});
