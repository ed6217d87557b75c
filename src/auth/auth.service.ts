/**
 * Accounts, as far as passwords and sessions are concerned: register, log in, change a password,
 * delete. Invariant: transactions lock an account in one order, so that they do not deadlock: the
 * credential, then the sessions by id, then the user.
 */
import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import type { Actor } from '../platform/access/actor.js';
import type { Transaction } from '../platform/database/transaction.js';
import { UnitOfWork } from '../platform/database/unit-of-work.js';
import type { IfMatch } from '../platform/http/conditional/if-match.decorator.js';
import { problems } from '../platform/http/problems/problem.js';
import { entityTagOf } from '../platform/http/conditional/entity-tag.js';
import { networkOf } from '../platform/http/server/client-address.js';
import { idempotencyProblems } from '../platform/idempotency/idempotency.errors.js';
import {
  IdempotencyService,
  type IdempotentResponse,
} from '../platform/idempotency/idempotency.service.js';
import type { IdempotentRequest } from '../platform/idempotency/idempotent.decorator.js';
import { OutboxService } from '../platform/outbox/outbox.service.js';
import { userView } from '../users/users.dto.js';
import { UsersService } from '../users/users.service.js';
import type { ChangePassword, LogIn, RegisterUser } from './auth.dto.js';
import { authProblems } from './auth.errors.js';
import { Credential } from './passwords/credential.entity.js';
import type { HashingTurn } from './passwords/hashing-queue.js';
import { PasswordsService } from './passwords/passwords.service.js';
import { SessionsService, type StartedSession } from './sessions/sessions.service.js';
import {
  DeviceTokensService,
  type KnownDevice,
  type Origin,
} from './throttling/device-tokens.service.js';
import { type LoginAttempt, LoginThrottle } from './throttling/login-throttle.service.js';

/** An id without a user: the queries for an unknown login name use it. */
const NO_USER_ID = '00000000-0000-0000-0000-000000000000';

/** The account that a login name belongs to, and how the attempt was counted. */
interface LoginCandidate {
  readonly userId: string | undefined;
  readonly passwordHash: string | undefined;
  readonly attempt: LoginAttempt;
}

/** A session that has begun, and the token by which its device is recognised at the next login. */
export interface LoggedIn extends StartedSession {
  readonly deviceToken: string;
}

@Injectable()
export class AuthService {
  constructor(
    @InjectRepository(Credential) private readonly credentials: Repository<Credential>,
    private readonly users: UsersService,
    private readonly sessions: SessionsService,
    private readonly passwords: PasswordsService,
    private readonly throttle: LoginThrottle,
    private readonly devices: DeviceTokensService,
    private readonly unitOfWork: UnitOfWork,
    private readonly outbox: OutboxService,
    private readonly idempotency: IdempotencyService,
  ) {}

  /**
   * Registers a user, once for each Idempotency-Key of a network.
   * @param ip the caller's address
   * @throws Problem validation-failed, username-taken, email-taken, idempotency-key-reused,
   *   idempotency-key-in-flight, too-many-attempts, overloaded
   */
  register(
    request: IdempotentRequest,
    ip: string,
    registration: RegisterUser,
  ): Promise<IdempotentResponse> {
    const { username, email, password } = registration;
    const network = networkOf(ip);
    return this.idempotency.runOnceForNetwork(request, network, {
      prepare: () => {
        this.users.requireUnreserved(username);
        return this.passwords.hashNew(
          { lane: 'new-password', caller: network },
          { password, names: [username, email], field: 'password' },
        );
      },
      write: async (transaction, passwordHash) => {
        const user = await this.users.create(transaction, { username, email });
        await transaction.manager.insert(Credential, { userId: user.id, passwordHash });
        const headers = {
          Location: `/v1/users/${user.id}`,
          ETag: entityTagOf(user.version),
        };
        return { status: 201, headers, body: userView(user), subjectId: user.id };
      },
      confirmRepetition: (userId) => this.requireSamePassword(userId, network, registration),
    });
  }

