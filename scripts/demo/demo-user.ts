/**
 * One user of the demo: registers, reads, places and changes orders, logs out. It acts step by
 * step, so it knows which versions a read must show at least, and checks every read against them.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../../test/support/random.js';
import {
  chooseByChance,
  randomCurrency,
  randomItems,
  randomNote,
  zipfRank,
} from '../sample-data.js';
import type { Call, Client, Pacer, Reply } from './demo-client.js';
import type { Meter } from './demo-meter.js';

/** A user reads its newest orders only. */
const MAX_KNOWN_ORDERS = 200;
const READ_MANY_COUNT = 8;
/** The newest orders that every first page of the list holds. */
const LISTED_ORDERS = 5;
const LOGIN_PAUSE_MS = 500;

/** What all users of a run share. */
export interface DemoContext {
  readonly client: Client;
  readonly meter: Meter;
  /** The rate limit of requests without a session, which all users share by their address. */
  readonly addressPacer: Pacer;
  readonly isOver: () => boolean;
}

/** What a user knows about one of its orders. */
interface KnownOrder {
  readonly id: string;
  /** The newest version that a write or a read has shown to this user. */
  version: number;
  /** The version of the user's copy, for If-None-Match. Outdated after a write, as in a browser. */
  copy?: number;
}

type UserCall = Omit<Call, 'pacer'>;

const versionOf = ({ body }: Reply): number =>
  typeof body.version === 'number' ? body.version : 0;

export class DemoUser {
  private token: string | undefined;
  /** The newest first. */
  private orders: KnownOrder[] = [];
  private readonly password = randomBytes(18).toString('base64url');

  /** What users do, and the share of each activity. The shares sum up to 1. */
  private readonly activities: readonly { chance: number; run: () => Promise<void> }[] = [
    { chance: 0.6, run: () => this.readOrder() },
    { chance: 0.08, run: () => this.listOrders() },
    { chance: 0.05, run: () => this.readSeveralOrders() },
    { chance: 0.04, run: () => this.readProfile() },
    { chance: 0.09, run: () => this.placeOrder() },
    { chance: 0.06, run: () => this.changeOrder() },
    { chance: 0.05, run: () => this.payOrder() },
    { chance: 0.02, run: () => this.cancelOrder() },
    { chance: 0.01, run: () => this.logOut() },
  ];

  constructor(
    private readonly context: DemoContext,
    private readonly username: string,
    private readonly random: Random,
    private readonly pacer: Pacer,
  ) {}

  /** Registers and logs in. @returns whether it worked */
  async arrive(): Promise<boolean> {
    const { username, password } = this;
    const email = `${username}@example.com`;
    await this.callAnonymously('register', 'POST', '/v1/users', {
      body: { username, email, password },
    });
    return this.logIn();
  }

  /** One random activity. */
  async act(): Promise<void> {
    const isLoggedIn = this.token !== undefined || (await this.logIn());
    if (!isLoggedIn) return sleep(LOGIN_PAUSE_MS);
    if (this.orders.length === 0) return this.placeOrder();
    const activity = chooseByChance(this.random, this.activities) ?? this.activities[0];
    await activity?.run();
  }

  async leave(): Promise<void> {
    if (this.token !== undefined) await this.logOut();
  }

  private async readOrder(
    order = this.randomOrder(),
    { isConditional = this.random.chance(0.4) } = {},
  ): Promise<void> {
    const { version: knownVersion, copy } = order;
    const reply = await this.call('read an order', 'GET', `/v1/orders/${order.id}`, {
      headers: this.readHeaders(isConditional ? copy : undefined),
    });
    const isAnswered = [200, 304, 404].includes(reply.status);
    if (!isAnswered) return;
    const version = reply.status === 304 ? (copy ?? 0) : versionOf(reply);
    this.checkVersion(`order ${order.id}`, version, knownVersion);
    order.version = Math.max(order.version, version);
    order.copy = version;
  }

  private readHeaders(copy: number | undefined): Record<string, string> {
    // Without a Cache-Control, fetch adds "no-cache" to a conditional request, which then reads the
    // primary database.
    if (copy !== undefined) return { 'If-None-Match': `"${copy}"`, 'Cache-Control': 'max-age=0' };
    return this.random.chance(0.01) ? { 'Cache-Control': 'no-cache' } : {};
  }

  private async readSeveralOrders(): Promise<void> {
    const orders = Array.from({ length: READ_MANY_COUNT }, () => this.randomOrder());
    const known = new Map(orders.map(({ id, version }) => [id, version]));
    const ids = [...known.keys()].join(',');
    const reply = await this.call('read several orders', 'GET', `/v1/orders?ids=${ids}`);
    if (reply.status === 200) this.checkPage('the orders read', reply, known, known);
  }

  private async listOrders(): Promise<void> {
    const known = new Map(this.orders.map(({ id, version }) => [id, version]));
    const newest = new Map([...known].slice(0, LISTED_ORDERS));
    const reply = await this.call('list orders', 'GET', '/v1/orders');
    if (reply.status === 200) this.checkPage('the list', reply, newest, known);
  }

  private async readProfile(): Promise<void> {
    await this.call('read the profile', 'GET', '/v1/users/me');
  }

