/** Reads of the past of an order with as many versions as an order can have. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { getRepositoryToken } from '@nestjs/typeorm';
import { Client } from 'pg';
import { DataSource, type Repository } from 'typeorm';
import {
  EDITABLE_STATUS,
  longestPathFrom,
  TRANSITIONS,
} from '../../../src/orders/order-lifecycle.js';
import { MAX_CHANGED_VERSION, MAX_ORDER_VERSIONS } from '../../../src/orders/order-versions.js';
import { OrderEvent } from '../../../src/orders/projection/order-event.entity.js';
import { MAX_EVENTS_PER_PAGE } from '../../../src/orders/projection/replay-past.js';
import {
  MAX_LONG_REPLAYS,
  REPLAY_LANES,
  ReplayQueue,
} from '../../../src/orders/projection/replay-queue.js';
import { MAX_PAGE_BYTES } from '../../../src/platform/http/bounds/bounds.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import {
  logInAsAdmin,
  ORDER,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import { Gate } from '../../support/gate.js';
import type { Reply } from '../../support/http-client.js';
import { expectProblem } from '../../support/problem.js';
import { StatementRecorder } from '../../platform/database/query-plans.js';

/** Of one caller, for all places. */
const WAITING_OF_CALLER = REPLAY_LANES.replay.maxWaitingOfCaller * MAX_LONG_REPLAYS;

let app: TestApp;
let psql: Client;
let owner: TestUser;
let other: TestUser;
let adminToken: string;
let events: Repository<OrderEvent>;

beforeAll(async () => {
  app = await startApp();
  psql = new Client({ connectionString: app.databaseUrl });
  await psql.connect();
  owner = await registerUser(app);
  other = await registerUser(app);
  adminToken = await logInAsAdmin(app);
  events = app.app.get<Repository<OrderEvent>>(getRepositoryToken(OrderEvent));
});
afterAll(async () => {
  await psql?.end();
  await app?.close();
});

const read = (path: string, token: string): Promise<Reply> => app.call('GET', path, { token });

const patch = (id: string, body: object, token: string = owner.token): Promise<Reply> =>
  app.call('PATCH', `/v1/orders/${id}`, { token, body, headers: { 'If-Match': '*' } });

const act = (id: string, action: string, token: string): Promise<Reply> =>
  app.call('POST', `/v1/orders/${id}/${action}`, { token });

/** The changes of note that a thousand requests would make, in a moment. */
const CHANGE_NOTE = `
  DO $$ DECLARE changed orders; BEGIN
    LOOP
      UPDATE orders SET note = 'note ' || version + 1 WHERE id = '<id>' RETURNING * INTO changed;
      INSERT INTO order_events (order_id, version, type, schema, data, actor_id, occurred_at)
      VALUES (changed.id, changed.version, 'order.changed', 2,
              jsonb_build_object('note', changed.note), changed.user_id, changed.updated_at);
      EXIT WHEN changed.version >= <version>;
    END LOOP;
  END $$`;

/** Places an order and changes its note until it has `versions` versions. @returns its id */
async function orderWith(versions: number, user: TestUser = owner): Promise<string> {
  const { id } = await placeOrder(app, user.token);
  await psql.query(CHANGE_NOTE.replace('<id>', id).replace('<version>', String(versions)));
  return id;
}

/** Records the pages of events that are read. */
interface PageWatch {
  readonly rows: number[];
  readonly bytes: number[];
  /** Stops each replay before its second page. */
  gate?: Gate;
  /** Replays that came to the gate. */
  stopped: number;
  readonly restore: () => void;
}

function watchPages(): PageWatch {
  const query = events.query.bind(events);
  const restore = (): void => void Object.assign(events, { query });
  const watch: PageWatch = { rows: [], bytes: [], stopped: 0, restore };
  const watched = async (sql: string, values: unknown[]): Promise<unknown> => {
    const isPage = sql.includes('bytes_before');
    const isSecond = isPage && values[1] === MAX_EVENTS_PER_PAGE;
    if (isSecond && watch.gate) {
      watch.stopped++;
      await watch.gate.opened;
    }
    const found = await query(sql, values);
    if (isPage) {
      watch.rows.push((found as unknown[]).length);
      watch.bytes.push(Buffer.byteLength(JSON.stringify(found)));
    }
    return found;
  };
  Object.assign(events, { query: watched });
  return watch;
}

const usedConnections = (): number => {
  const { master } = app.app.get(DataSource).driver as unknown as {
    master: { totalCount: number; idleCount: number };
  };
  return master.totalCount - master.idleCount;
};

