/** What a node keeps in its memory: bounds, and fills that a revocation overtakes. */
import { describe, expect, it } from '@jest/globals';
import { NearEntries } from '../../../../src/platform/cache/near/near-entries.js';

const ENTRY = { value: 'row', expiresAt: Infinity };
const create = (): NearEntries => new NearEntries({ maxEntries: 3, maxBytes: 3_000 });

describe('a near cache', () => {
  it('returns what was stored', () => {
    const entries = create();
    entries.set('key', entries.takeTicket('key'), ENTRY, 10);
    expect(entries.get('key')?.value).toBe('row');
  });

  it.each([
    ['dropped', (entries: NearEntries) => entries.drop('key')],
    ['cleared', (entries: NearEntries) => entries.clear()],
  ])('stores nothing for a key that was %s since its GET', (_, revoke) => {
    const entries = create();
    const ticket = entries.takeTicket('key');
    revoke(entries);
    entries.set('key', ticket, ENTRY, 10);
    expect(entries.get('key')).toBeUndefined();
  });

  it('stores a key though another one was dropped', () => {
    const entries = create();
    const ticket = entries.takeTicket('key');
    entries.drop('another');
    entries.set('key', ticket, ENTRY, 10);
    expect(entries.get('key')).toBeDefined();
  });

  it('is bounded in entries', () => {
    const entries = create();
    for (const key of ['a', 'b', 'c', 'd']) entries.set(key, entries.takeTicket(key), ENTRY, 1);
    expect([entries.size, entries.get('a')]).toEqual([3, undefined]);
  });

  it('is bounded in bytes', () => {
    const entries = create();
    for (const key of ['a', 'b']) entries.set(key, entries.takeTicket(key), ENTRY, 1_000);
    expect([entries.size, entries.get('a')]).toEqual([1, undefined]);
  });
});
