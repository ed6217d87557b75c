/**
 * The application as it is served, on a database of its own and a free port, for tests that speak
 * HTTP to it.
 */
import type { Provider } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { DestinationStream } from 'pino';
import { createApp } from '../../src/app.js';
import {
  ARGON2ID,
  createHashingThreads,
  HASHING_OVERRIDES,
  type HashingOverrides,
  type HashingSettings,
} from '../../src/auth/passwords/passwords.service.js';
import { type Config, loadConfig } from '../../src/config.js';
import { CACHE_TIMING_OVERRIDES } from '../../src/platform/cache/cache-timings.js';
import { ReadGate } from '../../src/platform/cache/read/read-gate.js';
import { BOUND_OVERRIDES, BOUNDS } from '../../src/platform/http/bounds/bounds.js';
import { createPino, PinoLogger } from '../../src/platform/telemetry/logger.js';
import { eventually } from './eventually.js';
import { type Reply, type RequestOptions, sendRaw, sendRequest } from './http-client.js';
import { createTestDatabase } from './postgres.js';
import { longTimeouts } from './timeouts.js';

export interface TestApp {
  readonly app: NestFastifyApplication;
  readonly url: string;
  readonly databaseUrl: string;
  readonly config: Config;
  /** @param path begins with a slash, e.g. `/v1/orders` */
  call(method: string, path: string, options?: RequestOptions): Promise<Reply>;
  sendRaw(bytes: string): Promise<string>;
  /** Stops the application. Drops its database unless the caller provided it. */
  close(): Promise<void>;
}

/** The administrator that every test application has. */
export const ADMIN = { username: 'root-admin', password: 'the admin of all the tests' } as const;

/** On a busy machine, the service's hashing threads of low priority would hardly run. */
const NORMAL_PRIORITY = { niceness: 0 };

/**
 * The least that argon2 accepts: most tests hash passwords only to have a user. The applications of
 * a process share the threads: a thread needs longer for its dictionaries than for its hashes.
 */
export const QUICK_HASHING_SETTINGS: HashingSettings & HashingOverrides = {
  ...NORMAL_PRIORITY,
  parameters: { ...ARGON2ID, memoryCost: 8, timeCost: 1 },
  threads: createHashingThreads(NORMAL_PRIORITY.niceness),
};

export const QUICK_HASHING: Provider = {
  provide: HASHING_OVERRIDES,
  useValue: QUICK_HASHING_SETTINGS,
};

/** The service's own parameters, for tests of the hashes. Pass it to {@link startApp}. */
export const REAL_HASHING: Provider = { provide: HASHING_OVERRIDES, useValue: NORMAL_PRIORITY };

/** On a busy machine, a pass that keeps the gate open may come late. */
const STEADY_GATE: Provider = {
  provide: CACHE_TIMING_OVERRIDES,
  useValue: { gateLeaseMs: 8_000, gateTimeoutMs: 9_000 },
};

/** On a busy machine, the event loop may pause for long, and requests wait for long. */
const PATIENT: Provider = {
  provide: BOUND_OVERRIDES,
  useValue: { eventLoopDelayMs: 60_000, caller: { ...BOUNDS.caller, maxWaitMs: 60_000 } },
};

/**
 * Starts one node.
 * @param env environment variables over the tests' defaults
 * @param databaseUrl a migrated database that other nodes may share; without it the node gets its
 *   own
 * @param log receives the log, one JSON object a line; set LOG_LEVEL as well
 * @param overrides providers for optional tokens, e.g. of a TestClock; they win over the tests' own
 */
export async function startApp(
  env: Readonly<Record<string, string>> = {},
  databaseUrl?: string,
  log?: DestinationStream,
  overrides: readonly Provider[] = [],
): Promise<TestApp> {
  const rows = env.ADMIN_USERNAME === undefined ? 'the admin' : 'no rows';
  const database = databaseUrl === undefined ? await createTestDatabase(rows) : undefined;
  const config = loadConfig({
    DATABASE_URL: database?.url ?? databaseUrl,
    PORT: '0',
    LOG_LEVEL: 'silent',
    LOG_FORMAT: 'json',
    RATE_LIMIT_PER_MINUTE: '0',
    ADMIN_USERNAME: ADMIN.username,
    ADMIN_PASSWORD: ADMIN.password,
    SHUTDOWN_GRACE_SECONDS: '0',
    ...env,
  });
  const app = await createApp(config, new PinoLogger(createPino(config, log)), [
    QUICK_HASHING,
    STEADY_GATE,
    PATIENT,
    longTimeouts(),
    ...overrides,
  ]);
  const close = async (): Promise<void> => {
    await app.close();
    await database?.drop();
  };
  try {
    await app.listen(0, '127.0.0.1');
  } catch (error) {
    // Its background loops would outlive the test.
    await close();
    throw error;
  }
  // With a cache and a database of its own, a node always comes to use the cache.
  if (database && config.redisUrl === undefined) {
    const gate = app.get(ReadGate, { strict: false });
    await eventually('the node uses its cache', () => gate.isOpen);
  }
  const url = await app.getUrl();
  return {
    app,
    url,
    databaseUrl: config.databaseUrl as string,
    config,
    call: (method, path, options) => sendRequest(url + path, method, options),
    sendRaw: (bytes) => sendRaw(Number(new URL(url).port), bytes),
    close,
  };
}

/** Creates {@link ADMIN} in the database at this URL, as every start of the service does. */
export async function createAdmin(databaseUrl: string): Promise<void> {
  const app = await startApp({}, databaseUrl);
  await app.close();
}
