/**
 * Runs one consumer. Events are delivered in batches, one transaction each. When a handler fails,
 * or the process ends meanwhile, each event of the batch is delivered alone. Invariants: an attempt
 * is counted and committed before the handler runs; only a transaction with the consumer's lock
 * hands out events; the events of a subject are handled in order.
 */
import type { Logger } from '@nestjs/common';
import type { Client } from 'pg';
import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { NEWEST_POSITION, type NewestPosition, QueueFloors } from '../database/queue-floors.js';
import { DeadlineExceededError, withDeadline } from '../timing/deadline.js';
import type { Consumer } from './consumer-discovery.js';
import { CONSUMER_LOCK } from './consumer-lock.js';
import { Delivery } from './inbox.entity.js';
import {
  BEGIN_ATTEMPT,
  FIND_DUE,
  FIRST_WAITING,
  PLAN_EVENTS,
  READ_WAITING,
  RECORD_FAILURE,
  RELEASE_NEXT,
  UNCOUNT_ATTEMPTS,
} from './inbox-statements.js';
import { HANDLER_TIMEOUT_MS, MAX_ATTEMPTS } from './retry-policy.js';

/** Deliveries of one transaction. */
const MAX_BATCH_DELIVERIES = 100;
/** After this time a batch takes no further event: a transaction must not stay open for long. */
const MAX_BATCH_MS = 1_000;
/** Retries between two batches: a subject that fails must not keep the others waiting. */
const MAX_RETRIES = 20;
const MAX_RETRIES_MS = 1_000;
const MAX_ERROR_CHARACTERS = 1_000;
/** PostgreSQL ends a transaction that is idle for this much longer than its handler may run. */
const IDLE_MARGIN_MS = 5_000;

interface WaitingRow {
  readonly eventId: string;
  readonly subject: string;
  readonly position: number;
  readonly attempts: number;
  readonly isMarked: boolean;
  readonly isBehind: boolean;
}

/** pg's types leave it out. `E`: a statement of the transaction failed. */
type TransactionClient = Client & { getTransactionStatus(): 'I' | 'T' | 'E' | null };

type Action = 'deliver' | 'retry' | 'block';

interface Plan {
  readonly deliverIds: readonly string[];
  /** No event waits at or below it, once the events of the plan are delivered. */
  readonly lastPosition: number;
}

interface Failure {
  readonly isDead: boolean;
  readonly attempts: number;
  readonly retrySeconds: number;
}

/** A handler failed on this delivery. */
class HandlerError extends Error {
  constructor(
    readonly delivery: Delivery,
    override readonly cause: unknown,
  ) {
    super('A handler failed');
  }

  get isTimeout(): boolean {
    return this.cause instanceof DeadlineExceededError;
  }
}

export interface ConsumerRunnerOptions {
  readonly dataSource: DataSource;
  readonly consumer: Consumer;
  readonly logger: Pick<Logger, 'warn' | 'error'>;
  /** Runs the handler, unless the event is handled already. */
  readonly deliver: (
    manager: EntityManager,
    delivery: Delivery,
    signal: AbortSignal,
  ) => Promise<boolean>;
  /** When it turns true, no further handler begins. */
  readonly isStopping: () => boolean;
}

export class ConsumerRunner {
  private readonly floors = new QueueFloors<string>();

  constructor(private readonly options: ConsumerRunnerOptions) {}

  private get name(): string {
    return this.options.consumer.consumer;
  }

  /**
   * Delivers the next waiting events, then retries those that are due.
   * @returns whether there may be more
   */
  async step(): Promise<boolean> {
    const hasDelivered = await this.deliverWaiting();
    const hasRetried = await this.retryDue();
    return hasDelivered || hasRetried;
  }

  private async deliverWaiting(): Promise<boolean> {
    const plan = await this.inTransaction((manager) => this.planBatch(manager));
    if (!plan) return false;
    if (plan.deliverIds.length > 0) {
      const isComplete = await this.deliverBatch(plan.deliverIds);
      if (!isComplete) return true;
    }
    this.floors.raise(this.name, plan.lastPosition);
    return true;
  }

