/**
 * ADMIN_USERNAME and ADMIN_PASSWORD: after the start, a user of this name exists and is an admin.
 * An existing user keeps the password it has.
 */
import { Injectable, Logger, type OnApplicationBootstrap } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Config } from '../config.js';
import { pendingMigrations } from '../platform/database/migrate.js';
import { UnitOfWork } from '../platform/database/unit-of-work.js';
import { problemOfConstraint } from '../platform/http/problems/database-problems.js';
import { UsersService } from '../users/users.service.js';
import { Credential } from './passwords/credential.entity.js';
import { PasswordsService } from './passwords/passwords.service.js';

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
    // Not the probe of the health checks: it reports a slow database as unmigrated.
    const pending = await pendingMigrations(this.dataSource);
    if (pending.length > 0) {
      this.logger.warn(`Did not create admin ${admin.username}: migrations are pending`);
      return;
    }
    const existing = await this.users.findByLogin(admin.username);
    if (!existing) {
      await this.createAdmin(admin.username, admin.password);
    } else if (!existing.roles.includes('admin')) {
      await this.unitOfWork.run((transaction) =>
        this.users.grantRole(transaction, existing.id, 'admin'),
      );
      this.logger.log(`Gave user ${admin.username} the role admin`);
    }
  }

  private async createAdmin(username: string, password: string): Promise<void> {
    const passwordHash = await this.passwords.hashNew(
      { lane: 'new-password', caller: 'bootstrap' },
      { password, names: [username], field: 'ADMIN_PASSWORD' },
    );
    try {
      await this.unitOfWork.run(async (transaction) => {
        const user = await this.users.create(transaction, {
          username,
          email: `${username}@localhost`,
          roles: ['user', 'admin'],
        });
        await transaction.manager.insert(Credential, { userId: user.id, passwordHash });
      });
      this.logger.log(`Created admin ${username}`);
    } catch (error) {
      // Another node that starts at the same moment has created the admin.
      const { driverError } = error as { driverError?: { constraint?: string } };
      const isTaken = problemOfConstraint(driverError?.constraint) !== undefined;
      if (!isTaken) throw error;
    }
  }
}
