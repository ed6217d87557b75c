/** Look-ups and fills of a near cache, with and without a lease. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import { NearEntries } from '../../../../src/platform/cache/near/near-entries.js';
import { NearReads } from '../../../../src/platform/cache/near/near-reads.js';
import type { EpochStore } from '../../../../src/platform/cache/store/epoch-store.js';

const near = { hasLease: true };
const store = { near } as unknown as EpochStore;
let entries: NearEntries;
let reads: NearReads<string>;

beforeEach(() => {
  near.hasLease = true;
  entries = new NearEntries({ maxEntries: 10, maxBytes: 1_000_000 });
  reads = new NearReads(entries, 'order:id:');
});

const decoded = (hotWindowStart: number) => ({ text: 'text', value: 'row', hotWindowStart });

function fill(hotWindowStart: number, beforeFill = (): void => undefined): void {
  const tickets = reads.takeTickets(store, ['1']) as number[];
  beforeFill();
  reads.fill(store, ['1'], tickets, [decoded(hotWindowStart)]);
}

const soon = (): number => Date.now() + 60_000;

describe('reads of a near cache', () => {
  it('find what was filled', () => {
    fill(soon());
    expect(reads.find(store, ['2', '1'])).toEqual([undefined, 'row']);
  });

  it('find nothing without a lease', () => {
    fill(soon());
    near.hasLease = false;
    expect(reads.find(store, ['1'])).toBeUndefined();
  });

  it('find nothing that is about to expire', () => {
    fill(Date.now() - 1);
    expect(reads.find(store, ['1'])).toEqual([undefined]);
  });

  it('fill nothing without a lease', () => {
    fill(soon(), () => {
      near.hasLease = false;
    });
    near.hasLease = true;
    expect(reads.takeTickets({} as EpochStore, ['1'])).toBeUndefined();
    expect(reads.find(store, ['1'])).toEqual([undefined]);
  });

  it('fill nothing whose key was revoked meanwhile', () => {
    fill(soon(), () => entries.drop('order:id:1'));
    expect(reads.find(store, ['1'])).toEqual([undefined]);
  });

  it('fill nothing that another node refreshes', () => {
    fill(Infinity);
    expect(reads.find(store, ['1'])).toEqual([undefined]);
  });
});
