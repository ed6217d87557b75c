/**
 * The life of an order as a table: each action with its start and end status, its actor and its
 * event. Read by the routes, the service, the projection, the 409's `allowed`, the OpenAPI text,
 * the CHECK on the column, docs/reference/orders.md and an exhaustive test. Startup fails when the
 * table is inconsistent.
 */
import type { Actor } from '../platform/access/actor.js';

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

/**
 * The relation of an actor to an order. An admin who owns the order is both. An operator runs the
 * command `holdfast orders`; no caller of the API is one.
 */
export type Party = 'owner' | 'admin' | 'operator';

export interface Transition {
  readonly action: OrderAction;
  readonly from: OrderStatus;
  readonly to: OrderStatus;
  readonly by: Party;
  /** Only for an order whose owner is deleted. */
  readonly ifOwnerDeleted?: true;
  readonly event: string;
}

export const TRANSITIONS: readonly Transition[] = [
  { action: 'pay', from: 'placed', to: 'paid', by: 'owner', event: 'order.paid' },
  { action: 'ship', from: 'paid', to: 'shipped', by: 'admin', event: 'order.shipped' },
  { action: 'deliver', from: 'shipped', to: 'delivered', by: 'admin', event: 'order.delivered' },
  { action: 'cancel', from: 'placed', to: 'cancelled', by: 'owner', event: 'order.cancelled' },
  {
    action: 'cancel',
    from: 'placed',
    to: 'cancelled',
    by: 'admin',
    ifOwnerDeleted: true,
    event: 'order.cancelled',
  },
  { action: 'cancel', from: 'paid', to: 'cancelled', by: 'admin', event: 'order.cancelled' },
  { action: 'refund', from: 'delivered', to: 'refunded', by: 'admin', event: 'order.refunded' },
  { action: 'refund', from: 'shipped', to: 'refunded', by: 'operator', event: 'order.refunded' },
];

/** Whether the shop has the buyer's money in this status. */
export const HOLDS_MONEY: Readonly<Record<OrderStatus, boolean>> = {
  placed: false,
  paid: true,
  shipped: true,
  delivered: true,
  cancelled: false,
  refunded: false,
};

/** The status of a new order. */
export const INITIAL_STATUS: OrderStatus = 'placed';

/** The status in which items and note may change. */
export const EDITABLE_STATUS: OrderStatus = 'placed';

/** The event of a new order. */
export const ORDER_PLACED = 'order.placed';
/** The event of a change of items or note. The status stays. */
export const ORDER_CHANGED = 'order.changed';

/** Each check of the table: the problems that it finds, one sentence each. */
const CHECKS: readonly ((transitions: readonly Transition[]) => string[])[] = [
  findUnknownWords,
  findUnreachableStatuses,
  findImpossibleActions,
  findDuplicateSteps,
  findAmbiguousEvents,
  findCycles,
  findOwnerOnlyStatuses,
  findKeptMoney,
];

/** The problems of a table of transitions; empty for a consistent one. */
export const validateLifecycle = (transitions: readonly Transition[]): string[] =>
  CHECKS.flatMap((check) => check(transitions));

function findUnknownWords(transitions: readonly Transition[]): string[] {
  const statuses: readonly string[] = ORDER_STATUSES;
  const actions: readonly string[] = ORDER_ACTIONS;
  const usedStatuses = new Set(transitions.flatMap(({ from, to }) => [from, to]));
  const usedActions = new Set(transitions.map(({ action }) => action));
  return [
    ...[...usedStatuses]
      .filter((status) => !statuses.includes(status))
      .map((status) => `"${status}" is not a status`),
    ...[...usedActions]
      .filter((action) => !actions.includes(action))
      .map((action) => `"${action}" is not an action`),
  ];
}

function findUnreachableStatuses(transitions: readonly Transition[]): string[] {
  const reachable = new Set<OrderStatus>([INITIAL_STATUS]);
  // A Set's iteration also visits the elements that are added during the iteration.
  for (const status of reachable) {
    for (const { from, to } of transitions) {
      if (from === status) reachable.add(to);
    }
  }
  return ORDER_STATUSES.filter((status) => !reachable.has(status)).map(
    (status) => `no transition leads to "${status}"`,
  );
}

function findImpossibleActions(transitions: readonly Transition[]): string[] {
  const possible = new Set(transitions.map(({ action }) => action));
  return ORDER_ACTIONS.filter((action) => !possible.has(action)).map(
    (action) => `"${action}" is never possible`,
  );
}

/** An action of one party in one status must lead to one status. */
function findDuplicateSteps(transitions: readonly Transition[]): string[] {
  const steps = transitions.map(({ action, from, by }) => `"${action}" from "${from}" by ${by}`);
  const repeated = new Set(steps.filter((step, index) => steps.indexOf(step) !== index));
  return [...repeated].map((step) => `${step} is listed twice`);
}

/** The projection derives the status from the event's type, so a type must mean one status. */
function findAmbiguousEvents(transitions: readonly Transition[]): string[] {
  const statusAfter = new Map<string, OrderStatus>();
  const ambiguous = new Set<string>();
  for (const { event, to } of transitions) {
    const isReserved = event === ORDER_PLACED || event === ORDER_CHANGED;
    const isOfAnotherStatus = (statusAfter.get(event) ?? to) !== to;
    if (isReserved || isOfAnotherStatus) ambiguous.add(event);
    statusAfter.set(event, to);
  }
  return [...ambiguous].map((event) => `"${event}" does not identify one status`);
}

