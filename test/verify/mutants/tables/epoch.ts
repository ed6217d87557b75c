/** Membership: which cache belongs to the epoch, and which nodes answer from it. */
import { lines, type Mutant } from '../mutant.js';

const MIGRATION = 'migrations/1763683200013-cache-epochs.ts';

const sql = { file: MIGRATION, specs: ['test/platform/cache/epoch/epoch-table.spec.ts'] };
const table = {
  file: 'src/platform/cache/epoch/epoch-table.ts',
  specs: ['test/platform/cache/epoch/epoch-table.spec.ts'],
};
const member = {
  file: 'src/platform/cache/epoch/membership.ts',
  specs: ['test/platform/cache/epoch/membership-steps.spec.ts'],
};
const nodes = {
  file: 'src/platform/cache/epoch/membership.ts',
  specs: ['test/platform/cache/epoch/membership.spec.ts'],
};
const store = {
  file: 'src/platform/cache/store/epoch-store.ts',
  specs: ['test/platform/cache/store/epoch-store.spec.ts'],
};

export const EPOCH_MUTANTS: readonly Mutant[] = [
  {
    ...sql,
    name: 'epoch-moves-under-readers',
    without: 'the epoch moves while nodes are registered for it',
    text: lines(
      '        IF EXISTS (SELECT FROM cache_readers) THEN',
      '          RETURN false;',
      '        END IF;',
      '        UPDATE',
    ),
    replacement: '        UPDATE',
  },
  {
    ...sql,
    name: 'epoch-moves-twice',
    without: 'a node that has read an older epoch moves the current one',
    text: lines('         WHERE epoch = expected_epoch;', '        IF NOT FOUND THEN'),
    replacement: lines('         WHERE only_row;', '        IF NOT FOUND THEN'),
  },
  {
    ...sql,
    name: 'epoch-comes-again',
    without: 'an epoch may come a second time',
    text: 'UPDATE cache_epoch SET epoch = ${RANDOM_EPOCH}, cache',
    replacement: 'UPDATE cache_epoch SET epoch = md5(new_cache), cache',
  },
  {
    ...sql,
    name: 'commit-without-the-shared-lock',
    without: 'the epoch may move between the check of a COMMIT and its end',
    text: lines(
      '        PERFORM pg_advisory_xact_lock_shared(${CACHE_EPOCH_LOCK});',
      "        IF position('|'",
    ),
    replacement: "        IF position('|'",
  },
  {
    ...sql,
    name: 'registration-without-the-shared-lock',
    without: 'a node may register while the epoch moves',
    text: lines(
      '        PERFORM pg_advisory_xact_lock_shared(${CACHE_EPOCH_LOCK});',
      '        IF NOT EXISTS',
    ),
    replacement: '        IF NOT EXISTS',
  },
  {
    ...sql,
    name: 'registration-for-a-past-epoch',
    without: 'a node registers for an epoch that has moved',
    text: lines(
      '        IF NOT EXISTS (SELECT FROM cache_epoch WHERE epoch = expected_epoch) THEN',
      '          RETURN false;',
      '        END IF;',
    ),
    replacement: '',
  },
  {
    ...sql,
    name: 'trigger-ignores-the-arguments',
    without: 'a release that knows fewer keys counts as having fenced all of them',
    text: "IF position('|' || array_to_string(TG_ARGV, ';') || '|' IN declared) > 0",
    replacement: "IF declared <> 'on' AND declared <> ''",
  },
  {
    ...sql,
    name: 'trigger-ignores-the-epoch',
    without: 'a fence in the cache of another epoch counts',
    text: "AND EXISTS (SELECT FROM cache_epoch WHERE epoch = split_part(declared, '|', 1)) THEN",
    replacement: 'THEN',
  },
  {
    ...sql,
    name: 'trigger-ignores-the-isolation-level',
    without: 'a transaction whose snapshot shows an older epoch counts as fenced',
    text: "AND current_setting('transaction_isolation') = 'read committed'",
    replacement: '',
  },
  {
    ...sql,
    name: 'trigger-confirms-nothing',
    without: 'a writer is not told which of its changes were found fenced',
    text: "RAISE INFO 'fenced' USING ERRCODE = 'HF001';",
    replacement: '',
  },
  {
    ...sql,
    name: 'older-release-may-write',
    without: 'a node of an older release writes while newer nodes use the cache',
    text: "IF declared = 'on' AND EXISTS (SELECT FROM cache_readers) THEN",
    replacement: 'IF false THEN',
    specs: nodes.specs,
    tests: 'may not write while a node uses the cache',
  },
  {
    ...sql,
    name: 'lost-alias-not-enqueued',
    without: 'a change that was not fenced enqueues the new alias only',
    text: `"array_remove(ARRAY[entity || ':' || part[1] || ':' || had, " +`,
    replacement: '"array_remove(ARRAY[" +',
    specs: ['test/platform/cache/coherence.spec.ts'],
    tests: 'psql gives an order to another user',
  },
  {
    ...table,
    name: 'beating-node-removed',
    without: 'a node is removed although it has shown life since it was looked at',
    text: 'WHERE registration = $1 AND beat = $2',
    replacement: 'WHERE registration = $1 AND $2::bigint IS NOT NULL',
  },
  {
    ...table,
    name: 'promotion-ignored',
    without: 'a promoted replica counts as the server on which the epoch began',
    text: lines(
      "  (SELECT system_identifier FROM pg_control_system()) || '.' ||",
      "  left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.' ||",
      '  extract(epoch FROM pg_postmaster_start_time())`;',
    ),
    replacement: '  (SELECT system_identifier::text FROM pg_control_system())`;',
    specs: ['test/platform/cache/epoch/promotion.spec.ts'],
    isSlow: true,
  },
  {
    ...member,
    name: 'registration-not-checked',
    without: 'a node does not notice that its registration has ended',
    text: '!isListed || this.store?.epoch.id !== epoch) return false;',
    replacement: 'isListed === null) return false;',
  },
  {
    ...member,
    name: 'beat-not-checked',
    without: 'a node whose beat met no registration counts as registered',
    text: 'const isAlive = await table.beat(registration);',
    replacement: lines('await table.beat(registration);', '    const isAlive = true as boolean;'),
  },
  {
    ...member,
    name: 'leave-before-closing-the-gate',
    without: 'a node ends its registration and closes its gate afterwards',
    text: lines(
      '    this.forgetRegistration();',
      '    await new EpochTable(client).remove(registration);',
    ),
    replacement: lines(
      '    await new EpochTable(client).remove(registration);',
      '    this.forgetRegistration();',
    ),
  },
  {
    ...member,
    name: 'registration-lost-gate-open',
    without: 'the gate stays open while a lost registration is renewed',
    text: 'if (this.store) this.gate.close();',
    replacement: '',
  },
  {
    ...member,
    name: 'silent-readers-never-removed',
    without: 'a node that has died counts as a reader for ever',
    text: 'if (seen?.beat === beat) return now - seen.since >= this.timings.gateTimeoutMs;',
    replacement: 'if (seen?.beat === beat) return false;',
  },
  {
    ...member,
    name: 'silent-readers-removed-at-once',
    without: 'a node that shows no life between two looks is removed while its gate is open',
    text: 'if (seen?.beat === beat) return now - seen.since >= this.timings.gateTimeoutMs;',
    replacement: 'if (seen?.beat === beat) return true;',
  },
  {
    ...member,
    name: 'other-cache-joins',
    without: 'a node registers for the epoch of another cache',
    text: 'if (status.cache === identity) return undefined;',
    replacement: 'if (status.cache !== null) return undefined;',
  },
  {
    ...member,
    name: 'older-release-ignored',
    without: 'a node uses the cache beside a node that does not know epochs',
    text: "if (status.isOlderReleasePresent) return 'older-release';",
    replacement: '',
  },
  {
    ...member,
    name: 'pending-migrations-ignored',
    without: 'a node caches under keys that the database does not enqueue',
    text: "if (!coversTables(status.triggerArguments, tables)) return 'migrations-pending';",
    replacement: 'void coversTables;',
  },
  {
    ...member,
    name: 'new-server-ignored',
    without: 'a node goes on with an epoch that began on another PostgreSQL server',
    text: 'if (status.epochServer !== null && status.epochServer !== status.server)',
    replacement: "if (status.epochServer === '')",
  },
  {
    ...member,
    name: 'no-quarantine-after-a-failover',
    without: 'a promoted server is trusted at once to know every registered node',
    text: 'return now - this.newServer.since >= this.timings.gateTimeoutMs;',
    replacement: 'return now >= this.newServer.since;',
  },
  {
    ...member,
    name: 'one-key-more-declared',
    without: 'a release that knows a key less declares what the database knows',
    text: "return databaseKeys.length === keys.length ? [databaseKeys.join(';')] : [];",
    replacement: "return keys.length > 0 ? [databaseKeys.join(';')] : [];",
    specs: nodes.specs,
    tests: 'one key more',
  },
  {
    ...member,
    name: 'older-release-keeps-its-cache',
    without: 'the epoch keeps its cache while an older release runs that deletes rows unapplied',
    text: 'const nextCache = isOlderReleasePresent ? null : (identity ?? null);',
    replacement: 'const nextCache = identity ?? null;',
    specs: nodes.specs,
    tests: 'may not write while a node uses the cache',
  },
  {
    ...store,
    name: 'epoch-not-in-the-keys',
    without: 'another epoch of the same cache reads the keys of the first',
    text: '`${this.epoch.id}:${key}`',
    replacement: '`${key}`',
  },
  {
    ...store,
    name: 'identity-not-compared-before-a-step',
    without: 'a step is sent although the store leads to another cache',
    text: 'if (!this.isAvailable) throw',
    replacement: "if (this.epoch.id === '') throw",
  },
  {
    ...store,
    name: 'identity-not-compared-after-a-step',
    without: 'a reply counts although the store leads to another cache meanwhile',
    text: 'if (this.store.identity !== this.epoch.cache) {',
    replacement: 'if (this.store === undefined) {',
  },
];
