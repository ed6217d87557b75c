/** Starts the server; nothing else. A start that fails says why in a line and exits with 1. */
import { createApp } from './app.js';
import { ConfigError, loadConfig } from './config.js';
import { createPino, PinoLogger } from './telemetry/logger.js';

/** What a person can act on, by the error's code; a stack helps only with what nobody expected. */
const ADVICE: Readonly<Record<string, string>> = {
  EADDRINUSE: 'the port is taken: set PORT to another one, or to 0 for any free one',
  EADDRNOTAVAIL: 'HOST is no address of this machine',
  EACCES: 'this user may not listen on that port: set PORT to one above 1023',
  ECONNREFUSED: 'nothing answers at the address in DATABASE_URL',
  ENOTFOUND: 'the host in DATABASE_URL has no address',
  ETIMEDOUT: 'the host in DATABASE_URL does not answer',
  '28P01': 'PostgreSQL refuses the user or the password in DATABASE_URL',
  '28000': 'PostgreSQL refuses the user in DATABASE_URL',
  '3D000': 'the database in DATABASE_URL does not exist: create it',
};

function explain(error: unknown): string {
  const { name, message, stack, code, errors } = error as Error & {
    code?: string;
    errors?: { code?: string }[];
  };
  if (error instanceof ConfigError || name === 'EmbeddedPostgresError') return message;
  const advice = ADVICE[code ?? errors?.[0]?.code ?? ''];
  return advice ? `${advice} (${message || code})` : (stack ?? String(error));
}

try {
  const config = loadConfig();
  const logger = new PinoLogger(createPino(config));
  const app = await createApp(config, logger);
  await app.listen(config.port, config.host);
  const url = (await app.getUrl()).replace('[::1]', 'localhost');
  logger.log(
    `Holdfast is ready: API ${url}/v1  Swagger UI ${url}/docs  health ${url}/health/ready`,
    'Holdfast',
  );
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      logger.log(
        `${signal}: finishing what is under way, for up to ${config.shutdownGraceSeconds} s`,
        'Holdfast',
      );
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