  /**
   * Decides what happens to the next waiting events. An event that was attempted before is retried
   * alone: the attempt ended without an answer, or another event of its batch failed.
   */
  private async planBatch(manager: EntityManager): Promise<Plan | undefined> {
    const [newest] = await manager.query<[NewestPosition]>(NEWEST_POSITION);
    this.floors.observe(newest);
    const [first] = await this.floors.findFirst([this.name], ([part], [floor], window) =>
      manager.query<{ part: string; position: number | null }[]>(FIRST_WAITING, [
        part,
        floor,
        window,
      ]),
    );
    if (!first || first.position === null) return undefined;
    const rows = await manager.query<WaitingRow[]>(READ_WAITING, [
      this.name,
      first.position - 1,
      MAX_BATCH_DELIVERIES,
    ]);
    const failedSubjects = new Set<string>();
    const actions = rows.map((row) => {
      const action = actionFor(row, failedSubjects);
      if (action !== 'deliver') failedSubjects.add(row.subject);
      return { ...row, action };
    });
    const changes = actions.filter(({ action, isMarked }) => action !== 'block' || !isMarked);
    await manager.query(PLAN_EVENTS, [
      this.name,
      changes.map(({ eventId }) => eventId),
      changes.map(({ action }) => action),
    ]);
    const deliveries = actions.filter(({ action }) => action === 'deliver');
    return {
      deliverIds: deliveries.map(({ eventId }) => eventId),
      lastPosition: rows.at(-1)?.position ?? 0,
    };
  }

  /** @returns false when events are left; those after a failure are then retried alone */
  private async deliverBatch(eventIds: readonly string[]): Promise<boolean> {
    try {
      const isComplete = await this.inTransaction((manager) => this.runBatch(manager, eventIds));
      return isComplete ?? false;
    } catch (error) {
      if (!(error instanceof HandlerError)) throw error;
      await this.recordFailure(error);
      return false;
    }
  }

  private async runBatch(manager: EntityManager, eventIds: readonly string[]): Promise<boolean> {
    const deliveries = await manager
      .createQueryBuilder(Delivery, 'delivery')
      .where('consumer = :name AND event_id = ANY(:eventIds)', { name: this.name, eventIds })
      .andWhere('handled_at IS NULL AND retry_at IS NULL')
      .orderBy('position', 'ASC')
      .getMany();
    const endsAt = performance.now() + MAX_BATCH_MS;
    for (const [index, delivery] of deliveries.entries()) {
      const mayBegin = performance.now() < endsAt && !this.options.isStopping();
      if (!mayBegin) {
        const left = deliveries.slice(index).map(({ eventId }) => eventId);
        await manager.query(UNCOUNT_ATTEMPTS, [this.name, left]);
        return false;
      }
      await this.runHandler(manager, delivery);
    }
    return true;
  }

  private async retryDue(): Promise<boolean> {
    const endsAt = performance.now() + MAX_RETRIES_MS;
    let retries = 0;
    while (retries < MAX_RETRIES && performance.now() < endsAt && !this.options.isStopping()) {
      const eventId = await this.inTransaction((manager) => this.beginRetry(manager));
      if (eventId === undefined) return false;
      await this.retry(eventId);
      retries++;
    }
    return true;
  }

  /** @returns the id of the event to retry */
  private async beginRetry(manager: EntityManager): Promise<string | undefined> {
    const [due] = await manager.query<{ eventId: string; attempts: number }[]>(FIND_DUE, [
      this.name,
    ]);
    if (!due) return undefined;
    if (due.attempts < MAX_ATTEMPTS) {
      await manager.query(BEGIN_ATTEMPT, [this.name, due.eventId]);
      return due.eventId;
    }
    // The last attempt had no end: nothing is known but that.
    await manager.query(RECORD_FAILURE, [this.name, due.eventId, null]);
    this.options.logger.error(deadLetterLine(this.name, due.eventId, 'the handler did not end'));
    return this.beginRetry(manager);
  }

  private async retry(eventId: string): Promise<void> {
    try {
      await this.inTransaction(async (manager) => {
        const delivery = await manager.findOneBy(Delivery, { consumer: this.name, eventId });
        if (!delivery) return;
        await this.runHandler(manager, delivery);
        await manager.query(RELEASE_NEXT, [this.name, eventId]);
      });
    } catch (error) {
      if (!(error instanceof HandlerError)) throw error;
      await this.recordFailure(error);
    }
  }

