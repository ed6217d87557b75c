/**
 * Users and their roles. Reads go through the cache. Each change requires the version that it
 * replaces and appends an event to the outbox. A deleted user keeps an emptied row: callers get
 * "not found", orders keep their owner's id (docs/adr/0002-deleted-users.md).
 */
import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Config } from '../config.js';
import type { Actor, Role } from '../platform/access/actor.js';
import { CachedRepository } from '../platform/cache/cached-repository.js';
import { InjectCachedRepository } from '../platform/cache/cached.decorator.js';
import type { ReadContext } from '../platform/cache/read/read-context.js';
import type { Transaction } from '../platform/database/transaction.js';
import { UnitOfWork } from '../platform/database/unit-of-work.js';
import type { IfMatch } from '../platform/http/conditional/if-match.decorator.js';
import type { Representation } from '../platform/http/conditional/representation.js';
import {
  decodeCursor,
  DEFAULT_LIMIT,
  applyKeyset,
  type Page,
  toPage,
} from '../platform/http/pagination.js';
import { problems } from '../platform/http/problems/problem.js';
import { invalidParameter } from '../platform/http/validation/validation-problem.js';
import { OutboxService } from '../platform/outbox/outbox.service.js';
import { RESERVED_USERNAMES } from './reserved-usernames.js';
import { User } from './user.entity.js';
import {
  type ChangeUser,
  lowercaseAscii,
  type ListUsersQuery,
  userRepresentation,
  userView,
  type UserView,
} from './users.dto.js';

/** Binds a cursor to the list of all users. */
export const CURSOR_SCOPE = 'users';

@Injectable()
export class UsersService {
  constructor(
    @InjectCachedRepository(User) private readonly users: CachedRepository<User>,
    @InjectRepository(User) private readonly repository: Repository<User>,
    private readonly unitOfWork: UnitOfWork,
    private readonly outbox: OutboxService,
    private readonly config: Config,
  ) {}

  /** Null for a deleted user and for an id that no user has. */
  async findLive(id: string, readContext?: ReadContext): Promise<User | null> {
    const user = await this.users.findById(id, readContext);
    const isLive = user !== null && user.deletedAt === null;
    return isLive ? user : null;
  }

  /** True for a deleted user, too: the user's orders remain. */
  async hasEverExisted(id: string): Promise<boolean> {
    return (await this.users.findById(id)) !== null;
  }

  /** A deleted user stays deleted: no lock is needed. Reads the primary. */
  async isDeleted(transaction: Transaction, id: string): Promise<boolean> {
    transaction.observe(User, id);
    const user = await transaction.manager.findOneBy(User, { id });
    return user !== null && user.deletedAt !== null;
  }

  /**
   * Finds a user by email address if the name contains "@", else by username. Always one query to
   * the primary: with the cache, the duration of a login would reveal which users exist.
   */
  findByLogin(loginName: string): Promise<User | null> {
    const query = this.repository.createQueryBuilder('row');
    if (loginName.includes('@')) {
      query.where('lower(row.email) = :email', { email: loginName.toLowerCase() });
    } else {
      query.where('row.username = :username', { username: lowercaseAscii(loginName) });
    }
    return query.getOne();
  }

  /** @throws Problem not-found */
  async get(id: string, readContext?: ReadContext): Promise<Representation> {
    const user = await this.findLive(id, readContext);
    if (!user) throw problems.notFound();
    return userRepresentation(user);
  }

  /**
   * One page of users, newest first.
   * @throws Problem validation-failed for an invalid cursor
   */
  async list(
    { username, limit = DEFAULT_LIMIT, cursor }: ListUsersQuery,
    readContext?: ReadContext,
  ): Promise<Page<UserView>> {
    if (username !== undefined) {
      // A list of one user has no second page: every cursor is invalid.
      decodeCursor(cursor, [CURSOR_SCOPE, username]);
      const user = await this.users.findByAlias('username', username, readContext);
      return { data: user ? [userView(user)] : [], next: null };
    }
    const query = this.repository.createQueryBuilder('row').where('row.deletedAt IS NULL');
    const rows = await applyKeyset(query, decodeCursor(cursor, CURSOR_SCOPE), limit).getMany();
    return toPage(rows, limit, CURSOR_SCOPE, userView);
  }

