/**
 * The fenced cache in this process's memory: the same states and steps as in Redis (redis.store.ts), for one node alone and
 * for tests. The invariant is Redis's too: an entry may vanish at any time, fences included, and nothing here relies on one
 * staying; each step is atomic because it never awaits.
 */
import { LRUCache } from 'lru-cache';
import {
  type CacheEntry,
  type CachePublication,
  type CacheReplacement,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
} from './cache.store.js';

/** Bounds and clock of a {@link MemoryStore}. */
export interface MemoryStoreOptions {
  /** The least recently used keys beyond this many are dropped; default 100 000. */
  readonly maxEntries?: number;
  /** Milliseconds since any fixed moment, never going back; default `Date.now`. */
  readonly now?: () => number;
}

/** A floor that no publication reaches. */
const BEYOND = Number.MAX_SAFE_INTEGER;

type Held = { readonly until: number } & (
  | { readonly state: 'lease'; readonly token: string }
  | {
      readonly state: 'fence';
      readonly floor: number;
      readonly deadlines: ReadonlyMap<string, number>;
    }
  | { readonly state: 'entry'; readonly version: number; readonly payload: string | null }
);

/** A {@link CacheStore} that only this process sees; it fails only once it is closed. */
export class MemoryStore implements CacheStore {
  private readonly entries: LRUCache<string, Held>;
  private readonly now: () => number;
  private closed = false;

  constructor(options: MemoryStoreOptions = {}) {
    this.entries = new LRUCache({ max: options.maxEntries ?? 100_000 });
    this.now = options.now ?? Date.now;
  }

  get available(): boolean {
    return !this.closed;
  }

  async get(keys: readonly string[]): Promise<CacheEntry[]> {
    this.demandOpen();
    return keys.map((key) => seen(this.held(key)));
  }

  async lease(keys: readonly string[], token: string, ms: number): Promise<CacheEntry[]> {
    this.demandOpen();
    return keys.map((key) => {
      const held = this.held(key);
      if (!held) this.entries.set(key, { state: 'lease', token, until: this.now() + ms });
      return seen(held);
    });
  }

  async fill(token: string, values: readonly CacheValue[]): Promise<boolean[]> {
    this.demandOpen();
    values.forEach(checkVersion);
    return values.map((value) => {
      const held = this.held(value.key);
      if (held?.state !== 'lease' || held.token !== token) return false;
      this.store(value);
      return true;
    });
  }

  async replace(replacements: readonly CacheReplacement[]): Promise<boolean[]> {
    this.demandOpen();
    replacements.flatMap((it) => [it, it.seen]).forEach(checkVersion);
    return replacements.map(({ key, seen: { version, payload }, ttlMs, ...other }) => {
      const held = this.held(key);
      if (held?.state !== 'entry' || held.version !== version || held.payload !== payload)
        return false;
      this.store({
        key,
        version: other.version,
        payload: other.payload,
        ttlMs: ttlMs ?? held.until - this.now(),
      });
      return true;
    });
  }

  async fence(keys: readonly string[], token: string, ms: number): Promise<void> {
    this.demandOpen();
    for (const key of keys) {
      const held = this.held(key);
      const deadlines = new Map(held?.state === 'fence' ? held.deadlines : []);
      deadlines.set(token, Math.max(deadlines.get(token) ?? 0, this.now() + ms));
      const floor =
        held?.state === 'fence' ? held.floor : held?.state === 'entry' ? held.version : 0;
      this.keepFence(key, floor, deadlines);
    }
  }

  async publish(token: string, publications: readonly CachePublication[]): Promise<void> {
    this.demandOpen();
    for (const it of publications) if (!('absent' in it)) checkVersion(it);
    for (const it of publications) {
      const value = 'absent' in it ? undefined : it;
      const held = this.held(it.key);
      if (held?.state === 'fence') {
        const others = new Map(held.deadlines);
        const mine = others.delete(token);
        if (others.size > 0)
          this.keepFence(it.key, Math.max(held.floor, value?.version ?? BEYOND), others);
        else if (value && mine && value.version >= held.floor) this.store(value);
        else this.entries.delete(it.key);
      } else if (held?.state === 'entry' && value) {
        if (value.version <= held.version) continue;
        // What a reader filled for a missing row has no version to compare: it yields, but not to what may be older.
        if (held.payload === null) this.entries.delete(it.key);
        else this.store(value);
      } else {
        this.entries.delete(it.key);
      }
    }
  }

  async unfence(keys: readonly string[], token: string): Promise<void> {
    this.demandOpen();
    for (const key of keys) {
      const held = this.held(key);
      if (held?.state !== 'fence') continue;
      const others = new Map(held.deadlines);
      others.delete(token);
      if (others.size > 0) this.keepFence(key, held.floor, others);
      else this.entries.delete(key);
    }
  }

  async ping(): Promise<void> {
    this.demandOpen();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.entries.clear();
  }

  /** What the key holds now; what has expired, a fence's dead tokens included, is as gone as what never was. */
  private held(key: string): Held | undefined {
    const held = this.entries.get(key);
    if (!held) return undefined;
    const now = this.now();
    if (held.until <= now) {
      this.entries.delete(key);
      return undefined;
    }
    if (held.state !== 'fence') return held;
    const deadlines = new Map([...held.deadlines].filter(([, deadline]) => deadline > now));
    if (deadlines.size === held.deadlines.size) return held;
    // Nobody knows what the writer of an ended token has committed: no publication reaches this floor.
    return { ...held, floor: BEYOND, deadlines };
  }

  private store({ key, version, payload, ttlMs }: CacheValue): void {
    this.entries.set(key, { state: 'entry', version, payload, until: this.now() + ttlMs });
  }

  private keepFence(key: string, floor: number, deadlines: ReadonlyMap<string, number>): void {
    this.entries.set(key, {
      state: 'fence',
      floor,
      deadlines,
      until: Math.max(...deadlines.values()),
    });
  }

  private demandOpen(): void {
    if (this.closed) throw new CacheUnavailableError('The memory store is closed');
  }
}

function seen(held: Held | undefined): CacheEntry {
  if (!held) return { state: 'absent' };
  if (held.state !== 'entry') return { state: held.state };
  const { version, payload } = held;
  return payload === null ? { state: 'none', version } : { state: 'value', version, payload };
}

function checkVersion({ version }: Pick<CacheValue, 'version'>): void {
  if (!Number.isSafeInteger(version) || version < 0)
    throw new RangeError(`Not a version: ${version}`);
}