describe('a read of the past of an order with 1000 versions', () => {
  let id: string;
  let watch: ReturnType<typeof watchPages>;
  beforeAll(async () => {
    id = await orderWith(MAX_ORDER_VERSIONS);
  });
  afterEach(() => watch.restore());

  it('has the state of each version, and reads the events in pages of 16', async () => {
    watch = watchPages();
    const { body } = await read(`/v1/orders/${id}?at=${MAX_ORDER_VERSIONS}`, owner.token);
    const { version, note, items } = body;
    expect([version, note, items]).toEqual([1_000, 'note 1000', ORDER.items]);
    expect(watch.rows.reduce((sum, count) => sum + count)).toBe(MAX_ORDER_VERSIONS);
    expect(Math.max(...watch.rows)).toBe(MAX_EVENTS_PER_PAGE);
    expect(watch.rows).toHaveLength(Math.ceil(MAX_ORDER_VERSIONS / MAX_EVENTS_PER_PAGE));
  });

  it.each([1, 16, 17, 561, 999])('at version %i → reads no event after it', async (version) => {
    watch = watchPages();
    const { body } = await read(`/v1/orders/${id}?at=${version}`, owner.token);
    const note = version === 1 ? null : `note ${version}`;
    expect([body.version, body.note]).toEqual([version, note]);
    expect(watch.rows.reduce((sum, count) => sum + count)).toBe(version);
  });

  it('at a future version → 404, and reads no events', async () => {
    watch = watchPages();
    expectProblem(await read(`/v1/orders/${id}?at=1001`, owner.token), 404, 'not-found');
    expect(watch.rows).toEqual([]);
  });

  it('holds no connection between two pages, and other requests are answered', async () => {
    watch = watchPages();
    const gate = new Gate();
    watch.gate = gate;
    const path = `/v1/orders/${id}?at=561`;
    const replays = Array.from({ length: MAX_LONG_REPLAYS + 1 }, () => read(path, owner.token));
    await eventually('as many replays as run at once are stopped', async () => {
      return watch.stopped === MAX_LONG_REPLAYS;
    });
    const shortOrder = await placeOrder(app, other.token);
    const now = await read(`/v1/orders/${shortOrder.id}`, other.token);
    expect(now.status).toBe(200);
    await eventually('no connection is in use', async () => usedConnections() === 0);
    expect(watch.stopped).toBe(MAX_LONG_REPLAYS);
    gate.open();
    const versions = (await Promise.all(replays)).map(({ body }) => body.version);
    expect(versions).toEqual(Array(MAX_LONG_REPLAYS + 1).fill(561));
  });
});

it("a page of an order's events is read 8 events at a time", async () => {
  const id = await orderWith(30);
  const recorder = new StatementRecorder();
  const dataSource = app.app.get(DataSource);
  const { logger } = dataSource;
  dataSource.logger = recorder;

  const reads = await recorder.during(/FROM "order_events".* LIMIT/s, async () => {
    const { body } = await read(`/v1/orders/${id}/events?limit=20`, owner.token);
    expect(body.data).toHaveLength(20);
  });

  dataSource.logger = logger;
  expect(reads.map(({ sql }) => /LIMIT (\d+)/.exec(sql)?.[1])).toEqual(['8', '8', '5']);
});

describe('a read of the past of an order whose events are large', () => {
  it('ends a page with the event that reaches 1 MiB', async () => {
    const items = Array.from({ length: 100 }, (_, index) => ({
      sku: `LAMP-${index}`,
      name: '🐙'.repeat(200),
      quantity: 1,
      unitPrice: 1,
    }));
    const { id } = await placeOrder(app, owner.token, { currency: 'EUR', items });
    for (let version = 2; version <= MAX_EVENTS_PER_PAGE; version++) {
      expect((await patch(id, { items, note: `note ${version}` })).status).toBe(200);
    }
    const watch = watchPages();
    const { body } = await read(`/v1/orders/${id}?at=${MAX_EVENTS_PER_PAGE}`, owner.token);
    watch.restore();
    expect(body.note).toBe(`note ${MAX_EVENTS_PER_PAGE}`);
    expect(watch.rows.length).toBeGreaterThan(1);
    const largest = Math.max(...watch.bytes) / Math.max(...watch.rows);
    expect(Math.max(...watch.bytes)).toBeLessThan(MAX_PAGE_BYTES + 2 * largest);
  });
});

