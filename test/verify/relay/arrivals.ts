/**
 * What reached a queue that is bound to every event. audit.ts compares the arrivals with the
 * outbox; this file compares the outbox with `order_events`, which no relay writes.
 */
import { connect } from 'amqplib';
import type { Client } from 'pg';
import type { CloudEvent } from '../../../src/platform/outbox/cloud-event.js';
import { EXCHANGE } from '../../../src/platform/outbox/outbox-broker.js';
import { eventually } from '../../support/eventually.js';
import type { RabbitmqServer } from '../../support/rabbitmq.js';
import { audit, type Verdict, type WrittenEvent } from './audit.js';

const QUEUE = 'arrivals';
const DRAIN_TIMEOUT_MS = 120_000;

/** Events of orders that are only in `order_events` or only in the outbox. */
const UNMATCHED_EVENTS = `
  WITH
  recorded AS (
    SELECT 'orders/' || order_id AS subject, version, type FROM order_events),
  appended AS (
    SELECT subject, (data ->> 'version')::bigint AS version, type
      FROM outbox WHERE subject LIKE 'orders/%')
  SELECT FROM recorded FULL JOIN appended USING (subject, version, type)
   WHERE recorded.* IS NULL OR appended.* IS NULL`;

export interface Arrivals extends Verdict {
  /**
   * Number of events that are only in `order_events` or only in the outbox, and of first arrivals
   * that do not have the next version of their order.
   */
  readonly unmatched: number;
  /** From the call until the outbox was empty. */
  readonly drainSeconds: number;
}

/** Creates the queue. To be called before the first event: without a queue, events are lost. */
export async function bindArrivalsQueue(rabbitmq: RabbitmqServer): Promise<void> {
  const connection = await connect(rabbitmq.url);
  const channel = await connection.createChannel();
  await channel.assertExchange(EXCHANGE, 'topic', { durable: true });
  await channel.assertQueue(QUEUE, { durable: true });
  await channel.bindQueue(QUEUE, EXCHANGE, '#');
  await connection.close();
}

/**
 * Waits until every event is published, judges what is in the queue, and removes the queue.
 * @throws Error when events still wait after two minutes
 */
export async function judgeArrivals(database: Client, rabbitmq: RabbitmqServer): Promise<Arrivals> {
  const startedAt = performance.now();
  await awaitEmptyOutbox(database);
  const drainSeconds = (performance.now() - startedAt) / 1_000;
  const arrived = await takeAll(rabbitmq);
  const { rows: written } = await database.query<WrittenEvent>(
    'SELECT id, subject FROM outbox ORDER BY position',
  );
  const { rows: unmatchedEvents } = await database.query(UNMATCHED_EVENTS);
  const verdict = audit(
    written,
    arrived.map(({ id }) => id),
  );
  const unmatched = unmatchedEvents.length + countVersionGaps(arrived);
  return { ...verdict, unmatched, drainSeconds };
}

/** Waits until no event waits for a relay. */
export async function awaitEmptyOutbox(database: Client): Promise<void> {
  const hasNoneWaiting = async (): Promise<boolean> => {
    const { rowCount } = await database.query(
      'SELECT FROM outbox WHERE published_at IS NULL LIMIT 1',
    );
    return rowCount === 0;
  };
  await eventually('every event is published', hasNoneWaiting, DRAIN_TIMEOUT_MS);
}

/** Every event in the queue, in the order of arrival. */
async function takeAll(rabbitmq: RabbitmqServer): Promise<CloudEvent[]> {
  const connection = await connect(rabbitmq.url);
  const channel = await connection.createChannel();
  const { messageCount } = await channel.checkQueue(QUEUE);
  const events: CloudEvent[] = [];
  const onMessage = (message: { content: Buffer } | null): void => {
    if (message) events.push(JSON.parse(message.content.toString()) as CloudEvent);
  };
  await channel.consume(QUEUE, onMessage, { noAck: true });
  await eventually('every message is consumed', () => events.length >= messageCount);
  await channel.deleteQueue(QUEUE);
  await connection.close();
  return events;
}

/** The order once more, as consumers see it: the versions of an order arrive as 1, 2, 3 … */
function countVersionGaps(arrived: readonly CloudEvent[]): number {
  const latestVersion = new Map<string, number>();
  const seen = new Set<string>();
  let gaps = 0;
  for (const { id, subject, data } of arrived) {
    const isFirstArrival = !seen.has(id);
    if (subject.startsWith('orders/') && isFirstArrival) {
      seen.add(id);
      const expected = (latestVersion.get(subject) ?? 0) + 1;
      if (data.version !== expected) gaps++;
      latestVersion.set(subject, data.version as number);
    }
  }
  return gaps;
}
