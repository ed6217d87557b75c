/** Accounts, passwords and sessions, and the guard of every request. */
import { Module } from '@nestjs/common';
import { APP_GUARD } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CacheModule } from '../platform/cache/cache.module.js';
import { IdempotencyModule } from '../platform/idempotency/idempotency.module.js';
import { UsersModule } from '../users/users.module.js';
import { AccountsController } from './accounts.controller.js';
import { AdminBootstrapService } from './admin-bootstrap.service.js';
import { AuthGuard } from './auth.guard.js';
import { AuthService } from './auth.service.js';
import { BootstrapAdmin } from './bootstrap-admin.entity.js';
import { Credential } from './passwords/credential.entity.js';
import { PasswordsService } from './passwords/passwords.service.js';
import { LastUsesService } from './sessions/last-uses.service.js';
import { Session } from './sessions/session.entity.js';
import { SessionsController } from './sessions/sessions.controller.js';
import { SessionsService } from './sessions/sessions.service.js';
import { DeviceTokensService } from './throttling/device-tokens.service.js';
import { LoginThrottle } from './throttling/login-throttle.service.js';

@Module({
  imports: [
    IdempotencyModule,
    UsersModule,
    TypeOrmModule.forFeature([BootstrapAdmin, Credential, Session]),
    CacheModule.forFeature([Session]),
  ],
  controllers: [AccountsController, SessionsController],
  providers: [
    AuthService,
    AdminBootstrapService,
    // passwords/
    PasswordsService,
    // sessions/
    SessionsService,
    LastUsesService,
    // throttling/
    LoginThrottle,
    DeviceTokensService,
    AuthGuard,
    { provide: APP_GUARD, useExisting: AuthGuard },
  ],
})
export class AuthModule {
  /** @param guard has hooks to install (app.ts) */
  constructor(readonly guard: AuthGuard) {}
}
