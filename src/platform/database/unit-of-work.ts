/**
 * The one place that commits. A unit of work: BEGIN → SQL with the fences beside it → every fence
 * is set → COMMIT → publish → answer. Invariants: a result of `run` is committed, and no cache
 * shows an older row. After an error of `run` nothing is committed, unless COMMIT had no answer or
 * the write is unconfirmed. See docs/design/cache-protocol.md, "Writing".
 */
import { Injectable } from '@nestjs/common';
import type { Client } from 'pg';
import { DataSource, type EntityManager, QueryFailedError, type QueryRunner } from 'typeorm';
import { WriteRejectedError } from '../cache/write/invalidation.errors.js';
import type { Invalidation } from '../cache/write/invalidation.js';
import { InvalidationService } from '../cache/write/invalidation.service.js';
import { databaseErrorOf, sqlStateOf } from './sql-state.js';
import { Transaction } from './transaction.js';

/**
 * SQLSTATEs after which the same work may succeed: serialization_failure and deadlock_detected
 * (PostgreSQL manual, 13.5).
 */
const RETRYABLE = new Set(['40001', '40P01']);
const MAX_ATTEMPTS = 3;

/**
 * SQLSTATE classes that say nothing about the outcome of a COMMIT: connection exception, operator
 * intervention, system error, internal error.
 */
const OUTCOME_UNKNOWN = /^(08|57P|58|XX)/;

/** SQLSTATE of a notice of the trigger note_cache_invalidation: it found a change fenced. */
const CHANGE_IS_FENCED = 'HF001';

/** SQLSTATE class 23, integrity constraint violation: an answer about the rows that exist. */
const CONSTRAINT_VIOLATION = /^23/;

type Work<T> = (transaction: Transaction) => Promise<T>;

/** The transaction took too long and was rolled back. */
export class TransactionTooLongError extends Error {
  override readonly name = 'TransactionTooLongError';
}

/** A programming error: the work ignored a failed statement. Nothing was committed. */
export class TransactionAbortedError extends Error {
  override readonly name = 'TransactionAbortedError';
}

/** Errors that say nothing about rows. */
const FAILURES = [
  TransactionTooLongError,
  TransactionAbortedError,
  WriteRejectedError,
  QueryFailedError,
];

@Injectable()
export class UnitOfWork {
  constructor(
    private readonly dataSource: DataSource,
    private readonly invalidation: InvalidationService,
  ) {}

  /**
   * Runs `work` in a transaction and commits it. After a deadlock or a serialization failure `work`
   * runs again, so it must have no effect outside the transaction.
   * @throws whatever `work` throws, after the rollback. What the work found is then visible on
   *   every node: an earlier attempt of the same request may have committed it unseen
   * @throws WriteRejectedError when keys cannot be fenced and CACHE_DEGRADED_WRITES is `reject`
   * @throws UnconfirmedWriteError when it is committed, but other nodes may show older data
   * @throws TransactionTooLongError, TransactionAbortedError, a driver error
   */
  async run<T>(work: Work<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.attempt(work);
      } catch (error) {
        const isRetryable = RETRYABLE.has(sqlStateOf(error) ?? '');
        if (!isRetryable || attempt >= MAX_ATTEMPTS) throw error;
      }
    }
  }

  /**
   * {@link run} for a caller whose session may end while the request is under way. The first step
   * locks the session until COMMIT, or throws when it has ended. So nothing is written after the
   * end of the session was acknowledged.
   */
  runAs<T>(
    caller: { readonly lockSession: (transaction: Transaction) => Promise<void> },
    work: Work<T>,
  ): Promise<T> {
    return this.run(async (transaction) => {
      await caller.lockSession(transaction);
      return work(transaction);
    });
  }

  /**
   * One attempt, phase by phase. What each failure leaves behind:
   *
   * | failure                      | transaction | fences                 | connection |
   * | ---------------------------- | ----------- | ---------------------- | ---------- |
   * | before COMMIT                | rolled back | released               | kept       |
   * | the same, ROLLBACK no answer | rolled back | released               | ended      |
   * | PostgreSQL refuses COMMIT    | rolled back | released               | kept       |
   * | COMMIT has no answer         | unknown     | stay until it is known | ended      |
   */
  private async attempt<T>(work: Work<T>): Promise<T> {
    const startedAt = performance.now();
    const invalidation = this.invalidation.begin();
    const connection = await TransactionConnection.open(this.dataSource);
    let result: T;
    try {
      result = await this.prepare(connection, invalidation, startedAt, work);
      await this.commit(connection, invalidation);
    } catch (error) {
      await connection.release();
      await this.confirmAnswer(error, invalidation);
      throw error;
    }
    await connection.release();
    if (invalidation.hasChanges) await invalidation.publish(connection.confirmedFences);
    else await this.confirmUnchanged(invalidation);
    return result;
  }

  /** The result says that nothing was left to change: an earlier attempt may have changed it. */
  private async confirmUnchanged(invalidation: Invalidation): Promise<void> {
    await invalidation.release();
    await this.invalidation.invalidate(invalidation.touchedKeys);
  }

  /** An error that says what rows there are acknowledges the write that left them so. */
  private async confirmAnswer(error: unknown, invalidation: Invalidation): Promise<void> {
    const sqlState = sqlStateOf(error);
    const isAnswer =
      sqlState === undefined
        ? !FAILURES.some((Failure) => error instanceof Failure)
        : CONSTRAINT_VIOLATION.test(sqlState);
    if (isAnswer) await this.invalidation.invalidate(invalidation.touchedKeys);
  }

  /** BEGIN, the work, every fence. After this only COMMIT is missing; on an error, rolled back. */
  private async prepare<T>(
    connection: TransactionConnection,
    invalidation: Invalidation,
    startedAt: number,
    work: Work<T>,
  ): Promise<T> {
    try {
      const { declaration } = invalidation;
      await connection.begin(declaration);
      const result = await work(new Transaction(connection.manager, invalidation));
      const isFenced = await invalidation.awaitFences();
      if (!isFenced && declaration !== undefined) await connection.leaveKeysToDatabase();
      this.requireYoung(startedAt);
      return result;
    } catch (error) {
      // COMMIT was not sent: the transaction cannot take effect, even if ROLLBACK has no answer.
      await connection.rollBack();
      await invalidation.release();
      throw error;
    }
  }

  /** COMMIT. Throws unless PostgreSQL answered that the transaction is committed. */
  private async commit(
    connection: TransactionConnection,
    invalidation: Invalidation,
  ): Promise<void> {
    const outcome = await connection.commit();
    switch (outcome.state) {
      case 'committed':
        return;
      case 'refused':
        await invalidation.release();
        throw outcome.error;
      case 'unanswered':
        invalidation.watchUnansweredCommit(connection.backendPid);
        throw outcome.error;
    }
  }

  /** @throws TransactionTooLongError when the fences could expire before COMMIT takes effect */
  private requireYoung(startedAt: number): void {
    const { maxTransactionMs } = this.invalidation;
    if (performance.now() - startedAt > maxTransactionMs) {
      throw new TransactionTooLongError(
        `The transaction was rolled back: it took longer than ${maxTransactionMs} ms`,
      );
    }
  }
}

