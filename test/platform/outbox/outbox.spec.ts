/**
 * Events from the API to a queue, over a real RabbitMQ that this file starts: what arrives, in which order, and what waits,
 * while the broker blocks, is killed, hangs, or refuses single events.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type Channel,
  type ChannelModel,
  connect,
  type ConsumeMessage,
  type Options,
} from 'amqplib';
import { Client } from 'pg';
import { EXCHANGE } from '../../src/outbox/outbox.broker.js';
import { OutboxRelay } from '../../src/outbox/outbox.relay.js';
import type { CloudEvent } from '../../src/outbox/cloud-event.js';
import { compile } from '../campaign/compile.mjs';
import { startApp, type TestApp } from '../support/app.js';
import {
  adminToken,
  ORDER,
  PASSWORD,
  person,
  type Person,
  placeOrder,
} from '../support/factories.js';
import { createTestDatabase } from '../support/postgres.js';
import { type RabbitServer, startRabbit } from '../support/rabbitmq.js';
import { runCampaign } from './campaign.js';

/** Of messages, in bytes: less than the relay's own bound, so that the broker closes the channel over some. */
const MOST_OF_BROKER = 40_000;
const SIZE = [`max_message_size = ${MOST_OF_BROKER}`];
/** With no memory at all it takes connections, and blocks them at their first message. */
const ALARM = ['vm_memory_high_watermark.absolute = 1'];

let rabbit: RabbitServer;
/** The service and its commands as plain JavaScript, for processes of their own. */
let compiled: Awaited<ReturnType<typeof compile>>;
let app: TestApp;
let user: Person;
let psql: Client;
const listeners: { connection: ChannelModel; channel: Channel; queue: string }[] = [];

interface Arrival {
  readonly event: CloudEvent;
  readonly message: ConsumeMessage;
}

/** A durable queue of the test's own, and all that has come into it. */
async function listen(pattern: string, options: Options.AssertQueue = {}) {
  const queue = `test-${randomUUID()}`;
  const connection = await connect(rabbit.url);
  connection.on('error', () => undefined);
  const channel = await connection.createChannel();
  channel.on('error', () => undefined);
  await channel.assertExchange(EXCHANGE, 'topic', { durable: true });
  await channel.assertQueue(queue, { durable: true, ...options });
  await channel.bindQueue(queue, EXCHANGE, pattern);
  listeners.push({ connection, channel, queue });
  const arrivals: Arrival[] = [];
  const consume = () =>
    channel.consume(
      queue,
      (message) => {
        if (message)
          arrivals.push({ message, event: JSON.parse(message.content.toString()) as CloudEvent });
      },
      { noAck: true },
    );
  return {
    arrivals,
    channel,
    queue,
    consume,
    of: (subject: string) =>
      arrivals.filter(({ event }) => event.subject === subject).map(({ event }) => event),
  };
}

async function until(what: string, condition: () => unknown, ms = 15_000): Promise<void> {
  for (const end = Date.now() + ms; !(await condition()); await sleep(20))
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
}

const waiting = async (where = 'true'): Promise<number> => {
  const { rows } = await psql.query(
    `SELECT count(*)::int AS n FROM outbox WHERE published_at IS NULL AND ${where}`,
  );
  return (rows[0] as { n: number }).n;
};
const drained = (): Promise<void> =>
  until('the outbox is empty', async () => (await waiting()) === 0);
const brokerCheck = async (): Promise<{ status: string; message?: string }> =>
  (await app.call('GET', '/health/ready')).body.checks.broker;
const metric = async (name: string): Promise<number> =>
  Number(new RegExp(`^${name} (.+)$`, 'm').exec((await app.call('GET', '/metrics')).text)?.[1]);

const act = async (id: string, action: string, token: string): Promise<void> => {
  const { status, text } = await app.call('POST', `/v1/orders/${id}/${action}`, {
    token,
    body: {},
  });
  if (status !== 200) throw new Error(`${action}: ${status} ${text}`);
};

/** Events that no request makes. */
const append = async (
  subject: string,
  versions: number[],
  data: object = {},
  type = 'test.made',
): Promise<void> => {
  for (const version of versions)
    await psql.query('INSERT INTO outbox (id, type, subject, data) VALUES ($1, $2, $3, $4)', [
      randomUUID(),
      type,
      subject,
      { version, ...data },
    ]);
};
const versionsOf = (events: CloudEvent[]): unknown[] => events.map(({ data }) => data.version);

