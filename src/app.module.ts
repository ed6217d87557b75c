/** Lists the modules of the service. Business modules come after the platform that they use. */
import { type DynamicModule, Global, Module, type Provider } from '@nestjs/common';
import { AuthModule } from './auth/auth.module.js';
import { CacheModule } from './platform/cache/cache.module.js';
import { Config } from './config.js';
import { DatabaseModule } from './platform/database/database.module.js';
import { HealthModule } from './platform/health/health.module.js';
import { HttpModule } from './platform/http/http.module.js';
import { InboxModule } from './platform/inbox/inbox.module.js';
import { OrdersModule } from './orders/orders.module.js';
import { OutboxModule } from './platform/outbox/outbox.module.js';
import { TelemetryModule } from './platform/telemetry/telemetry.module.js';
import { UsersModule } from './users/users.module.js';

@Global()
@Module({})
class ConfigModule {}

@Module({})
export class AppModule {
  /** @param overrides as in createApp (app.ts) */
  static with(config: Config, overrides: readonly Provider[] = []): DynamicModule {
    const providers = [{ provide: Config, useValue: config }, ...overrides];
    return {
      module: AppModule,
      imports: [
        { module: ConfigModule, providers, exports: providers },
        TelemetryModule,
        DatabaseModule,
        CacheModule.forRoot({
          inject: [Config],
          useFactory: ({ redisUrl, cacheDegradedWrites, cacheNear, cacheTtl }: Config) => ({
            redisUrl,
            degradedWrites: cacheDegradedWrites,
            near: cacheNear,
            ttl: cacheTtl,
          }),
        }),
        HttpModule,
        OutboxModule,
        InboxModule,
        UsersModule,
        AuthModule,
        OrdersModule,
        HealthModule,
      ],
    };
  }
}
