/**
 * `npm run demo`: drives a running service as its users would, and checks what it promises while doing so: a read is never
 * older than what this user has been told before, a token that was logged out is dead, and a retry with the same key is the
 * same order. It ends with a summary, and with 1 when a promise was broken or something failed.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { command, CommandError, readArguments, startProgress, wholeNumber } from './command.js';
import { type Call, Client, Pacer, type Reply } from './demo-client.js';
import { Meter } from './demo-meter.js';
import { currency, Dice, FIRST_NAMES, items, LAST_NAMES, note } from './samples.js';

const USAGE = `npm run demo -- [--url URL] [--seconds N] [--users N]
  --url      where the service is (http://127.0.0.1:3000)
  --seconds  how long, 1 to 3600 (60)
  --users    how many users at once, 1 to 200 (20)`;

/** Orders a user goes on reading; older ones are forgotten. */
const REMEMBERED = 200;
/** Logins at once: the service hashes two passwords at a time. */
const LOGINS_AT_ONCE = 4;

/** What a user knows of an order of its own. */
interface Known {
  readonly id: string;
  /** The newest version that this user was told of, by an acknowledged write or a read. */
  version: number;
  /** The version of the copy at hand, for If-None-Match; a write makes it old, as in any browser. */
  copy?: number;
}

/** What all users of this run share. */
interface Scene {
  readonly client: Client;
  readonly meter: Meter;
  /** The limit of requests without a session, which all users here share. */
  readonly address: Pacer;
  readonly isOver: () => boolean;
}

const versionOf = ({ body }: Reply): number =>
  typeof body.version === 'number' ? body.version : 0;

/** Does one thing after another, so that each read comes after the writes that were acknowledged before it. */
class Person {
  private token: string | undefined;
  /** Newest first. */
  private orders: Known[] = [];
  private readonly password = randomBytes(18).toString('base64url');

  constructor(
    private readonly scene: Scene,
    private readonly username: string,
    private readonly dice: Dice,
    private readonly pacer: Pacer,
  ) {}

  /** False when this person could not come in: there is nothing to do for it. */
  async arrive(): Promise<boolean> {
    const { username, password } = this;
    const email = `${username}@example.com`;
    await this.anonymously('register', 'POST', '/v1/users', {
      body: { username, email, password },
    });
    return this.logIn();
  }

  async act(): Promise<void> {
    if (this.token === undefined && !(await this.logIn())) return sleep(500);
    if (this.orders.length === 0) return this.place();
    let left = this.dice.share() * DEEDS.reduce((sum, [weight]) => sum + weight, 0);
    const [, deed] = DEEDS.find(([weight]) => (left -= weight) < 0) ?? DEEDS[0];
    await this[deed]();
  }

  async leave(): Promise<void> {
    if (this.token !== undefined) await this.logOut();
  }

  async read(order = this.anyOrder(), { conditional = this.dice.chance(0.4) } = {}): Promise<void> {
    const { version: known, copy } = order;
    const headers: Record<string, string> =
      conditional && copy !== undefined
        ? // Without a Cache-Control of ours, fetch adds "no-cache" to a conditional request, which asks for the primary.
          { 'If-None-Match': `"${copy}"`, 'Cache-Control': 'max-age=0' }
        : this.dice.chance(0.01)
          ? { 'Cache-Control': 'no-cache' }
          : {};
    const reply = await this.call('read an order', 'GET', `/v1/orders/${order.id}`, { headers });
    if (![200, 304, 404].includes(reply.status)) return;
    const version = reply.status === 304 ? (copy as number) : versionOf(reply);
    this.check(`order ${order.id}`, version, known);
    order.version = Math.max(order.version, version);
    order.copy = version;
  }

  async readMany(): Promise<void> {
    const chosen = [...new Set(Array.from({ length: 8 }, () => this.anyOrder()))];
    const known = new Map(chosen.map(({ id, version }) => [id, version]));
    const reply = await this.call(
      'read several orders',
      'GET',
      `/v1/orders?ids=${[...known.keys()].join(',')}`,
    );
    if (reply.status === 200) this.checkPage('the orders read', reply, known, known);
  }

  async list(): Promise<void> {
    const known = new Map(this.orders.map(({ id, version }) => [id, version]));
    const newest = new Map([...known].slice(0, 5));
    const reply = await this.call('list orders', 'GET', '/v1/orders');
    if (reply.status === 200) this.checkPage('the list', reply, newest, known);
  }

  async readMe(): Promise<void> {
    await this.call('read oneself', 'GET', '/v1/users/me');
  }

