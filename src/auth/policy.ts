/**
 * Who may do what: one table. A route names its row with `@Operation({ allow })`; the guard and the services ask here and
 * nowhere else. What an order's state allows is order-lifecycle.ts's.
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
}

export const POLICY = {
  anyone: { anyone: true },
  /** Probes and metrics: no session, no limit. */
  operator: { anyone: true },
  'user.list': { roles: ['admin'] },
  'user.me': { authenticated: true },
  'user.read': { owner: true, roles: ['admin'] },
  'user.change': { owner: true, roles: ['admin'] },
  /** An admin, who sees the user, is told "forbidden" by the service; to others there is no such user. */
  'user.password': { owner: true, roles: ['admin'] },
  'user.roles': { roles: ['admin'] },
  'user.delete': { owner: true, roles: ['admin'] },
  'user.orders': { owner: true, roles: ['support', 'admin'] },
  'session.own': { authenticated: true },
  'order.place': { authenticated: true },
  'order.list': { authenticated: true },
  'order.list-all': { roles: ['support', 'admin'] },
  'order.read': { owner: true, roles: ['support', 'admin'] },
  'order.change': { owner: true },
  'order.act': { owner: true, roles: ['support', 'admin'] },
  'order.summary': { roles: ['support', 'admin'] },
  'order.export': { roles: ['support', 'admin'] },
} as const satisfies Record<string, Rule>;

export type Action = keyof typeof POLICY;

export const ruleOf = (action: string): Rule | undefined => (POLICY as Readonly<Record<string, Rule>>)[action];

/** The rule in words. */
function inWords(action: string, { anyone, authenticated, owner, roles = [] }: Rule): string {
  if (anyone) return 'anyone, without a session.';
  if (authenticated) return 'any caller with a session.';
  const itself = action.startsWith('user.') ? 'the user itself' : 'the owner';
  const names = [...(owner ? [itself] : []), ...roles.map((role) => `\`${role}\``)];
  return `${names.join(', ').replace(/, ([^,]*)$/, ' or $1')}.`;
}
for (const [action, rule] of Object.entries(POLICY)) callers.set(action, inWords(action, rule));

/** Whether the rule lets this actor do this to an object of `ownerId` (absent: to no particular object). */
export function allows(rule: Rule, actor: Actor | undefined, ownerId?: string): boolean {
  if (rule.anyone) return true;
  if (!actor) return false;
  if (rule.authenticated) return true;
  if (rule.roles?.some((role) => actor.roles.includes(role))) return true;
  return rule.owner === true && ownerId !== undefined && actor.userId === ownerId;
}