/** An order that could go round would need more versions than any bound leaves it. */
function findCycles(transitions: readonly Transition[]): string[] {
  return ORDER_STATUSES.filter((status) => !Number.isFinite(longestPathFrom(status, transitions)))
    .slice(0, 1)
    .map((status) => `actions can be taken for ever from "${status}"`);
}

/**
 * The most actions that an order can still take after this status.
 * @returns Infinity when the table has a cycle there
 */
export function longestPathFrom(
  status: OrderStatus,
  transitions: readonly Transition[] = TRANSITIONS,
): number {
  const lengthAfter = (from: OrderStatus, before: readonly OrderStatus[]): number => {
    if (before.includes(from)) return Infinity;
    const next = transitions.filter((transition) => transition.from === from);
    return Math.max(0, ...next.map(({ to }) => 1 + lengthAfter(to, [...before, from])));
  };
  return lengthAfter(status, []);
}

/** Owners delete their accounts: then nobody could take the order out of such a status. */
function findOwnerOnlyStatuses(transitions: readonly Transition[]): string[] {
  return ORDER_STATUSES.filter((status) => {
    const exits = transitions.filter(({ from }) => from === status);
    return exits.length > 0 && exits.every(({ by }) => by === 'owner');
  }).map((status) => `only the owner can take an order out of "${status}"`);
}

/** One step returns the money, whatever became of the order: a parcel may never be delivered. */
function findKeptMoney(transitions: readonly Transition[]): string[] {
  const returnsMoney = ({ from, to }: Transition): boolean => HOLDS_MONEY[from] && !HOLDS_MONEY[to];
  const exits = new Set(transitions.filter(returnsMoney).map(({ from }) => from));
  return ORDER_STATUSES.filter((status) => HOLDS_MONEY[status] && !exits.has(status)).map(
    (status) => `no transition returns the money of a "${status}" order`,
  );
}

/** Who acts: a caller of the API, or an operator of the service. */
export const OPERATOR = 'operator';
type Agent = Actor | typeof OPERATOR;

/** What the rules of an order depend on. */
export interface LifecycleOrder {
  readonly userId: string;
  readonly status: OrderStatus;
  readonly ownerIsDeleted: boolean;
}

/** Whether the rules of this status depend on whether the owner is deleted. */
export const dependsOnOwner = (status: OrderStatus): boolean =>
  TRANSITIONS.some(({ from, ifOwnerDeleted }) => from === status && ifOwnerDeleted);

function isParty(agent: Agent, order: LifecycleOrder, { by, ifOwnerDeleted }: Transition): boolean {
  if (agent === OPERATOR) return by === 'operator';
  if (ifOwnerDeleted && !order.ownerIsDeleted) return false;
  if (by === 'owner') return agent.userId === order.userId;
  return by === 'admin' && agent.roles.includes('admin');
}

/** The transitions that this agent may take with this order now. */
const openTransitions = (agent: Agent, order: LifecycleOrder): Transition[] =>
  TRANSITIONS.filter(
    (transition) => transition.from === order.status && isParty(agent, order, transition),
  );

/** The actions that this agent may take with this order now. */
export function allowedActions(agent: Agent, order: LifecycleOrder): OrderAction[] {
  const actions = openTransitions(agent, order).map(({ action }) => action);
  return [...new Set(actions)];
}

/** The transition that `action` is for this agent and order now; undefined when not allowed. */
export const transitionOf = (
  agent: Agent,
  order: LifecycleOrder,
  action: OrderAction,
): Transition | undefined =>
  openTransitions(agent, order).find((transition) => transition.action === action);

/** Whether this agent may take this action in any status. Otherwise the agent lacks a role. */
export const canEverAct = (agent: Agent, order: LifecycleOrder, action: OrderAction): boolean =>
  transitionsOf(action).some((transition) => isParty(agent, order, transition));

const PARTY_NAMES: Readonly<Record<Party, string>> = {
  owner: 'the owner of the order',
  admin: 'the role admin',
  operator: 'an operator of the service',
};

/** `a or b`, each word once. */
const joinWithOr = (words: readonly string[]): string => [...new Set(words)].join(' or ');

/** Who takes a transition, e.g. `admin, if the owner is deleted`: for documents. */
export const describeParty = ({ by, ifOwnerDeleted }: Transition): string =>
  ifOwnerDeleted ? `${by}, if the owner is deleted` : by;

/** Who of the API's callers may ever take the action, e.g. `the role admin`: follows "needs". */
export const describeParties = (action: OrderAction): string =>
  joinWithOr(
    transitionsOf(action)
      .filter(({ by }) => by !== 'operator')
      .map(({ by }) => PARTY_NAMES[by]),
  );

/** Why an agent that may take the action with other orders cannot take it with this one. */
export function explainRefusal(agent: Agent, order: LifecycleOrder, action: OrderAction): string {
  const { status, ownerIsDeleted } = order;
  const transitions = transitionsOf(action);
  const [{ to: result }] = transitions as [Transition];
  if (status === result) return `The order is already ${status}`;
  const ofOthers = transitions.filter(
    ({ from, ifOwnerDeleted }) => from === status && (ownerIsDeleted || !ifOwnerDeleted),
  );
  if (ofOthers.length > 0) {
    const parties = joinWithOr(ofOthers.map(({ by }) => PARTY_NAMES[by]));
    return `The order is ${status}; ${action} needs ${parties} then`;
  }
  const own = transitions.filter((transition) => isParty(agent, order, transition));
  const starts = joinWithOr(own.map(({ from }) => from));
  return `The order is ${status}; only a ${starts} order can be ${result}`;
}

function transitionsOf(action: OrderAction): Transition[] {
  return TRANSITIONS.filter((transition) => transition.action === action);
}