describe('more long reads of the past than run at once', () => {
  let longId: string;
  let longPath: string;
  let gate: Gate;
  let held: Promise<unknown>[];
  beforeAll(async () => {
    longId = await orderWith(MAX_EVENTS_PER_PAGE + 1);
    longPath = `/v1/orders/${longId}?at=${MAX_EVENTS_PER_PAGE + 1}`;
  });

  /** Takes every place, until the gate opens. */
  function holdPlaces(): void {
    gate = new Gate();
    const queue = app.app.get(ReplayQueue);
    const work = (): Promise<void> => gate.opened;
    held = Array.from({ length: MAX_LONG_REPLAYS }, () =>
      queue.run({ lane: 'replay', caller: 'the test' }, work),
    );
  }

  /** The replies that have arrived, of requests that were sent and may wait. */
  function collect(requests: Promise<Reply>[]): Reply[] {
    const replies: Reply[] = [];
    for (const request of requests) void request.then((reply) => replies.push(reply));
    return replies;
  }

  it('of one caller → its share waits, and further ones get 503 with Retry-After', async () => {
    holdPlaces();
    const requests = Array.from({ length: WAITING_OF_CALLER + 3 }, () =>
      read(longPath, owner.token),
    );
    const replies = collect(requests);
    await eventually('three are refused', async () => replies.length === 3);
    for (const reply of replies) expectProblem(reply, 503, 'overloaded');
    expect(replies.map(({ headers }) => headers.get('retry-after'))).toEqual(['1', '1', '1']);

    // Others still find a place, and what needs no place is answered.
    const ofAdmin = read(longPath, adminToken);
    const short = await read(`/v1/orders/${longId}?at=${MAX_EVENTS_PER_PAGE}`, owner.token);
    const now = await read(`/v1/orders/${longId}`, owner.token);
    expect([short.status, now.status]).toEqual([200, 200]);

    gate.open();
    await Promise.all(held);
    expect((await ofAdmin).status).toBe(200);
    const statuses = (await Promise.all(requests)).map(({ status }) => status).sort();
    expect(statuses).toEqual([...Array(WAITING_OF_CALLER).fill(200), 503, 503, 503]);
  });
});

describe('the bound on the versions of an order', () => {
  it('leaves the versions that the longest life after a change needs', () => {
    // placed, paid, shipped, delivered, refunded.
    expect(longestPathFrom(EDITABLE_STATUS)).toBe(4);
    expect(MAX_CHANGED_VERSION).toBe(996);
  });

  it('is computed from the table', () => {
    const withoutRefund = TRANSITIONS.filter(({ action }) => action !== 'refund');
    expect(longestPathFrom('placed', withoutRefund)).toBe(3);
    expect(longestPathFrom('cancelled')).toBe(0);
  });

  it('refuses a change, and never an action: the order can be completed', async () => {
    const id = await orderWith(MAX_CHANGED_VERSION - 1);
    const last = await patch(id, { note: 'the last change' });
    expect([last.status, last.body.version]).toEqual([200, MAX_CHANGED_VERSION]);
    expectProblem(await patch(id, { note: 'one more' }), 409, 'too-many-versions');
    const unchanged = await patch(id, {});
    expect([unchanged.status, unchanged.body]).toEqual([200, last.body]);

    const statuses: number[] = [];
    for (const action of ['pay', 'ship', 'deliver', 'refund']) {
      const token = action === 'pay' ? owner.token : adminToken;
      statuses.push((await act(id, action, token)).status);
    }
    expect(statuses).toEqual([200, 200, 200, 200]);
    const { body } = await read(`/v1/orders/${id}`, owner.token);
    expect([body.status, body.version]).toEqual(['refunded', MAX_ORDER_VERSIONS]);
  });

  it('refuses a change after 412 and after another status', async () => {
    const id = await orderWith(MAX_CHANGED_VERSION);
    const outdated = { token: owner.token, body: { note: 'x' }, headers: { 'If-Match': '"1"' } };
    const reply = await app.call('PATCH', `/v1/orders/${id}`, outdated);
    expectProblem(reply, 412, 'version-mismatch');
    expect((await act(id, 'cancel', owner.token)).status).toBe(200);
    expectProblem(await patch(id, { note: 'x' }), 409, 'invalid-transition');
  });

  it('of an order that an earlier release left with more → it can still be completed', async () => {
    const id = await orderWith(MAX_ORDER_VERSIONS + 5);
    expectProblem(await patch(id, { note: 'x' }), 409, 'too-many-versions');
    expect((await act(id, 'pay', owner.token)).status).toBe(200);
  });
});