  /** @throws HandlerError */
  private async runHandler(manager: EntityManager, delivery: Delivery): Promise<void> {
    const { timeoutMs = HANDLER_TIMEOUT_MS } = this.options.consumer;
    const abort = new AbortController();
    try {
      const handling = this.options.deliver(manager, delivery, abort.signal);
      await withDeadline(timeoutMs, 'The handler', handling);
      await requireUsable(manager.queryRunner);
    } catch (error) {
      abort.abort(error);
      throw new HandlerError(delivery, error);
    }
  }

  private async recordFailure({ delivery, cause }: HandlerError): Promise<void> {
    const { eventId, type, subject } = delivery;
    const reason = cause instanceof Error ? cause.message : String(cause);
    const lastError = reason.slice(0, MAX_ERROR_CHARACTERS);
    const { dataSource, logger } = this.options;
    const [failure] = await dataSource.query<Failure[]>(RECORD_FAILURE, [
      this.name,
      eventId,
      lastError,
    ]);
    if (!failure) return;
    if (failure.isDead) {
      logger.error(deadLetterLine(this.name, eventId, reason));
      return;
    }
    const seconds = Math.max(0, Math.ceil(failure.retrySeconds));
    const line = `Consumer ${this.name} failed on ${type} of ${subject}: ${reason}`;
    logger.warn(`${line}; next attempt in ${seconds} s, ${failure.attempts} of ${MAX_ATTEMPTS}`);
  }

  /**
   * One transaction with the consumer's lock, without savepoints: more than 64 of them slow down
   * every snapshot of the server (PostgreSQL manual, 67.3).
   * @returns undefined while another node serves the consumer
   */
  private async inTransaction<T>(
    work: (manager: EntityManager) => Promise<T>,
  ): Promise<T | undefined> {
    const { dataSource, consumer } = this.options;
    const { timeoutMs = HANDLER_TIMEOUT_MS } = consumer;
    return dataSource.transaction(async (manager) => {
      const [row] = await manager.query<[{ isLocked: boolean }]>(
        `SELECT pg_try_advisory_xact_lock(${CONSUMER_LOCK}) AS "isLocked",
                set_config('idle_in_transaction_session_timeout', $2, true)`,
        [this.name, String(timeoutMs + IDLE_MARGIN_MS)],
      );
      if (!row.isLocked) return undefined;
      try {
        return await work(manager);
      } catch (error) {
        // The connection must neither commit for a handler that goes on, nor serve anybody else.
        const isHandlerRunning = error instanceof HandlerError && error.isTimeout;
        if (isHandlerRunning) await closeConnection(manager.queryRunner);
        throw error;
      }
    });
  }
}

/** @param failedSubjects subjects of which an earlier event of the batch is not delivered */
function actionFor(row: WaitingRow, failedSubjects: ReadonlySet<string>): Action {
  if (row.isBehind || failedSubjects.has(row.subject)) return 'block';
  return row.attempts > 0 ? 'retry' : 'deliver';
}

const deadLetterLine = (consumer: string, eventId: string, reason: string): string =>
  `Consumer ${consumer} failed on event ${eventId} for the last time: ${reason}; its subject ` +
  `waits until you run: holdfast inbox retry|skip ${consumer}/${eventId}`;

/**
 * After a failed statement PostgreSQL answers COMMIT with ROLLBACK, which is not an error. Asks the
 * driver, which knows it from the answer to the last statement.
 * @throws Error when the handler went on after a failed statement
 */
async function requireUsable(runner: QueryRunner | undefined): Promise<void> {
  const client = (await runner?.connect()) as TransactionClient | undefined;
  if (client?.getTransactionStatus() !== 'E') return;
  throw new Error('the handler ignored the failure of a statement, so nothing can be committed');
}

/** PostgreSQL rolls back. Client.end() does not wait for the answer to a running statement. */
async function closeConnection(runner: QueryRunner | undefined): Promise<void> {
  const client = (await runner?.connect()) as Client | undefined;
  void client?.end().catch(() => undefined);
}
