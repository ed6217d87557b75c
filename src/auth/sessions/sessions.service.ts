/**
 * Sessions. A login creates a random token, shown once and stored as its SHA-256. Invariant: a
 * session has a row as long as it lives. Ending it deletes the row through the fenced cache: once
 * the end is acknowledged, no node accepts the token (docs/design/cache-protocol.md).
 */
import { hash } from 'node:crypto';
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  Optional,
} from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { LRUCache } from 'lru-cache';
import { type FindOptionsWhere, In, Repository } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Config } from '../../config.js';
import type { Actor } from '../../platform/access/actor.js';
import { CachedRepository } from '../../platform/cache/cached-repository.js';
import { InjectCachedRepository } from '../../platform/cache/cached.decorator.js';
import type { ReadContext } from '../../platform/cache/read/read-context.js';
import { PeriodicPurge } from '../../platform/database/purge.js';
import type { Transaction } from '../../platform/database/transaction.js';
import { UnitOfWork } from '../../platform/database/unit-of-work.js';
import { problems } from '../../platform/http/problems/problem.js';
import { OutboxService } from '../../platform/outbox/outbox.service.js';
import { CLOCK, type Clock } from '../../platform/timing/clock.js';
import { UsersService } from '../../users/users.service.js';
import type { Origin } from '../throttling/device-tokens.service.js';
import { LastUsesService } from './last-uses.service.js';
import { Session } from './session.entity.js';
import { createToken } from './token.js';

/** At this number, a new session ends the least recently used one. */
export const MAX_SESSIONS_PER_USER = 100;
/** A token's user never changes, so this process may remember it. */
const MAX_REMEMBERED_TOKENS = 50_000;
const PURGE = { intervalMs: 60_000, maxRows: 200, maxBatches: 25 } as const;

/** A new session with its token, which is not stored. */
export interface StartedSession {
  readonly session: Session;
  readonly token: string;
}

