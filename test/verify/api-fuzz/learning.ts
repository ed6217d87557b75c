/**
 * What a worker learns from an answer: new objects, versions, cursors, ended sessions. Returns the
 * requests that must show it: what was created can be read, what was deleted cannot be used.
 */
import type { Reply } from '../../support/http-client.js';
import type { Check } from './checks.js';
import { isSuccess, type Exchange } from './judge.js';
import type { Caller, CallerRole, Session, World } from './world.js';

/** A read that shows whether a change took effect. */
export interface Probe {
  readonly check: Check;
  readonly operationId: string;
  readonly path: string;
  readonly token: string | undefined;
  readonly status: number;
}

interface Body {
  readonly id: string;
  readonly token: string;
  readonly userId: string;
  readonly version: number;
  readonly roles: Caller['roles'];
  readonly username: string;
  readonly next: string | null;
}

type Lesson = (world: World, exchange: Exchange, body: Body) => Promise<Probe[]> | Probe[];

const tokenOf = (world: World, role: CallerRole): string | undefined =>
  world.callersOf(role)[0]?.session.token;

const readable = (operationId: string, reply: Reply, token: string | undefined): Probe => ({
  check: 'ensure_resource_availability',
  operationId,
  path: reply.headers.get('location') ?? '/v1/no-location',
  token,
  status: 200,
});

const refused = (token: string): Probe => ({
  check: 'use_after_free',
  operationId: 'getMe',
  path: '/v1/users/me',
  token,
  status: 401,
});

const refusedAll = (sessions: readonly Session[]): Probe[] =>
  sessions.map(({ token }) => refused(token));

function learnVersion(world: World, { version, id }: Body): Probe[] {
  const order = world.orders.find((known) => known.id === id);
  if (order) order.version = version;
  const user = world.findCaller(id);
  if (user) user.version = version;
  return [];
}

/** By operation, for successes. */
const LESSONS: Readonly<Record<string, Lesson>> = {
  register: (world, { prepared, reply }, { id }) => {
    const { username, password } = prepared.json as { username: string; password: string };
    world.addAccount({ id, username: username.toLowerCase(), password });
    return [readable('getUser', reply, tokenOf(world, 'admin'))];
  },
  logIn: async (world, { prepared, reply }, { id, token }) => {
    if (prepared.account) await world.addSession(prepared.account, { id, token });
    return [readable('getSession', reply, token)];
  },
  placeOrder: (world, { prepared, reply }, { id, version }) => {
    const { caller } = prepared;
    if (caller) world.addOrder({ id, owner: caller, version });
    return [readable('getOrder', reply, caller?.session.token)];
  },
  changeUser: (world, { prepared: { owner } }, body) => {
    if (owner) owner.username = body.username;
    return learnVersion(world, body);
  },
  setRoles: (world, { prepared: { owner } }, body) => {
    if (owner) owner.roles = body.roles;
    return learnVersion(world, body);
  },
  deleteUser: (world, { prepared: { owner, objectId } }) => {
    if (!owner) return [];
    const sessions = [owner.session, ...owner.others];
    world.deleteUser(owner);
    const gone: Probe = {
      check: 'use_after_free',
      operationId: 'getUser',
      path: `/v1/users/${objectId}`,
      token: tokenOf(world, 'admin'),
      status: 404,
    };
    return tokenOf(world, 'admin') ? [gone, ...refusedAll(sessions)] : refusedAll(sessions);
  },
  changePassword: (world, { prepared: { caller, json } }) => {
    if (!caller) return [];
    caller.password = (json as { newPassword: string }).newPassword;
    return refusedAll(world.endSessions(caller, (session) => session !== caller.session));
  },
  logOut: (world, { prepared: { caller } }) =>
    caller ? refusedAll(world.endSessions(caller, (session) => session === caller.session)) : [],
  endSession: (world, { prepared: { owner, objectId } }) =>
    owner ? refusedAll(world.endSessions(owner, ({ id }) => id === objectId)) : [],
  endSessions: (world, { prepared: { caller, draft } }) => {
    const keepsCurrent = draft.query.includes('keep=current');
    if (!caller) return [];
    const { session: current } = caller;
    return refusedAll(world.endSessions(caller, (session) => !keepsCurrent || session !== current));
  },
};

/** Updates the world. @returns the reads that must follow */
export async function learn(world: World, exchange: Exchange): Promise<Probe[]> {
  const { operation, prepared, reply } = exchange;
  const { method } = prepared.draft;
  const isOperation = method === operation.method;
  if (!isSuccess(reply) || !isOperation) return [];
  learnCursor(world, exchange);
  const lesson = LESSONS[operation.operationId];
  const body = (reply.body ?? {}) as Body;
  if (lesson) return await lesson(world, exchange, body);
  const isChange = method !== 'GET' && typeof body.version === 'number';
  return isChange ? learnVersion(world, body) : [];
}

function learnCursor(world: World, { operation, prepared, reply }: Exchange): void {
  const { next } = (reply.body ?? {}) as Partial<Body>;
  const { caller, draft } = prepared;
  if (typeof next !== 'string' || !caller) return;
  const query = draft.query.filter((pair) => !pair.startsWith('cursor='));
  const { path } = draft;
  world.cursors.set(operation.operationId, { caller, path, query, value: next });
}
