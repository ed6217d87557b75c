/**
 * What one worker has made on the service: users with sessions, orders, cursors. Later requests use
 * it. Invariant: only this worker changes these objects, so it knows which of them exist.
 */
import { randomUUID } from 'node:crypto';
import type { Role } from '../../../src/platform/access/actor.js';
import { ADMIN } from '../../support/app.js';
import { PASSWORD } from '../../support/factories.js';
import { type Reply, requestBody, sendRequest } from '../../support/http-client.js';

export interface Session {
  readonly id: string;
  readonly token: string;
}

export interface Account {
  readonly id: string;
  username: string;
  password: string;
}

/** A user with a session. */
export interface Caller extends Account {
  roles: readonly Role[];
  /** The entity tag of the user, without quotes. */
  version: number;
  session: Session;
  /** Further sessions. */
  others: Session[];
  logins: number;
}

export interface KnownOrder {
  readonly id: string;
  readonly owner: Caller;
  version: number;
}

/** The rest of a list. */
export interface Cursor {
  readonly caller: Caller;
  readonly path: string;
  /** Of the first page. */
  readonly query: readonly string[];
  readonly value: string;
}

export type CallerRole = 'user' | 'support' | 'admin';

const ROLES_OF: Readonly<Record<CallerRole, readonly Role[]>> = {
  user: ['user'],
  support: ['user', 'support'],
  admin: ['user', 'admin'],
};
const MAX_CALLERS = 8;
const MAX_ORDERS = 30;
const MAX_ENDED = 20;
const MAX_SESSIONS = 4;
/** The service ends the least recently used of 100 sessions. */
const MAX_LOGINS = 40;

export class World {
  readonly callers: Caller[] = [];
  /** Registered, never logged in. */
  readonly accounts: Account[] = [];
  orders: KnownOrder[] = [];
  readonly cursors = new Map<string, Cursor>();
  readonly endedTokens: string[] = [];
  readonly deletedUsers: string[] = [];
  readonly deletedSessions: string[] = [];

  constructor(private readonly origin: string) {}

  /** Resolves when there is a caller of each role, and an order. */
  async prepare(): Promise<void> {
    for (const role of Object.keys(ROLES_OF) as CallerRole[]) {
      if (this.callersOf(role).length < 2) this.callers.push(await this.createCaller(role));
    }
    // Some have got roles that no other caller has, and are hardly chosen.
    const [oldest] = this.callers;
    if (oldest && this.callers.length > 3 * MAX_CALLERS) this.forget(oldest);
    const [first] = this.callersOf('user');
    if (first && !this.orders.some(({ owner }) => owner === first)) await this.placeOrder(first);
  }

  callersOf(role: CallerRole): Caller[] {
    return this.callers.filter(({ roles }) => roles.join() === ROLES_OF[role].join());
  }

  findCaller(id: string): Caller | undefined {
    return this.callers.find((caller) => caller.id === id);
  }

  /** @param reply to a registration or a login */
  addAccount(account: Account): void {
    this.accounts.push(account);
    if (this.accounts.length > MAX_CALLERS) this.accounts.shift();
  }

  /** The account has logged in. */
  async addSession(account: Account, session: Session): Promise<void> {
    const known = this.findCaller(account.id);
    if (known) {
      known.others = [...known.others, session].slice(-MAX_SESSIONS);
      known.logins++;
      if (known.logins > MAX_LOGINS) this.forget(known);
      return;
    }
    const index = this.accounts.indexOf(account);
    if (index >= 0) this.accounts.splice(index, 1);
    const user = await this.read('/v1/users/me', session.token);
    const { roles, version } = user.body as { roles: Role[]; version: number };
    this.callers.push({ ...account, roles, version, session, others: [], logins: 1 });
    const oldest = this.callersOf('user')[0];
    if (oldest && this.callersOf('user').length > MAX_CALLERS) this.forget(oldest);
  }

  addOrder(order: KnownOrder): void {
    this.orders = [...this.orders, order].slice(-MAX_ORDERS);
  }

  /** The sessions have ended. Without a session the caller takes another one, or is forgotten. */
  endSessions(caller: Caller, hasEnded: (session: Session) => boolean): Session[] {
    const all = [caller.session, ...caller.others];
    const ended = all.filter(hasEnded);
    const [main, ...others] = all.filter((session) => !hasEnded(session));
    keepLast(
      this.endedTokens,
      ended.map(({ token }) => token),
    );
    keepLast(
      this.deletedSessions,
      ended.map(({ id }) => id),
    );
    if (main === undefined) {
      this.forget(caller);
    } else {
      Object.assign(caller, { session: main, others });
    }
    return ended;
  }

  deleteUser(caller: Caller): void {
    keepLast(this.deletedUsers, [caller.id]);
    keepLast(this.endedTokens, [caller.session.token]);
    this.forget(caller);
  }

  forget(caller: Caller): void {
    const index = this.callers.indexOf(caller);
    if (index >= 0) this.callers.splice(index, 1);
    this.orders = this.orders.filter(({ owner }) => owner !== caller);
    for (const [name, cursor] of this.cursors) {
      if (cursor.caller === caller) this.cursors.delete(name);
    }
  }

  read(path: string, token: string | undefined): Promise<Reply> {
    return sendRequest(this.origin + path, 'GET', { token });
  }

  private async createCaller(role: CallerRole): Promise<Caller> {
    const username = `f-${randomUUID().slice(0, 13)}`;
    const body = { username, email: `${username}@example.com`, password: PASSWORD };
    const { id } = (await requestBody(`${this.origin}/v1/users`, 'POST', { body })) as Account;
    const roles = ROLES_OF[role];
    if (role !== 'user') {
      const { token } = await this.logIn(ADMIN.username, ADMIN.password);
      await requestBody(`${this.origin}/v1/users/${id}/roles`, 'PUT', { token, body: { roles } });
      await sendRequest(`${this.origin}/v1/sessions/current`, 'DELETE', { token });
    }
    const version = role === 'user' ? 1 : 2;
    const session = await this.logIn(username, PASSWORD);
    return { id, username, password: PASSWORD, roles, version, session, others: [], logins: 1 };
  }

  private async logIn(username: string, password: string): Promise<Session> {
    const options = { body: { username, password }, headers: forwardedFor() };
    return (await requestBody(`${this.origin}/v1/sessions`, 'POST', options)) as Session;
  }

  private async placeOrder(owner: Caller): Promise<void> {
    const body = {
      currency: 'EUR',
      items: [{ sku: 'LAMP-01', name: 'Signal lamp', quantity: 2, unitPrice: 4_999 }],
    };
    const headers = { 'Idempotency-Key': randomUUID() };
    const options = { token: owner.session.token, body, headers };
    const order = (await requestBody(`${this.origin}/v1/orders`, 'POST', options)) as KnownOrder;
    this.addOrder({ id: order.id, owner, version: 1 });
  }
}

/** Failed logins are counted for each network: every login comes from another one. */
export const forwardedFor = (): Record<string, string> => {
  const [a, b, c] = randomUUID().match(/[0-9a-f]{2}/g) ?? [];
  return { 'X-Forwarded-For': `10.${[a, b, c].map((part) => parseInt(`${part}`, 16)).join('.')}` };
};

function keepLast(list: string[], added: readonly string[]): void {
  list.push(...added);
  list.splice(0, Math.max(0, list.length - MAX_ENDED));
}