  /**
   * Checks a name that a caller chose. The name of ADMIN_USERNAME is reserved, too: others would
   * take its user for the operator's.
   * @throws Problem validation-failed with code `reserved`
   */
  requireUnreserved(username: string): void {
    const isReserved = RESERVED_USERNAMES.has(username) || username === this.config.admin?.username;
    if (!isReserved) return;
    const detail = `username ${username} is reserved; choose another one`;
    throw invalidParameter('username', 'reserved', detail);
  }

  /** @throws Problem username-taken, email-taken */
  async create(
    transaction: Transaction,
    {
      id = uuidv7(),
      username,
      email,
      roles = ['user'],
    }: { id?: string; username: string; email: string; roles?: Role[] },
  ): Promise<User> {
    const user = await transaction.insert(User, {
      id,
      username,
      email,
      roles,
      deletedAt: null,
    });
    await this.appendEvent(transaction, 'user.registered', user, { username, roles });
    return user;
  }

  /**
   * @throws Problem not-found, precondition-required, version-mismatch, validation-failed for a
   *   reserved username, username-taken, email-taken
   */
  change(
    actor: Actor,
    id: string,
    ifMatch: IfMatch,
    { username, email }: ChangeUser,
  ): Promise<UserView> {
    return this.unitOfWork.runAs(actor, async (transaction) => {
      const before = await this.lockLive(transaction, id);
      ifMatch.require(before.version);
      const isNewName = username !== undefined && username !== before.username;
      if (isNewName) this.requireUnreserved(username);
      const changes = {
        ...(username !== undefined && { username }),
        ...(email !== undefined && { email }),
      };
      const changed = Object.keys(changes);
      if (changed.length === 0) return userView(before);
      const after = await transaction.update(before, changes);
      if (!after) throw problems.versionMismatch();
      await this.appendEvent(transaction, 'user.changed', after, { changed });
      return userView(after);
    });
  }

  /** @throws Problem not-found, version-mismatch */
  setRoles(actor: Actor, id: string, ifMatch: IfMatch, roles: Role[]): Promise<UserView> {
    return this.unitOfWork.runAs(actor, async (transaction) => {
      const before = await this.lockLive(transaction, id);
      ifMatch.check(before.version);
      return userView(await this.updateRoles(transaction, before, roles));
    });
  }

  /**
   * Adds a role.
   * @returns false when the user has the role already
   * @throws Problem not-found
   */
  async grantRole(transaction: Transaction, id: string, role: Role): Promise<boolean> {
    const before = await this.lockLive(transaction, id);
    if (before.roles.includes(role)) return false;
    await this.updateRoles(transaction, before, [...before.roles, role]);
    return true;
  }

  /**
   * Empties the user's row. The caller deletes sessions and credential in the same transaction.
   * @throws Problem not-found, version-mismatch
   */
  async remove(transaction: Transaction, id: string, ifMatch: IfMatch): Promise<void> {
    const before = await this.lockLive(transaction, id);
    ifMatch.check(before.version);
    const after = await transaction.update(before, {
      username: null,
      email: null,
      deletedAt: new Date(),
    });
    if (!after) throw problems.versionMismatch();
    await this.appendEvent(transaction, 'user.deleted', after, {});
  }

  /**
   * Reads and locks the row, so that no other transaction changes its version.
   * @param mode `share` when the transaction does not change the user
   * @throws Problem not-found
   */
  async lockLive(
    transaction: Transaction,
    id: string,
    mode: 'update' | 'share' = 'update',
  ): Promise<User> {
    const user = await transaction.lock(User, id, mode);
    if (!user || user.deletedAt !== null) throw problems.notFound();
    return user;
  }

  /**
   * Reads and locks the user of this name.
   * @returns null when nobody has the name
   */
  async lockByUsername(transaction: Transaction, username: string): Promise<User | null> {
    const namesake = await transaction.manager.findOneBy(User, { username });
    if (!namesake) return null;
    const user = await transaction.lock(User, namesake.id);
    return user?.username === username ? user : null;
  }

  private async updateRoles(transaction: Transaction, before: User, roles: Role[]): Promise<User> {
    const after = await transaction.update(before, { roles });
    if (!after) throw problems.versionMismatch();
    await this.appendEvent(transaction, 'user.roles-changed', after, { roles });
    return after;
  }

  private appendEvent(
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
