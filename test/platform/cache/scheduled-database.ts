/**
 * A stand-in for PostgreSQL and TypeORM's builders whose every step waits for a scheduler:
 * committed rows of one table, row locks until the end of a transaction, and only the builder
 * methods that the code under test calls.
 */
import { Column, DataSource, Entity, PrimaryColumn, type Repository } from 'typeorm';
import { Cached } from '../../../src/platform/cache/cached.decorator.js';

@Entity('things')
@Cached({
  name: 'thing',
  schema: 1,
  ttl: 60,
  aliases: { name: { property: 'name' } },
  collections: { ofShelf: { by: 'shelf', newest: 'id', size: 10 } },
})
export class Thing {
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

/** Waits until the scheduler lets this step go on. */
export type ScheduleStep = (label: string) => Promise<unknown>;

/** The parameters of the WHERE clauses that CachedRepository builds. */
interface ReadParameters {
  readonly ids?: string[];
  readonly values?: string[];
  readonly value?: string;
}

export class ScheduledDatabase {
  readonly rows = new Map<string, Thing>();
  /** By row id: resolves when the lock is released. */
  private readonly locks = new Map<string, Promise<void>>();

  constructor(private readonly schedule: ScheduleStep) {}

  /** A read of committed rows, delayed on its way to the database and on its way back. */
  async read<T>(label: string, readRows: () => T): Promise<T> {
    await this.schedule(`${label} →`);
    const result = readRows();
    await this.schedule(`${label} ←`);
    return result;
  }

  repository(): Repository<Thing> {
    return {
      metadata,
      createQueryBuilder: () => this.selectBuilder(),
    } as unknown as Repository<Thing>;
  }

  dataSource(): DataSource {
    return { createQueryRunner: () => this.queryRunner() } as unknown as DataSource;
  }

  private selectBuilder() {
    let parameters: ReadParameters = {};
    const matches = (row: Thing): boolean =>
      parameters.ids?.includes(row.id) ??
      parameters.values?.includes(row.name) ??
      row.shelf === parameters.value;
    const builder = {
      where: (_sql: string, given: ReadParameters) => {
        parameters = given;
        return builder;
      },
      select: () => builder,
      orderBy: () => builder,
      addOrderBy: () => builder,
      limit: () => builder,
      getMany: () =>
        this.read('SELECT', () => newestFirst([...this.rows.values()].filter(matches))),
    };
    return builder;
  }

  private queryRunner() {
    const transaction = new ScheduledTransaction(this, this.schedule);
    let handleNotice: (notice: { code: string }) => void = () => undefined;
    const client = {
      on: (_event: 'notice', listener: typeof handleNotice) => {
        handleNotice = listener;
      },
      off: () => undefined,
      query: async (sql: string) => {
        if (sql !== 'COMMIT') {
          await this.schedule('BEGIN');
          return { command: 'BEGIN' };
        }
        await this.schedule('COMMIT →');
        const changes = transaction.commit();
        await this.schedule('COMMIT ←');
        // What the trigger says of each change that it finds fenced.
        for (let change = 0; change < changes; change++) handleNotice({ code: 'HF001' });
        return { command: 'COMMIT' };
      },
      end: async () => undefined,
    };
    return {
      manager: {
        connection,
        createQueryBuilder: () => ({
          update: () => updateBuilder(transaction),
          insert: () => insertBuilder(transaction),
        }),
      },
      connect: async () => client,
      query: async () => undefined,
      rollbackTransaction: async () => {
        await this.schedule('ROLLBACK');
        transaction.rollBack();
      },
      release: async () => undefined,
    };
  }

  /** @returns what releases the lock */
  async lock(id: string): Promise<() => void> {
    while (this.locks.has(id)) await this.locks.get(id);
    let resolveLock!: () => void;
    const lock = new Promise<void>((resolve) => {
      resolveLock = resolve;
    });
    this.locks.set(id, lock);
    return () => {
      this.locks.delete(id);
      resolveLock();
    };
  }
}

/** The rows that one transaction has written, and the locks that it holds. */
class ScheduledTransaction {
  private readonly writtenRows = new Map<string, Thing>();
  private readonly releaseLocks: (() => void)[] = [];

  constructor(
    private readonly database: ScheduledDatabase,
    private readonly schedule: ScheduleStep,
  ) {}

  /** @param makeRow undefined: the statement affects no row */
  async write(
    label: string,
    id: string,
    makeRow: (committed: Thing | undefined) => Thing | undefined,
  ): Promise<{ raw: object[] }> {
    await this.schedule(`${label} →`);
    this.releaseLocks.push(await this.database.lock(id));
    const row = makeRow(this.database.rows.get(id));
    if (row) this.writtenRows.set(id, row);
    await this.schedule(`${label} ←`);
    return { raw: row ? [{ ...row }] : [] };
  }

  /** @returns the number of changes */
  commit(): number {
    const changes = this.writtenRows.size;
    for (const [id, row] of this.writtenRows) this.database.rows.set(id, row);
    this.rollBack();
    return changes;
  }

  rollBack(): void {
    this.writtenRows.clear();
    for (const releaseLock of this.releaseLocks.splice(0)) releaseLock();
  }
}

function updateBuilder(transaction: ScheduledTransaction) {
  let changes: Partial<Thing> = {};
  let wanted = { id: '', version: 0 };
  const builder = {
    set: (values: Partial<Thing>) => {
      changes = values;
      return builder;
    },
    where: (_sql: string, parameters: typeof wanted) => {
      wanted = parameters;
      return builder;
    },
    returning: () => builder,
    execute: () =>
      transaction.write('UPDATE', wanted.id, (row) => {
        if (row?.version !== wanted.version) return undefined;
        return Object.assign(new Thing(), row, changes, { version: row.version + 1 });
      }),
  };
  return builder;
}

function insertBuilder(transaction: ScheduledTransaction) {
  let values = new Thing();
  const builder = {
    into: () => builder,
    values: (given: Thing) => {
      values = given;
      return builder;
    },
    updateEntity: () => builder,
    returning: () => builder,
    execute: () =>
      transaction.write('INSERT', values.id, () =>
        Object.assign(new Thing(), values, { version: 1 }),
      ),
  };
  return builder;
}

const newestFirst = (rows: Thing[]): Thing[] => rows.sort((a, b) => (a.id < b.id ? 1 : -1));
