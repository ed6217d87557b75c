/** All mutants. */
import type { Mutant, MutantTable } from './mutant.js';
import { ACCOUNT_MUTANTS } from './tables/accounts.js';
import { BOUND_MUTANTS } from './tables/bounds.js';
import { EPOCH_MUTANTS } from './tables/epoch.js';
import { EVENT_MUTANTS } from './tables/events.js';
import { GATE_MUTANTS } from './tables/gate.js';
import { HTTP_MUTANTS } from './tables/http.js';
import { IDEMPOTENCY_MUTANTS } from './tables/idempotency.js';
import { LIMIT_MUTANTS } from './tables/limits.js';
import { LOGIN_MUTANTS } from './tables/logins.js';
import { MIGRATION_MUTANTS } from './tables/migrations.js';
import { NEAR_MUTANTS } from './tables/near.js';
import { ORDER_MUTANTS } from './tables/orders.js';
import { PAGE_MUTANTS } from './tables/pages.js';
import { READ_MUTANTS } from './tables/reads.js';
import { REDIS_MUTANTS } from './tables/redis.js';
import { REPLICA_MUTANTS } from './tables/replicas.js';
import { SCRIPT_MUTANTS } from './tables/scripts.js';
import { SESSION_MUTANTS } from './tables/sessions.js';
import { UNIT_OF_WORK_MUTANTS } from './tables/unit-of-work.js';
import { WRITE_MUTANTS } from './tables/writes.js';

export const TABLES: readonly MutantTable[] = [
  { area: 'The steps of a cache key', mutants: SCRIPT_MUTANTS },
  { area: 'Redis servers and their incarnations', mutants: REDIS_MUTANTS },
  { area: 'Reads through the cache', mutants: READ_MUTANTS },
  { area: 'The read gate and the rows of the database', mutants: GATE_MUTANTS },
  { area: 'Near caches', mutants: NEAR_MUTANTS },
  { area: 'Membership and epochs', mutants: EPOCH_MUTANTS },
  { area: 'Writes through the cache', mutants: WRITE_MUTANTS },
  { area: 'The unit of work', mutants: UNIT_OF_WORK_MUTANTS },
  { area: 'Idempotency', mutants: IDEMPOTENCY_MUTANTS },
  { area: 'Outbox and inbox', mutants: EVENT_MUTANTS },
  { area: 'Sessions', mutants: SESSION_MUTANTS },
  { area: 'The history and the life of orders', mutants: ORDER_MUTANTS },
  { area: 'Accounts', mutants: ACCOUNT_MUTANTS },
  { area: 'Passwords, tokens and devices', mutants: LOGIN_MUTANTS },
  { area: 'Bounds of requests', mutants: BOUND_MUTANTS },
  { area: 'Limits of requests', mutants: LIMIT_MUTANTS },
  { area: 'Reads on replicas', mutants: REPLICA_MUTANTS },
  { area: 'Pages and currencies', mutants: PAGE_MUTANTS },
  { area: 'Answers as documented', mutants: HTTP_MUTANTS },
  { area: 'Migrations', mutants: MIGRATION_MUTANTS },
];

export const MUTANTS: readonly Mutant[] = TABLES.flatMap(({ mutants }) => mutants);
