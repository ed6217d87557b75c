/**
 * Accounts as far as passwords and sessions go: registering, logging in, changing a password, deleting. And the question
 * that other modules ask: may this actor do that?
 */
import { Injectable, Logger, type OnApplicationBootstrap } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { Config } from '../config.js';
import { DatabaseProbe } from '../database/database.probe.js';
import { type Transaction, UnitOfWork } from '../database/unit-of-work.js';
import type { Actor } from '../http/actor.js';
import type { IfMatch } from '../http/preconditions.js';
import { Problem, problemOfConstraint, problems } from '../http/problem.js';
import { OutboxService } from '../outbox/outbox.service.js';
import { type UserView, userView } from '../users/users.dto.js';
import { UsersService } from '../users/users.service.js';
import type { ChangePassword, LogIn, RegisterUser } from './auth.dto.js';
import { authProblems } from './auth.errors.js';
import { Credential } from './credential.entity.js';
import { Passwords } from './passwords.js';
import { type Action, allows, ruleOf } from './policy.js';
import type { Session } from './session.entity.js';
import { SessionsService } from './sessions.service.js';

@Injectable()
export class AuthService implements OnApplicationBootstrap {
  private readonly logger = new Logger('Auth');

  constructor(
    @InjectRepository(Credential) private readonly credentials: Repository<Credential>,
    private readonly users: UsersService,
    private readonly sessions: SessionsService,
    private readonly passwords: Passwords,
    private readonly unitOfWork: UnitOfWork,
    private readonly outbox: OutboxService,
    private readonly config: Config,
    private readonly database: DatabaseProbe,
  ) {}

  /** Whether the policy lets the actor do this to an object of `ownerId`. */
  may(actor: Actor, action: Action, ownerId?: string): boolean {
    const rule = ruleOf(action);
    return rule !== undefined && allows(rule, actor, ownerId);
  }

  /** @throws Problem validation-failed, username-taken, email-taken, overloaded */
  async register({ username, email, password }: RegisterUser): Promise<UserView> {
    this.passwords.check(password, [username, email], 'password');
    const passwordHash = await this.passwords.hash(password);
    return this.unitOfWork.run(async (transaction) => {
      const user = await this.users.create(transaction, { username, email });
      await transaction.manager.insert(Credential, { userId: user.id, passwordHash });
      return userView(user);
    });
  }

  /** @throws Problem invalid-credentials, overloaded */
  async logIn(
    { username, password }: LogIn,
    from: { userAgent: string | null; ip: string | null },
  ): Promise<{ session: Session; token: string }> {
    const user = await this.users.findByLogin(username);
    const known = user ? await this.credentials.findOneBy({ userId: user.id }) : null;
    const right = await this.passwords.verify(known?.passwordHash, password);
    if (!user || !known || !right) throw authProblems.invalidCredentials();
    return this.unitOfWork.run(async (transaction) => {
      // Locked and looked at again: a deletion or another password that was acknowledged in between ends this login.
      const credential = await this.lockCredential(transaction, user.id);
      if (credential?.passwordHash !== known.passwordHash) throw authProblems.invalidCredentials();
      return this.sessions.start(transaction, user.id, from);
    });
  }

  /** Every other session of the user ends. @throws Problem not-found, forbidden, wrong-password, validation-failed, overloaded */
  async changePassword(actor: Actor, userId: string, { currentPassword, newPassword }: ChangePassword): Promise<void> {
    const user = await this.users.find(userId);
    const known = await this.credentials.findOneBy({ userId });
    if (!user || !known) throw problems.notFound();
    if (user.id !== actor.userId) throw problems.forbidden();
    if (!(await this.passwords.verify(known.passwordHash, currentPassword))) throw authProblems.wrongPassword();
    this.passwords.check(newPassword, [user.username ?? '', user.email ?? ''], 'newPassword');
    const passwordHash = await this.passwords.hash(newPassword);
    await this.unitOfWork.run(async (transaction) => {
      const credential = await this.lockCredential(transaction, userId);
      const sessions = await this.sessions.lockAll(transaction, actor);
      if (credential?.passwordHash !== known.passwordHash) throw authProblems.wrongPassword();
      const { version } = await this.users.live(transaction, userId, 'share');
      await transaction.manager.update(Credential, { userId }, { passwordHash });
      await this.sessions.endEach(
        transaction,
        sessions.filter(({ id }) => id !== actor.sessionId),
      );
      await this.outbox.append(transaction, {
        type: 'user.password-changed',
        subject: `users/${userId}`,
        data: { version },
      });
    });
  }

  /** The user's sessions end with it; the orders stay. @throws Problem not-found, version-mismatch */
  async deleteUser(actor: Actor, userId: string, ifMatch: IfMatch): Promise<void> {
    await this.unitOfWork.run(async (transaction) => {
      if (actor.userId !== userId) await actor.hold(transaction);
      await this.lockCredential(transaction, userId);
      const sessions = await this.sessions.lockAll(transaction, actor, userId);
      await this.users.remove(transaction, userId, ifMatch);
      await transaction.manager.delete(Credential, { userId });
      await this.sessions.endEach(transaction, sessions);
    });
  }

  /**
   * The credential's row is the account's lock: whoever makes sessions or changes what opens them takes it first, and then the
   * sessions, by id, and then the user. In this order nobody waits in a circle.
   */
  private lockCredential({ manager }: Transaction, userId: string): Promise<Credential | null> {
    return manager
      .createQueryBuilder(Credential, 'row')
      .where('row.userId = :userId', { userId })
      .setLock('pessimistic_write')
      .getOne();
  }

  /** ADMIN_USERNAME and ADMIN_PASSWORD: that admin exists after the start. An existing user keeps its password. */
  async onApplicationBootstrap(): Promise<void> {
    const { admin } = this.config;
    if (!admin) return;
    if ((await this.database.pendingMigrations()).length > 0) {
      this.logger.warn(`The admin ${admin.username} is not made: migrations are pending`);
      return;
    }
    const existing = await this.users.findByLogin(admin.username);
    if (!existing) await this.createAdmin(admin.username, admin.password);
    else if (!existing.roles.includes('admin')) {
      await this.unitOfWork.run(async (transaction) => {
        const user = await this.users.live(transaction, existing.id);
        await transaction.update(user, { roles: [...user.roles, 'admin'] });
      });
      this.logger.log(`${admin.username} is an admin now`);
    }
  }

  private async createAdmin(username: string, password: string): Promise<void> {
    this.passwords.check(password, [username], 'ADMIN_PASSWORD');
    const passwordHash = await this.passwords.hash(password);
    try {
      await this.unitOfWork.run(async (transaction) => {
        const user = await this.users.create(transaction, {
          username,
          email: `${username}@localhost`,
          roles: ['user', 'admin'],
        });
        await transaction.manager.insert(Credential, { userId: user.id, passwordHash });
      });
      this.logger.log(`The admin ${username} was made`);
    } catch (error) {
      // Another node that starts at the same moment was first.
      const { driverError } = error as { driverError?: { constraint?: string } };
      if (error instanceof Problem || !problemOfConstraint(driverError?.constraint)) throw error;
    }
  }
}
