/**
 * Sessions: a random token that is shown once and kept as its SHA-256, a row that is there exactly as long as the session
 * lives. Ending one deletes the row through the fenced cache, so from the answer on no node finds it. `lastSeenAt` alone is
 * written behind (last-uses.ts).
 */
import { hash, randomBytes } from 'node:crypto';
import { Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { LRUCache } from 'lru-cache';
import { type FindOptionsWhere, In, Repository } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { CachedRepository } from '../cache/cached-repository.js';
import { InjectCachedRepository } from '../cache/cached.decorator.js';
import type { Reading } from '../cache/reading.js';
import { Config } from '../config.js';
import { type Transaction, UnitOfWork } from '../database/unit-of-work.js';
import type { Actor } from '../http/actor.js';
import { problems } from '../http/problem.js';
import { OutboxService } from '../outbox/outbox.service.js';
import { UsersService } from '../users/users.service.js';
import { LastUses } from './last-uses.js';
import type { Origin } from './known-devices.js';
import { Session } from './session.entity.js';

/** Sessions a user may have at once; the one used longest ago gives way to a new one. */
export const SESSIONS_OF_A_USER = 100;
const TOKEN_PREFIX = 'hf_';
const TOKEN_BYTES = 32;
/** Sessions past their end are removed this many a transaction and this many transactions at a time, this often. */
const PURGE = { everyMs: 60_000, rows: 200, batches: 25 } as const;

export const tokenHashOf = (token: string): string => hash('sha256', token);

@Injectable()
export class SessionsService implements OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger('Sessions');
  /** Whose a token is, which never changes: lets session and user be read at once. Both are still read, each time. */
  private readonly userOfToken = new LRUCache<string, string>({ max: 50_000 });
  private timer: NodeJS.Timeout | undefined;

  constructor(
    @InjectCachedRepository(Session) private readonly sessions: CachedRepository<Session>,
    @InjectRepository(Session) private readonly table: Repository<Session>,
    private readonly users: UsersService,
    private readonly unitOfWork: UnitOfWork,
    private readonly outbox: OutboxService,
    private readonly lastUses: LastUses,
    private readonly config: Config,
  ) {}

  onModuleInit(): void {
    const purge = (): void =>
      void this.purge().catch((error: unknown) => this.logger.warn(String(error)));
    this.timer = setInterval(purge, PURGE.everyMs).unref();
  }

  onApplicationShutdown(): void {
    clearInterval(this.timer);
  }

  /** The actor that this token stands for now; undefined for one that is unknown, ended, expired, or whose user is gone. */
  async authenticate(token: string): Promise<Actor | undefined> {
    const tokenHash = tokenHashOf(token);
    const known = this.userOfToken.get(tokenHash);
    const [session, early] = await Promise.all([
      this.sessions.findByAlias('tokenHash', tokenHash),
      known ? this.users.find(known) : null,
    ]);
    if (!session || !this.isLive(session)) return undefined;
    const user = early ?? (await this.users.find(session.userId));
    if (!user || user.id !== session.userId) return undefined;
    this.userOfToken.set(tokenHash, user.id);
    this.lastUses.note(session);
    const { id } = session;
    return {
      userId: user.id,
      roles: user.roles,
      sessionId: id,
      hold: (transaction) => this.hold(transaction, id),
    };
  }

  /** Makes a session for a user that the transaction has locked. The token is in the answer and nowhere else. */
  async start(
    transaction: Transaction,
    userId: string,
    origin: Origin,
  ): Promise<{ session: Session; token: string }> {
    const token = TOKEN_PREFIX + randomBytes(TOKEN_BYTES).toString('base64url');
    const now = new Date();
    const ids = await transaction.manager
      .createQueryBuilder(Session, 'row')
      .select('row.id')
      .where('row.userId = :userId', { userId })
      .orderBy('row.lastSeenAt', 'DESC')
      .offset(SESSIONS_OF_A_USER - 1)
      .getMany();
    // Locked before they are removed: a use that is written at this moment would move a version, and the row would stay.
    if (ids.length > 0)
      await this.endEach(transaction, await lock(transaction, { id: In(ids.map(({ id }) => id)) }));
    const session = await transaction.insert(Session, {
      id: uuidv7(),
      userId,
      tokenHash: tokenHashOf(token),
      ip: origin.ip,
      userAgent: origin.userAgent,
      lastSeenAt: now,
      expiresAt: new Date(now.getTime() + this.config.sessionAbsoluteSeconds * 1000),
    });
    await this.outbox.append(transaction, {
      type: 'session.started',
      subject: `sessions/${session.id}`,
      data: { version: session.version, userId },
    });
    return { session, token };
  }

  /** @throws Problem unauthenticated when it ended in between */
  async current(actor: Actor, reading: Reading): Promise<Session> {
    const session = await this.sessions.findById(actor.sessionId, reading);
    if (!session || !this.isLive(session)) throw problems.unauthenticated();
    return this.withLatestUse(session);
  }

  /** The live ones, newest first. */
  async list(userId: string): Promise<Session[]> {
    const rows = await this.table
      .createQueryBuilder('row')
      .where('row.userId = :userId', { userId })
      .orderBy('row.createdAt', 'DESC')
      .addOrderBy('row.id', 'DESC')
      .limit(SESSIONS_OF_A_USER)
      .getMany();
    return rows.filter((row) => this.isLive(row)).map((row) => this.withLatestUse(row));
  }

  /** Ends one of the actor's sessions. @throws Problem unauthenticated, not-found */
  async end(actor: Actor, sessionId: string): Promise<void> {
    await this.unitOfWork.run(async (transaction) => {
      const { userId, sessionId: own } = actor;
      const sessions = await lock(transaction, { userId, id: In([own, sessionId]) });
      if (!sessions.some(({ id }) => id === own)) throw problems.unauthenticated();
      const session = sessions.find(({ id }) => id === sessionId);
      if (!session) throw problems.notFound();
      await this.endEach(transaction, [session]);
    });
  }

  /** Ends all sessions of the actor, or all but the one of this request. @throws Problem unauthenticated */
  async endOwn(actor: Actor, keepCurrent: boolean): Promise<void> {
    await this.unitOfWork.run(async (transaction) => {
      const sessions = await this.lockAll(transaction, actor);
      await this.endEach(
        transaction,
        sessions.filter(({ id }) => !keepCurrent || id !== actor.sessionId),
      );
    });
  }

  /**
   * All sessions of a user (the actor without `userId`), locked: whoever writes in one of them has committed, or will be
   * refused. @throws Problem unauthenticated when it is the actor's own that are asked for and the one of this request has ended
   */
  async lockAll(transaction: Transaction, actor: Actor, userId = actor.userId): Promise<Session[]> {
    const sessions = await lock(transaction, { userId });
    if (userId === actor.userId && !sessions.some(({ id }) => id === actor.sessionId))
      throw problems.unauthenticated();
    return sessions;
  }

  /** Ends sessions that the transaction has locked. */
  async endEach(transaction: Transaction, sessions: readonly Session[]): Promise<void> {
    transaction.inForceWhenAnswered();
    for (const session of sessions) {
      if (!(await transaction.remove(session))) continue;
      const data = { version: session.version + 1, userId: session.userId };
      await this.outbox.append(transaction, {
        type: 'session.ended',
        subject: `sessions/${session.id}`,
        data,
      });
    }
  }

  /** A writing request's hold on its session: the row cannot be deleted until the transaction ends; a noted use can be written. */
  private async hold({ manager }: Transaction, sessionId: string): Promise<void> {
    const row = await manager
      .createQueryBuilder(Session, 'row')
      .select('row.id')
      .where('row.id = :sessionId', { sessionId })
      .setLock('for_key_share')
      .getOne();
    if (!row) throw problems.unauthenticated();
  }

  private isLive({ id, lastSeenAt, expiresAt }: Session): boolean {
    const now = Date.now();
    const used = Math.max(lastSeenAt.getTime(), this.lastUses.of(id)?.getTime() ?? 0);
    return now < expiresAt.getTime() && now < used + this.config.sessionIdleSeconds * 1000;
  }

  private withLatestUse(session: Session): Session {
    const seen = this.lastUses.of(session.id);
    return seen && seen > session.lastSeenAt
      ? Object.assign(new Session(), session, { lastSeenAt: seen })
      : session;
  }

  /**
   * Removes sessions that are past their absolute end, the oldest first and a bounded number. One that was idle too long is
   * dead already and stays for its row's end: by the table alone it cannot be told from one whose last use is not written yet.
   */
  async purge(): Promise<void> {
    for (let batch = 0; batch < PURGE.batches; batch++) {
      const removed = await this.unitOfWork.run(async (transaction) => {
        const rows = await transaction.manager
          .createQueryBuilder(Session, 'row')
          .where('row.expiresAt < now()')
          .orderBy('row.expiresAt')
          .limit(PURGE.rows)
          .setLock('pessimistic_write')
          .setOnLocked('skip_locked')
          .getMany();
        await this.endEach(transaction, rows);
        return rows.length;
      });
      if (removed < PURGE.rows) return;
    }
  }
}

/** Rows of sessions, locked in the order of their ids, which is everyone's. */
const lock = ({ manager }: Transaction, where: FindOptionsWhere<Session>): Promise<Session[]> =>
  manager.find(Session, { where, order: { id: 'ASC' }, lock: { mode: 'pessimistic_write' } });
