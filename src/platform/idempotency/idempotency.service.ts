/**
 * Runs a request exactly once, however often it is sent. The key's record commits in the
 * transaction of the request's writes: after any crash, on any node, both exist or neither. A
 * repetition gets the stored bytes. Only successes are stored: a problem rolls back and leaves the
 * key unused.
 */
import { Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { DataSource } from 'typeorm';
import type { Actor } from '../access/actor.js';
import { InvalidationService } from '../cache/write/invalidation.service.js';
import { PeriodicPurge } from '../database/purge.js';
import type { Transaction } from '../database/transaction.js';
import { UnitOfWork } from '../database/unit-of-work.js';
import { IdempotencyRecord } from './idempotency-record.entity.js';
import { idempotencyProblems } from './idempotency.errors.js';
import type { IdempotentRequest } from './idempotent.decorator.js';

export const RETENTION_HOURS = 24;
const PURGE_INTERVAL_MS = 60_000;
const MAX_PURGE_BATCHES = 50;
const MAX_ROWS_PER_BATCH = 1_000;

/** One batch of expired keys, the oldest first. Nodes that purge at once skip each other's rows. */
const DELETE_EXPIRED = `
  DELETE FROM idempotency_keys
   WHERE ctid = ANY (ARRAY(
     SELECT ctid FROM idempotency_keys
      WHERE created_at < now() - make_interval(hours => $1)
      ORDER BY created_at LIMIT $2
        FOR UPDATE SKIP LOCKED))`;

/** What the work of a request results in. */
export interface IdempotentResult {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: object;
}

/** A response with exactly the bytes that every repetition gets. */
export interface IdempotentResponse {
  readonly status: number;
  readonly headers: Record<string, string>;
  /** JSON. */
  readonly body: string;
  /** Whether an earlier request did the work. */
  readonly replayed: boolean;
}

/** Sends the response of {@link IdempotencyService.runOnce}. */
export function sendIdempotentResponse(
  reply: FastifyReply,
  { status, headers, body, replayed }: IdempotentResponse,
): void {
  if (replayed) void reply.header('Idempotent-Replayed', 'true');
  void reply
    .code(status)
    .headers(headers)
    .header('Content-Type', 'application/json; charset=utf-8')
    .send(body);
}

@Injectable()
export class IdempotencyService implements OnModuleInit, OnApplicationShutdown {
  private readonly purge: PeriodicPurge;

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly dataSource: DataSource,
    private readonly invalidation: InvalidationService,
  ) {
    this.purge = new PeriodicPurge({
      what: 'expired idempotency keys',
      intervalMs: PURGE_INTERVAL_MS,
      maxBatches: MAX_PURGE_BATCHES,
      removeBatch: () => this.removeExpired(),
      logger: new Logger(IdempotencyService.name),
    });
  }

  onModuleInit(): void {
    this.purge.start();
  }

  onApplicationShutdown(): Promise<void> {
    return this.purge.stop();
  }

  /**
   * Runs `work` in a transaction, once for a key of this actor. A repetition gets the stored
   * response. Without a key, `work` always runs.
   * @throws Problem idempotency-key-reused, idempotency-key-in-flight; whatever `work` throws
   */
  async runOnce(
    request: IdempotentRequest,
    actor: Actor,
    work: (transaction: Transaction) => Promise<IdempotentResult>,
  ): Promise<IdempotentResponse> {
    if (request.key === undefined) {
      return this.unitOfWork.runAs(actor, async (transaction) =>
        serialize(await work(transaction)),
      );
    }
    const { key, fingerprint } = request;
    const outcome = await this.unitOfWork.runAs(actor, async (transaction) => {
      const record = await this.claim(transaction, actor.userId, key);
      if (record) return record;
      const response = serialize(await work(transaction));
      const { status, headers, body } = response;
      await transaction.manager.insert(IdempotencyRecord, {
        userId: actor.userId,
        key,
        fingerprint,
        cacheKeys: transaction.cacheKeys,
        status,
        headers,
        body,
      });
      return response;
    });
    // After the transaction: its connection is free for others meanwhile.
    return outcome instanceof IdempotencyRecord ? this.replay(outcome, fingerprint) : outcome;
  }

  /**
   * Deletes one batch of expired keys.
   * @returns whether there may be more
   */
  async removeExpired(): Promise<boolean> {
    const [, removed] = (await this.dataSource.query(DELETE_EXPIRED, [
      RETENTION_HOURS,
      MAX_ROWS_PER_BATCH,
    ])) as [unknown, number];
    return removed === MAX_ROWS_PER_BATCH;
  }

  private async replay(
    { fingerprint, cacheKeys, status, headers, body }: IdempotencyRecord,
    requestFingerprint: string,
  ): Promise<IdempotentResponse> {
    if (fingerprint !== requestFingerprint) throw idempotencyProblems.reused();
    // The node that committed may have died before it published to the cache. This response
    // acknowledges the write, so the write must be visible now.
    await this.invalidation.invalidate(cacheKeys);
    return { status, headers, body, replayed: true };
  }

  /**
   * Reserves the key for this transaction.
   * @returns the record of an earlier request; null when the key is reserved
   * @throws Problem idempotency-key-in-flight
   */
  private async claim(
    transaction: Transaction,
    userId: string,
    key: string,
  ): Promise<IdempotencyRecord | null> {
    const { manager } = transaction;
    const earlier = await findRecord(transaction, userId, key);
    if (earlier) return earlier;
    // The lock lives as long as the first request's transaction, even when its node dies.
    const [{ locked }] = await manager.query<[{ locked: boolean }]>(
      'SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS locked',
      [`${userId}:${key}`],
    );
    if (!locked) throw idempotencyProblems.inFlight(undefined, { headers: { 'Retry-After': '1' } });
    // The first request may have committed after the query above and before the lock.
    const committed = await findRecord(transaction, userId, key);
    if (committed) return committed;
    // An expired record may still exist.
    await manager.delete(IdempotencyRecord, { userId, key });
    return null;
  }
}

/** The key's record, unless it has expired. */
const findRecord = (
  { manager }: Transaction,
  userId: string,
  key: string,
): Promise<IdempotencyRecord | null> =>
  manager
    .createQueryBuilder(IdempotencyRecord, 'record')
    .where('record.userId = :userId AND record.key = :key', { userId, key })
    .andWhere('record.createdAt > now() - make_interval(hours => :hours)', {
      hours: RETENTION_HOURS,
    })
    .getOne();

const serialize = ({ status, headers, body }: IdempotentResult): IdempotentResponse => ({
  status,
  headers,
  body: JSON.stringify(body),
  replayed: false,
});
