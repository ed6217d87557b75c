/** `@OnEvent(...)` says on a provider's method which events it handles; inbox.service.ts finds them at boot. */
import 'reflect-metadata';
import type { EntityManager } from 'typeorm';

/** What a handler is given: the event as it stands in the outbox. */
export interface ConsumedEvent {
  readonly eventId: string;
  readonly type: string;
  readonly subject: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly occurredAt: Date;
}

/**
 * What it does through `manager` is committed with the note that the event is handled: both or neither, once. Anything else
 * that it did could happen again. What it throws is kept with the event, which it gets again later.
 */
export type EventHandler = (event: ConsumedEvent, manager: EntityManager) => Promise<void>;

export interface Subscription {
  /** The consumer's name, for ever: under it stands what it has handled. */
  readonly consumer: string;
  /** What the types begin with, e.g. `order.`. */
  readonly prefix: string;
}

const METADATA = Symbol('holdfast:on-event');

/**
 * Gives each event whose type begins with `prefix` to this method: once, those of one subject in their order, by one node at a
 * time. A new consumer is given what is told of from its first start on.
 */
export const OnEvent =
  (consumer: string, prefix: string) =>
  (_target: object, _name: string, descriptor: TypedPropertyDescriptor<EventHandler>): void =>
    Reflect.defineMetadata(
      METADATA,
      { consumer, prefix } satisfies Subscription,
      descriptor.value as EventHandler,
    );

export const subscriptionOf = (method: object): Subscription | undefined =>
  Reflect.getMetadata(METADATA, method) as Subscription | undefined;