/** `npm run outbox -- …`, as an operator runs it. */
const operator = async (...words: string[]): Promise<string> => {
  const env = { PATH: process.env.PATH, DATABASE_URL: app.databaseUrl };
  const program = join(compiled.folder, 'scripts/outbox.js');
  return (await promisify(execFile)(process.execPath, [program, ...words], { env })).stdout;
};

function documentedData(): Record<string, unknown> {
  const page = readFileSync(new URL('../../docs/events.md', import.meta.url), 'utf8');
  const blocks = [...page.matchAll(/^```json\n(.*?)^```/gms)].map(
    ([, text = '']) => JSON.parse(text) as Record<string, unknown>,
  );
  return blocks.find((block) => 'order.placed' in block) ?? {};
}
/** The names in it and the kinds of their values. */
const shapeOf = (value: unknown): unknown => {
  if (Array.isArray(value)) return 'list';
  if (value === null || typeof value !== 'object') return value === null ? null : typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, shapeOf(member)]));
};

beforeAll(async () => {
  [rabbit, compiled] = await Promise.all([startRabbit([...SIZE, ...ALARM]), compile()]);
  app = await startApp({ RABBITMQ_URL: rabbit.url });
  psql = new Client({ connectionString: app.databaseUrl });
  await psql.connect();
  user = await person(app);
  // Where RabbitMQ must first be installed, that takes minutes.
}, 400_000);
afterEach(async () => {
  for (const { connection, channel, queue } of listeners.splice(0)) {
    await channel.deleteQueue(queue);
    await connection.close();
  }
});
afterAll(async () => {
  await psql?.end();
  await app?.close();
  await rabbit?.stop();
  await compiled?.remove();
});

describe('a broker that blocks publishers, and then is killed and started again', () => {
  it('delays nothing but the events, is told of, and gets them all when it works again', async () => {
    await until('blocked', async () => (await brokerCheck()).status === 'degraded');
    expect((await brokerCheck()).message).toMatch(/alarm/);
    const order = await placeOrder(app, user.token);
    expect(await waiting(`subject = 'orders/${order.id}'`)).toBe(1);
    expect(await metric('holdfast_outbox_oldest_seconds')).toBeGreaterThan(0);
    await rabbit.kill();
    await until('unreachable', async () => /unreachable/.test((await brokerCheck()).message ?? ''));
    await placeOrder(app, user.token);
    await rabbit.restart(['vm_memory_high_watermark.relative = 0.4']);
    await drained();
    expect(await brokerCheck()).toEqual({ status: 'up' });
    expect(await metric('holdfast_outbox_oldest_seconds')).toBe(0);
  }, 60_000);
});