@Injectable()
export class SessionsService implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly userIdOfToken = new LRUCache<string, string>({
    // With `max`, it would allocate all of its entries at the start.
    maxSize: MAX_REMEMBERED_TOKENS,
    sizeCalculation: () => 1,
  });
  private readonly expiredSessions: PeriodicPurge;

  constructor(
    @InjectCachedRepository(Session) private readonly sessions: CachedRepository<Session>,
    @InjectRepository(Session) private readonly table: Repository<Session>,
    private readonly users: UsersService,
    private readonly unitOfWork: UnitOfWork,
    private readonly outbox: OutboxService,
    private readonly lastUses: LastUsesService,
    private readonly config: Config,
    @Optional() @Inject(CLOCK) private readonly now: Clock = Date.now,
  ) {
    this.expiredSessions = new PeriodicPurge({
      what: 'expired sessions',
      intervalMs: PURGE.intervalMs,
      maxBatches: PURGE.maxBatches,
      removeBatch: () => this.removeExpiredBatch(),
      logger: new Logger('Sessions'),
    });
  }

  onApplicationBootstrap(): void {
    this.expiredSessions.start();
  }

  async onApplicationShutdown(): Promise<void> {
    await this.expiredSessions.stop();
  }

  /** Whether this process has seen the token's session, and not seen that it has ended. */
  isKnown(token: string): boolean {
    return this.userIdOfToken.has(hashToken(token));
  }

  /**
   * The caller that a bearer token belongs to; undefined for an unknown token, an ended session or
   * a deleted user.
   */
  async authenticate(token: string): Promise<Actor | undefined> {
    const tokenHash = hashToken(token);
    const actor = await this.findActor(tokenHash);
    if (!actor) this.userIdOfToken.delete(tokenHash);
    return actor;
  }

  private async findActor(tokenHash: string): Promise<Actor | undefined> {
    const rememberedUserId = this.userIdOfToken.get(tokenHash);
    // Both reads at once when the user is known. Neither is skipped: session and roles may change.
    const [session, expectedUser] = await Promise.all([
      this.sessions.findByAlias('tokenHash', tokenHash),
      rememberedUserId === undefined ? null : this.users.findLive(rememberedUserId),
    ]);
    if (!session || !this.isLive(session)) return undefined;
    const user = expectedUser ?? (await this.users.findLive(session.userId));
    if (!user || user.id !== session.userId) return undefined;
    this.userIdOfToken.set(tokenHash, user.id);
    this.lastUses.record(session);
    const { id: sessionId } = session;
    return {
      userId: user.id,
      roles: user.roles,
      sessionId,
      lockSession: (transaction) => this.lockForWrite(transaction, sessionId),
    };
  }

  /** Starts a session of a user whose credential the transaction has locked. */
  async start(transaction: Transaction, userId: string, origin: Origin): Promise<StartedSession> {
    await this.endSurplus(transaction, userId);
    const token = createToken();
    const now = this.now();
    const session = await transaction.insert(Session, {
      id: uuidv7(),
      userId,
      tokenHash: hashToken(token),
      ip: origin.ip,
      userAgent: origin.userAgent,
      lastSeenAt: new Date(now),
      expiresAt: new Date(now + this.config.sessionAbsoluteSeconds * 1000),
    });
    await this.outbox.append(transaction, {
      type: 'session.started',
      subject: `sessions/${session.id}`,
      data: { version: session.version, userId },
    });
    return { session, token };
  }

  /**
   * The session of the request.
   * @throws Problem unauthenticated when it has ended since the guard read it
   */
  async getCurrent(actor: Actor, context: ReadContext): Promise<Session> {
    const session = await this.sessions.findById(actor.sessionId, context);
    if (!session || !this.isLive(session)) throw problems.unauthenticated();
    return this.withLastUse(session);
  }

  /**
   * One of the actor's live sessions.
   * @throws Problem not-found, also for a session of another user
   */
  async get(actor: Actor, id: string, context: ReadContext): Promise<Session> {
    const session = await this.sessions.findById(id, context);
    const isOwn = session !== null && session.userId === actor.userId;
    if (!isOwn) throw problems.notFound(undefined, { isHidden: session !== null });
    if (!this.isLive(session)) throw problems.notFound();
    return this.withLastUse(session);
  }

  /** The user's live sessions, newest first. */
  async list(userId: string): Promise<Session[]> {
    const sessions = await this.table
      .createQueryBuilder('row')
      .where('row.userId = :userId', { userId })
      .orderBy('row.createdAt', 'DESC')
      .addOrderBy('row.id', 'DESC')
      .limit(MAX_SESSIONS_PER_USER)
      .getMany();
    return sessions
      .filter((session) => this.isLive(session))
      .map((session) => this.withLastUse(session));
  }

  /**
   * Ends one of the actor's sessions.
   * @throws Problem unauthenticated, not-found
   */
  async end(actor: Actor, sessionId: string): Promise<void> {
    await this.unitOfWork.run(async (transaction) => {
      transaction.observe(Session, sessionId);
      transaction.observe(Session, actor.sessionId);
      const ids = In([actor.sessionId, sessionId]);
      const sessions = await lockSessions(transaction, { userId: actor.userId, id: ids });
      requireSessionOf(actor, sessions);
      const session = sessions.find(({ id }) => id === sessionId);
      if (!session) throw problems.notFound();
      await this.endLocked(transaction, [session]);
    });
  }

  /**
   * Ends the actor's sessions.
   * @param keepsCurrent leaves the session of the request
   * @throws Problem unauthenticated
   */
  async endAll(actor: Actor, keepsCurrent: boolean): Promise<void> {
    await this.unitOfWork.run(async (transaction) => {
      const sessions = await this.lockAll(transaction, actor);
      const ending = keepsCurrent ? sessions.filter(({ id }) => id !== actor.sessionId) : sessions;
      await this.endLocked(transaction, ending);
    });
  }

  /**
   * Locks all sessions of a user, by default the actor's. Requests that write in one of them have
   * committed then, or will fail.
   * @throws Problem unauthenticated when the sessions are the actor's and the request's has ended
   */
  async lockAll(transaction: Transaction, actor: Actor, userId = actor.userId): Promise<Session[]> {
    transaction.observe(Session, actor.sessionId);
    const sessions = await lockSessions(transaction, { userId });
    if (userId === actor.userId) requireSessionOf(actor, sessions);
    return sessions;
  }

  /** Ends sessions that the transaction has locked. */
  async endLocked(transaction: Transaction, sessions: readonly Session[]): Promise<void> {
    for (const session of sessions) {
      const isRemoved = await transaction.remove(session);
      if (!isRemoved) continue;
      await this.outbox.append(transaction, {
        type: 'session.ended',
        subject: `sessions/${session.id}`,
        data: { version: session.version + 1, userId: session.userId },
      });
    }
  }

  /**
   * Removes sessions past their absolute end, in bounded batches. Idle sessions have ended too, but
   * keep their rows until then: the table does not know of uses that are not written yet.
   */
  async purge(): Promise<void> {
    await this.expiredSessions.purge();
  }

  private async removeExpiredBatch(): Promise<boolean> {
    const removed = await this.unitOfWork.run(async (transaction) => {
      const sessions = await transaction.manager
        .createQueryBuilder(Session, 'row')
        .where('row.expiresAt < now()')
        .orderBy('row.expiresAt')
        .limit(PURGE.maxRows)
        .setLock('pessimistic_write')
        .setOnLocked('skip_locked')
        .getMany();
      await this.endLocked(transaction, sessions);
      return sessions.length;
    });
    return removed === PURGE.maxRows;
  }

  /** Ends the least recently used sessions, so that one more fits. */
  private async endSurplus(transaction: Transaction, userId: string): Promise<void> {
    const surplus = await transaction.manager
      .createQueryBuilder(Session, 'row')
      .select('row.id')
      .where('row.userId = :userId', { userId })
      .orderBy('row.lastSeenAt', 'DESC')
      .offset(MAX_SESSIONS_PER_USER - 1)
      .getMany();
    if (surplus.length === 0) return;
    // Locked and read again: LastUsesService may have changed the version, and the removal of the
    // old version would miss the row.
    const ids = surplus.map(({ id }) => id);
    await this.endLocked(transaction, await lockSessions(transaction, { id: In(ids) }));
  }

  /**
   * FOR KEY SHARE: until the transaction ends, the session cannot be deleted, but its `lastSeenAt`
   * can be written.
   * @throws Problem unauthenticated when the session has ended
   */
  private async lockForWrite(transaction: Transaction, sessionId: string): Promise<void> {
    transaction.observe(Session, sessionId);
    const session = await transaction.manager
      .createQueryBuilder(Session, 'row')
      .select('row.id')
      .where('row.id = :sessionId', { sessionId })
      .setLock('for_key_share')
      .getOne();
    if (!session) throw problems.unauthenticated();
  }

  private isLive(session: Session): boolean {
    const now = this.now();
    const lastUseMs = this.lastUseOf(session).getTime();
    const isExpired = now >= session.expiresAt.getTime();
    const isIdle = now >= lastUseMs + this.config.sessionIdleSeconds * 1000;
    return !isExpired && !isIdle;
  }

  private withLastUse(session: Session): Session {
    return Object.assign(new Session(), session, { lastSeenAt: this.lastUseOf(session) });
  }

  private lastUseOf({ id, lastSeenAt }: Session): Date {
    const unwritten = this.lastUses.getUnwritten(id);
    return unwritten !== undefined && unwritten > lastSeenAt ? unwritten : lastSeenAt;
  }
}

const hashToken = (token: string): string => hash('sha256', token);

/** In the order of their ids: two transactions that do so do not deadlock. */
function lockSessions(
  { manager }: Transaction,
  where: FindOptionsWhere<Session>,
): Promise<Session[]> {
  const lock = { mode: 'pessimistic_write' } as const;
  return manager.find(Session, { where, order: { id: 'ASC' }, lock });
}

function requireSessionOf(actor: Actor, sessions: readonly Session[]): void {
  const isLive = sessions.some(({ id }) => id === actor.sessionId);
  if (!isLive) throw problems.unauthenticated();
}
