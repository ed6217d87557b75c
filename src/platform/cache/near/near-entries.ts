/**
 * What a node keeps of one entity in its own memory: decoded values by their cache keys. It knows
 * nothing of leases: {@link NearMember} says whether a value may be returned.
 *
 * Invariant: a value is stored only if its key was neither dropped nor cleared since the ticket was
 * taken, which is before its GET was sent.
 */
import { LRUCache } from 'lru-cache';

/** Bounds of one entity's near cache in one process. */
export interface NearOptions {
  readonly maxEntries: number;
  readonly maxBytes: number;
}

export const DEFAULT_NEAR_OPTIONS: NearOptions = { maxEntries: 10_000, maxBytes: 64 * 1024 * 1024 };

export interface NearEntry {
  readonly value: unknown;
  /** By Date.now(): from then on readers ask the cache again. A hint, for refreshing ahead. */
  readonly expiresAt: number;
}

/** Keys that share a counter only make each other's fills fail. */
const COUNTERS = 4_096;
const BYTES_PER_CHARACTER = 2;

export class NearEntries {
  private readonly entries: LRUCache<string, NearEntry & { readonly bytes: number }>;
  private readonly drops = new Uint32Array(COUNTERS);
  private clears = 0;

  constructor({ maxEntries, maxBytes }: NearOptions) {
    // With `max`, it would allocate all of its entries at the start.
    const minBytes = Math.ceil(maxBytes / maxEntries);
    this.entries = new LRUCache({
      maxSize: maxBytes,
      sizeCalculation: ({ bytes }) => Math.max(minBytes, bytes),
    });
  }

  get size(): number {
    return this.entries.size;
  }

  get(key: string): NearEntry | undefined {
    return this.entries.get(key);
  }

  /** Take it before the GET of this key is sent. */
  takeTicket(key: string): number {
    return this.clears + (this.drops[counterOf(key)] as number);
  }

  /** @param characters the length of the value's text and of what its decoding adds */
  set(key: string, ticket: number, entry: NearEntry, characters: number): void {
    if (ticket !== this.takeTicket(key)) return;
    this.entries.set(key, { ...entry, bytes: characters * BYTES_PER_CHARACTER });
  }

  drop(key: string): void {
    this.drops[counterOf(key)]!++;
    this.entries.delete(key);
  }

  clear(): void {
    this.clears++;
    this.entries.clear();
  }
}

/** FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/). */
function counterOf(key: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < key.length; index++) {
    hash = Math.imul(hash ^ key.charCodeAt(index), 0x01000193);
  }
  return (hash >>> 0) % COUNTERS;
}