describe('what arrives', () => {
  it('is every event of users, sessions and orders, as a CloudEvent, in order, without a secret', async () => {
    const queue = await listen('#');
    await queue.consume();
    const began = new Date();
    const admin = await adminToken(app);
    const someone = await person(app);
    const { id, token } = someone;
    const name = `n${someone.username}`;
    await app.call('PATCH', `/v1/users/${id}`, {
      token,
      body: { username: name },
      headers: { 'If-Match': '"1"' },
    });
    await app.call('PUT', `/v1/users/${id}/roles`, {
      token: admin,
      body: { roles: ['user', 'support'] },
    });
    const another = 'another nine tall ships';
    await app.call('PUT', `/v1/users/${id}/password`, {
      token,
      body: { currentPassword: PASSWORD, newPassword: another },
    });
    const [delivered, changed, cancelled] = [
      await placeOrder(app, token, { ...ORDER, note: 'ring twice' }),
      await placeOrder(app, token),
      await placeOrder(app, token),
    ] as { id: string }[];
    for (const action of ['pay', 'ship', 'deliver', 'refund'])
      await act(delivered!.id, action, action === 'pay' ? token : admin);
    await app.call('PATCH', `/v1/orders/${changed!.id}`, {
      token,
      body: { note: 'x' },
      headers: { 'If-Match': '"1"' },
    });
    await act(cancelled!.id, 'cancel', token);
    expect((await app.call('DELETE', `/v1/users/${id}`, { token })).status).toBe(204);
    await drained();

    const { rows } = await psql.query(
      `SELECT id, type, subject, data, occurred_at FROM outbox WHERE occurred_at >= $1 ORDER BY position`,
      [began],
    );
    const told = rows as {
      id: string;
      type: string;
      subject: string;
      data: object;
      occurred_at: Date;
    }[];
    await until('arrived', () =>
      told.every((row) => queue.arrivals.some(({ event }) => event.id === row.id)),
    );
    expect(versionsOf(queue.of(`users/${id}`))).toEqual([1, 2, 3, 3, 4]);
    expect(queue.of(`users/${id}`).map(({ type }) => type)).toEqual([
      'user.registered',
      'user.changed',
      'user.roles-changed',
      'user.password-changed',
      'user.deleted',
    ]);
    expect(
      queue.of(`orders/${delivered!.id}`).map(({ type, data }) => [type, data.version]),
    ).toEqual([
      ['order.placed', 1],
      ['order.paid', 2],
      ['order.shipped', 3],
      ['order.delivered', 4],
      ['order.refunded', 5],
    ]);
    expect(queue.of(`orders/${changed!.id}`).map(({ type }) => type)).toEqual([
      'order.placed',
      'order.changed',
    ]);
    expect(queue.of(`orders/${cancelled!.id}`).map(({ type }) => type)).toEqual([
      'order.placed',
      'order.cancelled',
    ]);

    for (const { event, message } of queue.arrivals) {
      const row = told.find((one) => one.id === event.id);
      expect(event).toEqual({
        specversion: '1.0',
        id: row?.id,
        source: '/holdfast',
        type: row?.type,
        subject: row?.subject,
        time: row?.occurred_at.toISOString(),
        datacontenttype: 'application/json',
        data: row?.data,
      });
      expect(event.data.version).toEqual(expect.any(Number));
      expect([message.fields.exchange, message.fields.routingKey]).toEqual([EXCHANGE, event.type]);
      const { contentType, deliveryMode, messageId, type } = message.properties;
      expect([contentType, deliveryMode, messageId, type]).toEqual([
        'application/cloudevents+json',
        2,
        event.id,
        event.type,
      ]);
    }

    // What docs/events.md shows of each type is what came, and all that came.
    const examples = documentedData();
    expect([...new Set(queue.arrivals.map(({ event }) => event.type))].sort()).toEqual(
      Object.keys(examples).sort(),
    );
    for (const { event } of queue.arrivals)
      expect(shapeOf(event.data)).toEqual(shapeOf(examples[event.type]));

    const secrets = await psql.query(
      `SELECT password_hash AS secret FROM credentials UNION SELECT token_hash FROM sessions`,
    );
    const everything = queue.arrivals.map(({ message }) => message.content.toString()).join('\n');
    const known = [
      PASSWORD,
      another,
      token,
      admin,
      'hf_',
      '$argon2',
      someone.email,
      name,
      '127.0.0.1',
      'ring twice',
    ];
    expect(secrets.rows.length).toBeGreaterThan(1);
    for (const secret of [
      ...known,
      ...(secrets.rows as { secret: string }[]).map(({ secret }) => secret),
    ])
      expect(everything).not.toContain(secret);
  });

  it('carries the trace of the request that caused it, when it is one', async () => {
    const queue = await listen('order.placed');
    await queue.consume();
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    const place = async (header: string): Promise<string> => {
      const headers = { 'Idempotency-Key': randomUUID(), traceparent: header };
      return (await app.call('POST', '/v1/orders', { token: user.token, body: ORDER, headers }))
        .body.id as string;
    };
    const [traced, broken] = [await place(traceparent), await place('00-nonsense-01')];
    await until('both', () => queue.arrivals.length >= 2);
    const [one] = queue.arrivals.filter(({ event }) => event.subject === `orders/${traced}`);
    expect([one?.event.traceparent, one?.message.properties.headers?.traceparent]).toEqual([
      traceparent,
      traceparent,
    ]);
    const [other] = queue.arrivals.filter(({ event }) => event.subject === `orders/${broken}`);
    expect(other?.event).not.toHaveProperty('traceparent');
    expect(other?.message.properties.headers).toEqual({});
  });

  it('is nothing when no queue is bound: counted, told of, and not waited for', async () => {
    const before = await metric('holdfast_outbox_unroutable_total');
    await append(`tests/${randomUUID()}`, [1], {}, 'nobody.listens');
    await until(
      'counted',
      async () => (await metric('holdfast_outbox_unroutable_total')) === before + 1,
    );
    await drained();
  });
});

