/**
 * Creates the application from a configuration: HTTP server, modules, API document, metrics and
 * shutdown. main.ts serves it. Tests and commands call the same function, so they run what is
 * deployed.
 */
import 'reflect-metadata';
import { createRequire } from 'node:module';
import type { Server } from 'node:tls';
import type { LoggerService, Provider } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyInstance } from 'fastify';
import { AppModule } from './app.module.js';
import { AuthModule } from './auth/auth.module.js';
import type { Config } from './config.js';
import { OverloadProtection } from './platform/http/bounds/overload-protection.service.js';
import { installCacheHeaders } from './platform/http/conditional/cache-headers.js';
import { installVary } from './platform/http/conditional/vary.js';
import { serveSwaggerUi } from './platform/http/openapi/swagger-ui.js';
import { installCompression } from './platform/http/server/compression.js';
import { RateLimit } from './platform/http/rate-limit/rate-limit.service.js';
import { answerPreflights, installCors } from './platform/http/server/cors.js';
import { EarlyProblems } from './platform/http/server/early-problems.js';
import { installJsonBody } from './platform/http/server/json-body.js';
import { installFramingCheck, installNegotiation } from './platform/http/server/negotiation.js';
import { installRequestId } from './platform/http/server/request-id.js';
import { installSecurityHeaders } from './platform/http/server/security-headers.js';
import { configureServer, fastifyOptions } from './platform/http/server/server-options.js';
import { readTlsPair } from './platform/http/server/tls-pair.js';
import { reloadTlsPair } from './platform/http/server/tls-reload.js';
import { installTraceContext } from './platform/http/server/trace-context.js';
import { StrictQueryGuard } from './platform/http/validation/strict-query.guard.js';
import { createPino, PinoLogger } from './platform/telemetry/logger.js';
import { HttpMetrics } from './platform/telemetry/metrics.js';
import { installSecurityLog } from './platform/telemetry/security-log.js';

const packageJson = createRequire(import.meta.url)('../package.json') as { version: string };

/** The version of this release. */
export const VERSION = packageJson.version;

/**
 * The application, not yet listening. The caller closes it.
 * @param overrides providers for optional tokens, e.g. CLOCK (timing/clock.ts): tests hold time
 * @throws ConfigError, and whatever a module throws when it cannot start
 */
export async function createApp(
  config: Config,
  logger: LoggerService = new PinoLogger(createPino(config)),
  overrides: readonly Provider[] = [],
): Promise<NestFastifyApplication> {
  const tlsPair = config.tls && readTlsPair(config.tls);
  const earlyProblems = new EarlyProblems(config.trustProxy);
  const serverOptions = fastifyOptions(config.trustProxy, earlyProblems, tlsPair);
  const options = { ...serverOptions, skipMiddie: true };
  const adapter = new FastifyAdapter(options as never);
  const fastify = adapter.getInstance() as unknown as FastifyInstance;
  configureServer(fastify.server, earlyProblems);
  await installHooks(fastify, config, logger);

  const app = await NestFactory.create<NestFastifyApplication>(
    AppModule.with(config, overrides),
    adapter,
    { logger, bodyParser: false, abortOnError: false },
  );
  if (config.tls && tlsPair) {
    reloadTlsPair(fastify.server as unknown as Server, config.tls, tlsPair, logger);
  }
  const rateLimit = app.get(RateLimit);
  earlyProblems.countWith((address) => rateLimit.countRefused(address));
  await installAdmission(fastify, app);
  // Global guards run after APP_GUARD, and this guard must be the last.
  app.useGlobalGuards(new StrictQueryGuard());
  app.get(HttpMetrics).install(fastify);
  app.enableShutdownHooks(['SIGTERM', 'SIGINT'], { useProcessExit: true });
  serveSwaggerUi(app, VERSION);
  return app;
}

/** Hooks run in this order. Nest registers its routes later, so they apply to all of them. */
async function installHooks(
  fastify: FastifyInstance,
  config: Config,
  logger: LoggerService,
): Promise<void> {
  installRequestId(fastify);
  installSecurityHeaders(fastify);
  await installCors(fastify, config.corsOrigins);
  installVary(fastify);
  await installCompression(fastify);
  installJsonBody(fastify);
  if (config.otlpEndpoint === undefined) {
    installTraceContext(fastify);
  } else {
    await installTracing(fastify, config.otlpEndpoint, logger);
  }
  installCacheHeaders(fastify);
  installSecurityLog(fastify);
}

/**
 * Hooks that may refuse a request, in this order: what protects the process comes first, and every
 * refused request is counted. Nest has not registered its routes yet.
 */
async function installAdmission(
  fastify: FastifyInstance,
  app: NestFastifyApplication,
): Promise<void> {
  const overload = app.get(OverloadProtection);
  installFramingCheck(fastify, overload.countRefused);
  await overload.install(fastify);
  const { guard } = app.get(AuthModule);
  guard.installIdentification(fastify);
  answerPreflights(fastify);
  installNegotiation(fastify);
  guard.installAuthorization(fastify);
}

async function installTracing(
  fastify: FastifyInstance,
  endpoint: string,
  logger: LoggerService,
): Promise<void> {
  // OpenTelemetry is loaded only when it is configured.
  const { Tracing } = await import('./platform/telemetry/tracing.js');
  const tracing = new Tracing(endpoint, VERSION, logger);
  tracing.install(fastify);
  if (logger instanceof PinoLogger) logger.addFields(() => tracing.ids());
}
