/**
 * ADMIN_USERNAME and ADMIN_PASSWORD: after the start, an admin exists whom this service created.
 * Invariant: a user that somebody registered never becomes an admin here, whatever its name. The
 * created user is remembered by its id and keeps the password that it has.
 */
import { Injectable, Logger, type OnApplicationBootstrap } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { Config } from '../config.js';
import { pendingMigrations } from '../platform/database/migrate.js';
import type { Transaction } from '../platform/database/transaction.js';
import { UnitOfWork } from '../platform/database/unit-of-work.js';
import { problemOfConstraint } from '../platform/http/problems/database-problems.js';
import { UsersService } from '../users/users.service.js';
import { BootstrapAdmin } from './bootstrap-admin.entity.js';
import { Credential } from './passwords/credential.entity.js';
import { PasswordsService } from './passwords/passwords.service.js';

/** What the configured name means in the database. */
type AdminState = 'exists' | 'missing' | 'taken';

/** Nodes that start at the same moment wait for each other. Reads of the table go on. */
const LOCK_TABLE = 'LOCK TABLE bootstrap_admins IN SHARE ROW EXCLUSIVE MODE';

@Injectable()
export class AdminBootstrapService implements OnApplicationBootstrap {
  private readonly logger = new Logger('Auth');

  constructor(
    private readonly users: UsersService,
    private readonly passwords: PasswordsService,
    private readonly unitOfWork: UnitOfWork,
    private readonly config: Config,
    private readonly dataSource: DataSource,
  ) {}

  /**
   * @throws Problem validation-failed when ADMIN_PASSWORD is a common password; a driver error when
   *   the database does not answer
   */
  async onApplicationBootstrap(): Promise<void> {
    const { admin } = this.config;
    if (!admin) return;
    const { username, password } = admin;
    // Not the probe of the health checks: it reports a slow database as unmigrated.
    const pending = await pendingMigrations(this.dataSource);
    if (pending.length > 0) {
      this.logger.warn(`Did not create admin ${username}: migrations are pending`);
      return;
    }
    let state = await this.checkAdmin(username);
    if (state === 'missing') state = await this.createAdmin(username, password);
    // A stranger must not be able to stop a start.
    if (state === 'taken') {
      this.logger.error(
        `Did not make ${username} an admin: somebody else registered that name. ` +
          'Set ADMIN_USERNAME to another name, or delete that user, and start again',
      );
    }
  }

  private checkAdmin(username: string): Promise<AdminState> {
    return this.unitOfWork.run((transaction) => this.settle(transaction, username));
  }

  /** Gives the remembered user the role admin, or remembers an admin of an earlier release. */
  private async settle(transaction: Transaction, username: string): Promise<AdminState> {
    const { manager } = transaction;
    await manager.query(LOCK_TABLE);
    const remembered = await manager.findOneBy(BootstrapAdmin, { username });
    if (remembered) {
      const isNew = await this.users.grantRole(transaction, remembered.userId, 'admin');
      if (isNew) this.logger.log(`Gave user ${username} the role admin again`);
      return 'exists';
    }
    const namesake = await this.users.lockByUsername(transaction, username);
    if (!namesake) return 'missing';
    if (!namesake.roles.includes('admin')) return 'taken';
    await manager.insert(BootstrapAdmin, { username, userId: namesake.id });
    return 'exists';
  }

  private async createAdmin(username: string, password: string): Promise<AdminState> {
    // Before the transaction: hashing takes long.
    const passwordHash = await this.passwords.hashNew(
      { lane: 'new-password', caller: 'bootstrap' },
      { password, names: [username], field: 'ADMIN_PASSWORD' },
    );
    try {
      return await this.unitOfWork.run(async (transaction) => {
        const state = await this.settle(transaction, username);
        if (state === 'missing') await this.insertAdmin(transaction, username, passwordHash);
        return state === 'missing' ? 'exists' : state;
      });
    } catch (error) {
      // A node of an earlier release has created a user of this name meanwhile.
      const { driverError } = error as { driverError?: { constraint?: string } };
      const isTaken = problemOfConstraint(driverError?.constraint) !== undefined;
      if (!isTaken) throw error;
      return this.checkAdmin(username);
    }
  }

  private async insertAdmin(
    transaction: Transaction,
    username: string,
    passwordHash: string,
  ): Promise<void> {
    const { manager } = transaction;
    const id = uuidv7();
    // Nobody can register this address before: it has the id, which is not known before.
    const email = `${id}@bootstrap.invalid`;
    await this.users.create(transaction, { id, username, email, roles: ['user', 'admin'] });
    await manager.insert(Credential, { userId: id, passwordHash });
    await manager.insert(BootstrapAdmin, { username, userId: id });
    this.logger.log(`Created admin ${username}`);
  }
}
