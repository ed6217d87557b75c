/** Provides the registry for the metrics of every module, and the routes that show them. */
import { Global, Module } from '@nestjs/common';
import { Registry } from 'prom-client';
import {
  createRegistry,
  HttpMetrics,
  MetricsController,
  MetricsListener,
  MetricsText,
} from './metrics.js';

@Global()
@Module({
  controllers: [MetricsController],
  providers: [
    { provide: Registry, useFactory: createRegistry },
    HttpMetrics,
    MetricsListener,
    MetricsText,
  ],
  exports: [Registry, HttpMetrics],
})
export class TelemetryModule {}