/** What is known after COMMIT was sent. */
type CommitOutcome =
  | { readonly state: 'committed' }
  | { readonly state: 'refused' | 'unanswered'; readonly error: Error };

/**
 * The connection of one attempt. Invariant: it returns to the pool only when PostgreSQL said that
 * its transaction is over. Otherwise the next user of the connection could commit what this attempt
 * gave up.
 */
class TransactionConnection {
  /** Changes of rows that the trigger found fenced, at COMMIT. */
  confirmedFences = 0;
  private isTransactionOver = false;

  private constructor(
    private readonly runner: QueryRunner,
    private readonly client: Client,
  ) {
    client.on('notice', this.handleNotice);
  }

  /** @throws a driver error when no connection is free or PostgreSQL cannot be reached */
  static async open(dataSource: DataSource): Promise<TransactionConnection> {
    const runner = dataSource.createQueryRunner('master');
    try {
      return new TransactionConnection(runner, (await runner.connect()) as Client);
    } catch (error) {
      await runner.release().catch(() => undefined);
      throw error;
    }
  }

  get manager(): EntityManager {
    return this.runner.manager;
  }

  /** The process id of the PostgreSQL backend behind this connection. */
  get backendPid(): number {
    // pg's types leave it out.
    return (this.client as Client & { processID: number }).processID;
  }

  /** @param declaration what the transaction fences (Membership.declarationOf); see the trigger */
  async begin(declaration: string | undefined): Promise<void> {
    if (declaration === undefined) {
      await this.runner.startTransaction();
      return;
    }
    const text = `START TRANSACTION; SET LOCAL holdfast.fenced = '${declaration}'`;
    try {
      // In one round trip, which TypeORM cannot do.
      await this.client.query(text);
    } catch (error) {
      throw new QueryFailedError(text, [], error as Error);
    }
    // What startTransaction() sets.
    Object.assign(this.runner, { isTransactionActive: true, transactionDepth: 1 });
  }

  /** The trigger note_cache_invalidation enqueues the keys of this transaction at its COMMIT. */
  async leaveKeysToDatabase(): Promise<void> {
    await this.runner.query(`SET LOCAL holdfast.fenced = ''`);
  }

  /** Never throws: a ROLLBACK without an answer leaves the connection to {@link release}. */
  async rollBack(): Promise<void> {
    this.isTransactionOver = await this.runner.rollbackTransaction().then(
      () => true,
      () => false,
    );
  }

  /** Never throws. Not through TypeORM, which hides PostgreSQL's answer. */
  async commit(): Promise<CommitOutcome> {
    const outcome = await this.sendCommit();
    this.isTransactionOver = outcome.state !== 'unanswered';
    return outcome;
  }

  private readonly handleNotice = ({ code }: { readonly code?: string | undefined }): void => {
    if (code === CHANGE_IS_FENCED) this.confirmedFences++;
  };

  private async sendCommit(): Promise<CommitOutcome> {
    try {
      const { command } = await this.client.query('COMMIT');
      return outcomeOfAnswer(command);
    } catch (error) {
      return outcomeOfError(error as Error);
    }
  }

  /** Gives the connection back to the pool, or ends it when its transaction may still be open. */
  async release(): Promise<void> {
    this.client.off('notice', this.handleNotice);
    if (!this.isTransactionOver) void this.client.end().catch(() => undefined);
    await this.runner.release().catch(() => undefined);
  }
}

/** After a failed statement PostgreSQL answers COMMIT with ROLLBACK, which is not an error. */
function outcomeOfAnswer(command: string): CommitOutcome {
  if (command === 'COMMIT') return { state: 'committed' };
  const error = new TransactionAbortedError(
    'PostgreSQL rolled back instead of COMMIT: the work ignored the failure of a statement',
  );
  return { state: 'refused', error };
}

/** Refused only by PostgreSQL's own answer: a broken connection and a shutdown say nothing. */
function outcomeOfError(cause: Error): CommitOutcome {
  const error = new QueryFailedError('COMMIT', [], cause);
  const sqlState = databaseErrorOf(cause)?.code;
  const isRefused = sqlState !== undefined && !OUTCOME_UNKNOWN.test(sqlState);
  return { state: isRefused ? 'refused' : 'unanswered', error };
}
