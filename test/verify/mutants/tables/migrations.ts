/** Migrations beside requests and beside other nodes. */
import type { Mutant } from '../mutant.js';

const spec = 'test/platform/database/online-migrations.spec.ts';
const online = { file: 'migrations/online/locks.ts', specs: [spec] };
const locks = { ...online, tests: 'the locks of migrations' };
const otherSessions = { ...online, tests: 'while another session' };

export const MIGRATION_MUTANTS: readonly Mutant[] = [
  {
    ...locks,
    name: 'migration-waits-without-a-timeout',
    without: 'requests queue behind a lock that a migration waits for',
    text: "await runner.query(`SET LOCAL lock_timeout = '${waitMs}ms'`);",
    replacement: 'void waitMs;',
  },
  {
    ...locks,
    name: 'constraint-checked-under-its-lock',
    file: 'migrations/online/constraints.ts',
    without: 'a new CHECK reads all rows while no request can use the table',
    text: 'CHECK (${constraints[name]}) NOT VALID`',
    replacement: 'CHECK (${constraints[name]})`',
  },
  {
    ...online,
    tests: 'an index that is replaced',
    name: 'aborted-index-kept',
    file: 'migrations/online/indexes.ts',
    without: 'the rest of an aborted index build counts as the index',
    text: 'WHERE indexrelid = to_regclass($1) AND indisvalid`',
    replacement: 'WHERE indexrelid = to_regclass($1)`',
  },
  {
    ...online,
    tests: 'the daily totals',
    name: 'counted-deliveries-kept',
    without: 'the consumer adds events of orders that the first totals hold already',
    file: 'migrations/1763683200009-inbox.ts',
    text: "`DELETE FROM inbox WHERE consumer = 'order-figures'`,",
    replacement: '',
  },
  {
    ...otherSessions,
    name: 'migrations-lock-in-a-statement',
    without: 'a node that waits for the migrations lock keeps a snapshot',
    file: 'src/platform/database/migrate.ts',
    text: 'SELECT pg_try_advisory_lock($1) AS "isLocked"',
    replacement: 'SELECT true AS "isLocked" FROM pg_advisory_lock($1)',
  },
  {
    ...otherSessions,
    name: 'older-node-blocks-indexes',
    without: 'an older node that waits for the migrations lock blocks an index build for ever',
    text: 'if (code === DEADLOCK_DETECTED) await cancelWaitingMigrations(runner);',
    replacement: 'void cancelWaitingMigrations;',
    isSlow: true,
  },
];
