/**
 * Starts the service. If it cannot start, it prints one line that says why, and exits with 1.
 */
import type { LoggerService } from '@nestjs/common';
import { createApp } from './app.js';
import { type Config, ConfigError, loadConfig } from './config.js';
import { EmbeddedPostgresError } from './platform/database/embedded/embedded-postgres.errors.js';
import { createPino, PinoLogger } from './platform/telemetry/logger.js';

/** What an operator can do, by the code of the error (Node's, or SQLSTATE). */
const ADVICE: Readonly<Record<string, string>> = {
  EADDRINUSE:
    'The port is in use: set PORT (or METRICS_PORT) to another one; PORT=0 takes any free port',
  EADDRNOTAVAIL: 'HOST is not an address of this machine',
  EACCES: 'This user may not listen on that port: set PORT to a port above 1023',
  ECONNREFUSED: 'No server answers at the address in DATABASE_URL',
  ENOTFOUND: 'The host in DATABASE_URL has no address',
  ETIMEDOUT: 'The host in DATABASE_URL does not answer',
  '28P01': 'PostgreSQL rejects the user or the password in DATABASE_URL',
  '28000': 'PostgreSQL rejects the user in DATABASE_URL',
  '3D000': 'The database in DATABASE_URL does not exist: create it',
};

/** Time after the grace period in which Nest closes the connections that are left. */
const EXIT_MARGIN_MS = 1_000;

/** One line for errors that an operator can act on, a stack for all others. */
function explain(error: unknown): string {
  const { message, stack, code, errors } = error as Error & {
    code?: string;
    errors?: { code?: string }[];
  };
  const isExplained = error instanceof ConfigError || error instanceof EmbeddedPostgresError;
  if (isExplained) return message;
  // An error of node:net that tried several addresses has the codes in `errors`.
  const advice = ADVICE[code ?? errors?.[0]?.code ?? ''];
  return advice ? `${advice} (${message || code})` : (stack ?? String(error));
}

async function start(config: Config): Promise<void> {
  const logger = new PinoLogger(createPino(config));
  const app = await createApp(config, logger);
  await app.listen(config.port, config.host);
  const url = (await app.getUrl()).replace('[::1]', 'localhost');
  logger.log(
    `Holdfast is ready: API ${url}/v1  Swagger UI ${url}/docs  health ${url}/health/ready`,
    'Holdfast',
  );
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => limitShutdown(signal, config.shutdownGraceSeconds, logger));
  }
}

/** Nest's shutdown hooks do the work. This ends the process when they take too long. */
function limitShutdown(signal: string, graceSeconds: number, logger: LoggerService): void {
  logger.log(
    `${signal} received: requests in progress have up to ${graceSeconds} s to finish`,
    'Holdfast',
  );
  const exit = (): void => {
    logger.warn(
      `Shutdown took longer than ${graceSeconds} s (SHUTDOWN_GRACE_SECONDS): exiting now`,
      'Holdfast',
    );
    process.exit(1);
  };
  setTimeout(exit, graceSeconds * 1_000 + EXIT_MARGIN_MS).unref();
}

try {
  await start(loadConfig());
} catch (error) {
  process.stderr.write(`Holdfast cannot start: ${explain(error)}\n`);
  process.exit(1);
}
