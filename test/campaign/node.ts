/**
 * One node of the campaign: the real application (without its HTTP server) in a process of its own, whose clients read and
 * write through CachedRepository and UnitOfWork as fast as they can and write down what they saw. On command it dies at a
 * given step of a write, or breaks the protocol; both are wrapped around the real classes here, so that src/ knows nothing.
 */
import 'reflect-metadata';
import { AsyncLocalStorage } from 'node:async_hooks';
import { createHash, randomUUID } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { createClient } from 'redis';
import { DataSource, type QueryRunner } from 'typeorm';
import { AppModule } from '../../src/app.module.js';
import { Session } from '../../src/auth/session.entity.js';
import { CacheMetrics } from '../../src/cache/cache.metrics.js';
import { type CachedRow, cachedRepositoryToken } from '../../src/cache/cached.decorator.js';
import type { CachedRepository } from '../../src/cache/cached-repository.js';
import { GuardedStore } from '../../src/cache/guarded.store.js';
import { Invalidation, InvalidationService } from '../../src/cache/invalidation.service.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { loadConfig } from '../../src/config.js';
import { type Transaction, UnitOfWork } from '../../src/database/unit-of-work.js';
import { Idempotency } from '../../src/http/idempotency.js';
import { Order } from '../../src/orders/order.entity.js';
import { OrdersService } from '../../src/orders/orders.service.js';
import { User } from '../../src/users/user.entity.js';
import {
  type Breakage,
  type Command,
  type Line,
  micros,
  microsUp,
  type Plan,
  type Report,
  type Step,
  writesOf,
} from './history.js';
import { Random } from './random.js';

/** What is known of the write that runs in this asynchronous context. */
const write = new AsyncLocalStorage<{ flags: string }>();
let dieAt: Step | undefined;
let broken: Breakage | null = null;

const die = (step: Step): void => {
  if (dieAt === step && write.getStore()) process.kill(process.pid, 'SIGKILL');
};

/** Puts `around` in the place of a method of a class; it gets the method as it was. */
function wrap<T extends object, K extends keyof T & string>(
  prototype: T,
  name: K,
  around: (original: T[K], self: T, args: unknown[]) => unknown,
): void {
  const original = prototype[name];
  Object.defineProperty(prototype, name, {
    value: function (this: T, ...args: unknown[]) {
      return around(original, this, args);
    },
  });
}
type Method = (...args: unknown[]) => Promise<unknown>;
const call = (method: unknown, self: object, args: unknown[]): Promise<unknown> => (method as Method).apply(self, args);

/** Notes in the write's flags that the cache failed it, and passes the failure on. */
const noting = (done: Promise<unknown>): Promise<unknown> =>
  done.catch((error: unknown) => {
    const store = write.getStore();
    if (store && !store.flags.includes('p')) store.flags += 'p';
    throw error;
  });

wrap(GuardedStore.prototype, 'fence', (fence, self, args) => {
  if (broken === 'fences are dropped' && write.getStore()) return Promise.resolve();
  return noting(call(fence, self, args));
});
wrap(GuardedStore.prototype, 'publish', (publish, self, args) => {
  if (broken === 'publications are dropped and reported as done') return Promise.resolve();
  return noting(call(publish, self, args));
});
wrap(GuardedStore.prototype, 'unfence', (unfence, self, args) => noting(call(unfence, self, args)));
wrap(Invalidation.prototype, 'settled', async (settled, self, args) => {
  const fenced = await call(settled, self, args);
  const store = write.getStore();
  if (store && !fenced) store.flags += 'f';
  die('fenced');
  return fenced;
});
wrap(Invalidation.prototype, 'publish', async (publish, self, args) => {
  const done = call(publish, self, args);
  setImmediate(() => die('publish-sent'));
  await done;
  die('published');
});
const isOpen = Object.getOwnPropertyDescriptor(ReadGate.prototype, 'isOpen')?.get as () => boolean;
Object.defineProperty(ReadGate.prototype, 'isOpen', {
  get(this: ReadGate) {
    return broken === 'the gate is always open' || isOpen.call(this);
  },
});
// What a server says of itself in INFO is all that the service knows of its incarnation.
let client = Object.getPrototypeOf(createClient()) as ReturnType<typeof createClient>;
while (!Object.hasOwn(client, 'sendCommand')) client = Object.getPrototypeOf(client) as typeof client;
wrap(client, 'sendCommand', async (sendCommand, self, args) => {
  const reply = await call(sendCommand, self, args);
  if (broken !== 'every server has the same incarnation' || typeof reply !== 'string') return reply;
  return reply.replace(/^(run_id|master_replid):.*$/gm, (_, name) => `${name}:${'0'.repeat(40)}`);
});

