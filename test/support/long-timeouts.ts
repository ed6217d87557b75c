/**
 * For tests in which PostgreSQL always answers: on a busy machine, a request may take longer than
 * the service waits for PostgreSQL by default. Tests of the default timeouts do not use this.
 */
import type { Provider } from '@nestjs/common';
import {
  DATABASE_TIMEOUTS,
  DATABASE_TIMEOUTS_MS,
  type DatabaseTimeouts,
} from '../../src/platform/database/data-source.js';

const LONG_TIMEOUT_MS = 60_000;

const timeouts = Object.fromEntries(
  Object.keys(DATABASE_TIMEOUTS_MS).map((name) => [name, LONG_TIMEOUT_MS]),
) as unknown as DatabaseTimeouts;

/** Pass it to `startApp` as an override. */
export const LONG_TIMEOUTS: Provider = { provide: DATABASE_TIMEOUTS, useValue: timeouts };
