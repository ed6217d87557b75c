/**
 * What reached a queue that is bound to everything, against what was written: the judge (audit.ts) compares with the outbox, and
 * this file the outbox with order_events, which no relay touches. Asked once nothing waits any more.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'amqplib';
import type { Client } from 'pg';
import type { CloudEvent } from '../../src/outbox/cloud-event.js';
import { EXCHANGE } from '../../src/outbox/outbox.broker.js';
import type { RabbitServer } from '../support/rabbitmq.js';
import { audit, type Verdict } from './audit.js';

const QUEUE = 'arrivals';
const DRAIN_MS = 60_000;

export interface Arrivals extends Verdict {
  /** Events of order_events that are not in the outbox, or the other way round, and versions that skip one. */
  readonly astray: number;
  /** From the call until the outbox was empty. */
  readonly drainSeconds: number;
}

/** Before anything is published: what no queue is bound for is dropped. */
export async function bindQueue(rabbit: RabbitServer): Promise<void> {
  const connection = await connect(rabbit.url);
  const channel = await connection.createChannel();
  await channel.assertExchange(EXCHANGE, 'topic', { durable: true });
  await channel.assertQueue(QUEUE, { durable: true });
  await channel.bindQueue(QUEUE, EXCHANGE, '#');
  await connection.close();
}

/**
 * Waits until the outbox is empty, and judges what is in the queue, which it removes.
 * @throws Error when the outbox does not become empty within a minute
 */
export async function judgeArrivals(database: Client, rabbit: RabbitServer): Promise<Arrivals> {
  const began = performance.now();
  const waiting = 'SELECT FROM outbox WHERE published_at IS NULL LIMIT 1';
  while ((await database.query(waiting)).rowCount !== 0) {
    if (performance.now() - began > DRAIN_MS) throw new Error('the outbox does not become empty');
    await sleep(50);
  }
  const drainSeconds = (performance.now() - began) / 1000;
  const events = await collect(rabbit);
  const written = await database.query<{ id: string; subject: string }>(
    'SELECT id, subject FROM outbox ORDER BY position',
  );
  const astray = await database.query(
    `SELECT FROM (SELECT 'orders/' || order_id AS subject, version, type FROM order_events) AS recorded
       FULL JOIN (SELECT subject, (data ->> 'version')::bigint AS version, type FROM outbox WHERE subject LIKE 'orders/%') AS told
           USING (subject, version, type)
      WHERE recorded.* IS NULL OR told.* IS NULL`,
  );
  const verdict = audit(
    written.rows,
    events.map(({ id }) => id),
  );
  return { ...verdict, astray: (astray.rowCount ?? 0) + versionsOutOfOrder(events), drainSeconds };
}

/** Everything that is in the queue, in its order. */
async function collect(rabbit: RabbitServer): Promise<CloudEvent[]> {
  const connection = await connect(rabbit.url);
  const channel = await connection.createChannel();
  const { messageCount } = await channel.checkQueue(QUEUE);
  const events: CloudEvent[] = [];
  await new Promise<void>((resolve, reject) => {
    if (messageCount === 0) return resolve();
    const take = (content: Buffer): void => {
      events.push(JSON.parse(content.toString()) as CloudEvent);
      if (events.length === messageCount) resolve();
    };
    channel
      .consume(QUEUE, (message) => message && take(message.content), { noAck: true })
      .catch(reject);
  });
  await channel.deleteQueue(QUEUE);
  await connection.close();
  return events;
}

/** The same order once more, by the versions that consumers see: of an order 1, 2, 3 …, each first arrival the next. */
function versionsOutOfOrder(events: readonly CloudEvent[]): number {
  const latest = new Map<string, number>();
  const seen = new Set<string>();
  let faults = 0;
  for (const { id, subject, data } of events) {
    if (!subject.startsWith('orders/') || seen.has(id)) continue;
    seen.add(id);
    if (data.version !== (latest.get(subject) ?? 0) + 1) faults++;
    latest.set(subject, data.version as number);
  }
  return faults;
}