const tally: Record<string, number> = {};
const count = (name: string): void => void (tally[name] = (tally[name] ?? 0) + 1);
wrap(CacheMetrics.prototype, 'request', (request, self, args) => {
  count(`cache ${String(args[1])}`);
  return call(request, self, args);
});

const app = await NestFactory.createApplicationContext(AppModule.with(loadConfig()), {
  logger: process.env.CAMPAIGN_LOG ? ['warn', 'error'] : false,
  abortOnError: false,
});
const repository = <E extends CachedRow>(entity: Type<E>): CachedRepository<E> =>
  app.get<CachedRepository<E>>(cachedRepositoryToken(entity), { strict: false });
const orders = repository(Order);
const users = repository(User);
const sessions = repository(Session);
const unitOfWork = app.get(UnitOfWork, { strict: false });
const idempotency = app.get(Idempotency, { strict: false });
const ordersService = app.get(OrdersService, { strict: false });

const runners = Object.getPrototypeOf(app.get(DataSource, { strict: false }).createQueryRunner()) as QueryRunner;
wrap(runners, 'commitTransaction', async (commit, self, args) => {
  const done = call(commit, self, args);
  setImmediate(() => die('commit-sent'));
  await done;
  die('committed');
});

/** The last round that was begun. */
let round: Round | undefined;
const serial = Number(process.env.CAMPAIGN_SERIAL);
let stamps = 0;

const stampOf = (row: CachedRow | null): number => {
  if (row instanceof Order) return Number(row.note);
  if (row instanceof Session) return Number(row.userAgent);
  return row instanceof User ? Number(row.email?.split('@')[0]) : 0;
};

class Round {
  private readonly file: number;
  private readonly writes: number;
  private readonly random: Random;
  private readonly keyOf: ReadonlyMap<string, string>;
  private readonly keys: Readonly<Record<'o' | 'h' | 'u' | 's', string[]>>;
  private readonly placed = new Map<string, number>();
  private readonly emails: string[] = [];
  private lines: string[] = [];
  private over = false;
  private closed = false;
  private clients: Promise<void>[] = [];

  constructor(readonly plan: Plan) {
    this.file = openSync(plan.file, 'a');
    this.writes = openSync(writesOf(plan.file), 'a');
    this.random = new Random(plan.seed);
    this.keyOf = new Map(Object.entries(plan.rows).map(([key, id]) => [id, key]));
    const of = (kind: string): string[] => Object.keys(plan.rows).filter((key) => key.startsWith(kind));
    this.keys = { o: of('o'), h: of('h'), u: of('u'), s: of('s') };
  }

  begin(): void {
    const { readers, writers } = this.plan;
    const readerOf = (): Promise<void> => this.client((random) => this.read(random), this.plan.readRestMs);
    const writerOf = (): Promise<void> => this.client((random) => this.write(random), this.plan.writeRestMs);
    this.clients = [...Array.from({ length: readers }, readerOf), ...Array.from({ length: writers }, writerOf)];
  }

  /** Stops the clients and waits for what is under way, but not for what hangs; the rows can still be looked at. */
  async end(): Promise<void> {
    this.over = true;
    await Promise.race([Promise.all(this.clients), sleep(1_500)]);
    this.flush();
    this.closed = true;
    closeSync(this.file);
    closeSync(this.writes);
  }

  private async client(act: (random: Random) => Promise<void>, restMs: number): Promise<void> {
    const random = this.random.fork(String(this.random.next()));
    while (!this.over) {
      try {
        await act(random);
      } catch (error) {
        count(`read failed: ${error instanceof Error ? error.name : String(error)}`);
        await sleep(5);
      }
      if (restMs > 0) await sleep(random.between(0, restMs));
    }
  }

  private note(line: Line): void {
    if (this.closed) return;
    this.lines.push(JSON.stringify(line));
    if (this.lines.length >= 256) this.flush();
  }

  /** In a file of its own, at once: what a dying node had begun must be known, and quick to read. */
  private noteNow(line: Line): void {
    if (!this.closed) writeSync(this.writes, JSON.stringify(line) + '\n');
  }

  private flush(): void {
    if (Object.keys(tally).length > 0) {
      this.lines.push(JSON.stringify(['t', tally]));
      for (const name of Object.keys(tally)) delete tally[name];
    }
    if (this.lines.length > 0) writeSync(this.file, this.lines.join('\n') + '\n');
    this.lines = [];
  }

  private id(key: string): string {
    return this.plan.rows[key] as string;
  }

