/**
 * The one place that commits. A unit of work is: BEGIN, SQL (which locks the rows) with the fences of the keys that it
 * touches beside it, all fences standing, COMMIT, publish, answer. Rolled back: unfence. What `run` resolved with is durable
 * and no cache shows anything older; what it rejected with left nothing behind, except when PostgreSQL went silent during
 * COMMIT itself (then nobody knows, and the fences stay until PostgreSQL tells that the transaction is over).
 */
import { Injectable, type Type } from '@nestjs/common';
import { type Client, DatabaseError } from 'pg';
import { DataSource, type EntityManager, type ObjectLiteral, QueryFailedError } from 'typeorm';
import type { CachedRow } from '../cache/cached.decorator.js';
import { FENCE_MS, type Invalidation, InvalidationService } from '../cache/invalidation.service.js';

/** SQLSTATEs after which the same work may succeed: serialization_failure, deadlock_detected (PostgreSQL manual, 13.5). */
const RETRYABLE = new Set(['40001', '40P01']);
const ATTEMPTS = 3;
/** A transaction that has lived this long is not committed any more: its fences might end before it does. */
const LONGEST_MS = FENCE_MS / 2;

/** The transaction took too long and was rolled back. */
export class TransactionTooLongError extends Error {
  override readonly name = 'TransactionTooLongError';
}

/** The work swallowed the failure of a statement: nothing was committed. A mistake of the program. */
export class TransactionAbortedError extends Error {
  override readonly name = 'TransactionAbortedError';
}

/** The SQLSTATE of a failed query; undefined for any other error. */
export const sqlStateOf = (error: unknown): string | undefined =>
  error instanceof QueryFailedError ? (error.driverError as { code?: string }).code : undefined;

/**
 * One open transaction. Cached rows are written through {@link insert}, {@link update} and {@link remove}, which keep the
 * cache's side; anything else goes through {@link manager}.
 */
export class Transaction {
  constructor(
    readonly manager: EntityManager,
    private readonly invalidation: Invalidation,
  ) {}

  /** The cache keys that the transaction has touched so far. */
  get cacheKeys(): string[] {
    return this.invalidation.keys;
  }

  /**
   * What is written takes a right away: where its keys cannot be fenced (CACHE_DEGRADED_WRITES is `allow`), {@link UnitOfWork.run}
   * resolves only when no node answers from the cache as it was before.
   */
  inForceWhenAnswered(): void {
    this.invalidation.awaited = true;
  }

  /** Inserts and gives the row as the database made it. */
  async insert<E extends CachedRow>(
    entity: Type<E>,
    values: Partial<E> & { id: string },
  ): Promise<E> {
    this.invalidation.fence(entity, null, Object.assign(new entity(), values));
    const insert = this.manager
      .createQueryBuilder()
      .insert()
      .into(entity)
      .values(values as never);
    const { raw } = await insert.returning('*').execute();
    const after = this.hydrate(entity, (raw as ObjectLiteral[])[0] as ObjectLiteral);
    this.invalidation.wrote(entity, null, after, after.version);
    return after;
  }

  /** Changes the row if it still has the version of `before`; null when another writer was first (or it is gone). */
  async update<E extends CachedRow>(before: E, changes: Partial<E>): Promise<E | null> {
    const entity = before.constructor as Type<E>;
    this.invalidation.fence(entity, before, Object.assign(new entity(), before, changes));
    const { id, version } = before;
    const update = this.manager
      .createQueryBuilder()
      .update(entity)
      .set(changes as never)
      .where('id = :id AND version = :version', { id, version });
    const { raw } = await update.returning('*').execute();
    const [row] = raw as ObjectLiteral[];
    if (!row) return null;
    const after = this.hydrate(entity, row);
    this.invalidation.wrote(entity, before, after, after.version);
    return after;
  }

  /** Deletes the row if it still has the version of `before`; the deletion takes the next version. */
  async remove<E extends CachedRow>(before: E): Promise<boolean> {
    const entity = before.constructor as Type<E>;
    this.invalidation.fence(entity, before, null);
    const { id, version } = before;
    const { affected } = await this.manager
      .createQueryBuilder()
      .delete()
      .from(entity)
      .where('id = :id AND version = :version', { id, version })
      .execute();
    if (affected !== 1) return false;
    this.invalidation.wrote(entity, before, null, version + 1);
    return true;
  }