describe('a broker that hangs', () => {
  it('delays nothing in HTTP, and gets every event when it goes on', async () => {
    const queue = await listen('order.#');
    rabbit.pause();
    const ids: string[] = [];
    try {
      const began = performance.now();
      for (let n = 0; n < 20; n++)
        ids.push(((await placeOrder(app, user.token)) as { id: string }).id);
      // Twenty orders take about 200 ms; any wait for the broker would show.
      expect(performance.now() - began).toBeLessThan(2_000);
      await until('noticed', async () => (await brokerCheck()).status === 'degraded', 12_000);
      expect((await app.call('GET', '/health/ready')).status).toBe(200);
    } finally {
      rabbit.resume();
    }
    await queue.consume();
    await drained();
    await until('all', () => ids.every((id) => queue.of(`orders/${id}`).length > 0));
  }, 40_000);
});

describe('an event that the broker refuses', () => {
  it('nacked, keeps its own subject waiting and no other, and is tried again by itself', async () => {
    const all = await listen('test.*');
    await all.consume();
    const full = await listen('test.limited', {
      maxLength: 1,
      arguments: { 'x-overflow': 'reject-publish' },
    });
    const subject = `tests/${randomUUID()}`;
    const other = `tests/${randomUUID()}`;
    await append(`tests/${randomUUID()}`, [1], {}, 'test.limited'); // Takes the one place there is.
    await drained();
    await append(subject, [1], {}, 'test.limited');
    await append(subject, [2, 3]);
    await append(other, [1, 2, 3]);
    await until('the other', () => all.of(other).length === 3);
    await until('held', async () => (await waiting(`subject = '${subject}' AND held`)) === 3);
    expect(await metric('holdfast_outbox_held_subjects')).toBe(1);
    await append(subject, [4]);
    await sleep(300);
    // A refusal by one queue is none by another: what that one got is a repeat later on.
    expect(new Set(versionsOf(all.of(subject)))).not.toContain(2);
    await full.channel.purgeQueue(full.queue);
    await until('free', async () => (await waiting(`subject = '${subject}'`)) === 0);
    await until('arrived', () => all.of(subject).some(({ data }) => data.version === 4));
    const firsts = [...new Set(versionsOf(all.of(subject)))];
    expect(firsts).toEqual([1, 2, 3, 4]);
    expect(await metric('holdfast_outbox_held_subjects')).toBe(0);
  });

  it.each([
    ['too large for the relay', 80_000, /80\d\d\d bytes/],
    ['too large for the broker, which closes the channel over it', 45_000, /PRECONDITION_FAILED/],
  ])('%s, waits for an operator, its subject with it, and no other', async (_, bytes, why) => {
    const queue = await listen('test.*');
    await queue.consume();
    const subject = `tests/${randomUUID()}`;
    const others = Array.from({ length: 50 }, () => `tests/${randomUUID()}`);
    await append(subject, [1]);
    await append(subject, [2], { text: 'x'.repeat(bytes) });
    await append(subject, [3]);
    for (const other of others) await append(other, [1, 2]);
    await until('the others', () =>
      others.every((other) => new Set(versionsOf(queue.of(other))).size === 2),
    );
    await until('held', async () => (await waiting(`subject = '${subject}' AND held`)) === 2);
    const { rows: parked } = await psql.query(
      `SELECT id, last_error FROM outbox WHERE subject = $1 AND retry_at = 'infinity'`,
      [subject],
    );
    expect(parked).toEqual([{ id: expect.any(String), last_error: expect.stringMatching(why) }]);
    expect(await metric('holdfast_outbox_held_subjects')).toBe(1);
    await psql.query(`UPDATE outbox SET data = data - 'text' WHERE subject = $1`, [subject]);
    const id = (parked as { id: string }[])[0]!.id;
    const told = await operator('list');
    expect(told).toContain(`${id}  test.made of ${subject}`);
    expect(told).toMatch(/1 behind it; refused 1 times, waits for you: /);
    expect(told).toMatch(why);
    await operator('requeue', id);
    await until('arrived', () => queue.of(subject).some(({ data }) => data.version === 3));
    expect([...new Set(versionsOf(queue.of(subject)))]).toEqual([1, 2, 3]);
    await drained();
  });

  it('can be given up, and then its subject goes on without it', async () => {
    const queue = await listen('test.*');
    await queue.consume();
    const subject = `tests/${randomUUID()}`;
    await append(subject, [1]);
    await append(subject, [2], { text: 'x'.repeat(80_000) });
    await append(subject, [3, 4]);
    await until('held', async () => (await waiting(`subject = '${subject}' AND held`)) === 3);
    const { rows } = await psql.query(
      'SELECT id FROM outbox WHERE subject = $1 ORDER BY position',
      [subject],
    );
    const [, second, third] = (rows as { id: string }[]).map(({ id }) => id);
    await expect(operator('skip', third!)).rejects.toThrow(`no refused event has the id ${third}`);
    await operator('skip', second!);
    await until('arrived', () => queue.of(subject).length === 3);
    expect(versionsOf(queue.of(subject))).toEqual([1, 3, 4]);
    await drained();
  });
});

