/**
 * A client that alone writes one user, their orders and their sessions. So it knows the version
 * that each of its writes makes, also when the answer was lost.
 */
import { randomUUID } from 'node:crypto';
import type { Reply } from '../../support/http-client.js';
import type { Random } from '../../support/random.js';
import { pickWeighted } from '../chaos/round-subjects.js';
import { type Caller, codeOf, type Request } from './caller.js';
import { PAGE_SIZE } from './checker.js';
import { GONE, type Recording, type Write } from './history.js';

const PASSWORD = 'nine tall ships at anchor';
const ITEM = { sku: 'ROPE', name: 'Rope', quantity: 1, unitPrice: 1_450 };

export interface KnownSession {
  /** For the history: the token is a secret of no importance here. */
  readonly token: string;
}

interface KnownOrder {
  readonly id: string;
  version: number;
  status: string;
}

/** What a request did: the version that it has made, if it succeeded. */
type Outcome = { readonly version: number; readonly reply: Reply } | undefined;

export class Customer {
  readonly orders: KnownOrder[] = [];
  /** Its names, the newest last. */
  readonly names: string[] = [];
  /** The session that lives as long as the user, and others. */
  readonly sessions: KnownSession[] = [];
  id = '';
  private version = 1;

  constructor(
    private readonly caller: Caller,
    private readonly recording: Recording,
    private readonly random: Random,
    /** Makes names unique. */
    private readonly tag: string,
  ) {}

  private get email(): string {
    return `${this.tag}@example.com`;
  }

  get token(): string {
    return this.sessions[0]?.token ?? '';
  }

  async register(): Promise<void> {
    const username = this.nextName();
    const body = { username, email: this.email, password: PASSWORD };
    const headers = { 'Idempotency-Key': randomUUID() };
    const request = { method: 'POST', path: '/v1/users', body, headers };
    const begin = performance.now();
    const answer = await this.caller.sendUntilAnswered(this.random, request);
    const acknowledgedAt = performance.now();
    if (answer?.reply.status !== 201) {
      throw new Error(`${username} could not be registered: ${answer?.reply.text}`);
    }
    this.id = await this.logIn();
    this.recording.writes.push({
      resource: this.id,
      version: 1,
      begin,
      acknowledgedAt,
      name: username,
    });
  }

  /** One write. */
  async write(): Promise<void> {
    const { random } = this;
    const open = this.orders.filter(({ status }) => status === 'placed');
    const mayPlace = this.orders.length < PAGE_SIZE - 1;
    if (open.length === 0 && mayPlace) return this.placeOrder();
    const order = open.length > 0 ? random.pick(open) : undefined;
    const action = pickWeighted<() => Promise<void>>(
      [
        [0.25, () => (mayPlace ? this.placeOrder() : this.rename())],
        [0.4, () => (order ? this.changeOrder(order) : this.rename())],
        [0.1, () => (order ? this.act(order, 'pay', 'paid') : this.rename())],
        [0.08, () => (order ? this.act(order, 'cancel', 'cancelled') : this.rename())],
        [0.17, () => this.rename()],
      ],
      random,
    );
    await action();
  }

  /**
   * By email, since the name may be changing.
   * @returns the user's id
   */
  async logIn(): Promise<string> {
    const body = { username: this.email, password: PASSWORD };
    const request = { method: 'POST', path: '/v1/sessions', body };
    const answer = await this.caller.sendUntilAnswered(this.random, request);
    if (answer?.reply.status !== 201) {
      throw new Error(`${this.email} could not log in: ${answer?.reply.text}`);
    }
    const { token, userId } = answer.reply.body as { token: string; userId: string };
    this.sessions.push({ token });
    return userId;
  }

  /** Ends the newest session, but not the first. */
  async endSession(): Promise<void> {
    const { token } = this.sessions.at(-1) as KnownSession;
    if (token === this.token) return;
    const write = this.recording.begin({ resource: token, version: GONE });
    // After a lost answer, 401 says that it was done.
    await this.end([write], { method: 'DELETE', path: '/v1/sessions/current', token }, 401);
  }

