/**
 * One node of the service in a process of its own: what src/main.ts starts, with settings for a
 * busy machine. Prints its URL when it serves requests.
 */
import { createApp } from '../../src/app.js';
import { HASHING_OVERRIDES } from '../../src/auth/passwords/passwords.service.js';
import { loadConfig } from '../../src/config.js';
import { DATABASE_TIMEOUTS } from '../../src/platform/database/data-source.js';
import {
  PARTITION_TIMEOUTS,
  type PartitionTimeouts,
} from '../../src/platform/outbox/outbox-partitions.js';
import { createPino, PinoLogger } from '../../src/platform/telemetry/logger.js';
import { QUICK_HASHING } from '../support/app.js';

/** Far longer than the service's own timeout: a start must not fail because processors are busy. */
const CONNECT_TIMEOUT_MS = 30_000;

/** For programs that register thousands of users. Not a setting of the service. */
const hasQuickHashing = process.env.TEST_HASHING === 'quick';

/** As JSON: the relay's own timeouts are long for a short test. */
const relayTimeouts = JSON.parse(
  process.env.TEST_RELAY_TIMEOUTS ?? '{}',
) as Partial<PartitionTimeouts>;

const config = loadConfig();
const app = await createApp(config, new PinoLogger(createPino(config)), [
  { provide: DATABASE_TIMEOUTS, useValue: { connect: CONNECT_TIMEOUT_MS } },
  { provide: PARTITION_TIMEOUTS, useValue: relayTimeouts },
  hasQuickHashing ? QUICK_HASHING : { provide: HASHING_OVERRIDES, useValue: { niceness: 0 } },
]);
await app.listen(config.port, config.host);
process.stdout.write(`ready: API ${await app.getUrl()}/v1\n`);