describe('retention', () => {
  it('removes what was published more than a day ago, and nothing that waits, however old', async () => {
    const made = async (published: string | null): Promise<string> => {
      const id = randomUUID();
      await psql.query(
        `INSERT INTO outbox (id, type, subject, data, occurred_at, published_at, held, retry_at)
         VALUES ($1, 'test.old', $3, '{"version": 1}', now() - interval '9 days', now() - $2::interval, $2::interval IS NULL,
                 CASE WHEN $2::interval IS NULL THEN 'infinity'::timestamptz END)`,
        [id, published, `tests/${id}`],
      );
      return id;
    };
    const [old, young, refused] = [
      await made('25 hours'),
      await made('23 hours'),
      await made(null),
    ];
    await (app.app.get(OutboxRelay) as unknown as { purge(): Promise<void> }).purge();
    const { rows } = await psql.query('SELECT id FROM outbox WHERE id = ANY($1)', [
      [old, young, refused],
    ]);
    expect((rows as { id: string }[]).map(({ id }) => id).sort()).toEqual([young, refused].sort());
    expect(await metric('holdfast_outbox_oldest_seconds')).toBeGreaterThan(9 * 86_000);
    await operator('skip', refused);
  });
});

describe('a node that is stopped', () => {
  it('waits for what it has sent to be confirmed, and marks it: nothing of it is sent again', async () => {
    const queue = await listen('stop.#');
    const database = await createTestDatabase();
    const own = new Client({ connectionString: database.url });
    await own.connect();
    try {
      const node = await startApp(
        { RABBITMQ_URL: rabbit.url, SHUTDOWN_GRACE_SECONDS: '3' },
        database.url,
      );
      await own.query(
        `INSERT INTO outbox (id, type, subject, data)
         SELECT gen_random_uuid(), 'stop.it', 'tests/' || n % 40, '{"version": 1}' FROM generate_series(1, 8000) AS n`,
      );
      await until(
        'some',
        async () => (await queue.channel.checkQueue(queue.queue)).messageCount > 300,
      );
      await node.close();
      const { rows } = await own.query(
        'SELECT count(*)::int AS n FROM outbox WHERE published_at IS NOT NULL AND type = $1',
        ['stop.it'],
      );
      const [{ n }] = rows as [{ n: number }];
      expect(n).toBeLessThan(8000);
      expect((await queue.channel.checkQueue(queue.queue)).messageCount).toBe(n);
    } finally {
      await own.end();
      await database.drop();
    }
  });
});

describe('two nodes, whose links are slowed, cut and stalled, and one of which is killed', () => {
  it('lose no event, and let none overtake another of its order', async () => {
    const database = await createTestDatabase();
    const seed = Number(process.env.RELAY_SEED ?? Date.now() % 1_000_000);
    try {
      const options = {
        folder: compiled.folder,
        databaseUrl: database.url,
        rabbit,
        orders: 40,
        seed,
        restarts: false,
      };
      const result = await runCampaign(options);
      expect({ seed, ...result }).toMatchObject({
        ...{ seed, lost: [], invented: [], outOfOrder: [], astray: 0 },
        faults: { 'node killed with SIGKILL': 1 },
      });
      expect(result.written).toBeGreaterThan(80);
    } finally {
      await database.drop();
    }
  }, 120_000);
});
