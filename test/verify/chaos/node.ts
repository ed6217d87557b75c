/**
 * One node of the campaign: the service's cache and database modules in a process of their own, with clients that read and
 * write through CachedRepository and UnitOfWork and tell what they saw. On command it dies by SIGKILL at a given step of a
 * write; that is wrapped around the real classes here, so that src/ knows nothing of it.
 */
import 'reflect-metadata';
import { AsyncLocalStorage } from 'node:async_hooks';
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Global, type INestApplicationContext, Module, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import pg from 'pg';
import { Registry } from 'prom-client';
import { Session } from '../../src/auth/session.entity.js';
import { CacheModule } from '../../src/cache/cache.module.js';
import { type CachedRow, cachedRepositoryToken } from '../../src/cache/cached.decorator.js';
import type { CachedRepository } from '../../src/cache/cached-repository.js';
import { GuardedStore } from '../../src/cache/guarded.store.js';
import { Invalidation, InvalidationService } from '../../src/cache/invalidation.service.js';
import { Config, loadConfig } from '../../src/config.js';
import { DatabaseModule } from '../../src/database/database.module.js';
import { type Transaction, UnitOfWork } from '../../src/database/unit-of-work.js';
import { Order } from '../../src/orders/order.entity.js';
import { User } from '../../src/users/user.entity.js';
import {
  type Command,
  type How,
  type Kind,
  kindOf,
  micros,
  microsUp,
  type Plan,
  READ_WIDTH,
  type Report,
  type Step,
  type Subject,
  type WriteEvent,
} from './history.js';
import { Random } from './random.js';

/** How often what was seen is told. */
const TELL_EVERY_MS = 50;
const MOST_READS_TOLD = 4_096;
/** Orders that a shopper may place: fewer than the list keeps (order.entity.ts). */
const MOST_PLACED = 100;
const END_MS = 20_000;

// ---- steps at which it can die ----

/** What is known of the write that runs in this asynchronous context. */
const write = new AsyncLocalStorage<{ how: How }>();
let dieAt: Step | undefined;

const reached = (step: Step): void => {
  if (dieAt === step && write.getStore()) process.kill(process.pid, 'SIGKILL');
};

type Method = (...args: unknown[]) => unknown;

/** Puts `around` in the place of a method of a class; it gets what the method would have been called with, and the call. */
function wrap<T extends object>(
  prototype: T,
  name: keyof T & string,
  around: (call: () => Promise<unknown>, args: unknown[]) => unknown,
): void {
  const original = prototype[name] as Method;
  Object.defineProperty(prototype, name, {
    value: function (this: T, ...args: unknown[]) {
      return around(() => original.apply(this, args) as Promise<unknown>, args);
    },
  });
}

wrap(Invalidation.prototype, 'settled', async (settled) => {
  const fenced = await settled();
  const current = write.getStore();
  if (current && !fenced) current.how = 'unfenced';
  reached('fenced');
  return fenced;
});
wrap(GuardedStore.prototype, 'publish', (publish) =>
  publish().catch((error: unknown) => {
    const current = write.getStore();
    if (current?.how === 'fenced') current.how = 'unpublished';
    throw error;
  }),
);
wrap(Invalidation.prototype, 'publish', async (publish) => {
  await publish();
  reached('published');
});
wrap(pg.Client.prototype, 'query', (query, [text]) => {
  const answer = query();
  if (text !== 'COMMIT') return answer;
  setImmediate(() => reached('commit sent'));
  return answer.then((result) => (reached('committed'), result));
});

// ---- the service ----

const config = loadConfig();
const registry = new Registry();

@Global()
@Module({
  providers: [
    { provide: Config, useValue: config },
    { provide: Registry, useValue: registry },
  ],
  exports: [Config, Registry],
})
class SettingsModule {}

@Module({
  imports: [
    SettingsModule,
    DatabaseModule,
    CacheModule.forRoot({
      inject: [Config],
      useFactory: ({ redisUrl, cacheDegradedWrites, cacheTtl }: Config) => ({
        redisUrl,
        degradedWrites: cacheDegradedWrites,
        ttl: cacheTtl,
      }),
    }),
    CacheModule.forFeature([Order, Session, User]),
  ],
})
class NodeModule {}

/** A node may be started while its links are down: it tries until somebody ends it. */
async function start(): Promise<INestApplicationContext> {
  for (;;) {
    try {
      return await NestFactory.createApplicationContext(NodeModule, {
        logger: false,
        abortOnError: false,
      });
    } catch (error) {
      console.error(error);
      registry.clear();
      await sleep(100);
    }
  }
}

