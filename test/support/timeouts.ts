/**
 * The timeouts of PostgreSQL in tests. On a busy machine, a request may take longer than the
 * service waits for PostgreSQL: test applications wait longer, unless a test is about the defaults.
 */
import type { Provider } from '@nestjs/common';
import {
  DATABASE_TIMEOUTS,
  DATABASE_TIMEOUTS_MS,
  type DatabaseTimeouts,
} from '../../src/platform/database/data-source.js';

/** Only ends what hangs. */
export const LONG_TIMEOUT_MS = 60_000;

/**
 * For `startApp`, which uses it by default.
 * @param exceptions timeouts that the test is about
 */
export function longTimeouts(exceptions: Partial<DatabaseTimeouts> = {}): Provider {
  const names = Object.keys(DATABASE_TIMEOUTS_MS);
  const timeouts = Object.fromEntries(names.map((name) => [name, LONG_TIMEOUT_MS]));
  return { provide: DATABASE_TIMEOUTS, useValue: { ...timeouts, ...exceptions } };
}

/** The service's own. Pass it to `startApp` as an override. */
export const REAL_TIMEOUTS: Provider = { provide: DATABASE_TIMEOUTS, useValue: {} };
