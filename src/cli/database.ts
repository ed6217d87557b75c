/**
 * The database that a command works on: the one of DATABASE_URL, or the embedded PostgreSQL, which
 * then runs only as long as the command.
 */
import { Client } from 'pg';
import type { Config } from '../config.js';
import { startEmbeddedPostgres } from '../platform/database/embedded/embedded-postgres.js';
import { CommandError, errorCodeOf } from './command.js';

const CONNECT_TIMEOUT_MS = 15_000;

/** Codes of a server that cannot be reached: Node's, SQLSTATE class 08, and 57P0x (shutdown). */
const UNREACHABLE_CODE = /^(ECONN|ENOTFOUND|ENOENT|ETIMEDOUT|EHOST|EAI_|08...|57P0)/;
/** Messages of pg's errors without a code. */
const UNREACHABLE_MESSAGE = /timeout expired|Connection terminated/;

/**
 * Runs `work` with the URL of the configured database.
 * @throws EmbeddedPostgresError, for example when a running service uses the embedded database;
 *   CommandError when the server does not answer; whatever `work` throws
 */
export async function withDatabase<T>(
  config: Config,
  work: (url: string) => Promise<T>,
): Promise<T> {
  if (config.databaseUrl) return explainUnreachable(config.databaseUrl, work);
  const embedded = await startEmbeddedPostgres({ dataDir: config.dataDir });
  try {
    return await explainUnreachable(embedded.url, work);
  } finally {
    await embedded.stop();
  }
}

/**
 * Runs `work` with one connection to the database at `url`.
 * @param name what the connection is called in pg_stat_activity
 */
export async function withClient<T>(
  url: string,
  name: string,
  work: (client: Client) => Promise<T>,
): Promise<T> {
  const client = new Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    application_name: name,
  });
  // A broken connection also rejects the running query, and that error reaches the caller. Without
  // a listener, this event would end the process first.
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function explainUnreachable<T>(url: string, work: (url: string) => Promise<T>): Promise<T> {
  try {
    return await work(url);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const code = errorCodeOf(error);
    const isUnreachable = UNREACHABLE_CODE.test(code) || UNREACHABLE_MESSAGE.test(error.message);
    if (!isUnreachable) throw error;
    const { host, pathname } = new URL(url);
    throw new CommandError(
      `PostgreSQL does not answer at ${host}${pathname} (${code || error.message}): start it, ` +
        'or correct DATABASE_URL',
    );
  }
}
