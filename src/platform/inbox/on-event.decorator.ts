/**
 * `@OnEvent(...)` subscribes a provider's method to events. consumer-discovery.ts finds these
 * methods when the application starts.
 */
import 'reflect-metadata';
import type { EntityManager } from 'typeorm';

/** The event as it is in the outbox. */
export interface ConsumedEvent {
  readonly eventId: string;
  readonly type: string;
  readonly subject: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly occurredAt: Date;
}

/**
 * What a handler writes through `manager` is committed together with the mark that the event is
 * handled: both or neither, exactly once. Anything else that it does may happen again. When it
 * throws, the error is stored with the event, and the handler gets the event again later. A handler
 * that takes longer than its timeout has failed too: `signal` is aborted, its transaction is rolled
 * back, and `manager` rejects each further call.
 */
export type EventHandler = (
  event: ConsumedEvent,
  manager: EntityManager,
  signal: AbortSignal,
) => Promise<void>;

export interface HandlerOptions {
  /** Milliseconds that the handler may take; 5 s by default. Other events wait meanwhile. */
  readonly timeoutMs?: number;
}

export interface Subscription extends HandlerOptions {
  /** The consumer's name. It must never change: the database records under it what was handled. */
  readonly consumer: string;
  /** The beginning of the event types that the consumer gets, e.g. `order.`. */
  readonly prefix: string;
}

const METADATA_KEY = Symbol('holdfast:on-event');

/**
 * Delivers each event whose type begins with `prefix` to this method: once, in order within one
 * subject, and on one node at a time. A new consumer gets the events that are written after its
 * first start.
 */
export const OnEvent =
  (consumer: string, prefix: string, options: HandlerOptions = {}) =>
  <H extends EventHandler>(
    _target: object,
    _name: string,
    descriptor: TypedPropertyDescriptor<H>,
  ): void => {
    const subscription: Subscription = { consumer, prefix, ...options };
    Reflect.defineMetadata(METADATA_KEY, subscription, descriptor.value as EventHandler);
  };

/** @returns undefined for a method without `@OnEvent` */
export const subscriptionOf = (method: object): Subscription | undefined =>
  Reflect.getMetadata(METADATA_KEY, method) as Subscription | undefined;
