/**
 * The real CachedRepository and UnitOfWork under every order of their awaits that fast-check's scheduler thinks of: each step to
 * the database or the cache is held back on its way there and on its way back, and released in a seeded random order. Only the
 * database and TypeORM's builders are stand-ins; the store is the real MemoryStore.
 */
import { describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import fc, { type Scheduler } from 'fast-check';
import { Registry } from 'prom-client';
import { Column, DataSource, Entity, PrimaryColumn, type Repository } from 'typeorm';
import { CacheMetrics } from '../../src/cache/cache.metrics.js';
import { type CacheStore, CacheUnavailableError, dropKeys } from '../../src/cache/cache.store.js';
import { Cached } from '../../src/cache/cached.decorator.js';
import { CachedEntity, CachedRepository } from '../../src/cache/cached-repository.js';
import type { DatabaseInvalidations } from '../../src/cache/database-invalidations.js';
import { CachedEntities, InvalidationService } from '../../src/cache/invalidation.service.js';
import { MemoryStore } from '../../src/cache/memory.store.js';
import { ReadGate } from '../../src/cache/read-gate.js';
import { UnitOfWork } from '../../src/database/unit-of-work.js';

Logger.overrideLogger(false);

@Entity('things')
@Cached({
  name: 'thing',
  schema: 1,
  ttl: 60,
  aliases: { name: { property: 'name' } },
  collections: { ofShelf: { by: 'shelf', newest: 'id', size: 10 } },
})
class Thing {
  @PrimaryColumn('text')
  id: string;
  @Column('text')
  name: string;
  @Column('text')
  shelf: string;
  @Column('integer')
  version: number;
}

const connection = new DataSource({ type: 'postgres', entities: [Thing] });
await (connection as unknown as { buildMetadatas(): Promise<void> }).buildMetadatas();
const metadata = connection.getMetadata(Thing);

/** Holds back each call on its way there and each answer on its way back. */
type Hold = (label: string) => Promise<unknown>;

/** Committed rows, row locks held to the end of a transaction, and just the builders that the code under test uses. */
class Database {
  readonly rows = new Map<string, Thing>();
  private readonly locks = new Map<string, Promise<void>>();

  constructor(private readonly hold: Hold) {}

  async read<T>(label: string, look: () => T): Promise<T> {
    await this.hold(`${label} →`);
    const seen = look();
    await this.hold(`${label} ←`);
    return seen;
  }

  repository(): Repository<Thing> {
    const createQueryBuilder = () => {
      let wanted: { ids?: string[]; values?: string[]; value?: string } = {};
      const matches = (row: Thing): boolean =>
        wanted.ids?.includes(row.id) ??
        wanted.values?.includes(row.name) ??
        row.shelf === wanted.value;
      const builder = {
        where: (_: string, parameters: typeof wanted) => ((wanted = parameters), builder),
        select: () => builder,
        orderBy: () => builder,
        addOrderBy: () => builder,
        limit: () => builder,
        getMany: () =>
          this.read('SELECT', () =>
            [...this.rows.values()].filter(matches).sort((a, b) => (a.id < b.id ? 1 : -1)),
          ),
      };
      return builder;
    };
    return { metadata, createQueryBuilder } as unknown as Repository<Thing>;
  }

  private async lock(id: string): Promise<() => void> {
    while (this.locks.has(id)) await this.locks.get(id);
    let release!: () => void;
    this.locks.set(
      id,
      new Promise((resolve) => (release = () => (this.locks.delete(id), resolve()))),
    );
    return release;
  }

  queryRunner() {
    const pending = new Map<string, Thing>();
    const releases: (() => void)[] = [];
    const end = (): void => releases.splice(0).forEach((release) => release());
    const write = async (label: string, id: string, work: () => Thing | undefined) => {
      await this.hold(`${label} →`);
      releases.push(await this.lock(id));
      const row = work();
      if (row) pending.set(id, row);
      await this.hold(`${label} ←`);
      return { raw: row ? [{ ...row }] : [] };
    };
    const manager = {
      connection,
      createQueryBuilder: () => ({
        update: () => {
          let changes: Partial<Thing> = {};
          let wanted = { id: '', version: 0 };
          const builder = {
            set: (values: Partial<Thing>) => ((changes = values), builder),
            where: (_: string, parameters: typeof wanted) => ((wanted = parameters), builder),
            returning: () => builder,
            execute: () =>
              write('UPDATE', wanted.id, () => {
                const row = this.rows.get(wanted.id);
                return row?.version === wanted.version
                  ? Object.assign(new Thing(), row, changes, { version: row.version + 1 })
                  : undefined;
              }),
          };
          return builder;
        },
        insert: () => {
          let values: Thing | undefined;
          const builder = {
            into: () => builder,
            values: (given: Thing) => ((values = given), builder),
            returning: () => builder,
            execute: () =>
              write('INSERT', (values as Thing).id, () =>
                Object.assign(new Thing(), values, { version: 1 }),
              ),
          };
          return builder;
        },
      }),
    };
    const client = {
      query: async () => {
        await this.hold('COMMIT →');
        for (const [id, row] of pending) this.rows.set(id, row);
        end();
        await this.hold('COMMIT ←');
        return { command: 'COMMIT' };
      },
      end: async () => undefined,
    };
    return {
      manager,
      connect: async () => client,
      startTransaction: () => this.hold('BEGIN'),
      query: async () => undefined,
      rollbackTransaction: async () => {
        await this.hold('ROLLBACK');
        pending.clear();
        end();
      },
      release: async () => undefined,
    };
  }
}

interface Faults {
  /** Steps that are left out, to see the check fail. */
  readonly without?: 'fence' | 'publish';
  /** The publish of this number fails, and its keys take the database's way. */
  readonly failingPublish?: number;
  /** And that way is lost too: only the fence is left. */
  readonly leaveLost?: boolean;
}

/** The real store, each call held back on both ways. */
function heldStore(
  inner: MemoryStore,
  hold: Hold,
  { without, failingPublish }: Faults,
): CacheStore {
  let published = 0;
  const held =
    <A extends unknown[], R>(name: string, call: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      await hold(`${name} →`);
      if (name === 'publish' && ++published === failingPublish)
        throw new CacheUnavailableError('lost on the way');
      const answer = await (name === without ? (Promise.resolve() as Promise<R>) : call(...args));
      await hold(`${name} ←`);
      return answer;
    };
  return {
    get: held('get', (keys) => inner.get(keys)),
    lease: held('lease', (keys, token, ms) => inner.lease(keys, token, ms)),
    fill: held('fill', (token, values) => inner.fill(token, values)),
    replace: held('replace', (replacements) => inner.replace(replacements)),
    fence: held('fence', (keys, token, ms) => inner.fence(keys, token, ms)),
    publish: held('publish', (token, publications) => inner.publish(token, publications)),
    unfence: held('unfence', (keys, token) => inner.unfence(keys, token)),
    ping: async () => undefined,
    close: async () => undefined,
    available: true,
  } as CacheStore;
}

/** One run: two writers, a writer that rolls back, four readers on two nodes, a flush. Throws at a stale read. */
async function run(scheduler: Scheduler, faults: Faults): Promise<void> {
  const hold: Hold = (label) => scheduler.schedule(Promise.resolve(), label);
  const database = new Database(hold);
  const inner = new MemoryStore();
  const store = heldStore(inner, hold, faults);
  const gate = new ReadGate();
  gate.open(gate.pass());
  const entities = new CachedEntities();
  // Every read of an entry that nobody refreshes sets about it.
  const cached = new CachedEntity(Thing, database.repository(), undefined, {
    share: 2,
    reads: 1,
    atOnce: 4,
  });
  entities.add(cached);
  const leave = async (keys: readonly string[]): Promise<void> => {
    if (faults.leaveLost) throw new Error('lost too');
    await dropKeys(store, keys);
  };
  const unitOfWork = new UnitOfWork(
    { createQueryRunner: () => database.queryRunner() } as unknown as DataSource,
    new InvalidationService(store, entities, 'reject', {
      leave,
    } as unknown as DatabaseInvalidations),
  );
  const nodes = [0, 1].map(
    () => new CachedRepository(cached, store, new CacheMetrics(new Registry()), gate),
  );

  const first = Object.assign(new Thing(), { id: 'a', name: 'ada', shelf: 's', version: 1 });
  database.rows.set('a', first);
  let acknowledged = 1;
  let placed = 1;

  const change = async (): Promise<void> => {
    const after = await unitOfWork.run(async (transaction) => {
      const before = await database.read('look', () => database.rows.get('a') as Thing);
      return transaction.update(before, { shelf: 's' });
    });
    if (after) acknowledged = Math.max(acknowledged, after.version);
  };
  const rollBack = async (): Promise<void> => {
    await unitOfWork
      .run(async (transaction) => {
        await transaction.update(database.rows.get('a') as Thing, { name: 'never' });
        throw new Error('rolled back');
      })
      .catch(() => undefined);
  };
  const place = async (): Promise<void> => {
    await unitOfWork.run((transaction) =>
      transaction.insert(Thing, { id: 'b', name: 'bob', shelf: 's' }),
    );
    placed = 2;
  };
  const readRow = async (node: CachedRepository<Thing>): Promise<void> => {
    const least = acknowledged;
    const row = await node.findById('a');
    if (!row || row.version < least || row.name === 'never')
      throw new Error(`stale: ${row?.version} after ${least}`);
  };
  const readAlias = async (node: CachedRepository<Thing>): Promise<void> => {
    const least = placed;
    const row = await node.findByAlias('name', 'bob');
    if (least === 2 && row?.id !== 'b')
      throw new Error('an alias that was acknowledged is not found');
  };
  const readShelf = async (node: CachedRepository<Thing>): Promise<void> => {
    const least = placed;
    const rows = await node.findCollection('ofShelf', 's', 10);
    if (rows.length < least) throw new Error('a member that was acknowledged is missing');
  };
  const flush = async (): Promise<void> => {
    await hold('flush');
    const keys = ['thing:id:a', 'thing:name:bob', 'thing:ofShelf:s', 'thing:id:b'];
    // A flush takes fences and leases too: an own store's way to forget all.
    (inner as unknown as { entries: { clear(): void } }).entries.clear();
    expect((await inner.get(keys)).every(({ state }) => state === 'absent')).toBe(true);
  };

  const [one, other] = nodes as [CachedRepository<Thing>, CachedRepository<Thing>];
  const later = async (work: () => Promise<void>): Promise<void> => {
    await hold('begin');
    await work();
  };
  const tasks = [change, rollBack, place, change, ...(faults.failingPublish ? [] : [flush])]
    .concat(
      [one, other, one].flatMap((node) => [
        () => readRow(node),
        () => readShelf(node),
        () => readAlias(node),
      ]),
    )
    .map((task) => later(task).then(() => later(() => readRow(other))));
  await scheduler.waitFor(Promise.all(tasks));
  await scheduler.waitFor(Promise.all([readRow(one), readShelf(other), readAlias(one)]));
}

const RUNS = Number(process.env.HOLDFAST_INTERLEAVINGS ?? 30);
const seed = process.env.HOLDFAST_SEED ? Number(process.env.HOLDFAST_SEED) : Date.now() % 2 ** 31;

describe('the real read and write paths, in any order of their awaits', () => {
  it(`never give a stale row, alias or collection (seed ${seed})`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), (scheduler) => run(scheduler, {})),
      { numRuns: RUNS, seed },
    );
  });

  it.each([{ leaveLost: false }, { leaveLost: true }])(
    'nor when a publish is lost on its way (%j)',
    async (faults) => {
      const property = fc.asyncProperty(
        fc.scheduler(),
        fc.integer({ min: 1, max: 3 }),
        (scheduler, failingPublish) => run(scheduler, { failingPublish, ...faults }),
      );
      await fc.assert(property, { numRuns: RUNS, seed });
    },
  );

  it.each([
    ['the publish', { without: 'publish' }],
    [
      'the fence, where publish and database are lost',
      { without: 'fence', failingPublish: 1, leaveLost: true },
    ],
  ] as const)('are seen to fail without %s', async (_, faults) => {
    const found = await fc.check(
      fc.asyncProperty(fc.scheduler(), (scheduler) => run(scheduler, faults)),
      { numRuns: 500, seed, endOnFailure: true },
    );
    expect(found.failed).toBe(true);
    expect(String((found.errorInstance as Error).message)).toMatch(/stale|missing|not found/);
  });
});
