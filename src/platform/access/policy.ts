/**
 * The policy: POLICY names who may take which action, FIELDS names who sees and sets which field.
 * The guard and the services ask here only; for orders, src/orders/order-lifecycle.ts adds rules
 * of each status. docs/reference/access.md is generated from these tables, and access.spec.ts
 * compares them with the running service.
 */
import type { Actor, Role } from './actor.js';

export interface Rule {
  /** No session needed. */
  readonly anyone?: true;
  /** Any caller with a session. */
  readonly authenticated?: true;
  /** The owner of the object. The owner of a user is that user. */
  readonly owner?: true;
  readonly roles?: readonly Role[];
  /**
   * Roles that see the object but may not take the action: they get 403. Callers that do not see
   * the object get 404.
   */
  readonly seenBy?: readonly Role[];
}

export const POLICY = {
  anyone: { anyone: true },
  /** Probes and metrics: no session, no limit. */
  operator: { anyone: true },
  'user.list': { roles: ['admin'] },
  'user.me': { authenticated: true },
  'user.read': { owner: true, roles: ['admin'] },
  'user.change': { owner: true, roles: ['admin'] },
  'user.password': { owner: true, seenBy: ['admin'] },
  'user.roles': { roles: ['admin'] },
  'user.delete': { owner: true, roles: ['admin'] },
  'user.orders': { owner: true, roles: ['support', 'admin'] },
  'session.own': { authenticated: true },
  'order.place': { authenticated: true },
  'order.list': { authenticated: true },
  'order.list-all': { roles: ['support', 'admin'] },
  'order.read': { owner: true, roles: ['support', 'admin'] },
  'order.change': { owner: true, seenBy: ['support', 'admin'] },
  'order.act': { owner: true, roles: ['admin'], seenBy: ['support'] },
  'order.summary': { roles: ['support', 'admin'] },
  'order.export': { roles: ['support', 'admin'] },
} as const satisfies Record<string, Rule>;

export type Action = keyof typeof POLICY;

export const isAction = (name: string): name is Action => Object.hasOwn(POLICY, name);

export const ruleOf = (action: string): Rule | undefined =>
  isAction(action) ? POLICY[action] : undefined;

/** A caller's relation to an object. */
export type Party = 'owner' | 'support' | 'admin';

export interface FieldRule {
  readonly see: readonly Party[];
  /** Absent for a field that only the service sets. */
  readonly set?: { readonly by: readonly Party[]; readonly how: string };
}

const OWNER: readonly Party[] = ['owner'];
const OF_USER: readonly Party[] = ['owner', 'admin'];
const OF_ORDER: readonly Party[] = ['owner', 'support', 'admin'];
const profile: FieldRule = { see: OF_USER, set: { by: OF_USER, how: 'registering; PATCH' } };
const whilePlaced: FieldRule = {
  see: OF_ORDER,
  set: { by: OWNER, how: 'placing; PATCH while `placed`' },
};

/**
 * Who may see and set each stored field. A field without a row is never sent and never accepted.
 * An order's `status` has no `set`: actions change it.
 */
export const FIELDS: Readonly<
  Record<'user' | 'session' | 'order', Readonly<Record<string, FieldRule>>>
> = {
  user: {
    id: { see: OF_USER },
    username: profile,
    email: profile,
    roles: { see: OF_USER, set: { by: ['admin'], how: 'PUT roles' } },
    password: {
      see: [],
      set: { by: OWNER, how: 'registering; PUT password, with the current one' },
    },
    version: { see: OF_USER },
    createdAt: { see: OF_USER },
    updatedAt: { see: OF_USER },
    passwordHash: { see: [] },
    deletedAt: { see: [] },
  },
  session: {
    id: { see: OWNER },
    userId: { see: OWNER },
    createdAt: { see: OWNER },
    lastSeenAt: { see: OWNER },
    expiresAt: { see: OWNER },
    idleExpiresAt: { see: OWNER },
    userAgent: { see: OWNER },
    ip: { see: OWNER },
    current: { see: OWNER },
    /** Sent once, in the response to the login. */
    token: { see: [] },
    tokenHash: { see: [] },
    version: { see: [] },
  },
  order: {
    id: { see: OF_ORDER },
    userId: { see: OF_ORDER },
    status: { see: OF_ORDER },
    currency: { see: OF_ORDER, set: { by: OWNER, how: 'placing' } },
    items: whilePlaced,
    note: whilePlaced,
    total: { see: OF_ORDER },
    version: { see: OF_ORDER },
    createdAt: { see: OF_ORDER },
    updatedAt: { see: OF_ORDER },
  },
};

const hasRoleOf = ({ roles }: Actor, wanted: readonly Role[] = []): boolean =>
  wanted.some((role) => roles.includes(role));

/**
 * Whether the policy lets `actor` take `action` on an object of `ownerId`.
 * @param actor absent for a request without a session
 * @param ownerId absent when the action concerns no particular object
 */
export function may(actor: Actor | undefined, action: Action, ownerId?: string): boolean {
  const { anyone, authenticated, owner, roles }: Rule = POLICY[action];
  if (anyone) return true;
  if (!actor) return false;
  if (authenticated) return true;
  if (hasRoleOf(actor, roles)) return true;
  return owner === true && ownerId !== undefined && actor.userId === ownerId;
}

/** Whether an actor that may not take `action` on an object may know that the object exists. */
export function canSee(actor: Actor, action: Action): boolean {
  const { seenBy }: Rule = POLICY[action];
  return hasRoleOf(actor, seenBy);
}

/** The row of `action` in words, e.g. ``the owner or `admin`.``; undefined without such a row. */
export function describeRule(action: string): string | undefined {
  const rule = ruleOf(action);
  if (!rule) return undefined;
  if (rule.anyone) return 'anyone, without a session.';
  if (rule.authenticated) return 'any caller with a session.';
  const owner = action.startsWith('user.') ? 'the user itself' : 'the owner';
  const roles = (rule.roles ?? []).map((role) => `\`${role}\``);
  const callers = rule.owner ? [owner, ...roles] : roles;
  return `${callers.join(', ').replace(/, ([^,]*)$/, ' or $1')}.`;
}

/** The roles that may take `action`, e.g. `the role support or admin`: follows "needs". */
export function describeRoles(action: Action): string {
  const { roles = [] }: Rule = POLICY[action];
  return `the role ${roles.join(' or ')}`;
}
