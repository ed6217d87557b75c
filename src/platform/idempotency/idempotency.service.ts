/**
 * Exactly once for a request that may be sent many times: the key's row is committed in the transaction of what the request
 * did, so there is either both or neither, on any node, through any crash. The same key and request get the same bytes again.
 * Only answers are kept: a refusal rolls the transaction back and leaves the key unused.
 */
import { createHash } from 'node:crypto';
import {
  createParamDecorator,
  type ExecutionContext,
  Injectable,
  Logger,
  type OnApplicationShutdown,
  type OnModuleInit,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { DataSource } from 'typeorm';
import { InvalidationService } from '../cache/invalidation.service.js';
import { type Transaction, UnitOfWork } from '../database/unit-of-work.js';
import type { Actor } from './actor.js';
import { IdempotencyRecord } from './idempotency.entity.js';
import { defineProblem } from './problem.js';

export const idempotencyProblems = {
  required: defineProblem({
    code: 'idempotency-key-required',
    status: 400,
    title: 'Idempotency-Key is required',
    explanation:
      'Send an "Idempotency-Key" of 1 to 255 printable ASCII characters, new for each order and the same for each retry of it.',
  }),
  malformed: defineProblem({
    code: 'idempotency-key-malformed',
    status: 400,
    title: 'Idempotency-Key is not well-formed',
    explanation:
      'An "Idempotency-Key" has 1 to 255 printable ASCII characters, bare or as a quoted structured-field string (RFC 9651, section 3.3.3).',
  }),
  reused: defineProblem({
    code: 'idempotency-key-reused',
    status: 422,
    title: 'The key belongs to another request',
    explanation:
      'This user has sent this key with another method, path or body in the last 24 hours. Use a new key for a new request.',
  }),
  inFlight: defineProblem({
    code: 'idempotency-key-in-flight',
    status: 409,
    title: 'The first request with this key is still running',
    explanation: 'Repeat the request after "Retry-After" seconds to get its answer.',
  }),
} as const;

/** Hours a key is kept. */
export const KEPT_HOURS = 24;
/** Expired keys are removed this many at a time, at most so many times, this often. */
const PURGE = { rows: 1_000, batches: 50, everyMs: 60_000 } as const;

/** A request as far as sameness goes. */
export interface IdempotentRequest {
  readonly key: string | undefined;
  readonly fingerprint: string;
}

/** What a handler answers with, ready to be sent and to be kept. */
export interface Answer {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: object;
}

/** sf-string or bare: the same key (RFC 9651, section 4.2.5). */
function parseKey(header: string): string {
  const quoted = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/.exec(header);
  const key = quoted ? (quoted[1] as string).replace(/\\(["\\])/g, '$1') : header;
  if (
    key.length < 1 ||
    key.length > 255 ||
    !/^[\x20-\x7e]+$/.test(key) ||
    (!quoted && /^"|"$/.test(key))
  )
    throw idempotencyProblems.malformed();
  return key;
}

/** The request's key and fingerprint. `required` refuses a request without a key. */
export const Idempotent = createParamDecorator(
  (required: boolean, context: ExecutionContext): IdempotentRequest => {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    const header = request.headers['idempotency-key'];
    if (header === undefined && required) throw idempotencyProblems.required();
    // Node joins the values of a repeated field with a comma; that is no key that anyone sent.
    if (header !== undefined && (request.raw.headersDistinct['idempotency-key']?.length ?? 0) > 1)
      throw idempotencyProblems.malformed();
    const told = JSON.stringify([
      request.method,
      request.url.split('?')[0],
      request.body ?? null,
      request.headers['if-match'] ?? null,
    ]);
    return {
      key: header === undefined ? undefined : parseKey(String(header).trim()),
      fingerprint: createHash('sha256').update(told).digest('hex'),
    };
  },
);

@Injectable()
export class Idempotency implements OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger(Idempotency.name);
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly dataSource: DataSource,
    private readonly invalidation: InvalidationService,
  ) {}

  /**
   * Runs `work` once for a key and sends its answer; a repetition sends the kept one. Without a key: just runs it.
   * @throws Problem idempotency-key-reused, idempotency-key-in-flight; whatever `work` throws
   */
  async once(
    request: IdempotentRequest,
    actor: Actor,
    reply: FastifyReply,
    work: (transaction: Transaction) => Promise<Answer>,
  ): Promise<void> {
    const { key, fingerprint } = request;
    const { status, headers, body, replayed } = await this.unitOfWork.runAs(
      actor,
      async (transaction) => {
        if (key === undefined) return { ...serialize(await work(transaction)), replayed: false };
        const kept = await this.claim(transaction, actor.userId, key);
        if (kept) {
          if (kept.fingerprint !== fingerprint) throw idempotencyProblems.reused();
          // Whoever committed it may have died before it published: this answer acknowledges the write, so it must be visible.
          await this.invalidation.drop(kept.cacheKeys);
          return { ...kept, replayed: true };
        }
        const answer = serialize(await work(transaction));
        const { cacheKeys } = transaction;
        await transaction.manager.insert(IdempotencyRecord, {
          userId: actor.userId,
          key,
          fingerprint,
          cacheKeys,
          ...answer,
        });
        return { ...answer, replayed: false };
      },
    );
    if (replayed) void reply.header('Idempotent-Replayed', 'true');
    void reply
      .code(status)
      .headers(headers)
      .header('Content-Type', 'application/json; charset=utf-8')
      .send(body);
  }

  /** Takes the key for this transaction, or gives the answer that it already has. */
  private async claim(
    { manager }: Transaction,
    userId: string,
    key: string,
  ): Promise<IdempotencyRecord | null> {
    const kept = (): Promise<IdempotencyRecord | null> =>
      manager
        .createQueryBuilder(IdempotencyRecord, 'record')
        .where('record.userId = :userId AND record.key = :key', { userId, key })
        .andWhere(`record.createdAt > now() - make_interval(hours => :hours)`, {
          hours: KEPT_HOURS,
        })
        .getOne();
    const before = await kept();
    if (before) return before;
    // The lock is the "in flight": it is the first request's as long as its transaction lives, also when its node is gone.
    const [{ locked }] = await manager.query<[{ locked: boolean }]>(
      'SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS locked',
      [`${userId}:${key}`],
    );
    if (!locked) throw idempotencyProblems.inFlight(undefined, { headers: { 'Retry-After': '1' } });
    // The first may have committed between the look and the lock.
    const now = await kept();
    if (!now) await manager.delete(IdempotencyRecord, { userId, key });
    return now;
  }

  onModuleInit(): void {
    this.timer = setInterval(
      () =>
        void this.purgeAll().catch((error: unknown) => this.logger.warn(`purge: ${String(error)}`)),
      PURGE.everyMs,
    ).unref();
  }

  onApplicationShutdown(): void {
    clearInterval(this.timer);
  }

  /** A short statement after the other, so that no lock is held for long; more than 50 000 a minute wait for the next one. */
  private async purgeAll(): Promise<void> {
    for (let batch = 0; batch < PURGE.batches && (await this.purge()); batch++);
  }

  /** Removes keys past their time, a bounded number; true when there may be more. */
  async purge(): Promise<boolean> {
    const [, removed] = (await this.dataSource.query(
      `DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
         SELECT ctid FROM idempotency_keys WHERE created_at < now() - make_interval(hours => $1) ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))`,
      [KEPT_HOURS, PURGE.rows],
    )) as [unknown, number];
    return removed === PURGE.rows;
  }
}

const serialize = ({
  status,
  headers,
  body,
}: Answer): Pick<IdempotencyRecord, 'status' | 'headers' | 'body'> => ({
  status,
  headers,
  body: JSON.stringify(body),
});
