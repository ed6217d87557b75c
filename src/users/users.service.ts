/**
 * Users: who they are and which roles they have. Reads go through the cache; each change is optimistic on the version, and
 * is told in the outbox. A deleted user keeps its row, emptied of names, and is "not found" to everyone.
 */
import { Injectable } from '@nestjs/common';
import { v7 as uuidv7 } from 'uuid';
import { CachedRepository } from '../cache/cached-repository.js';
import { InjectCachedRepository } from '../cache/cached.decorator.js';
import type { Reading } from '../cache/reading.js';
import type { Representation } from '../cache/representation.js';
import { type Transaction, UnitOfWork } from '../database/unit-of-work.js';
import type { Actor, Role } from '../http/actor.js';
import { decodeCursor, DEFAULT_LIMIT, keyset, type Page, pageOf } from '../http/pagination.js';
import type { IfMatch } from '../http/preconditions.js';
import { problems } from '../http/problem.js';
import { OutboxService } from '../outbox/outbox.service.js';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { User } from './user.entity.js';
import {
  type ChangeUser,
  foldAscii,
  type ListUsersQuery,
  userRepresentation,
  userView,
  type UserView,
} from './users.dto.js';

@Injectable()
export class UsersService {
  constructor(
    @InjectCachedRepository(User) private readonly users: CachedRepository<User>,
    @InjectRepository(User) private readonly table: Repository<User>,
    private readonly unitOfWork: UnitOfWork,
    private readonly outbox: OutboxService,
  ) {}

  /** A live user; null for one that never was or is deleted. */
  async find(id: string, reading?: Reading): Promise<User | null> {
    const user = await this.users.findById(id, reading);
    return user && user.deletedAt === null ? user : null;
  }

  /** Whether this id is or was a user's: a deleted user's orders stay. */
  async everExisted(id: string): Promise<boolean> {
    return (await this.users.findById(id)) !== null;
  }

  /**
   * By username, or by email address when there is an "@". From the primary, in one query whether there is such a user or not:
   * through the cache, the time of a login would tell.
   */
  findByLogin(login: string): Promise<User | null> {
    const query = this.table.createQueryBuilder('row');
    if (login.includes('@'))
      query.where('lower(row.email) = :email', { email: login.toLowerCase() });
    else query.where('row.username = :username', { username: foldAscii(login) });
    return query.getOne();
  }

  /** @throws Problem not-found */
  async get(id: string, reading?: Reading): Promise<Representation> {
    const user = await this.find(id, reading);
    if (!user) throw problems.notFound();
    return userRepresentation(user);
  }

  async list(
    { username, limit = DEFAULT_LIMIT, cursor }: ListUsersQuery,
    reading?: Reading,
  ): Promise<Page<UserView>> {
    if (username !== undefined) {
      decodeCursor(cursor, ['users', username]); // One user has one page, which gives out no cursor.
      const user = await this.users.findByAlias('username', username, reading);
      return { data: user ? [userView(user)] : [], next: null };
    }
    const query = this.table.createQueryBuilder('row').where('row.deletedAt IS NULL');
    const rows = await keyset(query, decodeCursor(cursor, 'users'), limit).getMany();
    return pageOf(rows, limit, 'users', userView);
  }

  /** @throws Problem username-taken, email-taken */
  async create(
    transaction: Transaction,
    user: { username: string; email: string; roles?: Role[] },
  ): Promise<User> {
    const { username, email, roles = ['user'] } = user;
    const created = await transaction.insert(User, {
      id: uuidv7(),
      username,
      email,
      roles,
      deletedAt: null,
    });
    await this.tell(transaction, 'user.registered', created, { username, roles });
    return created;
  }

  /** @throws Problem not-found, precondition-required, version-mismatch, username-taken, email-taken */
  change(
    actor: Actor,
    id: string,
    ifMatch: IfMatch,
    { username, email }: ChangeUser,
  ): Promise<UserView> {
    return this.unitOfWork.runAs(actor, async (transaction) => {
      const before = await this.live(transaction, id);
      ifMatch.require(before.version);
      const changes = {
        ...(username === undefined ? {} : { username }),
        ...(email === undefined ? {} : { email }),
      };
      if (Object.keys(changes).length === 0) return userView(before);
      const after = await transaction.update(before, changes);
      if (!after) throw problems.versionMismatch();
      await this.tell(transaction, 'user.changed', after, { changed: Object.keys(changes) });
      return userView(after);
    });
  }

  /** @throws Problem not-found, version-mismatch */
  setRoles(actor: Actor, id: string, ifMatch: IfMatch, roles: Role[]): Promise<UserView> {
    return this.unitOfWork.runAs(actor, async (transaction) => {
      const before = await this.live(transaction, id);
      ifMatch.check(before.version);
      transaction.inForceWhenAnswered();
      const after = await transaction.update(before, { roles });
      if (!after) throw problems.versionMismatch();
      await this.tell(transaction, 'user.roles-changed', after, { roles });
      return userView(after);
    });
  }

  /** Empties the row; sessions and credentials are auth's to end, in the same transaction. @throws Problem not-found, version-mismatch */
  async remove(transaction: Transaction, id: string, ifMatch: IfMatch): Promise<void> {
    const before = await this.live(transaction, id);
    ifMatch.check(before.version);
    const after = await transaction.update(before, {
      username: null,
      email: null,
      deletedAt: new Date(),
    });
    if (!after) throw problems.versionMismatch();
    await this.tell(transaction, 'user.deleted', after, {});
  }

  /** The row as it is now, locked: a check of its version cannot be overtaken. @throws Problem not-found */
  async live(
    transaction: Transaction,
    id: string,
    mode: 'update' | 'share' = 'update',
  ): Promise<User> {
    const user = await transaction.lock(User, id, mode);
    if (!user || user.deletedAt !== null) throw problems.notFound();
    return user;
  }

  private tell(
    transaction: Transaction,
    type: string,
    { id, version }: User,
    data: Record<string, unknown>,
  ): Promise<void> {
    return this.outbox.append(transaction, {
      type,
      subject: `users/${id}`,
      data: { version, ...data },
    });
  }
}