const app = await start();
const repository = <E extends CachedRow>(entity: Type<E>): CachedRepository<E> =>
  app.get<CachedRepository<E>>(cachedRepositoryToken(entity), { strict: false });
const orders = repository(Order);
const sessions = repository(Session);
const users = repository(User);
const unitOfWork = app.get(UnitOfWork, { strict: false });
const invalidations = app.get(InvalidationService, { strict: false });

// ---- what it tells ----

const report = (message: Report): void =>
  void process.send?.(message, undefined, {}, () => undefined);

const reads = new Float64Array(MOST_READS_TOLD * READ_WIDTH);
let used = 0;
let writes: WriteEvent[] = [];

function tell(): void {
  if (used > 0) report({ said: 'reads', reads: reads.slice(0, used) });
  if (writes.length > 0) report({ said: 'writes', writes });
  used = 0;
  writes = [];
}

function saw(subject: number, version: number, stamp: number, begin: number, end: number): void {
  reads[used++] = subject;
  reads[used++] = version;
  reads[used++] = stamp;
  reads[used++] = begin;
  reads[used++] = end;
  if (used === reads.length) tell();
}

const stampOf = (row: CachedRow | null): number => {
  if (row instanceof Order) return Number(row.note);
  if (row instanceof Session) return Number(row.userAgent);
  return row instanceof User ? Number(row.email?.split('@')[0]) : 0;
};

// ---- its clients ----

/** Each life of a process has stamps of its own. */
let stamps = Number(process.env.CAMPAIGN_LIFE) * 10_000_000;

type Written = readonly (readonly [subject: number, version: number])[];
class RefusedError extends Error {}

class Round {
  private readonly of: Record<Kind, number[]> = { o: [], s: [], u: [], h: [], c: [], n: [] };
  private readonly indexOf: ReadonlyMap<string, number>;
  private readonly random: Random;
  /** Names and addresses that were seen a moment ago. */
  private readonly emails: string[] = [];
  private readonly clients: Promise<void>[] = [];
  private over = false;
  private busy = 0;
  private failedReads = 0;

  constructor(private readonly plan: Plan) {
    plan.subjects.forEach((subject, index) => this.of[kindOf(subject)].push(index));
    this.indexOf = new Map(plan.subjects.map(({ id }, index) => [id, index]));
    this.random = new Random(plan.seed + Number(process.env.CAMPAIGN_LIFE));
    const run = (
      count: number,
      act: (random: Random) => Promise<unknown>,
      restMs: number,
    ): void => {
      for (let index = 0; index < count; index++) this.clients.push(this.client(act, restMs));
    };
    run(plan.readers, (random) => this.read(random), plan.readRestMs);
    run(plan.writers, (random) => this.write(random), plan.writeRestMs);
  }

  /** Stops the clients and waits for what is under way, but not for what hangs. */
  async end(): Promise<void> {
    this.over = true;
    await Promise.race([Promise.all(this.clients), sleep(END_MS)]);
    const outcomes: Record<string, number> = {};
    const counted = await registry.getSingleMetric('holdfast_cache_requests_total')?.get();
    for (const { labels, value } of counted?.values ?? []) {
      const outcome = String((labels as Record<string, unknown>).outcome);
      outcomes[outcome] = (outcomes[outcome] ?? 0) + value;
    }
    registry.resetMetrics();
    tell();
    report({ said: 'ended', hanging: this.busy, failedReads: this.failedReads, outcomes });
  }

  private async client(act: (random: Random) => Promise<unknown>, restMs: number): Promise<void> {
    const random = this.random.fork(String(this.random.next()));
    // Not all of them at once.
    await sleep(random.between(0, restMs + 5));
    while (!this.over) {
      this.busy++;
      try {
        await act(random);
      } catch {
        // PostgreSQL cannot be reached: no answer is no stale answer.
        this.failedReads++;
        await sleep(5);
      } finally {
        this.busy--;
      }
      if (restMs > 0) await sleep(random.between(0, restMs));
    }
  }

  private id(subject: number): string {
    return this.plan.subjects[subject]?.id as string;
  }

  // ---- reading ----

