/** Provides the probes of Kubernetes and load balancers. */
import { Module } from '@nestjs/common';
import { TerminusModule } from '@nestjs/terminus';
import { Config } from '../../config.js';
import { HealthController } from './health.controller.js';

/**
 * Milliseconds after SIGTERM during which readiness is already 503 and requests are still accepted:
 * a load balancer needs this time to notice.
 */
const MAX_NOTICE_MS = 2_000;
/** The notice takes at most this share of the whole grace. */
const NOTICE_SHARE = 0.5;

@Module({
  imports: [
    TerminusModule.forRootAsync({
      inject: [Config],
      useFactory: ({ shutdownGraceSeconds }: Config) => ({
        logger: false,
        gracefulShutdownTimeoutMs: Math.min(
          MAX_NOTICE_MS,
          shutdownGraceSeconds * 1_000 * NOTICE_SHARE,
        ),
      }),
    }),
  ],
  controllers: [HealthController],
})
export class HealthModule {}
