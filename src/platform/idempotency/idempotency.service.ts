/**
 * Runs a request exactly once, however often it is sent. The key's record commits in the
 * transaction of the request's writes: after any crash, on any node, both exist or neither. A
 * repetition gets the stored bytes. Only successes are stored: a problem rolls back and leaves the
 * key unused.
 */
import { Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { DataSource, type EntityManager } from 'typeorm';
import type { Actor } from '../access/actor.js';
import { InvalidationService } from '../cache/write/invalidation.service.js';
import { PeriodicPurge } from '../database/purge.js';
import type { Transaction } from '../database/transaction.js';
import { UnitOfWork } from '../database/unit-of-work.js';
import { IdempotencyRecord } from './idempotency-record.entity.js';
import { idempotencyProblems } from './idempotency.errors.js';
import type { IdempotentRequest } from './idempotent.decorator.js';
import { ownerOfNetwork } from './key-owner.js';

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
  /** The user whose data the body shows, if that is not the caller. The key goes with that user. */
  readonly subjectId?: string;
}

/** The parts of a request of a caller without a session. */
export interface SessionlessWork<Prepared> {
  /** What takes long, e.g. hashing: it runs before the transaction, and not for a repetition. */
  readonly prepare: () => Promise<Prepared>;
  readonly write: (transaction: Transaction, prepared: Prepared) => Promise<IdempotentResult>;
  /**
   * Compares what the fingerprint leaves out, and throws when it differs. Called without a
   * transaction.
   * @param subjectId of the result of the first request
   */
  readonly confirmRepetition: (subjectId: string | null) => Promise<void>;
}

/** A response with exactly the bytes that every repetition gets. */
export interface IdempotentResponse {
  readonly status: number;
  readonly headers: Record<string, string>;
  /** JSON. */
  readonly body: string;
  /** See {@link IdempotentResult}. */
  readonly subjectId?: string | undefined;
  /** Whether an earlier request did the work. */
  readonly replayed: boolean;
}

type Work = (transaction: Transaction) => Promise<IdempotentResult>;

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
  async runOnce(request: IdempotentRequest, actor: Actor, work: Work): Promise<IdempotentResponse> {
    const outcome = await this.unitOfWork.runAs(actor, (transaction) =>
      this.claimAndWork(transaction, request, actor.userId, work),
    );
    // After the transaction: its connection is free for others meanwhile.
    return outcome instanceof IdempotencyRecord ? this.replay(outcome, request) : outcome;
  }

  /**
   * {@link runOnce} for a caller without a session: keys belong to the caller's network.
   * @param network of networkOf (http/server/client-address.ts)
   * @throws Problem idempotency-key-reused, idempotency-key-in-flight; whatever the parts throw
   */
  async runOnceForNetwork<Prepared>(
    request: IdempotentRequest,
    network: string,
    { prepare, write, confirmRepetition }: SessionlessWork<Prepared>,
  ): Promise<IdempotentResponse> {
    const { key } = request;
    const ownerId = ownerOfNetwork(network);
    const earlier =
      key === undefined ? null : await findRecord(this.dataSource.manager, ownerId, key);
    if (earlier) return this.replay(earlier, request, confirmRepetition);
    const prepared = await prepare();
    const outcome = await this.unitOfWork.run((transaction) =>
      this.claimAndWork(transaction, request, ownerId, () => write(transaction, prepared)),
    );
    return outcome instanceof IdempotencyRecord
      ? this.replay(outcome, request, confirmRepetition)
      : outcome;
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

  /** @returns the record of an earlier request, or the response of this one */
  private async claimAndWork(
    transaction: Transaction,
    request: IdempotentRequest,
    ownerId: string,
    work: Work,
  ): Promise<IdempotencyRecord | IdempotentResponse> {
    const { key } = request;
    if (key === undefined) return serialize(await work(transaction));
    const record = await this.claim(transaction, ownerId, key);
    if (record) return record;
    const result = await work(transaction);
    const response = serialize(result);
    const { status, headers, body } = response;
    await transaction.manager.insert(IdempotencyRecord, {
      ownerId,
      key,
      fingerprint: request.fingerprint,
      cacheKeys: transaction.cacheKeys,
      status,
      headers,
      body,
      subjectId: result.subjectId ?? null,
    });
    return response;
  }

  private async replay(
    { fingerprint, cacheKeys, status, headers, body, subjectId }: IdempotencyRecord,
    { fingerprint: requestFingerprint }: IdempotentRequest,
    confirmRepetition?: SessionlessWork<never>['confirmRepetition'],
  ): Promise<IdempotentResponse> {
    if (fingerprint !== requestFingerprint) throw idempotencyProblems.reused();
    await confirmRepetition?.(subjectId);
    // The node that committed may have died before it published to the cache. This response
    // acknowledges the write, so the write must be visible now.
    await this.invalidation.invalidate(cacheKeys);
    return { status, headers, body, subjectId: subjectId ?? undefined, replayed: true };
  }

  /**
   * Reserves the key for this transaction.
   * @returns the record of an earlier request; null when the key is reserved
   * @throws Problem idempotency-key-in-flight
   */
  private async claim(
    { manager }: Transaction,
    ownerId: string,
    key: string,
  ): Promise<IdempotencyRecord | null> {
    const earlier = await findRecord(manager, ownerId, key);
    if (earlier) return earlier;
    // The lock lives as long as the first request's transaction, even when its node dies.
    const [{ locked }] = await manager.query<[{ locked: boolean }]>(
      'SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS locked',
      [`${ownerId}:${key}`],
    );
    if (!locked) throw idempotencyProblems.inFlight(undefined, { headers: { 'Retry-After': '1' } });
    // The first request may have committed after the query above and before the lock.
    const committed = await findRecord(manager, ownerId, key);
    if (committed) return committed;
    // An expired record may still exist.
    await manager.delete(IdempotencyRecord, { ownerId, key });
    return null;
  }
}

/** The key's record, unless it has expired. */
const findRecord = (
  manager: EntityManager,
  ownerId: string,
  key: string,
): Promise<IdempotencyRecord | null> =>
  manager
    .createQueryBuilder(IdempotencyRecord, 'record')
    .where('record.ownerId = :ownerId AND record.key = :key', { ownerId, key })
    .andWhere('record.createdAt > now() - make_interval(hours => :hours)', {
      hours: RETENTION_HOURS,
    })
    .getOne();

const serialize = ({ status, headers, body, subjectId }: IdempotentResult): IdempotentResponse => ({
  status,
  headers,
  body: JSON.stringify(body),
  subjectId,
  replayed: false,
});