  private async read(random: Random): Promise<unknown> {
    const dice = random.next();
    if (dice < 0.4) return this.readOne(random.pick(this.of.o));
    if (dice < 0.55)
      return this.readMany(
        random.shuffled(this.of.o).slice(0, random.between(2, this.of.o.length)),
      );
    if (dice < 0.63) return this.readOne(random.pick(this.of.u));
    if (dice < 0.7) return this.readOne(random.pick(this.of.s));
    if (dice < 0.73) return this.readOne(random.pick(this.of.h));
    // Some of them twice.
    if (dice < 0.83)
      return this.readMany(
        Array.from({ length: random.between(2, 8) }, () => random.pick(this.of.o)),
      );
    if (dice < 0.96) return this.readAlias(random);
    return this.readList(random.pick(this.of.c));
  }

  private async readOne(subject: number): Promise<number> {
    const begin = micros();
    const row = await this.find(subject);
    const version = row?.version ?? 0;
    saw(subject, version, stampOf(row), begin, microsUp());
    return version;
  }

  private find(subject: number): Promise<CachedRow | null> {
    const id = this.id(subject);
    switch (this.plan.subjects[subject]?.name[0]) {
      case 'u':
        return users.findById(id);
      case 's':
        return sessions.findById(id);
      default:
        return orders.findById(id);
    }
  }

  private async readMany(subjects: readonly number[]): Promise<void> {
    const begin = micros();
    const rows = await orders.findByIds(subjects.map((subject) => this.id(subject)));
    const end = microsUp();
    rows.forEach((row, index) =>
      saw(subjects[index] as number, row?.version ?? 0, stampOf(row), begin, end),
    );
  }

  private async readAlias(random: Random): Promise<void> {
    const email =
      this.emails.length > 0 && random.chance(0.3) ? random.pick(this.emails) : undefined;
    const name = random.pick(this.of.n);
    const wanted = email ?? this.id(name);
    const begin = micros();
    const user = await users.findByAlias(email ? 'email' : 'username', wanted);
    const end = microsUp();
    if (!user) {
      if (!email) saw(name, 0, 0, begin, end);
      return;
    }
    if ((email ? user.email?.toLowerCase() : user.username) !== wanted.toLowerCase()) {
      report({
        said: 'wrong row',
        what: `${wanted} found ${user.id}, which is ${user.username} and ${user.email}`,
      });
    }
    saw(this.indexOf.get(user.id) as number, user.version, stampOf(user), begin, end);
    if (user.email) this.emails[random.between(0, 7)] = user.email;
  }

  /** Orders of a list are numbered by their totals, from 1 on. */
  private async readList(subject: number): Promise<number> {
    const begin = micros();
    const rows = await orders.findCollection('ofUser', this.id(subject), MOST_PLACED);
    const end = microsUp();
    const byNumber = new Map(rows.map((row) => [row.total, row]));
    let version = 0;
    while (byNumber.has(version + 1)) version++;
    saw(subject, version, stampOf(byNumber.get(version) ?? null), begin, end);
    return version;
  }

  async look(): Promise<void> {
    const look = async (subject: Subject, index: number): Promise<number> => {
      const kind = kindOf(subject);
      if (kind === 'n') return 0;
      return kind === 'c' ? this.readList(index) : this.readOne(index);
    };
    // What cannot be read just now is asked for again by whoever wants to know.
    const versions = await Promise.all(
      this.plan.subjects.map((subject, index) => look(subject, index).catch(() => -1)),
    );
    tell();
    report({ said: 'looked', versions });
  }

  // ---- writing ----

  private async write(random: Random): Promise<void> {
    const work = this.workOf(random);
    const stamp = ++stamps;
    writes.push({ event: 'begun', stamp, at: micros() });
    await write.run({ how: 'fenced' }, async () => {
      try {
        const written = await work(stamp);
        const { how } = write.getStore() as { how: How };
        writes.push({ event: 'acknowledged', stamp, at: microsUp(), how, written });
      } catch (error) {
        const why =
          error instanceof Error ? `${error.name}: ${error.message.slice(0, 80)}` : String(error);
        writes.push({ event: 'failed', stamp, at: microsUp(), why });
        if (!(error instanceof RefusedError)) await sleep(5);
      }
    });
  }

  private workOf(random: Random): (stamp: number) => Promise<Written> {
    const dice = random.next();
    if (dice < 0.4) return this.changeOrders([random.pick(this.of.o)]);
    if (dice < 0.55) return this.changeOrders([random.pick(this.of.o), random.pick(this.of.o)]);
    if (dice < 0.63) return this.changeOptimistically(random.pick(this.of.o));
    if (dice < 0.71) return this.changeAndRollBack(random.pick(this.of.o), random.between(0, 5));
    if (dice < 0.82) return this.comeOrGo(random.pick(this.of.s));
    if (dice < 0.93) return this.rename(random);
    return this.place(random.pick(this.of.c));
  }

