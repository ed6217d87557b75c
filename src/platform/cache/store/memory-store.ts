/**
 * The fenced cache in this process's memory. Several such processes are safe: each has an identity
 * of its own, so at most one of them answers from its cache. The states and steps are those of the
 * Redis scripts (redis/redis-scripts.ts), branch by branch in the same order.
 *
 * Invariant: each step is atomic because it never awaits. As in Redis, any entry may disappear at
 * any time, fences included.
 */
import { randomUUID } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
  checkVersion,
} from './cache-store.js';

/** Bound and clock of a {@link MemoryStore}. */
export interface MemoryStoreOptions {
  /** Beyond this many keys, the least recently used are evicted; default 100 000. */
  readonly maxEntries?: number;
  /** Milliseconds since any fixed moment, never decreasing; default `Date.now`. */
  readonly now?: () => number;
}

const DEFAULT_MAX_ENTRIES = 100_000;

/** A floor that no publication reaches. */
const UNREACHABLE_FLOOR = Number.MAX_SAFE_INTEGER;

interface Fence {
  readonly state: 'fence';
  /** A publication below this version is not stored. */
  readonly floor: number;
  /** By token. */
  readonly deadlines: ReadonlyMap<string, number>;
}

type Cell = { readonly expiresAt: number } & (
  | Fence
  | { readonly state: 'value'; readonly version: number; readonly payload: string }
  | { readonly state: 'none'; readonly version: number }
  | { readonly state: 'lease'; readonly token: string }
);

/** A {@link CacheStore} that only this process sees. It fails only after {@link close}. */
export class MemoryStore implements CacheStore {
  private readonly id = `memory:${randomUUID()}`;
  private readonly cells: LRUCache<string, Cell>;
  private readonly now: () => number;
  private isClosed = false;

  constructor(options: MemoryStoreOptions = {}) {
    // With `max`, it would allocate all of its entries at the start.
    const maxSize = options.maxEntries ?? DEFAULT_MAX_ENTRIES;
    this.cells = new LRUCache({ maxSize, sizeCalculation: () => 1 });
    this.now = options.now ?? Date.now;
  }

  get isAvailable(): boolean {
    return !this.isClosed;
  }

  get identity(): string | undefined {
    return this.isClosed ? undefined : this.id;
  }

  async get(keys: readonly string[]): Promise<CacheEntry[]> {
    this.requireOpen();
    return keys.map((key) => entryOf(this.readCell(key)));
  }