  async place(): Promise<void> {
    const code = currency(this.dice);
    const body = { currency: code, items: items(this.dice, code), note: note(this.dice) };
    const headers = { 'Idempotency-Key': randomUUID() };
    const send = (): Promise<Reply> =>
      this.call('place an order', 'POST', '/v1/orders', {
        body,
        headers,
        expect: ['idempotency-key-in-flight'],
      });
    // An impatient one clicks twice; a connection that broke makes another try later.
    const replies = await Promise.all(this.dice.chance(0.1) ? [send(), send()] : [send()]);
    const again = this.dice.chance(0.15);
    if (again) replies.push(await send());
    const placed = replies.filter(({ status }) => status === 201);
    const [first] = placed;
    if (!first) return;
    if (placed.length > 1) {
      const isSame = placed.every(({ body }) => body.id === first.body.id);
      const isTold = placed.filter(
        ({ headers }) => headers.get('idempotent-replayed') === 'true',
      ).length;
      const fault =
        isSame && isTold === placed.length - 1
          ? undefined
          : `order ${String(first.body.id)}: the retry made another`;
      this.scene.meter.replay(fault);
    }
    const order: Known = { id: String(first.body.id), version: versionOf(first) };
    this.orders = [order, ...this.orders.slice(0, REMEMBERED - 1)];
    if (this.dice.chance(0.5)) await this.read(order);
  }

  async change(): Promise<void> {
    const order = this.anyOrder();
    const body = { note: this.dice.chance(0.2) ? null : `Berth ${this.dice.between(1, 400)}.` };
    await this.write('change an order', order, 'PATCH', '', {
      body,
      headers: { 'If-Match': `"${order.version}"` },
    });
  }

  async pay(): Promise<void> {
    await this.write('pay an order', this.anyOrder(), 'POST', '/pay', {});
  }

  async cancel(): Promise<void> {
    await this.write('cancel an order', this.anyOrder(), 'POST', '/cancel', {
      body: { reason: 'Changed my mind.' },
    });
  }

  async logOut(): Promise<void> {
    const { token } = this;
    // Logging in again counts for the address, which everyone here shares.
    if (token === undefined || (!this.scene.address.isAmple && !this.scene.isOver())) return;
    const { status } = await this.call('log out', 'DELETE', '/v1/sessions/current');
    this.token = undefined;
    if (status === 204) {
      const dead = await this.anonymously('try an ended token', 'GET', '/v1/sessions/current', {
        token,
        expect: [401],
      });
      if ([200, 401].includes(dead.status)) this.scene.meter.deadToken(dead.status === 200);
    }
    if (!this.scene.isOver()) await this.logIn();
  }

  private async logIn(): Promise<boolean> {
    const { username, password } = this;
    const reply = await this.anonymously('log in', 'POST', '/v1/sessions', {
      body: { username, password },
    });
    this.token = reply.status === 201 ? String(reply.body.token) : undefined;
    return this.token !== undefined;
  }

  /** A write of which the answer tells the new version; sometimes someone reads while it is under way. */
  private async write(
    operation: string,
    order: Known,
    method: string,
    path: string,
    call: Omit<Call, 'pacer'>,
  ): Promise<void> {
    const sent = this.call(operation, method, `/v1/orders/${order.id}${path}`, {
      ...call,
      expect: ['invalid-transition'],
    });
    const [reply] = await Promise.all([
      sent,
      this.dice.chance(0.3) ? this.read(order, { conditional: false }) : undefined,
    ]);
    if (reply.status === 200) order.version = Math.max(order.version, versionOf(reply));
    // After a success: does the copy from before still pass? After anything else: what is it now?
    if (reply.status !== 200 || this.dice.chance(0.5))
      await this.read(order, { conditional: true });
  }

  /** The newest are the most wanted. */
  private anyOrder(): Known {
    return this.orders[this.dice.zipf(this.orders.length)] as Known;
  }

  private check(what: string, version: number, known: number): void {
    const fault =
      version >= known
        ? undefined
        : `${what}: got ${version || 'nothing'} after version ${known} was known`;
    this.scene.meter.read(fault);
  }

  /** `wanted` must be there; what is there must be as new as `known`. */
  private checkPage(
    what: string,
    { body }: Reply,
    wanted: ReadonlyMap<string, number>,
    known: ReadonlyMap<string, number>,
  ): void {
    const page = new Map(
      (body.data as { id: string; version: number }[]).map(({ id, version }) => [id, version]),
    );
    for (const [id, version] of wanted)
      if (!page.has(id)) this.check(`order ${id} in ${what}`, 0, version);
    for (const [id, version] of page)
      this.check(`order ${id} in ${what}`, version, known.get(id) ?? 0);
  }

  private async call(
    operation: string,
    method: string,
    path: string,
    call: Omit<Call, 'pacer'> = {},
  ): Promise<Reply> {
    const reply = await this.scene.client.call(operation, method, path, {
      token: this.token,
      pacer: this.pacer,
      ...call,
    });
    if (reply.status === 401) this.token = undefined;
    return reply;
  }