  /** The row, locked until the end of the transaction. `mode` as PostgreSQL has it: FOR UPDATE, or FOR SHARE for a row that must only stay as it is. */
  async lock<E extends CachedRow>(
    entity: Type<E>,
    id: string,
    mode: 'update' | 'share' = 'update',
  ): Promise<E | null> {
    return this.manager
      .createQueryBuilder(entity, 'row')
      .where('row.id = :id', { id })
      .setLock(mode === 'update' ? 'pessimistic_write' : 'pessimistic_read')
      .getOne();
  }

  private hydrate<E extends object>(entity: Type<E>, raw: ObjectLiteral): E {
    const { connection } = this.manager;
    const metadata = connection.getMetadata(entity);
    const row = metadata.create() as E;
    for (const column of metadata.columns) {
      column.setEntityValue(
        row,
        connection.driver.prepareHydratedValue(raw[column.databaseName], column),
      );
    }
    return row;
  }
}

@Injectable()
export class UnitOfWork {
  constructor(
    private readonly dataSource: DataSource,
    private readonly invalidation: InvalidationService,
  ) {}

  /**
   * Runs `work` in a transaction and commits it. A deadlock or a serialization failure runs it again, so `work` must have no
   * effects of its own outside the transaction.
   * @throws whatever `work` throws, after rolling back; WriteRejectedError; TransactionTooLongError,
   * TransactionAbortedError; a driver error
   */
  async run<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.attempt(work);
      } catch (error) {
        if (attempt >= ATTEMPTS || !RETRYABLE.has(sqlStateOf(error) ?? '')) throw error;
      }
    }
  }

  /**
   * {@link run} for a caller whose right to write may end while the request is under way: `caller.hold` is the transaction's
   * first step. It either keeps that right until the COMMIT or refuses, so nothing is written once its end was acknowledged.
   */
  runAs<T>(
    caller: { readonly hold: (transaction: Transaction) => Promise<void> },
    work: (transaction: Transaction) => Promise<T>,
  ): Promise<T> {
    return this.run(async (transaction) => {
      await caller.hold(transaction);
      return work(transaction);
    });
  }

  private async attempt<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    const runner = this.dataSource.createQueryRunner('master');
    const invalidation = this.invalidation.begin();
    const began = performance.now();
    let client: Client | undefined;
    /** Whether PostgreSQL has said that no transaction is open: only then may another have the connection. */
    let over = false;
    let result: T;
    try {
      client = (await runner.connect()) as Client;
      try {
        await runner.startTransaction();
        result = await work(new Transaction(runner.manager, invalidation));
        const fenced = await invalidation.settled();
        if (!fenced) await runner.query(`SET LOCAL holdfast.fenced = 'off'`);
        if (performance.now() - began > LONGEST_MS)
          throw new TransactionTooLongError(`no commit after ${LONGEST_MS} ms`);
      } catch (error) {
        over = await runner.rollbackTransaction().then(
          () => true,
          () => false,
        );
        await invalidation.release();
        throw error;
      }
      try {
        await commit(client);
        over = true;
      } catch (error) {
        // Refused, it is rolled back. Without an answer nobody knows, and the fences stay until somebody does.
        over = isRefusal(error);
        if (over) await invalidation.release();
        else invalidation.leaveUnanswered((client as Client & { processID: number }).processID);
        throw error;
      }
    } finally {
      if (!over) void client?.end().catch(() => undefined);
      await runner.release().catch(() => undefined);
    }
    await invalidation.publish();
    return result;
  }
}

/**
 * Past TypeORM, which does not tell what PostgreSQL answered: COMMIT of a transaction in which a statement has failed is no
 * error, it answers ROLLBACK.
 */
async function commit(client: Client): Promise<void> {
  const { command } = await client.query('COMMIT').catch((error: Error) => {
    throw new QueryFailedError('COMMIT', [], error);
  });
  if (command !== 'COMMIT')
    throw new TransactionAbortedError('a statement had failed, and the work went on all the same');
}

/** Whether this is PostgreSQL's own no to a COMMIT: neither a broken connection nor a server that is going down. */
function isRefusal(error: unknown): boolean {
  if (error instanceof TransactionAbortedError) return true;
  const cause: unknown = error instanceof QueryFailedError ? error.driverError : undefined;
  return cause instanceof DatabaseError && !/^(08|57P|58|XX)/.test(cause.code ?? '08');
}
