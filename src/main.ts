/** Starts the server; nothing else. A start that fails says why in a line and exits with 1. */
import { createApp } from './app.js';
import { ConfigError, loadConfig } from './config.js';
import { createPino, PinoLogger } from './telemetry/logger.js';

/** What a person can act on has a message; a stack helps only with what nobody expected. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof ConfigError || error.name === 'EmbeddedPostgresError') return error.message;
  return error.stack ?? error.message;
}

try {
  const config = loadConfig();
  const logger = new PinoLogger(createPino(config));
  const app = await createApp(config, logger);
  await app.listen(config.port, config.host);
  const url = (await app.getUrl()).replace('[::1]', 'localhost');
  logger.log(`Holdfast is ready: API ${url}/v1  Swagger UI ${url}/docs  health ${url}/health/ready`, 'Holdfast');
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      logger.log(`${signal}: finishing what is under way, for up to ${config.shutdownGraceSeconds} s`, 'Holdfast');
      setTimeout(
        () => {
          logger.warn('The grace is over: closing with requests under way', 'Holdfast');
          process.exit(1);
        },
        config.shutdownGraceSeconds * 1000 + 1_000,
      ).unref();
    });
  }
} catch (error) {
  process.stderr.write(`Holdfast cannot start: ${explain(error)}\n`);
  process.exit(1);
}
