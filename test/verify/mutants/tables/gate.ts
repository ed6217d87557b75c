/** The read gate, and the rows of `cache_invalidations` that open and close it. */
import { lines, type Mutant } from '../mutant.js';

const gate = {
  file: 'src/platform/cache/read/read-gate.ts',
  specs: ['test/platform/cache/read/read-gate.spec.ts'],
};
const pass = {
  file: 'src/platform/cache/write/database-invalidations.ts',
  specs: ['test/platform/cache/write/database-invalidations.spec.ts'],
  tests: 'when a node looks into|a pass of a node',
};

export const GATE_MUTANTS: readonly Mutant[] = [
  {
    ...gate,
    name: 'gate-lease-never-ends',
    without: 'the gate of a node that has lost PostgreSQL stays open',
    text: 'return isConfirmed ? opening.store : undefined;',
    replacement: 'return isConfirmed || opening.store ? opening.store : undefined;',
  },
  {
    ...gate,
    name: 'gate-ignores-suspension',
    without: 'the gate stays open over a suspension of the machine, during which one clock stands',
    text: ' && Math.abs(wallAgeMs) < timings.gateLeaseMs;',
    replacement: ';',
  },
  {
    ...gate,
    name: 'gate-opens-with-a-void-pass',
    without: 'a pass opens the gate although it was closed meanwhile',
    text: 'if (pass.generation === this.generation) this.opening',
    replacement: 'this.opening',
  },
  {
    ...gate,
    name: 'gate-ignores-the-store',
    without: 'the gate stays open to a cache that is not the one of its epoch any more',
    text: 'if (!opening?.store.isAvailable) return undefined;',
    replacement: 'if (!opening) return undefined;',
  },
  {
    ...pass,
    name: 'lease-from-the-end-of-the-pass',
    without: 'the lease of the gate begins at the end of a pass, after the look at the table',
    text: 'this.gate.open(pass, store);',
    replacement: 'this.gate.open(this.gate.takePass(), store);',
  },
  {
    ...pass,
    name: 'renewal-without-the-table',
    without: 'an open gate is prolonged without a look at the table',
    text: 'if (store && (await this.applyWaitingRows(client, store))) this.gate.open(pass, store);',
    replacement: lines(
      'const isClear = store && (await this.applyWaitingRows(client, store));',
      '    if (store && (this.gate.isOpen || isClear)) this.gate.open(pass, store);',
    ),
  },
  {
    ...pass,
    name: 'opening-though-rows-remain',
    without: 'the gate opens though rows that were seen remain',
    text: 'return found?.waiting === false;',
    replacement: 'return found !== undefined;',
  },
  {
    ...pass,
    name: 'register-after-looking',
    without: 'a node looks at the table first and registers as a reader then',
    text: lines(
      'const store = await this.membership.renew(client);',
      '    if (store && (await this.applyWaitingRows(client, store))) this.gate.open(pass, store);',
    ),
    replacement: lines(
      "const { rowCount } = await client.query('SELECT FROM cache_invalidations LIMIT 1');",
      '    const store = await this.membership.renew(client);',
      '    if (store && rowCount === 0) this.gate.open(this.gate.takePass(), store);',
      '    else if (store) await this.applyWaitingRows(client, store);',
    ),
  },
  {
    ...pass,
    name: 'lost-notifications-ignored',
    without: 'the gate stays open when the LISTEN connection is lost',
    text: 'onLost: () => this.gate.close(),',
    replacement: 'onLost: () => undefined,',
  },
  {
    ...pass,
    name: 'applies-without-a-registration',
    without: 'a node applies rows for an epoch that it is no longer registered for',
    text: 'if (rowCount !== 1) return [];',
    replacement: 'void rowCount;',
  },
  {
    ...pass,
    name: 'registration-not-held',
    without: 'the epoch may move between the deletion of keys and the deletion of their rows',
    text: 'WHERE node = $1 AND epoch = $2 FOR SHARE',
    replacement: 'WHERE node = $1 AND epoch = $2',
  },
  {
    ...pass,
    name: 'rows-deleted-before-keys',
    without: 'rows are gone before their keys are deleted',
    text: lines(
      '      const unreachedKeys = await deleteReachable(',
      '        store,',
      '        rows.flatMap(({ keys }) => keys),',
      '      );',
    ),
    replacement: lines(
      '      await client.query(DELETE_ROWS, [positionsOf(rows)]);',
      "      await client.query('COMMIT');",
      "      await client.query('BEGIN');",
      '      const unreachedKeys = await deleteReachable(',
      '        store,',
      '        rows.flatMap(({ keys }) => keys),',
      '      );',
    ),
  },
  {
    ...pass,
    name: 'rows-deleted-though-keys-remain',
    without: 'rows are deleted although the cache was out of reach',
    text: 'const appliedRows = rows.filter((row) => !isUnreachable(row));',
    replacement: 'const appliedRows = rows;',
    tests: 'a row with keys of both kinds',
    isSlow: true,
  },
  {
    ...pass,
    name: 'notify-only',
    without: 'the table is looked at only after a NOTIFY',
    text: 'return POLL_INTERVAL_MS;',
    replacement: 'return 3_600_000;',
  },
  {
    name: 'invalidation-only-unfences',
    without: 'an invalidation leaves a cached value',
    file: 'src/platform/cache/store/cache-store.ts',
    text: lines(
      '  await store.publish(',
      '    newToken(),',
      '    keys.map((key) => ({ key, absent: true })),',
      '  );',
    ),
    replacement: '  await store.unfence(keys, newToken());',
    specs: pass.specs,
    tests: pass.tests,
  },
];