  /**
   * Starts a session. An unknown login name takes the same queries, counters and hashing as a known
   * one, so that neither answers nor times reveal which users exist.
   * @throws Problem invalid-credentials, too-many-attempts, overloaded
   */
  async logIn({ username, password }: LogIn, origin: Origin): Promise<LoggedIn> {
    const device = await this.devices.verify(origin.deviceToken);
    const turn = turnOf(origin, device);
    const { userId, passwordHash, attempt, isCorrect } = await this.passwords.verify(
      turn,
      password,
      () => this.findCandidate(username, origin, device),
    );
    if (userId === undefined || passwordHash === undefined || !isCorrect) {
      throw authProblems.invalidCredentials(undefined, { account: userId });
    }
    await this.throttle.recordSuccess(attempt);
    const currentHash = await this.upgradeHash(turn, userId, passwordHash, password);
    const started = await this.startSession(userId, currentHash, origin);
    return { ...started, deviceToken: await this.devices.issue(userId, device) };
  }

  /**
   * Changes the actor's own password and ends every other session of the actor.
   * @throws Problem not-found, forbidden, wrong-password, too-many-attempts, validation-failed,
   * unauthenticated, overloaded
   */
  async changePassword(
    actor: Actor,
    userId: string,
    { currentPassword, newPassword }: ChangePassword,
  ): Promise<void> {
    const user = await this.users.findLive(userId);
    if (!user) throw problems.notFound();
    if (user.id !== actor.userId) {
      throw problems.forbidden('A password can be changed only by its own user');
    }
    const turn: HashingTurn = { lane: 'new-password', caller: user.id };
    const currentHash = await this.verifyCurrentPassword(actor, currentPassword, turn);
    const newHash = await this.passwords.hashNew(turn, {
      password: newPassword,
      names: [user.username ?? '', user.email ?? ''],
      field: 'newPassword',
    });
    await this.replacePassword(actor, currentHash, newHash);
  }

  /**
   * Deletes a user and ends the user's sessions. Orders stay.
   * @throws Problem not-found, version-mismatch, unauthenticated
   */
  async deleteUser(actor: Actor, userId: string, ifMatch: IfMatch): Promise<void> {
    await this.unitOfWork.run(async (transaction) => {
      if (actor.userId !== userId) await actor.lockSession(transaction);
      await this.lockCredential(transaction, userId);
      const sessions = await this.sessions.lockAll(transaction, actor, userId);
      await this.users.remove(transaction, userId, ifMatch);
      await transaction.manager.delete(Credential, { userId });
      await this.sessions.endLocked(transaction, sessions);
    });
  }

  /**
   * The fingerprint of a registration leaves the password out. A caller that repeats one with
   * another password may be guessing it, so the attempt counts like a login from a new device.
   * @param userId of the user that was registered
   * @throws Problem idempotency-key-reused, too-many-attempts, overloaded
   */
  private async requireSamePassword(
    userId: string | null,
    network: string,
    { username, password }: RegisterUser,
  ): Promise<void> {
    const account = userId ?? NO_USER_ID;
    const attempt = attemptByName(username, network);
    const turn: HashingTurn = { lane: 'new-password', caller: network };
    const { isCorrect } = await this.passwords.verify(turn, password, async () => {
      await this.throttle.recordAttempt(attempt, account);
      return this.findHash(account);
    });
    if (!isCorrect) throw idempotencyProblems.reused(undefined, { account });
    await this.throttle.recordSuccess(attempt);
  }

  /**
   * Finds the user and counts the attempt.
   * @throws Problem too-many-attempts
   */
  private async findCandidate(
    loginName: string,
    origin: Origin,
    device: KnownDevice | undefined,
  ): Promise<LoginCandidate> {
    const user = await this.users.findByLogin(loginName);
    const credential = await this.credentials.findOneBy({ userId: user?.id ?? NO_USER_ID });
    const attempt = attemptOf(loginName, user?.id, origin, device);
    await this.throttle.recordAttempt(attempt, user?.id);
    return { userId: user?.id, passwordHash: credential?.passwordHash, attempt };
  }

  /**
   * Replaces a hash of weaker parameters than today's. The password is known to be correct.
   * @returns the hash that is stored now
   * @throws Problem invalid-credentials when the password has changed meanwhile; overloaded
   */
  private async upgradeHash(
    turn: HashingTurn,
    userId: string,
    passwordHash: string,
    password: string,
  ): Promise<string> {
    if (!this.passwords.isOutdated(passwordHash)) return passwordHash;
    const newHash = await this.passwords.hash(turn, password);
    const { affected } = await this.credentials.update(
      { userId, passwordHash },
      { passwordHash: newHash },
    );
    if (affected === 1) return newHash;
    // Another login has replaced the hash, or the password was changed.
    const stored = await this.passwords.verify(turn, password, () => this.findHash(userId));
    if (stored.passwordHash === undefined || !stored.isCorrect) {
      throw authProblems.invalidCredentials(undefined, { account: userId });
    }
    return stored.passwordHash;
  }

