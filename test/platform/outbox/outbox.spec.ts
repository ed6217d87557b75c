/**
 * Events on their way from the API to a queue, over a real RabbitMQ that this file starts: what
 * arrives, in which order, and what waits while the broker blocks, dies, hangs, or rejects an
 * event. Every test begins with a connected relay and an empty outbox.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual, promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import {
  type Channel,
  type ChannelModel,
  connect,
  type ConsumeMessage,
  type Options,
} from 'amqplib';
import { Client } from 'pg';
import type { CloudEvent } from '../../../src/platform/outbox/cloud-event.js';
import { EXCHANGE } from '../../../src/platform/outbox/outbox-broker.js';
import { compile } from '../../../scripts/compile.mjs';
import { startApp, type TestApp } from '../../support/app.js';
import { describeWithRabbitmq } from '../../support/describe-with-rabbitmq.js';
import { eventually } from '../../support/eventually.js';
import {
  logInAsAdmin,
  ORDER,
  PASSWORD,
  placeOrder,
  registerUser,
  type TestUser,
} from '../../support/factories.js';
import { createTestDatabase } from '../../support/postgres.js';
import { type RabbitmqServer, startRabbitmq } from '../../support/rabbitmq.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import { REPOSITORY } from '../../support/repository.js';

/** Less than the relay's own bound, so that the broker closes the channel over some messages. */
const MAX_MESSAGE_BYTES = 40_000;
/** Without memory the broker accepts connections and blocks each one at its first message. */
const MEMORY_ALARM = ['vm_memory_high_watermark.absolute = 1'];

let rabbitmq: RabbitmqServer;
/** The service and its commands as JavaScript, for processes of their own. */
let compiled: Awaited<ReturnType<typeof compile>>;
let app: TestApp;
let user: TestUser;
let psql: Client;
const openQueues: TestQueue[] = [];

interface Arrival {
  readonly event: CloudEvent;
  readonly message: ConsumeMessage;
}

interface OutboxRow {
  readonly id: string;
  readonly type: string;
  readonly subject: string;
  readonly data: Record<string, unknown>;
  readonly occurred_at: Date;
}

/** A durable queue of the test, bound to the exchange, and what has arrived in it. */
class TestQueue {
  readonly arrivals: Arrival[] = [];

  private constructor(
    private readonly name: string,
    private readonly connection: ChannelModel,
    private readonly channel: Channel,
  ) {}

  static async bind(pattern: string, options: Options.AssertQueue = {}): Promise<TestQueue> {
    const name = `test-${randomUUID()}`;
    const connection = await connect(rabbitmq.url);
    connection.on('error', () => undefined);
    const channel = await connection.createChannel();
    channel.on('error', () => undefined);
    await channel.assertExchange(EXCHANGE, 'topic', { durable: true });
    await channel.assertQueue(name, { durable: true, ...options });
    await channel.bindQueue(name, EXCHANGE, pattern);
    const queue = new TestQueue(name, connection, channel);
    openQueues.push(queue);
    return queue;
  }

  /** Moves messages from the queue into `arrivals`, also those that arrive later. */
  async consume(): Promise<void> {
    const onMessage = (message: ConsumeMessage | null): void => {
      if (!message) return;
      const event = JSON.parse(message.content.toString()) as CloudEvent;
      this.arrivals.push({ message, event });
    };
    await this.channel.consume(this.name, onMessage, { noAck: true });
  }

  eventsOf(subject: string): CloudEvent[] {
    return this.arrivals.map(({ event }) => event).filter((event) => event.subject === subject);
  }

  /** Without repeats, in the order of their first arrivals. */
  versionsOf(subject: string): unknown[] {
    return [...new Set(this.eventsOf(subject).map(({ data }) => data.version))];
  }

  /** Messages that nobody has consumed. */
  async countMessages(): Promise<number> {
    const { messageCount } = await this.channel.checkQueue(this.name);
    return messageCount;
  }

  async purge(): Promise<void> {
    await this.channel.purgeQueue(this.name);
  }