  private async placeOrder(): Promise<void> {
    const currency = randomCurrency(this.random);
    const body = {
      currency,
      items: randomItems(this.random, currency),
      note: randomNote(this.random),
    };
    const headers = { 'Idempotency-Key': randomUUID() };
    const send = (): Promise<Reply> =>
      this.call('place an order', 'POST', '/v1/orders', {
        body,
        headers,
        expect: ['idempotency-key-in-flight'],
      });
    // Some users click twice. Some try again later, for example after a broken connection.
    const clicksTwice = this.random.chance(0.1);
    const replies = await Promise.all(clicksTwice ? [send(), send()] : [send()]);
    const triesAgain = this.random.chance(0.15);
    if (triesAgain) replies.push(await send());

    const placed = replies.filter(({ status }) => status === 201);
    const [first] = placed;
    if (!first) return;
    if (placed.length > 1) this.context.meter.recordReplay(findReplayViolation(placed));
    const order: KnownOrder = { id: String(first.body.id), version: versionOf(first) };
    this.orders = [order, ...this.orders.slice(0, MAX_KNOWN_ORDERS - 1)];
    if (this.random.chance(0.5)) await this.readOrder(order);
  }

  private async changeOrder(): Promise<void> {
    const order = this.randomOrder();
    const note = this.random.chance(0.2) ? null : `Berth ${this.random.between(1, 400)}.`;
    await this.write('change an order', order, 'PATCH', '', {
      body: { note },
      headers: { 'If-Match': `"${order.version}"` },
    });
  }

  private async payOrder(): Promise<void> {
    await this.write('pay an order', this.randomOrder(), 'POST', '/pay', {});
  }

  private async cancelOrder(): Promise<void> {
    await this.write('cancel an order', this.randomOrder(), 'POST', '/cancel', {
      body: { reason: 'Changed my mind.' },
    });
  }

  private async logOut(): Promise<void> {
    const { token } = this;
    const { addressPacer, isOver, meter } = this.context;
    // The login that follows counts for the address, whose limit all users share.
    const canLogInAgain = addressPacer.isAmple || isOver();
    if (token === undefined || !canLogInAgain) return;
    const { status } = await this.call('log out', 'DELETE', '/v1/sessions/current');
    this.token = undefined;
    if (status === 204) {
      const reply = await this.callAnonymously(
        'try an ended token',
        'GET',
        '/v1/sessions/current',
        {
          token,
          expect: [401],
        },
      );
      const isDecided = reply.status === 200 || reply.status === 401;
      if (isDecided) meter.recordEndedToken({ isAccepted: reply.status === 200 });
    }
    if (!isOver()) await this.logIn();
  }

  private async logIn(): Promise<boolean> {
    const { username, password } = this;
    const reply = await this.callAnonymously('log in', 'POST', '/v1/sessions', {
      body: { username, password },
    });
    this.token = reply.status === 201 ? String(reply.body.token) : undefined;
    return this.token !== undefined;
  }

  /** Sends a write; sometimes reads the order at the same time, and after it. */
  private async write(
    operation: string,
    order: KnownOrder,
    method: string,
    path: string,
    call: UserCall,
  ): Promise<void> {
    const writing = this.call(operation, method, `/v1/orders/${order.id}${path}`, {
      ...call,
      expect: ['invalid-transition'],
    });
    const readsMeanwhile = this.random.chance(0.3);
    const [reply] = await Promise.all([
      writing,
      readsMeanwhile ? this.readOrder(order, { isConditional: false }) : undefined,
    ]);
    const isDone = reply.status === 200;
    if (isDone) order.version = Math.max(order.version, versionOf(reply));
    // After a success, the old copy must no longer be valid. After a failure, the user wants to
    // know
    // the order's state.
    if (!isDone || this.random.chance(0.5)) await this.readOrder(order, { isConditional: true });
  }

  /** New orders are more likely. */
  private randomOrder(): KnownOrder {
    return this.orders[zipfRank(this.random, this.orders.length)] as KnownOrder;
  }

  private checkVersion(what: string, version: number, knownVersion: number): void {
    const isStale = version < knownVersion;
    const shown = version === 0 ? 'nothing' : `version ${version}`;
    this.context.meter.recordCheckedRead(
      isStale ? `${what}: read ${shown} after version ${knownVersion} was known` : undefined,
    );
  }

  /**
   * @param wanted the orders that the page must contain, by id, with their known versions
   * @param known all known orders: what the page contains must not be older
   */
  private checkPage(
    what: string,
    { body }: Reply,
    wanted: ReadonlyMap<string, number>,
    known: ReadonlyMap<string, number>,
  ): void {
    const orders = body.data as { id: string; version: number }[];
    const versions = new Map(orders.map(({ id, version }) => [id, version]));
    for (const [id, knownVersion] of wanted) {
      if (!versions.has(id)) this.checkVersion(`order ${id} in ${what}`, 0, knownVersion);
    }
    for (const [id, version] of versions) {
      this.checkVersion(`order ${id} in ${what}`, version, known.get(id) ?? 0);
    }
  }

  private async call(
    operation: string,
    method: string,
    path: string,
    call: UserCall = {},
  ): Promise<Reply> {
    const { token, pacer } = this;
    const reply = await this.context.client.call(operation, method, path, {
      token,
      pacer,
      ...call,
    });
    if (reply.status === 401) this.token = undefined;
    return reply;
  }

  private callAnonymously(
    operation: string,
    method: string,
    path: string,
    call: UserCall,
  ): Promise<Reply> {
    const { client, addressPacer } = this.context;
    return client.call(operation, method, path, { pacer: addressPacer, ...call });
  }
}

/** All replies must show one order, and all but one must say that they are replays. */
function findReplayViolation(placed: readonly Reply[]): string | undefined {
  const ids = new Set(placed.map(({ body }) => String(body.id)));
  const replays = placed.filter(({ headers }) => headers.get('idempotent-replayed') === 'true');
  const isKept = ids.size === 1 && replays.length === placed.length - 1;
  return isKept ? undefined : `orders ${[...ids].join(', ')}: one key placed more than one order`;
}
