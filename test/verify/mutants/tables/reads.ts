/** Reads through the cache. */
import { lines, type Mutant } from '../mutant.js';

const READ_THROUGH = 'src/platform/cache/read/read-through.ts';

const readThrough = {
  file: READ_THROUGH,
  specs: ['test/platform/cache/read/read-through.spec.ts'],
};
const refresh = {
  file: 'src/platform/cache/read/refresh-ahead.ts',
  specs: ['test/platform/cache/read/refresh-ahead.spec.ts'],
};

export const READ_MUTANTS: readonly Mutant[] = [
  {
    ...readThrough,
    name: 'hit-not-checked-against-the-gate',
    without: 'what a GET has found is used although the gate has closed meanwhile',
    text: 'const hits = entries && this.gate.store === store ? entries : [];',
    replacement: 'const hits = entries ?? [];',
  },
  {
    ...readThrough,
    name: 'lease-not-checked-against-the-gate',
    without: 'what a lease command has found is used although the gate has closed meanwhile',
    text: "if (this.gate.store !== store) return this.readPrimary(values, 'bypass');",
    replacement: '',
  },
  {
    ...readThrough,
    name: 'poll-not-checked-against-the-gate',
    without: 'a reader that waits for another one uses its fill after the gate has closed',
    text: lines(
      'const entries = await store.get(this.keysOf(waiting));',
      '      if (this.gate.store !== store) return;',
    ),
    replacement: 'const entries = await store.get(this.keysOf(waiting));',
  },
  {
    ...readThrough,
    name: 'primary-not-read-on-demand',
    without: 'Cache-Control: no-cache is answered from the cache',
    text: "if (isPrimaryRequired) return this.readPrimary(values, 'request');",
    replacement: '',
  },
  {
    ...readThrough,
    name: 'entry-of-a-later-release-deleted',
    without: 'an older release deletes what a newer one has cached',
    text: "value, entry.payload).kind !== 'newer';",
    replacement: "value, entry.payload).kind !== 'payload';",
  },
  {
    name: 'join-a-running-load',
    without: 'a caller gets the result of a load that began before the call',
    file: 'src/platform/cache/read/coalescer.ts',
    text: lines(
      '        this.endLoad(key);',
      '        batch.get(key)?.resolve(results[index] as T);',
    ),
    replacement: lines(
      '        this.queued.get(key)?.resolve(results[index] as T);',
      '        this.queued.delete(key);',
      '        this.endLoad(key);',
      '        batch.get(key)?.resolve(results[index] as T);',
    ),
    specs: ['test/platform/cache/read/coalescer.spec.ts'],
  },
  {
    name: 'join-a-sent-command',
    without: 'a read joins a GET that was sent before the read began',
    file: 'src/platform/cache/store/guarded-store.ts',
    text: lines(
      '      if (this.batch?.indexByKey === indexByKey) this.batch = undefined;',
      "      return this.guard('get', () => this.inner.get([...indexByKey.keys()]));",
    ),
    replacement: lines(
      "      return this.guard('get', () => this.inner.get([...indexByKey.keys()])).finally(() => {",
      '        if (this.batch?.indexByKey === indexByKey) this.batch = undefined;',
      '      });',
    ),
    specs: ['test/platform/cache/store/guarded-store.spec.ts'],
  },
  {
    name: 'breaker-lets-requests-through',
    without: 'requests reach a cache whose circuit breaker is open',
    file: 'src/platform/cache/store/guarded-store.ts',
    text: "if (this.isBreakerOpen && operation !== 'ping') throw breakerOpenError();",
    replacement: '',
    specs: ['test/platform/cache/store/guarded-store.spec.ts'],
  },
  {
    name: 'alias-trusted-without-its-row',
    without: 'the row of a cached alias is not asked whether it still has the alias',
    file: 'src/platform/cache/cached-repository.ts',
    text: 'return row && this.cached.aliasValue(alias, row) === foldedValue ? row : null;',
    replacement: 'return row;',
    specs: readThrough.specs,
  },
  {
    name: 'payload-of-another-key-served',
    without: 'a payload is used although it was written for another key',
    file: 'src/platform/cache/envelope.ts',
    text: "if (text.slice(headLength, payloadStart) !== value) return { kind: 'unreadable' };",
    replacement: '',
    specs: readThrough.specs,
  },
  {
    name: 'damaged-row-served',
    without: 'a cached row is not checked against the columns of its table',
    file: 'src/platform/cache/row-codec.ts',
    text: 'if (!isValueOf(column, value)) return undefined;',
    replacement: 'void isValueOf;',
    specs: readThrough.specs,
  },
  {
    name: 'payload-of-an-earlier-schema-served',
    without: 'a payload of an earlier release is decoded',
    file: 'src/platform/cache/envelope.ts',
    text: 'if (!head || writtenSchema < schema)',
    replacement: 'if (!head)',
    specs: ['test/platform/cache/read/read-through.spec.ts'],
  },
  {
    ...refresh,
    name: 'refresh-without-claim',
    without: 'each node refreshes an entry for itself',
    text: "if (!isClaimed) return 'lost';",
    replacement: 'void isClaimed;',
  },
  {
    ...refresh,
    name: 'refresh-of-an-older-row',
    without: 'a refresh replaces an entry with an older row',
    text: 'if (!row || row.version < seen.version)',
    replacement: 'if (!row)',
  },
];