  /**
   * @param verifiedHash the stored hash that the password was verified with
   * @throws Problem invalid-credentials when the user was deleted or the password changed meanwhile
   */
  private async startSession(
    userId: string,
    verifiedHash: string,
    origin: Origin,
  ): Promise<StartedSession> {
    return this.unitOfWork.run(async (transaction) => {
      const credential = await this.lockCredential(transaction, userId);
      if (credential?.passwordHash !== verifiedHash) {
        throw authProblems.invalidCredentials(undefined, { account: userId });
      }
      return this.sessions.start(transaction, userId, origin);
    });
  }

  /**
   * Counts the attempt for the session: with a stolen session, guesses lock nobody else out.
   * @returns the stored hash
   * @throws Problem wrong-password, too-many-attempts, overloaded
   */
  private async verifyCurrentPassword(
    { userId, sessionId }: Actor,
    password: string,
    turn: HashingTurn,
  ): Promise<string> {
    const attempt: LoginAttempt = { session: sessionId };
    const { passwordHash, isCorrect } = await this.passwords.verify(turn, password, async () => {
      await this.throttle.recordAttempt(attempt);
      return this.findHash(userId);
    });
    if (passwordHash === undefined || !isCorrect) throw authProblems.wrongPassword();
    await this.throttle.recordSuccess(attempt);
    return passwordHash;
  }

  /**
   * @param verifiedHash the stored hash that the current password was verified with
   * @throws Problem unauthenticated, not-found; wrong-password when it was changed meanwhile
   */
  private async replacePassword(
    actor: Actor,
    verifiedHash: string,
    newHash: string,
  ): Promise<void> {
    const { userId } = actor;
    await this.unitOfWork.run(async (transaction) => {
      const credential = await this.lockCredential(transaction, userId);
      const sessions = await this.sessions.lockAll(transaction, actor);
      if (credential?.passwordHash !== verifiedHash) throw authProblems.wrongPassword();
      const { version } = await this.users.lockLive(transaction, userId, 'share');
      await transaction.manager.update(Credential, { userId }, { passwordHash: newHash });
      const otherSessions = sessions.filter(({ id }) => id !== actor.sessionId);
      await this.sessions.endLocked(transaction, otherSessions);
      await this.outbox.append(transaction, {
        type: 'user.password-changed',
        subject: `users/${userId}`,
        data: { version },
      });
    });
  }

  private async findHash(userId: string): Promise<{ passwordHash: string | undefined }> {
    const credential = await this.credentials.findOneBy({ userId });
    return { passwordHash: credential?.passwordHash };
  }

  /** Locks the account: transactions that start sessions or change passwords take this lock. */
  private lockCredential({ manager }: Transaction, userId: string): Promise<Credential | null> {
    return manager
      .createQueryBuilder(Credential, 'row')
      .where('row.userId = :userId', { userId })
      .setLock('pessimistic_write')
      .getOne();
  }
}

/** A flood of one kind of login takes no place of another (hashing-queue.ts). */
function turnOf({ ip }: Origin, device: KnownDevice | undefined): HashingTurn {
  if (device) return { lane: 'known-device', caller: device.userId };
  return { lane: 'login', caller: networkOf(ip) };
}

/** What a login counts for: the device, if its token is of the user whose name was typed. */
function attemptOf(
  loginName: string,
  userId: string | undefined,
  { ip }: Origin,
  device: KnownDevice | undefined,
): LoginAttempt {
  if (device && device.userId === userId) {
    return { device: `${userId} ${device.deviceId}`, devicesOfUser: userId };
  }
  return attemptByName(loginName, networkOf(ip));
}

/** All spellings of a login name count together. */
function attemptByName(loginName: string, network: string): LoginAttempt {
  const name = loginName.normalize('NFKC').toLowerCase();
  return { nameAndNetwork: `${network} ${name}`, name, network };
}
