/** The table of contents: what Holdfast is made of. */
import { type DynamicModule, Global, Module } from '@nestjs/common';
import { APP_FILTER, APP_PIPE } from '@nestjs/core';
import { AuthModule } from './auth/auth.module.js';
import { CacheModule } from './cache/cache.module.js';
import { Config } from './config.js';
import { DatabaseModule } from './database/database.module.js';
import { HealthModule } from './health/health.module.js';
import { ProblemFilter } from './http/problem.filter.js';
import { ProblemsController } from './http/problems.controller.js';
import { StrictValidationPipe } from './http/validation.js';
import { InboxModule } from './inbox/inbox.module.js';
import { OrdersModule } from './orders/orders.module.js';
import { OutboxModule } from './outbox/outbox.module.js';
import { TelemetryModule } from './telemetry/telemetry.module.js';
import { UsersModule } from './users/users.module.js';

@Global()
@Module({})
class ConfigModule {}

@Module({})
export class AppModule {
  static with(config: Config): DynamicModule {
    const provider = { provide: Config, useValue: config };
    return {
      module: AppModule,
      imports: [
        { module: ConfigModule, providers: [provider], exports: [provider] },
        TelemetryModule,
        DatabaseModule,
        CacheModule.forRoot({
          inject: [Config],
          useFactory: ({ redisUrl, cacheDegradedWrites, cacheTtl }: Config) => ({
            redisUrl,
            degradedWrites: cacheDegradedWrites,
            ttl: cacheTtl,
          }),
        }),
        OutboxModule,
        InboxModule,
        UsersModule,
        AuthModule,
        OrdersModule,
        HealthModule,
      ],
      controllers: [ProblemsController],
      providers: [
        { provide: APP_FILTER, useClass: ProblemFilter },
        { provide: APP_PIPE, useClass: StrictValidationPipe },
      ],
    };
  }
}