  private async change(
    transaction: Transaction,
    subject: number,
    stamp: number,
  ): Promise<[number, number]> {
    const row = (await transaction.lock(Order, this.id(subject))) as Order;
    const after = (await transaction.update(row, { note: String(stamp) })) as Order;
    return [subject, after.version];
  }

  /** Rows are locked in one order by everyone. */
  private changeOrders(subjects: readonly number[]) {
    const inOrder = [...new Set(subjects)].sort((one, other) => one - other);
    return (stamp: number): Promise<Written> =>
      unitOfWork.run(async (transaction) => {
        const written: [number, number][] = [];
        for (const subject of inOrder) written.push(await this.change(transaction, subject, stamp));
        reached('sql');
        return written;
      });
  }

  private changeOptimistically(subject: number) {
    return async (stamp: number): Promise<Written> => {
      const before = (await orders.findById(this.id(subject))) as Order;
      return unitOfWork.run(async (transaction) => {
        const after = await transaction.update(before, { note: String(stamp) });
        if (!after) throw new RefusedError('another was first');
        return [[subject, after.version]];
      });
    };
  }

  private changeAndRollBack(subject: number, ms: number) {
    return (stamp: number): Promise<Written> =>
      unitOfWork.run(async (transaction): Promise<Written> => {
        await this.change(transaction, subject, stamp);
        await sleep(ms);
        throw new RefusedError('rolled back on purpose');
      });
  }

  private comeOrGo(subject: number) {
    const id = this.id(subject);
    return (stamp: number): Promise<Written> =>
      unitOfWork.run(async (transaction): Promise<Written> => {
        const there = await transaction.lock(Session, id);
        if (there) {
          if (!(await transaction.remove(there))) throw new RefusedError('another was first');
          return [[subject, there.version + 1]];
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
        return [[subject, row.version]];
      });
  }

  /** A user takes another name; sometimes a second user takes the one that becomes free, in the same transaction. */
  private rename(random: Random) {
    const [first, second] = [random.pick(this.of.u), random.pick(this.of.u)];
    const name = this.id(random.pick(this.of.n));
    const handOver = first !== second && random.chance(0.5);
    return (stamp: number): Promise<Written> =>
      unitOfWork.run(async (transaction): Promise<Written> => {
        const one = (await transaction.lock(User, this.id(first))) as User;
        const other = handOver
          ? ((await transaction.lock(User, this.id(second))) as User)
          : undefined;
        const changed = (await transaction.update(one, {
          username: name,
          email: `${stamp}@campaign.test`,
        })) as User;
        if (!other) return [[first, changed.version]];
        const after = await transaction.update(other, {
          username: one.username,
          email: `${stamp}@Other.test`,
        });
        return [
          [first, changed.version],
          [second, (after as User).version],
        ];
      });
  }

  /** The shopper's row is locked, so that the list's orders are numbered in the order of their commits. */
  private place(subject: number) {
    const shopper = this.id(subject);
    return (stamp: number): Promise<Written> =>
      unitOfWork.run(async (transaction): Promise<Written> => {
        await transaction.lock(User, shopper);
        const number = 1 + (await transaction.manager.countBy(Order, { userId: shopper }));
        if (number > MOST_PLACED) throw new RefusedError('the list is full');
        await transaction.insert(Order, {
          id: randomUUID(),
          userId: shopper,
          status: 'placed',
          currency: 'EUR',
          items: [{ sku: 'A', name: 'a', quantity: 1, unitPrice: number }],
          total: number,
          note: String(stamp),
        });
        return [[subject, number]];
      });
  }
}

let round: Round | undefined;

async function obey(command: Command): Promise<void> {
  switch (command.do) {
    case 'begin':
      Object.assign(invalidations, { degradedWrites: command.plan.degradedWrites });
      dieAt = undefined;
      round = new Round(command.plan);
      return;
    case 'die':
      dieAt = command.step;
      return;
    case 'end':
      return round?.end();
    case 'look':
      return round?.look();
  }
}

setInterval(tell, TELL_EVERY_MS);
process.on('disconnect', () => process.exit(0));
process.on('message', (command: Command) => {
  obey(command).catch((error: unknown) => console.error(error));
});
report({ said: 'ready' });
