/** The probes' door. */
import { Module } from '@nestjs/common';
import { TerminusModule } from '@nestjs/terminus';
import { Config } from '../config.js';
import { HealthController } from './health.controller.js';

/** Milliseconds after SIGTERM in which readiness says 503 while requests are still taken: what a load balancer needs to notice. */
const NOTICE_MS = 2_000;

@Module({
  imports: [
    TerminusModule.forRootAsync({
      inject: [Config],
      useFactory: ({ shutdownGraceSeconds }: Config) => ({
        logger: false,
        gracefulShutdownTimeoutMs: Math.min(NOTICE_MS, shutdownGraceSeconds * 500),
      }),
    }),
  ],
  controllers: [HealthController],
})
export class HealthModule {}
