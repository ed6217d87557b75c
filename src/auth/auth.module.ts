/** Auth's door: accounts, sessions, and the guard that every request passes. */
import { Module } from '@nestjs/common';
import { APP_GUARD } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CacheModule } from '../cache/cache.module.js';
import { RateLimit } from '../http/rate-limit.js';
import { UsersModule } from '../users/users.module.js';
import { AccountsController } from './accounts.controller.js';
import { AuthGuard } from './auth.guard.js';
import { AuthService } from './auth.service.js';
import { Credential } from './credential.entity.js';
import { LastUses } from './last-uses.js';
import { Guesses } from './guesses.js';
import { KnownDevice } from './known-device.entity.js';
import { KnownDevices } from './known-devices.js';
import { Passwords } from './passwords.js';
import { Session } from './session.entity.js';
import { SessionsController } from './sessions.controller.js';
import { SessionsService } from './sessions.service.js';

@Module({
  imports: [
    UsersModule,
    TypeOrmModule.forFeature([Credential, KnownDevice, Session]),
    CacheModule.forFeature([Session]),
  ],
  controllers: [AccountsController, SessionsController],
  providers: [
    AuthService,
    SessionsService,
    LastUses,
    Passwords,
    Guesses,
    KnownDevices,
    RateLimit,
    { provide: APP_GUARD, useClass: AuthGuard },
  ],
  exports: [AuthService],
})
export class AuthModule {}