  async lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    this.requireOpen();
    return keys.map((key) => {
      const cell = this.readCell(key);
      if (!cell) this.cells.set(key, { state: 'lease', token, expiresAt: this.now() + ms });
      return entryOf(cell);
    });
  }

  async fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    this.requireOpen();
    for (const { version } of values) checkVersion(version);
    return values.map((value) => {
      const cell = this.readCell(value.key);
      const isOwnLease = cell?.state === 'lease' && cell.token === token;
      if (isOwnLease) this.storeEntry(value);
      return isOwnLease;
    });
  }

  async replace(replacements: readonly CacheReplacement[]): Promise<boolean[]> {
    this.requireOpen();
    for (const { version, seen } of replacements) {
      checkVersion(version);
      checkVersion(seen.version);
    }
    return replacements.map(({ key, seen, version, payload, ttlMs }) => {
      const cell = this.readCell(key);
      if (cell?.state !== 'value') return false;
      const isUnchanged = cell.version === seen.version && cell.payload === seen.payload;
      if (!isUnchanged) return false;
      const remainingMs = cell.expiresAt - this.now();
      this.storeEntry({ key, version, payload, ttlMs: ttlMs ?? remainingMs });
      return true;
    });
  }

  async fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    this.requireOpen();
    for (const key of keys) {
      const cell = this.readCell(key);
      const deadlines = new Map(cell?.state === 'fence' ? cell.deadlines : []);
      const earlierDeadline = deadlines.get(token) ?? 0;
      deadlines.set(token, Math.max(earlierDeadline, this.now() + ms));
      this.storeFence(key, floorOf(cell), deadlines);
    }
  }

  async publish(token: string, publications: readonly CachePublication[]): Promise<boolean[]> {
    this.requireOpen();
    for (const publication of publications) {
      if (!('absent' in publication)) checkVersion(publication.version);
    }
    return publications.map((publication) => {
      const entry = 'absent' in publication ? undefined : publication;
      return this.publishKey(token, publication.key, entry);
    });
  }

  async unfence(keys: readonly string[], token: string): Promise<void> {
    this.requireOpen();
    for (const key of keys) {
      const cell = this.readCell(key);
      if (cell?.state !== 'fence') continue;
      const { otherDeadlines } = withoutToken(cell, token);
      if (otherDeadlines.size > 0) this.storeFence(key, cell.floor, otherDeadlines);
      else this.cells.delete(key);
    }
  }

  async ping(): Promise<void> {
    this.requireOpen();
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.cells.clear();
  }

  /**
   * @param entry undefined: the publication is an absence
   * @returns whether the token was in the key's fence
   */
  private publishKey(token: string, key: string, entry: CacheValue | undefined): boolean {
    const cell = this.readCell(key);
    switch (cell?.state) {
      case 'fence':
        return this.publishOverFence(token, key, cell, entry);
      case 'value':
        if (!entry) this.cells.delete(key);
        else if (entry.version > cell.version) this.storeEntry(entry);
        break;
      case 'none':
        // A reader fills a negative entry with version 0, whatever version the deletion had. So the
        // published row may be older than the deletion: the next reader asks PostgreSQL.
        if (!entry || entry.version > cell.version) this.cells.delete(key);
        break;
      case 'lease':
        this.cells.delete(key);
        break;
      case undefined:
        break;
    }
    return false;
  }

  private publishOverFence(
    token: string,
    key: string,
    fence: Fence,
    entry: CacheValue | undefined,
  ): boolean {
    const { isTokenFound, otherDeadlines } = withoutToken(fence, token);
    if (otherDeadlines.size > 0) {
      const publishedVersion = entry?.version ?? UNREACHABLE_FLOOR;
      this.storeFence(key, Math.max(fence.floor, publishedVersion), otherDeadlines);
    } else if (entry && isTokenFound && entry.version >= fence.floor) {
      this.storeEntry(entry);
    } else {
      this.cells.delete(key);
    }
    return isTokenFound;
  }

  /** What the key holds now, without what has expired: the cell, or some tokens of a fence. */
  private readCell(key: string): Cell | undefined {
    const cell = this.cells.get(key);
    if (!cell) return undefined;
    const now = this.now();
    if (cell.expiresAt <= now) {
      this.cells.delete(key);
      return undefined;
    }
    if (cell.state !== 'fence') return cell;
    const deadlines = new Map([...cell.deadlines].filter(([, deadline]) => deadline > now));
    if (deadlines.size === cell.deadlines.size) return cell;
    // Nobody knows what the writer of an expired token has committed.
    return { ...cell, floor: UNREACHABLE_FLOOR, deadlines };
  }

  private storeEntry({ key, version, payload, ttlMs }: CacheValue): void {
    const expiresAt = this.now() + ttlMs;
    if (payload === null) this.cells.set(key, { state: 'none', version, expiresAt });
    else this.cells.set(key, { state: 'value', version, payload, expiresAt });
  }

  private storeFence(key: string, floor: number, deadlines: ReadonlyMap<string, number>): void {
    const expiresAt = Math.max(...deadlines.values());
    this.cells.set(key, { state: 'fence', floor, deadlines, expiresAt });
  }

  private requireOpen(): void {
    if (this.isClosed) throw new CacheUnavailableError('The memory store is closed');
  }
}

/** A cell as a reader sees it. */
function entryOf(cell: Cell | undefined): CacheEntry {
  switch (cell?.state) {
    case 'value':
      return { state: 'value', version: cell.version, payload: cell.payload };
    case 'none':
      return { state: 'none', version: cell.version };
    case 'fence':
    case 'lease':
      return { state: cell.state };
    case undefined:
      return { state: 'absent' };
  }
}

/** The floor of a fence that is put over this cell. */
function floorOf(cell: Cell | undefined): number {
  switch (cell?.state) {
    case 'fence':
      return cell.floor;
    case 'value':
    case 'none':
      return cell.version;
    default:
      return 0;
  }
}

function withoutToken(
  { deadlines }: Fence,
  token: string,
): { isTokenFound: boolean; otherDeadlines: ReadonlyMap<string, number> } {
  const otherDeadlines = new Map(deadlines);
  const isTokenFound = otherDeadlines.delete(token);
  return { isTokenFound, otherDeadlines };
}
