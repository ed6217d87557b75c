/**
 * An order's life as data: every action, the state it starts from, the state it ends in, who may take it there, and the
 * event that tells of it. The service, the policy of the routes, the 409's `allowed`, the OpenAPI text, the diagram in
 * docs/orders.md and an exhaustive test all read this table.
 */
import type { Actor } from '../http/actor.js';

export const ORDER_STATUSES = ['placed', 'paid', 'shipped', 'delivered', 'cancelled', 'refunded'] as const;
export type OrderStatus = (typeof ORDER_STATUSES)[number];

export const ORDER_ACTIONS = ['pay', 'ship', 'deliver', 'cancel', 'refund'] as const;
export type OrderAction = (typeof ORDER_ACTIONS)[number];

/** In which relation to the order an actor acts. */
export type Party = 'owner' | 'admin';

export interface Transition {
  readonly action: OrderAction;
  readonly from: OrderStatus;
  readonly to: OrderStatus;
  readonly by: Party;
  readonly event: string;
}

export const TRANSITIONS: readonly Transition[] = [
  { action: 'pay', from: 'placed', to: 'paid', by: 'owner', event: 'order.paid' },
  { action: 'ship', from: 'paid', to: 'shipped', by: 'admin', event: 'order.shipped' },
  { action: 'deliver', from: 'shipped', to: 'delivered', by: 'admin', event: 'order.delivered' },
  { action: 'cancel', from: 'placed', to: 'cancelled', by: 'owner', event: 'order.cancelled' },
  { action: 'cancel', from: 'paid', to: 'cancelled', by: 'admin', event: 'order.cancelled' },
  { action: 'refund', from: 'delivered', to: 'refunded', by: 'admin', event: 'order.refunded' },
];

/** The state in which items and note may still change. */
export const EDITABLE: OrderStatus = 'placed';

const isParty = (actor: Actor, ownerId: string, party: Party): boolean =>
  party === 'owner' ? actor.userId === ownerId : actor.roles.includes('admin');

/** What this actor may do with an order in this state. */
export function allowedActions(actor: Actor, order: { userId: string; status: OrderStatus }): OrderAction[] {
  const open = TRANSITIONS.filter(({ from, by }) => from === order.status && isParty(actor, order.userId, by));
  return [...new Set(open.map(({ action }) => action))];
}

/** The step that this action is for this actor now; undefined when it is none. */
export function transitionOf(
  actor: Actor,
  order: { userId: string; status: OrderStatus },
  action: OrderAction,
): Transition | undefined {
  return TRANSITIONS.find(
    (step) => step.action === action && step.from === order.status && isParty(actor, order.userId, step.by),
  );
}

/** Whether there is any state in which this actor may take this action: otherwise a role is lacking. */
export const mayEver = (actor: Actor, ownerId: string, action: OrderAction): boolean =>
  TRANSITIONS.some((step) => step.action === action && isParty(actor, ownerId, step.by));