  private async read(random: Random): Promise<void> {
    const dice = random.next();
    if (dice < 0.55) {
      const key = random.pick(
        dice < 0.3 ? this.keys.o : dice < 0.4 ? this.keys.u : dice < 0.5 ? this.keys.s : this.keys.h,
      );
      const begin = micros();
      const row = await this.find(key);
      this.note(['r', begin, microsUp(), key, row?.version ?? 0, stampOf(row)]);
    } else if (dice < 0.8) {
      const many = Array.from({ length: random.between(2, 8) }, () => random.pick(this.keys.o));
      const begin = micros();
      const rows = await orders.findByIds(many.map((key) => this.id(key)));
      const end = microsUp();
      const seen = rows.flatMap((row, index) => [many[index] as string, row?.version ?? 0, stampOf(row)]);
      this.note(['m', begin, end, ...seen]);
    } else if (dice < 0.93) {
      const email = dice < 0.84 && this.emails.length > 0 ? random.pick(this.emails) : undefined;
      const alias = email ?? random.pick(this.plan.names);
      const begin = micros();
      const user = await users.findByAlias(email ? 'email' : 'username', alias);
      const key = user ? (this.keyOf.get(user.id) ?? user.id) : '';
      this.note(['a', begin, microsUp(), alias, key, user?.version ?? 0, stampOf(user)]);
      if (user?.email) this.emails[random.between(0, 7)] = user.email;
    } else {
      const shopper = random.pick(Object.keys(this.plan.shoppers));
      const begin = micros();
      const rows = await orders.findCollection('ofUser', this.plan.shoppers[shopper] as string, 101);
      this.note(['c', begin, microsUp(), shopper, rows.map(stampOf)]);
    }
  }

  private find(key: string): Promise<CachedRow | null> {
    const id = this.id(key);
    return key.startsWith('u') ? users.findById(id) : key.startsWith('s') ? sessions.findById(id) : orders.findById(id);
  }

  async look(): Promise<Record<string, number>> {
    const keys = Object.keys(this.plan.rows);
    const rows = await Promise.all(keys.map((key) => this.find(key)));
    return Object.fromEntries(keys.map((key, index) => [key, rows[index]?.version ?? 0]));
  }

  private async write(random: Random): Promise<void> {
    const dice = random.next();
    if (dice < 0.12) return this.place(random);
    const work =
      dice < 0.45
        ? this.changeOne(random)
        : dice < 0.6
          ? this.changeTwo(random)
          : dice < 0.68
            ? this.changeOptimistically(random)
            : dice < 0.76
              ? this.changeAndRollBack(random)
              : dice < 0.88
                ? this.comeOrGo(random)
                : this.rename(random);
    const stamp = serial * 10_000_000 + ++stamps;
    this.noteNow(['b', stamp, micros()]);
    await write.run({ flags: '' }, async () => {
      try {
        const versions = await work(stamp);
        this.noteNow(['w', stamp, microsUp(), write.getStore()?.flags ?? '', ...versions]);
      } catch (error) {
        const why = error instanceof Error ? `${error.name} ${error.message.slice(0, 60)}` : String(error);
        this.noteNow(['x', stamp, microsUp(), why]);
        await sleep(5);
      }
    });
  }

  private change(transaction: Transaction, key: string, stamp: number): Promise<(string | number)[]> {
    return transaction.lock(Order, this.id(key)).then(async (row) => {
      const after = row && (await transaction.update(row, { note: String(stamp) }));
      if (!after) throw new Error('no such row');
      return [key, after.version];
    });
  }

  private changeOne(random: Random) {
    const key = random.pick(this.keys.o);
    return (stamp: number) =>
      unitOfWork.run(async (transaction) => {
        const written = await this.change(transaction, key, stamp);
        die('sql');
        return written;
      });
  }

  private changeTwo(random: Random) {
    const [one, other] = [random.pick(this.keys.o), random.pick(this.keys.o)];
    return (stamp: number) =>
      unitOfWork.run(async (transaction) => {
        const written = await this.change(transaction, one, stamp);
        return one === other ? written : [...written, ...(await this.change(transaction, other, stamp))];
      });
  }

  private changeOptimistically(random: Random) {
    const key = random.pick(this.keys.o);
    return async (stamp: number) => {
      const before = await orders.findById(this.id(key));
      return unitOfWork.run(async (transaction) => {
        const after = before && (await transaction.update(before, { note: String(stamp) }));
        if (!after) throw new Error('another was first');
        return [key, after.version];
      });
    };
  }

