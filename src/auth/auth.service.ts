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
import { networkOf } from '../http/counters.js';
import type { IfMatch } from '../http/preconditions.js';
import { Problem, problemOfConstraint, problems } from '../http/problem.js';
import { OutboxService } from '../outbox/outbox.service.js';
import { type UserView, userView } from '../users/users.dto.js';
import { UsersService } from '../users/users.service.js';
import type { ChangePassword, LogIn, RegisterUser } from './auth.dto.js';
import { authProblems } from './auth.errors.js';
import { Credential } from './credential.entity.js';
import { type Guess, Guesses } from './guesses.js';
import { deviceOf, KnownDevices, type Origin } from './known-devices.js';
import { Passwords } from './passwords.js';
import { type Action, allows, ruleOf } from './policy.js';
import type { Session } from './session.entity.js';
import { SessionsService } from './sessions.service.js';

/** The id of no user, for the queries that an unknown name takes. */
const NOBODY = '00000000-0000-0000-0000-000000000000';

@Injectable()
export class AuthService implements OnApplicationBootstrap {
  private readonly logger = new Logger('Auth');

  constructor(
    @InjectRepository(Credential) private readonly credentials: Repository<Credential>,
    private readonly users: UsersService,
    private readonly sessions: SessionsService,
    private readonly passwords: Passwords,
    private readonly guesses: Guesses,
    private readonly devices: KnownDevices,
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

  /**
   * An unknown user takes the same queries, counts and hashing as a known one.
   * @throws Problem invalid-credentials, too-many-attempts, overloaded
   */
  async logIn(
    { username, password }: LogIn,
    origin: Origin,
  ): Promise<{ session: Session; token: string }> {
    const { user, right, ...found } = await this.passwords.verify(password, () =>
      this.find(username, origin),
    );
    if (!user || !found.passwordHash || !right)
      throw authProblems.invalidCredentials(undefined, { account: user?.id });
    await this.guesses.wasRight(found.guess);
    let { passwordHash } = found;
    if (this.passwords.isOutdated(passwordHash))
      passwordHash = await this.rehash(user.id, passwordHash, password);
    return this.unitOfWork.run(async (transaction) => {
      // Locked and looked at again: a deletion or another password that was acknowledged in between ends this login.
      const credential = await this.lockCredential(transaction, user.id);
      if (credential?.passwordHash !== passwordHash)
        throw authProblems.invalidCredentials(undefined, { account: user.id });
      await this.devices.remember(transaction, user.id, deviceOf(origin));
      return this.sessions.start(transaction, user.id, origin);
    });
  }

  /** Who may be meant by a login, counted as a guess. @throws Problem too-many-attempts */
  private async find(
    login: string,
    origin: Origin,
  ): Promise<{
    user: { readonly id: string } | null;
    passwordHash: string | undefined;
    guess: Guess;
  }> {
    const user = await this.users.findByLogin(login);
    const userId = user?.id ?? NOBODY;
    const device = deviceOf(origin);
    const [credential, isKnownDevice] = await Promise.all([
      this.credentials.findOneBy({ userId }),
      this.devices.knows(userId, device),
    ]);
    const guess: Guess = isKnownDevice
      ? { device: `${userId} ${device}` }
      : { account: login.normalize('NFKC').toLowerCase(), address: networkOf(origin.ip) };
    await this.guesses.count(guess, user?.id);
    return { user, passwordHash: credential?.passwordHash, guess };
  }

  /** A hash of today's parameters for one of yesterday's; the one that is there when another login was first. */
  private async rehash(userId: string, outdated: string, password: string): Promise<string> {
    const fresh = await this.passwords.hash(password);
    const { affected } = await this.credentials.update(
      { userId, passwordHash: outdated },
      { passwordHash: fresh },
    );
    if (affected === 1) return fresh;
    const { passwordHash, right } = await this.passwords.verify(password, async () => {
      const now = await this.credentials.findOneBy({ userId });
      return { passwordHash: now?.passwordHash };
    });
    if (!passwordHash || !right) throw authProblems.invalidCredentials();
    return passwordHash;
  }

  /** Every other session of the user ends. @throws Problem not-found, forbidden, wrong-password, too-many-attempts, validation-failed, unauthenticated, overloaded */
  async changePassword(
    actor: Actor,
    userId: string,
    { currentPassword, newPassword }: ChangePassword,
  ): Promise<void> {
    const user = await this.users.find(userId);
    if (!user) throw problems.notFound();
    if (user.id !== actor.userId) throw problems.forbidden();
    // Counted for the session: who has taken one over may guess there and lock nobody out elsewhere.
    const guess: Guess = { session: actor.sessionId };
    const known = await this.passwords.verify(currentPassword, async () => {
      await this.guesses.count(guess);
      const credential = await this.credentials.findOneBy({ userId });
      return { passwordHash: credential?.passwordHash };
    });
    if (!known.right) throw authProblems.wrongPassword();
    await this.guesses.wasRight(guess);
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
      await this.devices.forgetAll(transaction, userId);
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
