/**
 * The order in which jest starts the test files: the longest first, so that no worker is left with
 * a long file at the end while the others are idle.
 */
import { statSync } from 'node:fs';
import { relative } from 'node:path';

/**
 * Measured on two idle cores. Files that mostly wait stand between those that need processors: so
 * the workers neither idle nor run the campaigns, with processes of their own, all at once. An
 * entry that is missing costs only time.
 */
const LONGEST_FILES = [
  'test/platform/outbox/outbox.spec.ts',
  'test/verify/chaos/chaos.spec.ts',
  'test/platform/cache/store/redis/redis-failover.spec.ts',
  'test/verify/protocol-model/protocol-model.spec.ts',
  'test/platform/database/replicas.spec.ts',
  'test/verify/crash/crash.spec.ts',
  'test/platform/cache/store/redis/redis-incarnations.spec.ts',
  'test/platform/database/online-migrations.spec.ts',
  'test/platform/cache/epoch/membership.spec.ts',
  'test/verify/api-fuzz/api-fuzz.spec.ts',
  'test/verify/relay/relay.spec.ts',
  'test/platform/cache/store/redis/redis-topologies.spec.ts',
  'test/platform/health/health.spec.ts',
  'test/platform/inbox/failing-handlers.spec.ts',
  'test/platform/http/bounds/bounds.spec.ts',
  'test/platform/telemetry/tracing.spec.ts',
  'test/verify/http-register/http-register.spec.ts',
  'test/platform/database/keysets.spec.ts',
  'test/auth/sessions/revocations.spec.ts',
  'test/orders/export.spec.ts',
  'test/platform/http/openapi/generated-clients.spec.ts',
  'test/auth/throttling/login-throttle.spec.ts',
  'test/platform/cache/write/database-invalidations.spec.ts',
  'test/platform/database/migrations.spec.ts',
  'test/verify/mixed-releases.spec.ts',
  'test/platform/telemetry/secrets.spec.ts',
  'test/auth/admin-bootstrap.spec.ts',
  'test/cli/main.spec.ts',
  'test/platform/cache/guards.spec.ts',
  'test/orders/orders.spec.ts',
  'test/orders/lifecycle.spec.ts',
  'test/platform/cache/epoch/promotion.spec.ts',
  'test/platform/cache/store/store-model.spec.ts',
  'test/verify/migrations/migrations.spec.ts',
  'test/cli/rebuild-orders.spec.ts',
  'test/platform/cache/coherence.spec.ts',
  'test/platform/cache/store/redis/redis-store.spec.ts',
  'test/orders/order-model.spec.ts',
  'test/platform/inbox/inbox.spec.ts',
  'test/auth/sessions/last-uses.spec.ts',
  'test/auth/sessions/sessions.spec.ts',
  'test/platform/access/access.spec.ts',
  'test/platform/cache/interleavings.spec.ts',
  'test/orders/page-bytes.spec.ts',
  'test/platform/outbox/outbox-partitions.spec.ts',
  'test/platform/http/rate-limit/refused-requests.spec.ts',
  'test/platform/database/embedded/embedded-postgres.spec.ts',
];

export default class LongestFirstSequencer {
  sort(tests) {
    return tests.toSorted((a, b) => rankOf(a) - rankOf(b) || sizeOf(b) - sizeOf(a));
  }

  allFailedTests() {
    return [];
  }

  cacheResults() {
    // The order depends on nothing that a run leaves behind.
  }

  shard(tests, { shardIndex, shardCount }) {
    return tests.filter((_, index) => index % shardCount === shardIndex - 1);
  }
}

/** Files that are not listed come after those that are. */
function rankOf({ path }) {
  const rank = LONGEST_FILES.indexOf(relative(process.cwd(), path));
  return rank === -1 ? LONGEST_FILES.length : rank;
}

const sizeOf = ({ path }) => statSync(path).size;
