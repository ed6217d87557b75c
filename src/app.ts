/**
 * Makes the application out of a configuration: the HTTP server with its conventions, security headers, Swagger UI, metrics
 * and shutdown. main.ts serves it; tests and commands call the same function, so that what they try is what runs.
 */
import 'reflect-metadata';
import { createRequire } from 'node:module';
import type { Server } from 'node:tls';
import type { LoggerService } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import type { FastifyInstance } from 'fastify';
import { AppModule } from './app.module.js';
import type { Config } from './config.js';
import { installCacheHeaders } from './cache/cache.headers.js';
import { fastifyOptions, installNegotiation } from './http/negotiation.js';
import { buildDocument } from './http/openapi-document.js';
import { installSecurityHeaders } from './http/security-headers.js';
import { followTlsPair, readTlsPair } from './http/tls.js';
import { installTraceContext } from './http/trace-context.js';
import { StrictQueryGuard } from './http/validation.js';
import { createPino, PinoLogger } from './telemetry/logger.js';
import { HttpMetrics } from './telemetry/metrics.js';
import { installSecurityLog } from './telemetry/security-log.js';

export const VERSION = (createRequire(import.meta.url)(packageJson()) as { version: string })
  .version;

/** One folder up from src/, two from dist/src/. */
function packageJson(): string {
  return import.meta.url.includes('/dist/src/') ? '../../package.json' : '../package.json';
}

/**
 * Swagger UI for those who try things: without another's logo, the choice of the one server and columns that are always empty.
 * A refusal shows its example; its headers are in the document and, once it happened, in the answer.
 */
const SWAGGER_CSS = `
.swagger-ui .topbar { position: absolute; top: 0; right: 0; z-index: 1; background: none; }
.swagger-ui .parameters-col_description input { min-width: 400px; }
.swagger-ui .topbar .dark-mode-toggle button { color: #888; }
.swagger-ui .topbar .link, .swagger-ui .response-col_links { display: none; }
.swagger-ui .scheme-container .schemes { justify-content: flex-end; }
.swagger-ui .scheme-container .schemes > .schemes-server-container { display: none; }
.swagger-ui .info { margin: 30px 0 20px; }
.swagger-ui .info .info__license { font-size: 12px; opacity: 0.7; }
.swagger-ui .scheme-container { padding: 15px 0; }
.swagger-ui .response:is([data-code^="4"], [data-code^="5"]) :is(.headers-wrapper, .response-control-media-type) { display: none; }
`;

/** The application, not yet listening. Whoever makes it closes it. @throws whatever a part cannot start with */
export async function createApp(
  config: Config,
  logger: LoggerService = new PinoLogger(createPino(config)),
): Promise<NestFastifyApplication> {
  const pair = config.tls && readTlsPair(config.tls);
  const adapter = new FastifyAdapter({
    ...fastifyOptions(config.trustProxy, pair),
    skipMiddie: true,
  } as never);
  const fastify = adapter.getInstance() as unknown as FastifyInstance;
  installSecurityHeaders(fastify, config.tls !== undefined);
  installNegotiation(fastify);
  if (config.otlpEndpoint) {
    const { Tracing } = await import('./telemetry/tracing.js');
    const tracing = new Tracing(config.otlpEndpoint, VERSION, logger);
    tracing.install(fastify);
    if (logger instanceof PinoLogger) logger.addFields(() => tracing.ids());
  } else installTraceContext(fastify);
  installCacheHeaders(fastify);
  installSecurityLog(fastify);
  const app = await NestFactory.create<NestFastifyApplication>(AppModule.with(config), adapter, {
    logger,
    bodyParser: false,
    abortOnError: false,
  });
  if (config.tls && pair)
    followTlsPair(fastify.server as unknown as Server, config.tls, pair, logger);
  app.useGlobalGuards(new StrictQueryGuard());
  app.get(HttpMetrics).install(fastify);
  app.enableShutdownHooks(['SIGTERM', 'SIGINT'], { useProcessExit: true });
  let document: OpenAPIObject | undefined;
  SwaggerModule.setup('docs', app, () => (document ??= buildDocument(app, VERSION)), {
    jsonDocumentUrl: 'docs/openapi.json',
    raw: ['json'],
    customSiteTitle: 'Holdfast API',
    customCss: SWAGGER_CSS,
    swaggerOptions: { persistAuthorization: true, tryItOutEnabled: true },
  });
  return app;
}