  private changeAndRollBack(random: Random) {
    const key = random.pick(this.keys.o);
    return (stamp: number) =>
      unitOfWork.run(async (transaction): Promise<(string | number)[]> => {
        await this.change(transaction, key, stamp);
        await sleep(random.between(0, 5));
        throw new Error('rolled back on purpose');
      });
  }

  private comeOrGo(random: Random) {
    const key = random.pick(this.keys.s);
    const id = this.id(key);
    return (stamp: number) =>
      unitOfWork.run(async (transaction): Promise<(string | number)[]> => {
        const there = await transaction.lock(Session, id);
        if (there) {
          if (!(await transaction.remove(there))) throw new Error('another was first');
          return [key, there.version + 1];
        }
        const now = Date.now();
        const row = await transaction.insert(Session, {
          id,
          userId: this.plan.owner,
          tokenHash: createHash('sha256').update(id).digest('hex'),
          userAgent: String(stamp),
          ip: null,
          lastSeenAt: new Date(now),
          expiresAt: new Date(now + 3_600_000),
        });
        return [key, row.version];
      });
  }

  /** A user takes another name; sometimes a second user takes the one that becomes free, in the same transaction. */
  private rename(random: Random) {
    const [first, second] = [random.pick(this.keys.u), random.pick(this.keys.u)];
    const name = random.pick(this.plan.names);
    const handOver = first !== second && random.chance(0.5);
    return (stamp: number) =>
      unitOfWork.run(async (transaction) => {
        const one = await transaction.lock(User, this.id(first));
        const other = handOver ? await transaction.lock(User, this.id(second)) : null;
        if (!one) throw new Error('no such user');
        const changed = await transaction.update(one, { username: name, email: `${stamp}@campaign.test` });
        const written = [first, changed?.version ?? 0];
        if (!other) return written;
        const after = await transaction.update(other, { username: one.username, email: `${stamp}@Other.test` });
        return [...written, second, after?.version ?? 0];
      });
  }

  private async place(random: Random): Promise<void> {
    const shopper = random.pick(Object.keys(this.plan.shoppers));
    const before = this.placed.get(shopper) ?? 0;
    if (before >= this.plan.placements) return sleep(2).then(() => undefined);
    this.placed.set(shopper, before + 1);
    const stamp = serial * 10_000_000 + ++stamps;
    const key = randomUUID();
    this.noteNow(['b', stamp, micros(), shopper, key]);
    for (let attempt = 0; attempt < 4 && !this.over; attempt++) {
      if (await this.placeOnce(stamp, shopper, key)) return;
      await sleep(random.between(5, 100));
    }
  }

  /** True when it is acknowledged, by the first request with this key or by this one. */
  async placeOnce(stamp: number, shopper: string, key: string): Promise<boolean> {
    const userId = this.plan.shoppers[shopper] as string;
    const actor = { userId, roles: ['user'], sessionId: '', hold: () => Promise.resolve() } as const;
    const reply = { header: () => reply, headers: () => reply, code: () => reply, send: () => reply };
    return write.run({ flags: '' }, async () => {
      try {
        await idempotency.once({ key, fingerprint: String(stamp) }, actor, reply as never, async (transaction) => {
          const items = [{ sku: 'A', name: 'a', quantity: 1, unitPrice: 1 }];
          const order = { currency: 'EUR', items, note: String(stamp) };
          return { status: 201, headers: {}, body: await ordersService.place(transaction, actor, order) };
        });
        this.noteNow(['p', stamp, microsUp(), write.getStore()?.flags ?? '', shopper]);
        return true;
      } catch (error) {
        this.noteNow(['x', stamp, microsUp(), `place: ${error instanceof Error ? error.message.slice(0, 60) : ''}`]);
        return false;
      }
    });
  }
}

const report = (message: Report): void => void process.send?.(message, undefined, {}, () => undefined);

async function obey(command: Command): Promise<void> {
  switch (command.kind) {
    case 'begin':
      Object.assign(app.get(InvalidationService, { strict: false }), { degradedWrites: command.plan.degradedWrites });
      dieAt = undefined;
      round = new Round(command.plan);
      return round.begin();
    case 'end':
      await round?.end();
      return report({ kind: 'ended' });
    case 'die':
      dieAt = command.step;
      return;
    case 'break':
      broken = command.breakage;
      return;
    case 'repeat':
      for (let attempt = 0; attempt < 20 && round; attempt++) {
        if (await round.placeOnce(command.stamp, command.owner, command.key)) return;
        await sleep(100);
      }
      return;
    case 'look':
      if (round) report({ kind: 'seen', rows: await round.look() });
  }
}

process.on('disconnect', () => process.exit(0));
process.on('message', (command: Command) => void obey(command).catch(() => undefined));
report({ kind: 'ready' });
