/**
 * Who may do what, and who may see and set which field: one table each. A route names its row with `@Operation({ allow })`; the
 * guard and the services ask here and nowhere else. What an order's state allows is order-lifecycle.ts's. docs/access.md is
 * made of these tables, and test/auth/access.spec.ts holds them over HTTP, for every route and every field.
 */
import { type Actor, callers, type Role } from '../http/actor.js';

export interface Rule {
  /** No session needed. */
  readonly anyone?: true;
  /** Any caller with a session. */
  readonly authenticated?: true;
  /** Who the object belongs to; for routes with `:id` of a user, the user itself. */
  readonly owner?: true;
  readonly roles?: readonly Role[];
  /** Who sees the object but may not do this to it: told 403 by the service, where others are told 404. */
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

export const ruleOf = (action: string): Rule | undefined =>
  (POLICY as Readonly<Record<string, Rule>>)[action];

/** In which relation to an object a caller may be. */
export type Party = 'owner' | 'support' | 'admin';

export interface FieldRule {
  readonly see: readonly Party[];
  /** Absent: nobody sets it, the service does. */
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
 * Who may see and set which field of what is kept; a field without a row is neither seen nor set. `owner` of a user is that
 * user. `status` is moved by an order's actions.
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
      set: { by: OWNER, how: 'registering; PUT password, by who knows the current one' },
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
    /** Once, in the answer to the login. */
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

/** The rule in words. */
export function inWords(
  action: string,
  { anyone, authenticated, owner, roles = [] }: Rule,
): string {
  if (anyone) return 'anyone, without a session.';
  if (authenticated) return 'any caller with a session.';
  const itself = action.startsWith('user.') ? 'the user itself' : 'the owner';
  const names = [...(owner ? [itself] : []), ...roles.map((role) => `\`${role}\``)];
  return `${names.join(', ').replace(/, ([^,]*)$/, ' or $1')}.`;
}
for (const [action, rule] of Object.entries(POLICY)) callers.set(action, inWords(action, rule));

/** Whether an actor whom the rule does not let do this may still know of the object. */
export const sees = ({ seenBy = [] }: Rule, { roles }: Actor): boolean =>
  seenBy.some((role) => roles.includes(role));

/** Whether the rule lets this actor do this to an object of `ownerId` (absent: to no particular object). */
export function allows(rule: Rule, actor: Actor | undefined, ownerId?: string): boolean {
  if (rule.anyone) return true;
  if (!actor) return false;
  if (rule.authenticated) return true;
  if (rule.roles?.some((role) => actor.roles.includes(role))) return true;
  return rule.owner === true && ownerId !== undefined && actor.userId === ownerId;
}