  private anonymously(
    operation: string,
    method: string,
    path: string,
    call: Omit<Call, 'pacer'>,
  ): Promise<Reply> {
    return this.scene.client.call(operation, method, path, { pacer: this.scene.address, ...call });
  }
}

/** What people do, and how often. */
const DEEDS = [
  [60, 'read'],
  [8, 'list'],
  [5, 'readMany'],
  [4, 'readMe'],
  [9, 'place'],
  [6, 'change'],
  [5, 'pay'],
  [2, 'cancel'],
  [1, 'logOut'],
] as const satisfies readonly (readonly [number, keyof Person])[];

async function findService(given: string): Promise<string> {
  if (!URL.canParse(given) || !/^https?:$/.test(new URL(given).protocol))
    throw new CommandError(
      `--url must be an http:// or https:// URL such as http://127.0.0.1:3000, not "${given}"`,
      2,
    );
  const url = given.replace(/\/+$/, '');
  const answer = await fetch(`${url}/health/live`, { signal: AbortSignal.timeout(3_000) }).catch(
    () => undefined,
  );
  if (answer?.status === 200) return url;
  const found = answer
    ? `what answers at ${url} is not this service (${answer.status})`
    : `no service answers at ${url}`;
  throw new CommandError(
    `${found}: start it with "npm start" in another terminal, or say where it is with --url`,
  );
}

/** Runs `work` for each, `width` at a time. */
async function each<T>(
  list: readonly T[],
  width: number,
  work: (one: T) => Promise<void>,
): Promise<void> {
  const queue = [...list];
  const worker = async (): Promise<void> => {
    for (let one = queue.shift(); one !== undefined; one = queue.shift()) await work(one);
  };
  await Promise.all(Array.from({ length: width }, worker));
}

await command('demo', async () => {
  const { options } = readArguments(USAGE, ['url', 'seconds', 'users']);
  const seconds = wholeNumber('seconds', options.seconds, { least: 1, most: 3_600, otherwise: 60 });
  const count = wholeNumber('users', options.users, { least: 1, most: 200, otherwise: 20 });
  const url = await findService(options.url ?? 'http://127.0.0.1:3000');

  const meter = new Meter();
  let end = Infinity;
  process.once('SIGINT', () => (end = 0));
  const address = new Pacer(false, () => (end === 0 ? 0 : end + 1_000));
  const isOver = (): boolean => performance.now() >= end;
  const scene: Scene = { client: new Client(url, meter), meter, address, isOver };
  const run = Date.now().toString(36);
  const seats = Array.from({ length: count }, (_, i) => {
    const dice = new Dice(`${run} ${i}`);
    const username =
      `${dice.pick(FIRST_NAMES)}.${dice.pick(LAST_NAMES).slice(0, 10)}.${run}${i.toString(36)}`.slice(
        0,
        32,
      );
    const pacer = new Pacer(true, () => end);
    return { person: new Person(scene, username, dice, pacer), pacer };
  });

  const present: Person[] = [];
  const arrivals = await startProgress('Users arrive', count, 'users');
  await each(seats, LOGINS_AT_ONCE, async ({ person }) => {
    if (!isOver() && (await person.arrive())) arrivals.update(present.push(person));
  });
  arrivals.stop();

  const began = performance.now();
  if (!isOver()) end = began + seconds * 1000;
  const before = meter.requests;
  const progress = await startProgress('Users at work', seconds, 's');
  const elapsed = (): number => Math.max(0.001, (performance.now() - began) / 1000);
  const ticker = setInterval(() => {
    const rate = Math.round((meter.requests - before) / elapsed());
    progress.update(
      Math.floor(elapsed()),
      `${rate} requests/s, hit ratio ${meter.hitRatio}, stale ${meter.staleReads}`,
    );
  }, 250);
  await Promise.all(
    present.map(async (person) => {
      while (!isOver()) await person.act();
    }),
  );
  const worked = elapsed();
  clearInterval(ticker);
  progress.stop();
  await each(present, LOGINS_AT_ONCE, (person) => person.leave());

  const waited = seats.reduce((sum, { pacer }) => sum + pacer.waited, address.waited) / 1000;
  console.log(`\n${meter.summary(worked)}`);
  if (waited > 1) {
    const share = Math.min(100, Math.round((100 * waited) / (present.length * worked)));
    console.log(
      `Paced        users waited ${share} % of the time to stay within the service's rate limit ` +
        '(RATE_LIMIT_PER_MINUTE=0 lifts it)',
    );
  }
  if (present.length === 0) throw new CommandError('no user could register and log in');
  return meter.isClean ? 0 : 1;
});
