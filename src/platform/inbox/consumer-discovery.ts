/** Finds the consumers of this service: the methods of its providers that have `@OnEvent`. */
import type { DiscoveryService, MetadataScanner } from '@nestjs/core';
import { type EventHandler, type Subscription, subscriptionOf } from './on-event.decorator.js';

export interface Consumer extends Subscription {
  readonly handle: EventHandler;
}

/**
 * @returns the consumers by name
 * @throws Error when two methods use the same consumer name
 */
export function discoverConsumers(
  discovery: DiscoveryService,
  scanner: MetadataScanner,
): ReadonlyMap<string, Consumer> {
  const consumers = new Map<string, Consumer>();
  for (const { instance } of discovery.getProviders() as { instance?: unknown }[]) {
    for (const consumer of consumersOf(instance, scanner)) {
      if (consumers.has(consumer.consumer)) {
        throw new Error(`Two @OnEvent methods use the consumer name "${consumer.consumer}"`);
      }
      consumers.set(consumer.consumer, consumer);
    }
  }
  return consumers;
}

/** @param instance of a provider; anything else has no consumers */
function consumersOf(instance: unknown, scanner: MetadataScanner): Consumer[] {
  if (typeof instance !== 'object' || instance === null) return [];
  const prototype = Object.getPrototypeOf(instance) as Record<string, unknown> | null;
  if (prototype === null) return [];
  return scanner.getAllMethodNames(prototype).flatMap((name) => {
    const method = prototype[name];
    if (typeof method !== 'function') return [];
    const subscription = subscriptionOf(method);
    if (!subscription) return [];
    return [{ ...subscription, handle: (method as EventHandler).bind(instance) }];
  });
}