  async remove(): Promise<void> {
    await this.channel.deleteQueue(this.name);
    await this.connection.close();
  }
}

async function consumeAll(pattern: string): Promise<TestQueue> {
  const queue = await TestQueue.bind(pattern);
  await queue.consume();
  return queue;
}

async function countWaiting(where = 'true', client = psql): Promise<number> {
  const { rows } = await client.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM outbox WHERE published_at IS NULL AND ${where}`,
  );
  return rows[0]?.count ?? NaN;
}

const awaitEmptyOutbox = (): Promise<unknown> =>
  eventually('every event is published', async () => (await countWaiting()) === 0);

const awaitBlocked = (subject: string, count: number): Promise<unknown> =>
  eventually(`${count} events of ${subject} are blocked`, async () => {
    const blocked = await countWaiting(`held AND subject = '${subject}'`);
    return blocked === count;
  });

async function brokerCheck(): Promise<{ status: string; message?: string }> {
  const { body } = await app.call('GET', '/health/ready');
  return body.checks.broker;
}

async function metric(name: string): Promise<number> {
  const { text } = await app.call('GET', '/metrics');
  return Number(new RegExp(`^${name} (.+)$`, 'm').exec(text)?.[1]);
}

async function actOn(orderId: string, action: string, token: string): Promise<void> {
  const { status, text } = await app.call('POST', `/v1/orders/${orderId}/${action}`, {
    token,
    body: {},
  });
  if (status !== 200) throw new Error(`${action}: ${status} ${text}`);
}

const newSubject = (): string => `tests/${randomUUID()}`;

/** Appends events without a request. @returns their ids */
async function append(
  subject: string,
  versions: readonly number[],
  { type = 'test.made', data = {} }: { type?: string; data?: object } = {},
): Promise<string[]> {
  const ids: string[] = [];
  for (const version of versions) {
    const id = randomUUID();
    await psql.query('INSERT INTO outbox (id, type, subject, data) VALUES ($1, $2, $3, $4)', [
      id,
      type,
      subject,
      { version, ...data },
    ]);
    ids.push(id);
  }
  return ids;
}

/** Runs `holdfast outbox …` as an operator does. @returns its standard output */
async function holdfastOutbox(...words: string[]): Promise<string> {
  const env = { PATH: process.env.PATH, DATABASE_URL: app.databaseUrl };
  const program = join(compiled.folder, 'src/cli/main.js');
  const args = [program, 'outbox', ...words];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env });
  return stdout;
}

/** The examples of `data` in docs/reference/events.md, by type. */
function documentedData(): Record<string, unknown> {
  const page = readFileSync(new URL('docs/reference/events.md', REPOSITORY), 'utf8');
  const examples = [...page.matchAll(/^```json\n(.*?)^```/gms)].map(
    ([, json = '']) => JSON.parse(json) as Record<string, unknown>,
  );
  return examples.find((example) => 'order.placed' in example) ?? {};
}

/** The names of the members and the types of their values. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return 'array';
  if (value === null) return null;
  if (typeof value !== 'object') return typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, shapeOf(member)]));
}

describeWithRabbitmq('the relay', () => {
  beforeAll(async () => {
    const config = [`max_message_size = ${MAX_MESSAGE_BYTES}`];
    [rabbitmq, compiled] = await Promise.all([startRabbitmq(config), compile()]);
    app = await startApp({ RABBITMQ_URL: rabbitmq.url });
    psql = new Client({ connectionString: app.databaseUrl });
    await psql.connect();
    user = await registerUser(app);
    // Where RabbitMQ must be installed first, that takes minutes.
  }, 400_000);

  beforeEach(awaitIdleRelay);

  afterEach(async () => {
    await Promise.all(openQueues.splice(0).map((queue) => queue.remove()));
  });

  afterAll(async () => {
    await psql?.end();
    await app?.close();
    await rabbitmq?.stop();
    await compiled?.remove();
  });

  /** Removes what a failed test has left behind, and waits for the connection. */
  async function awaitIdleRelay(): Promise<void> {
    await psql.query('DELETE FROM outbox WHERE held');
    await eventually('the broker is connected', async () => {
      const { status } = await brokerCheck();
      return status === 'up';
    });
    await awaitEmptyOutbox();
  }

  describe('while a user and three orders change', () => {
    const NEW_PASSWORD = 'another nine tall ships';
    const NOTE = 'ring twice';
    let userId: string;
    let refunded: { id: string };
    let changed: { id: string };
    let cancelled: { id: string };
    let written: readonly OutboxRow[];
    let queue: TestQueue;
    /** Texts that no event may contain. */
    let secrets: readonly string[];

    beforeAll(async () => {
      await awaitIdleRelay();
      queue = await consumeAll('#');
      const { rows: started } = await psql.query<{ now: Date }>('SELECT clock_timestamp() AS now');
      const admin = await logInAsAdmin(app);
      const { id, token, username, email } = await registerUser(app);
      userId = id;
      const newUsername = `n${username}`;
      await app.call('PATCH', `/v1/users/${id}`, {
        token,
        body: { username: newUsername },
        headers: { 'If-Match': '"1"' },
      });
      await app.call('PUT', `/v1/users/${id}/roles`, {
        token: admin,
        body: { roles: ['user', 'support'] },
      });
      await app.call('PUT', `/v1/users/${id}/password`, {
        token,
        body: { currentPassword: PASSWORD, newPassword: NEW_PASSWORD },
      });
      refunded = await placeOrder(app, token, { ...ORDER, note: NOTE });
      await actOn(refunded.id, 'pay', token);
      for (const action of ['ship', 'deliver', 'refund']) {
        await actOn(refunded.id, action, admin);
      }
      changed = await placeOrder(app, token);
      await app.call('PATCH', `/v1/orders/${changed.id}`, {
        token,
        body: { note: 'x' },
        headers: { 'If-Match': '"1"' },
      });
      cancelled = await placeOrder(app, token);
      await actOn(cancelled.id, 'cancel', token);
      const { rows: hashes } = await psql.query<{ hash: string }>(
        'SELECT password_hash AS hash FROM credentials UNION SELECT token_hash FROM sessions',
      );
      const readArrived = async (): Promise<OutboxRow[]> => {
        const { rows } = await psql.query<OutboxRow>(
          `SELECT id, type, subject, data, occurred_at FROM outbox
            WHERE occurred_at >= $1 ORDER BY position`,
          [started[0]?.now],
        );
        await eventually('every event has arrived', () => {
          const arrived = new Set(queue.arrivals.map(({ event }) => event.id));
          return rows.every(({ id: eventId }) => arrived.has(eventId));
        });
        return rows;
      };
      // As published: the deletion reduces the user's events to their versions.
      const published = new Map((await readArrived()).map((row) => [row.id, row]));
      await app.call('DELETE', `/v1/users/${id}`, { token });
      written = (await readArrived()).map((row) => published.get(row.id) ?? row);
      secrets = [
        ...[PASSWORD, NEW_PASSWORD, token, admin, email, newUsername, NOTE],
        ...['hf_', '$argon2', '127.0.0.1'],
        ...hashes.map(({ hash }) => hash),
      ];
    });

    it('publishes every event of the user in the order of the changes', () => {
      const events = queue.eventsOf(`users/${userId}`);

      expect(events.map(({ type, data }) => [type, data.version])).toEqual([
        ['user.registered', 1],
        ['user.changed', 2],
        ['user.roles-changed', 3],
        ['user.password-changed', 3],
        ['user.deleted', 4],
      ]);
    });

    it('publishes every event of an order in the order of its versions', () => {
      const historyOf = ({ id }: { id: string }): unknown[] =>
        queue.eventsOf(`orders/${id}`).map(({ type, data }) => [type, data.version]);

      expect([historyOf(refunded), historyOf(changed), historyOf(cancelled)]).toEqual([
        [
          ['order.placed', 1],
          ['order.paid', 2],
          ['order.shipped', 3],
          ['order.delivered', 4],
          ['order.refunded', 5],
        ],
        [
          ['order.placed', 1],
          ['order.changed', 2],
        ],
        [
          ['order.placed', 1],
          ['order.cancelled', 2],
        ],
      ]);
    });

    it('publishes each row of the outbox as a CloudEvent, and nothing else', () => {
      const rowsById = new Map(written.map((row) => [row.id, row]));
      const expected = queue.arrivals.map(({ event }) => {
        const row = rowsById.get(event.id);
        return {
          specversion: '1.0',
          id: row?.id,
          source: '/holdfast',
          type: row?.type,
          subject: row?.subject,
          time: row?.occurred_at.toISOString(),
          datacontenttype: 'application/json',
          data: row?.data,
        };
      });

      expect(queue.arrivals.map(({ event }) => event)).toEqual(expected);
      expect(expected.map(({ data }) => data?.version)).toEqual(
        expected.map(() => expect.any(Number)),
      );
    });

    it('sends persistent messages whose properties and routing key name the event', () => {
      const properties = queue.arrivals.map(({ message }) => ({
        exchange: message.fields.exchange,
        routingKey: message.fields.routingKey,
        contentType: message.properties.contentType,
        deliveryMode: message.properties.deliveryMode,
        messageId: message.properties.messageId,
        type: message.properties.type,
      }));

      expect(properties).toEqual(
        queue.arrivals.map(({ event }) => ({
          exchange: EXCHANGE,
          routingKey: event.type,
          contentType: 'application/cloudevents+json',
          deliveryMode: 2,
          messageId: event.id,
          type: event.type,
        })),
      );
    });

    it('publishes the types and the data that docs/reference/events.md documents', () => {
      const examples = documentedData();
      const types = new Set(queue.arrivals.map(({ event }) => event.type));
      const undocumented = queue.arrivals.filter(({ event }) => {
        const documented = shapeOf(examples[event.type]);
        return !isDeepStrictEqual(shapeOf(event.data), documented);
      });

      expect([...types].sort()).toEqual(Object.keys(examples).sort());
      expect(undocumented.map(({ event }) => event)).toEqual([]);
    });

    it('publishes no password, token, hash, address or text of the user', () => {
      const contents = queue.arrivals.map(({ message }) => message.content.toString()).join('\n');

      expect(secrets.length).toBeGreaterThan(11);
      expect(secrets.filter((secret) => contents.includes(secret))).toEqual([]);
    });
  });

  it('publishes the trace of the request as an attribute and as a header', async () => {
    const queue = await consumeAll('order.placed');
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

    const { body: order } = await app.call('POST', '/v1/orders', {
      token: user.token,
      body: ORDER,
      headers: { 'Idempotency-Key': randomUUID(), traceparent },
    });
    await eventually('the event has arrived', () => queue.eventsOf(`orders/${order.id}`).length);

    const [arrival] = queue.arrivals;
    expect(arrival?.event.traceparent).toBe(traceparent);
    expect(arrival?.message.properties.headers).toEqual({ traceparent });
  });

  it('publishes no trace when the request had an invalid traceparent', async () => {
    const queue = await consumeAll('order.placed');

    const { body: order } = await app.call('POST', '/v1/orders', {
      token: user.token,
      body: ORDER,
      headers: { 'Idempotency-Key': randomUUID(), traceparent: '00-nonsense-01' },
    });
    await eventually('the event has arrived', () => queue.eventsOf(`orders/${order.id}`).length);

    const [arrival] = queue.arrivals;
    expect(arrival?.event).not.toHaveProperty('traceparent');
    expect(arrival?.message.properties.headers).toEqual({});
  });

  it('counts an event that no queue is bound for, and treats it as published', async () => {
    const before = await metric('holdfast_outbox_unroutable_total');

    await append(newSubject(), [1], { type: 'nobody.listens' });
    await awaitEmptyOutbox();

    expect(await metric('holdfast_outbox_unroutable_total')).toBe(before + 1);
  });

  describe('when the broker blocks publishers and is then killed', () => {
    it('keeps the events, reports the state, and publishes them after the restart', async () => {
      let blockedCheck: Awaited<ReturnType<typeof brokerCheck>>;
      let waitingWhileBlocked: number;
      let oldestWhileBlocked: number;
      await rabbitmq.restart(MEMORY_ALARM);
      try {
        await append(newSubject(), [1]);
        await eventually('the broker blocks', async () => {
          const { message } = await brokerCheck();
          return message?.includes('alarm');
        });
        blockedCheck = await brokerCheck();
        const order = await placeOrder(app, user.token);
        waitingWhileBlocked = await countWaiting(`subject = 'orders/${order.id}'`);
        oldestWhileBlocked = await metric('holdfast_outbox_oldest_seconds');
        await rabbitmq.kill();
        await eventually('the broker is unreachable', async () => {
          const { message } = await brokerCheck();
          return message?.includes('unreachable');
        });
        await placeOrder(app, user.token);
      } finally {
        await rabbitmq.restart();
      }
      await awaitEmptyOutbox();

      expect(blockedCheck.status).toBe('degraded');
      expect(waitingWhileBlocked).toBe(1);
      expect(oldestWhileBlocked).toBeGreaterThan(0);
      expect(await brokerCheck()).toEqual({ status: 'up' });
      expect(await metric('holdfast_outbox_oldest_seconds')).toBe(0);
    });
  });

  describe('when the broker hangs', () => {
    it('delays no request, and publishes every event when the broker answers again', async () => {
      const queue = await TestQueue.bind('order.#');
      const orderIds: string[] = [];
      let readiness: number;
      rabbitmq.pause();
      try {
        // The broker cannot answer: a request that waited for it would never end.
        for (let count = 0; count < 20; count++) {
          const { id } = await placeOrder(app, user.token);
          orderIds.push(id);
        }
        await eventually('the broker is degraded', async () => {
          const { status } = await brokerCheck();
          return status === 'degraded';
        });
        readiness = (await app.call('GET', '/health/ready')).status;
      } finally {
        rabbitmq.resume();
      }
      await queue.consume();
      await awaitEmptyOutbox();

      expect(readiness).toBe(200);
      await eventually('every event has arrived', () =>
        orderIds.every((id) => queue.eventsOf(`orders/${id}`).length > 0),
      );
    });
  });

  describe('when the broker rejects an event', () => {
    it('with basic.nack → blocks its subject alone, and retries until it succeeds', async () => {
      const queue = await consumeAll('test.*');
      const fullQueue = await TestQueue.bind('test.limited', {
        maxLength: 1,
        arguments: { 'x-overflow': 'reject-publish' },
      });
      const [subject, otherSubject] = [newSubject(), newSubject()];
      await append(newSubject(), [1], { type: 'test.limited' });
      await awaitEmptyOutbox();

      await append(subject, [1], { type: 'test.limited' });
      await append(subject, [2, 3]);
      await append(otherSubject, [1, 2, 3]);
      await eventually('the other subject has arrived', () =>
        isDeepStrictEqual(queue.versionsOf(otherSubject), [1, 2, 3]),
      );
      await awaitBlocked(subject, 3);
      await append(subject, [4]);
      await awaitBlocked(subject, 4);
      const blockedSubjects = await metric('holdfast_outbox_held_subjects');
      // Perhaps version 1: the broker rejects a message that one of its queues does not accept, and
      // delivers it to the others.
      const versionsWhileBlocked = queue.versionsOf(subject);
      await fullQueue.purge();
      await eventually('the subject has arrived', () => queue.versionsOf(subject).length === 4);
      await awaitEmptyOutbox();

      expect(blockedSubjects).toBe(1);
      expect(versionsWhileBlocked.filter((version) => version !== 1)).toEqual([]);
      expect(queue.versionsOf(subject)).toEqual([1, 2, 3, 4]);
      expect(await metric('holdfast_outbox_held_subjects')).toBe(0);
    });

    it.each([
      ['too large for the relay', 80_000, /80\d\d\d bytes/],
      ['too large for the broker, which closes the channel', 45_000, /PRECONDITION_FAILED/],
    ])('because it is %s → blocks its subject alone, until requeued', async (_, bytes, reason) => {
      const queue = await consumeAll('test.*');
      const subject = newSubject();
      const otherSubjects = Array.from({ length: 50 }, newSubject);

      await append(subject, [1]);
      const [id = ''] = await append(subject, [2], { data: { text: 'x'.repeat(bytes) } });
      await append(subject, [3]);
      for (const otherSubject of otherSubjects) await append(otherSubject, [1, 2]);
      await eventually('the other subjects have arrived', () =>
        otherSubjects.every((otherSubject) => queue.versionsOf(otherSubject).length === 2),
      );
      await awaitBlocked(subject, 2);
      const { rows: parked } = await psql.query(
        `SELECT id, last_error FROM outbox WHERE subject = $1 AND retry_at = 'infinity'`,
        [subject],
      );
      const blockedSubjects = await metric('holdfast_outbox_held_subjects');
      const listed = await holdfastOutbox('list');
      await psql.query(`UPDATE outbox SET data = data - 'text' WHERE subject = $1`, [subject]);
      await holdfastOutbox('requeue', id);
      await eventually('the subject has arrived', () => queue.versionsOf(subject).length === 3);
      await awaitEmptyOutbox();

      expect(parked).toEqual([{ id, last_error: expect.stringMatching(reason) }]);
      expect(blockedSubjects).toBe(1);
      expect(listed).toContain(`${id}  test.made of ${subject}`);
      expect(listed).toMatch(/1 queued behind it; rejected 1 times, waits for requeue or skip: /);
      expect(listed).toMatch(reason);
      expect(queue.versionsOf(subject)).toEqual([1, 2, 3]);
    });

    it('that an operator skips → continues with the later events of its subject', async () => {
      const queue = await consumeAll('test.*');
      const subject = newSubject();

      await append(subject, [1]);
      const [tooLarge = ''] = await append(subject, [2], { data: { text: 'x'.repeat(80_000) } });
      const [next = ''] = await append(subject, [3, 4]);
      await awaitBlocked(subject, 3);
      await expect(holdfastOutbox('skip', next)).rejects.toThrow(
        `no rejected event has the id ${next}`,
      );
      await holdfastOutbox('skip', tooLarge);
      await awaitEmptyOutbox();

      await eventually('the subject has arrived', () => queue.versionsOf(subject).length === 3);
      expect(queue.versionsOf(subject)).toEqual([1, 3, 4]);
    });
  });

  describe('when its node stops', () => {
    it('waits for the confirms of sent events and settles them: none is sent again', async () => {
      const EVENTS = 8_000;
      const queue = await TestQueue.bind('stop.#');
      const database = await createTestDatabase();
      const client = new Client({ connectionString: database.url });
      await client.connect();
      // 40 subjects, 200 events each: with this delay no node publishes them all before it stops.
      const link = await TcpProxy.start(rabbitmq.port);
      link.setDelay(100, 0);
      const url = new URL(rabbitmq.url);
      url.port = String(link.port);
      try {
        const env = { RABBITMQ_URL: url.href, SHUTDOWN_GRACE_SECONDS: '60' };
        const node = await startApp(env, database.url);
        await client.query(
          `INSERT INTO outbox (id, type, subject, data)
           SELECT gen_random_uuid(), 'stop.test', 'tests/' || n % 40, '{"version": 1}'
             FROM generate_series(1, $1) AS n`,
          [EVENTS],
        );
        await eventually('some events have arrived', () => queue.countMessages());
        await node.close();

        const published = EVENTS - (await countWaiting(`type = 'stop.test'`, client));
        expect(published).toBeGreaterThan(0);
        expect(published).toBeLessThan(EVENTS);
        expect(await queue.countMessages()).toBe(published);
      } finally {
        link.close();
        await client.end();
        await database.drop();
      }
    });
  });
});
