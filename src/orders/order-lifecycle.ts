/**
 * An order's life as data: every action, the state it starts from, the state it ends in, who may take it there, and the
 * event that tells of it. The routes, the service, the projection, the 409's `allowed`, the OpenAPI text, the CHECK on the
 * column, the diagram in docs/orders.md and an exhaustive test all read this table; a start with a table that is none fails.
 */
import type { Actor } from '../http/actor.js';

export const ORDER_STATUSES = [
  'placed',
  'paid',
  'shipped',
  'delivered',
  'cancelled',
  'refunded',
] as const;
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

/** The state that an order begins in. */
export const INITIAL: OrderStatus = 'placed';

/** The state in which items and note may still change. */
export const EDITABLE: OrderStatus = 'placed';

/** The event that every order begins with, and the one of a change, which is no step. */
export const ORDER_PLACED = 'order.placed';
export const ORDER_CHANGED = 'order.changed';

/**
 * What is wrong with a table: states that are unknown or out of reach, actions that never happen or lead to two places, events
 * from whose name the projection cannot tell the state.
 */
export function faultsOfLifecycle(transitions: readonly Transition[]): string[] {
  const faults: string[] = [];
  const states: readonly string[] = ORDER_STATUSES;
  const reached = new Set<OrderStatus>([INITIAL]);
  // A set grows while it is walked.
  for (const state of reached)
    for (const step of transitions) if (step.from === state) reached.add(step.to);
  for (const state of ORDER_STATUSES)
    if (!reached.has(state)) faults.push(`no way leads to "${state}"`);
  for (const action of ORDER_ACTIONS)
    if (!transitions.some((step) => step.action === action))
      faults.push(`"${action}" is never possible`);

  const ends = new Map<string, OrderStatus>([
    [ORDER_PLACED, INITIAL],
    [ORDER_CHANGED, EDITABLE],
  ]);
  const starts = new Set<string>();
  for (const { action, from, to, by, event } of transitions) {
    for (const state of [from, to])
      if (!states.includes(state)) faults.push(`"${state}" is no state`);
    if (!ORDER_ACTIONS.includes(action)) faults.push(`"${action}" is no action`);
    const start = `"${action}" from "${from}" by ${by}`;
    if (starts.has(start)) faults.push(`${start} is there twice`);
    starts.add(start);
    if (event === ORDER_PLACED || event === ORDER_CHANGED || (ends.get(event) ?? to) !== to)
      faults.push(`"${event}" does not tell one state`);
    ends.set(event, to);
  }
  return [...new Set(faults)];
}

const isParty = (actor: Actor, ownerId: string, party: Party): boolean =>
  party === 'owner' ? actor.userId === ownerId : actor.roles.includes('admin');

/** What this actor may do with an order in this state. */
export function allowedActions(
  actor: Actor,
  order: { userId: string; status: OrderStatus },
): OrderAction[] {
  const open = TRANSITIONS.filter(
    ({ from, by }) => from === order.status && isParty(actor, order.userId, by),
  );
  return [...new Set(open.map(({ action }) => action))];
}

/** The step that this action is for this actor now; undefined when it is none. */
export function transitionOf(
  actor: Actor,
  order: { userId: string; status: OrderStatus },
  action: OrderAction,
): Transition | undefined {
  return TRANSITIONS.find(
    (step) =>
      step.action === action && step.from === order.status && isParty(actor, order.userId, step.by),
  );
}

/** Whether there is any state in which this actor may take this action: otherwise a role is lacking. */
export const mayEver = (actor: Actor, ownerId: string, action: OrderAction): boolean =>
  TRANSITIONS.some((step) => step.action === action && isParty(actor, ownerId, step.by));