  /** @param token of an administrator */
  async deleteUser(token: string): Promise<void> {
    const ends = [this.id, ...this.sessions.map((session) => session.token)].map((resource) =>
      this.recording.begin({ resource, version: GONE }),
    );
    // After a lost answer, 404 says that it was done.
    await this.end(ends, { method: 'DELETE', path: `/v1/users/${this.id}`, token }, 404);
  }

  private async end(writes: readonly Write[], request: Request, doneStatus: number) {
    const answer = await this.caller.sendUntilAnswered(this.random, request);
    if (!answer) return;
    const { reply, isRepeated } = answer;
    const isDone = reply.status === 204 || (isRepeated && reply.status === doneStatus);
    if (!isDone) {
      this.caller.problem(request, codeOf(reply));
      return;
    }
    const now = performance.now();
    for (const write of writes) write.acknowledgedAt = Math.min(write.acknowledgedAt, now);
  }

  private async placeOrder(): Promise<void> {
    const begin = performance.now();
    const { token } = this;
    const outcome = await this.sendKeyed('/v1/orders', {
      token,
      body: { currency: 'EUR', items: [ITEM] },
    });
    if (!outcome) return;
    const { id, status } = outcome.reply.body as KnownOrder;
    const acknowledgedAt = performance.now();
    const written = { resource: id, version: 1, owner: this.id };
    this.recording.writes.push({ ...written, begin, acknowledgedAt });
    this.orders.push({ id, version: 1, status });
  }

  private async changeOrder(order: KnownOrder): Promise<void> {
    await this.patch(`/v1/orders/${order.id}`, order, { note: randomUUID() });
  }

  private async rename(): Promise<void> {
    const name = this.nextName();
    const user = { id: this.id, version: this.version };
    await this.patch(`/v1/users/${this.id}`, user, { username: name }, name);
    this.version = user.version;
  }

  /** A PATCH has no key: after a lost answer, 412 says that it was done. */
  private async patch(
    path: string,
    known: { readonly id: string; version: number },
    body: object,
    name?: string,
  ): Promise<void> {
    const { token } = this;
    const headers = { 'If-Match': `"${known.version}"` };
    const request = { method: 'PATCH', path, token, body, headers };
    const version = known.version + 1;
    const named = name === undefined ? {} : { name };
    const write = this.recording.begin({ resource: known.id, version, ...named });
    const answer = await this.caller.sendUntilAnswered(this.random, request);
    if (!answer) return;
    const { reply, isRepeated } = answer;
    if (reply.status === 200 || (reply.status === 412 && isRepeated)) {
      write.acknowledgedAt = performance.now();
      known.version = version;
    } else {
      this.caller.problem(request, codeOf(reply));
    }
  }

  private async act(order: KnownOrder, action: string, status: string): Promise<void> {
    const version = order.version + 1;
    const write = this.recording.begin({ resource: order.id, version });
    const { token } = this;
    const outcome = await this.sendKeyed(`/v1/orders/${order.id}/${action}`, { token, body: {} });
    // Whether it took effect or not: nobody changes the order any more.
    order.status = status;
    if (!outcome) return;
    write.acknowledgedAt = performance.now();
    order.version = version;
  }

  /** Every answer under its key is recorded. Some acknowledged requests are repeated. */
  private async sendKeyed(path: string, options: Partial<Request>): Promise<Outcome> {
    const key = randomUUID();
    const headers = { 'Idempotency-Key': key };
    const request = { method: 'POST', ...options, path, headers };
    const answer = await this.caller.sendUntilAnswered(this.random, request);
    if (!answer) return undefined;
    const { reply } = answer;
    if (reply.status >= 300) {
      this.caller.problem(request, codeOf(reply));
      return undefined;
    }
    this.recording.answers.push({ key, answer: `${reply.status} ${reply.text}` });
    if (this.random.chance(0.2)) {
      const repeated = await this.caller.sendUntilAnswered(this.random, request);
      if (repeated) {
        const { status, text } = repeated.reply;
        this.recording.answers.push({ key, answer: `${status} ${text}` });
      }
    }
    return { version: Number(reply.body.version), reply };
  }

  private nextName(): string {
    const name = `${this.tag}-${this.names.length}`;
    this.names.push(name);
    return name;
  }
}
