/**
 * Reads of one kind of key from this process's memory. Invariants: a value is returned only if the
 * lease is asked for in the turn of the event loop that looks it up. A value is stored only if the
 * epoch's cache gave it, under a lease, and no revocation of its key came since before the GET.
 */
import type { EpochStore } from '../store/epoch-store.js';
import type { NearEntries } from './near-entries.js';

/** What a decoded value and its bookkeeping take, besides its text. */
export const CHARACTERS_PER_ENTRY = 1_600;

/** A text from the epoch's cache, and what it says. */
export interface DecodedText<T> {
  readonly text: string;
  readonly value: T;
  /** Milliseconds since 1970: from then on readers ask the cache again, and refresh it. */
  readonly hotWindowStart: number;
}

export class NearReads<T> {
  constructor(
    private readonly entries: NearEntries,
    /** What the cache key has before the value. */
    private readonly prefix: string,
  ) {}

  /** @returns for each value, what is in the memory; undefined without a lease */
  find(store: EpochStore, values: readonly string[]): (T | undefined)[] | undefined {
    if (!store.near?.hasLease) return undefined;
    return values.map((value) => {
      const entry = this.entries.get(this.prefix + value);
      const isCurrent = entry !== undefined && entry.expiresAt > Date.now();
      return isCurrent ? (entry.value as T) : undefined;
    });
  }

  /**
   * Take them before the GET is sent.
   * @returns undefined when nothing may be stored
   */
  takeTickets(store: EpochStore, values: readonly string[]): number[] | undefined {
    if (!store.near?.hasLease) return undefined;
    return values.map((value) => this.entries.takeTicket(this.prefix + value));
  }

  /** @param decoded for each value what its GET found; undefined when that was no value */
  fill(
    store: EpochStore,
    values: readonly string[],
    tickets: readonly number[],
    decoded: readonly (DecodedText<T> | undefined)[],
  ): void {
    if (!store.near?.hasLease) return;
    decoded.forEach((found, index) => {
      // While a node refreshes an entry, it says nothing of its expiry.
      if (!found || found.hotWindowStart === Infinity) return;
      const key = this.prefix + (values[index] as string);
      const entry = { value: found.value, expiresAt: found.hotWindowStart };
      const characters = CHARACTERS_PER_ENTRY + found.text.length;
      this.entries.set(key, tickets[index] as number, entry, characters);
    });
  }
}
