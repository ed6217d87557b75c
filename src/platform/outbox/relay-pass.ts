/**
 * One pass of the relay: lock each partition that has work, take a batch, publish it, settle it.
 * Invariant: an event is published only after the broker confirmed every earlier event of its
 * subject. So first arrivals are in order, even if this relay lost a partition's lock unnoticed:
 * that only causes repeats. The locks keep repeats rare.
 */
import { tracingChannel } from 'node:diagnostics_channel';
import { EventRejectedError } from './outbox-broker.js';
import {
  type BlockedEvent,
  type OutboxPartitions,
  type RejectedEvent,
  type Settlement,
  type SubjectBatch,
  type SubjectState,
  type WaitingEvent,
} from './outbox-partitions.js';
import { MAX_DATA_BYTES } from './outbox-statements.js';

/** Each publication, with the trace of the request that caused it; see telemetry/tracing.ts. */
const publications = tracingChannel<object, object>('holdfast:publish');

/** Bounds the memory of one node: it keeps one batch of each of these partitions. */
const MAX_PARTITIONS_AT_ONCE = 4;
/** Seconds until a rejected event is tried again: `min`, doubled with each attempt up to `max`. */
const RETRY_SECONDS = { min: 1, max: 300 } as const;

export interface RelayPassOptions {
  readonly partitions: OutboxPartitions;
  /**
   * Resolves when the broker has confirmed the event.
   * @throws EventRejectedError when the event is at fault; anything else when the broker is
   */
  readonly publish: (event: WaitingEvent) => Promise<void>;
  readonly onPublished: () => void;
  readonly onRejected: (event: WaitingEvent, rejection: RejectedEvent) => void;
  /** When it turns true, the pass publishes no further event, and settles what it has published. */
  readonly isStopping: () => boolean;
}

interface SubjectOutcome extends Settlement {
  /** The failure of the broker that ended the publishing early. */
  readonly failure?: unknown;
}

export class RelayPass {
  constructor(private readonly options: RelayPassOptions) {}

  /**
   * Relays one batch of each busy partition that no other relay has locked.
   * @returns whether there was such a partition
   * @throws what `publish` threw, after settling the events that were confirmed; driver errors
   */
  async run(): Promise<boolean> {
    const { partitions, isStopping } = this.options;
    const remaining = rotateAtRandom(await partitions.findBusy());
    let hasRelayed = false;
    const relayRemaining = async (): Promise<void> => {
      while (!isStopping()) {
        const partition = remaining.shift();
        if (partition === undefined) return;
        const isLocked = await partitions.lock(partition, () => this.relayBatch(partition));
        if (isLocked) hasRelayed = true;
      }
    };
    const workers = Array.from({ length: MAX_PARTITIONS_AT_ONCE }, relayRemaining);
    // The pass ends after the last of them: the next pass must not meet locks of this one.
    const results = await Promise.allSettled(workers);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
    partitions.progress.recordPass();
    return hasRelayed;
  }

  private async relayBatch(partition: number): Promise<void> {
    const { partitions } = this.options;
    const batch = await partitions.take(partition);
    const outcomes = await Promise.all(batch.map((part) => this.publishSubject(part)));
    await partitions.settle({
      published: outcomes.flatMap(({ published }) => published),
      rejected: outcomes.flatMap(({ rejected }) => rejected),
      blocked: outcomes.flatMap(({ blocked }) => blocked),
    });
    const interrupted = outcomes.find(({ failure }) => failure !== undefined);
    if (interrupted) throw interrupted.failure;
  }

  /** Publishes one event after the other, up to the first that the broker does not confirm. */
  private async publishSubject({ state, events, queued }: SubjectBatch): Promise<SubjectOutcome> {
    const published: string[] = [];
    for (const event of events) {
      if (this.options.isStopping()) break;
      try {
        await this.publishTraced(event);
      } catch (error) {
        const later = [...events.slice(published.length + 1), ...queued];
        if (error instanceof EventRejectedError) {
          return { published, rejected: [this.reject(event, error)], blocked: queueBehind(later) };
        }
        const blocked = stillBlocked(state, [event, ...later]);
        return { published, rejected: [], blocked, failure: error };
      }
      published.push(event.position);
      this.options.onPublished();
    }
    const unpublished = [...events.slice(published.length), ...queued];
    return { published, rejected: [], blocked: stillBlocked(state, unpublished) };
  }

  private async publishTraced(event: WaitingEvent): Promise<void> {
    const { publish } = this.options;
    if (event.dataBytes > MAX_DATA_BYTES) {
      const reason = `the data has ${event.dataBytes} bytes as JSON, more than ${MAX_DATA_BYTES}`;
      throw new EventRejectedError(reason, { isPermanent: true });
    }
    if (!publications.start.hasSubscribers) return publish(event);
    const { type: operation, traceParent } = event;
    await publications.tracePromise(() => publish(event), { operation, traceParent });
  }

  private reject(event: WaitingEvent, { message, isPermanent }: EventRejectedError): RejectedEvent {
    const retrySeconds = isPermanent ? null : retryDelay(event.attempts);
    const rejection = { position: event.position, retrySeconds, error: message };
    this.options.onRejected(event, rejection);
    return rejection;
  }
}

/**
 * The events of a subject that this pass leaves unpublished without a rejection. Those of a free
 * subject stay as they are.
 */
function stillBlocked(state: SubjectState, events: readonly WaitingEvent[]): BlockedEvent[] {
  if (state === 'free') return [];
  const [first, ...later] = events;
  if (state === 'blocked' || !first) return queueBehind(events);
  return [{ position: first.position, isDue: true }, ...queueBehind(later)];
}

const queueBehind = (events: readonly WaitingEvent[]): BlockedEvent[] =>
  events.map(({ position }) => ({ position, isDue: false }));

/** Seconds, a quarter more or less at random: events rejected together are not retried together. */
function retryDelay(attempts: number): number {
  const seconds = Math.min(RETRY_SECONDS.min * 2 ** attempts, RETRY_SECONDS.max);
  return seconds * (0.75 + Math.random() / 2);
}

/** Two relays that find the same partitions begin with different ones. */
function rotateAtRandom(partitions: readonly number[]): number[] {
  const first = Math.floor(Math.random() * partitions.length);
  return [...partitions.slice(first), ...partitions.slice(0, first)];
}
