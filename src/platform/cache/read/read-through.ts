/**
 * The reader's half of the protocol, for any kind of key (a row by id, a pointer, a list of ids): GET; else take a lease,
 * read the primary outside any transaction, fill over one's own lease. Another's lease is waited for, but only a little; a
 * fence or a cache that does not answer sends the reader to PostgreSQL, and nothing read there is filled.
 *
 * Invariant: what is returned was true in the primary database, or in an unfenced cache entry, at some moment after the
 * call began.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import {
  type CacheEntry,
  type CacheStore,
  CacheUnavailableError,
  dropKeys,
  newToken,
} from './cache.store.js';
import type { CacheMetrics } from './cache.metrics.js';
import { Coalescer } from './coalescer.js';
import { open, seal } from './envelope.js';
import type { ReadGate } from './read-gate.js';
import type { Outcome, Reading } from './reading.js';
import { RefreshAhead } from './refresh-ahead.js';
import { jitter, NOTHING_TTL_MS, type Source, type Versioned } from './source.js';

/** Milliseconds a lease lives: longer than any statement may take, so that a slow reader keeps its right to fill. */
export const LEASE_MS = 6_000;
/** How another's lease is waited for: this many looks, this far apart. */
const FOREIGN_LEASE = { looks: 8, everyMs: 15 } as const;

interface Answer<T> {
  readonly value: T | null;
  readonly outcome: Outcome;
}

/** What each kind of key keeps of decoded values in this process. */
const DECODED = { values: 5_000, characters: 8_000_000 } as const;

interface Decoded<T> {
  readonly text: string;
  readonly value: T & {};
  /** From this moment on its reads count (milliseconds since 1970). */
  readonly countsFrom: number;
  reads: number;
}

export class ReadThrough<T> {
  private readonly misses: Coalescer<Answer<T>>;
  /**
   * What a payload was decoded to, by key. The cache's text decides every time; only the work of reading the same text again
   * is saved. Decoded values are shared by readers: nobody may change them.
   */
  private readonly decoded = new LRUCache<string, Decoded<T>>({
    max: DECODED.values,
    maxSize: DECODED.characters,
    sizeCalculation: ({ text }) => text.length + 1,
  });

  private readonly refreshAhead: RefreshAhead<T>;

  constructor(
    private readonly store: CacheStore,
    private readonly source: Source<T>,
    private readonly metrics: CacheMetrics,
    private readonly gate: ReadGate,
  ) {
    this.misses = new Coalescer((values) => this.loadThroughLeases(values));
    this.refreshAhead = new RefreshAhead(store, source, metrics);
  }

  key(value: string): string {
    return this.source.prefix + value;
  }

  /** In the order asked, null for what does not exist; duplicates are answered alike. */
  async read(values: readonly string[], reading?: Reading): Promise<(T | null)[]> {
    if (values.length === 0) return [];
    const answers = reading?.fresh
      ? await this.readPrimary(values, 'request')
      : await this.readCache(values);
    return answers.map(({ value, outcome }) => {
      this.metrics.request(this.source.entity, outcome);
      reading?.note(outcome);
      return value;
    });
  }

  private async readCache(values: readonly string[]): Promise<Answer<T>[]> {
    if (!this.gate.isOpen) return Promise.all(values.map((value) => this.misses.get(value)));
    let entries: CacheEntry[];
    try {
      entries = await this.store.get(values.map((value) => this.key(value)));
    } catch (error) {
      if (!(error instanceof CacheUnavailableError)) throw error;
      entries = values.map(() => ({ state: 'absent' }));
    }
    // A moment may have passed in which this node missed an invalidation: then what was read does not count.
    const trusted = this.gate.isOpen;
    const hits = values.map((value, index) =>
      trusted ? this.hit(value, entries[index]) : undefined,
    );
    if (hits.every((hit) => hit !== undefined)) return hits;
    return Promise.all(
      hits.map(async (hit, index) => hit ?? this.misses.get(values[index] as string)),
    );
  }

  private hit(value: string, entry: CacheEntry | undefined): Answer<T> | undefined {
    if (entry?.state === 'none') return { value: null, outcome: 'hit' };
    if (entry?.state !== 'value') return undefined;
    const known = this.decode(value, entry.payload);
    if (!known) return undefined;
    if (known.countsFrom <= Date.now()) this.refreshAhead.noteRead(value, entry, known.reads++);
    return { value: known.value, outcome: 'hit' };
  }

  private decode(value: string, text: string): Decoded<T> | undefined {
    const known = this.decoded.get(value);
    if (known?.text === text) return known;
    const opened = open(this.source.schema, value, text);
    const decoded = opened.kind === 'payload' ? this.source.decode(opened.payload) : undefined;
    if (opened.kind !== 'payload' || decoded === undefined || decoded === null) return undefined;
    const countsFrom = this.refreshAhead.countsFrom(opened.expires);
    const made = { text, value: decoded, countsFrom, reads: 0 };
    this.decoded.set(value, made);
    return made;
  }

  private async loadThroughLeases(values: string[]): Promise<Answer<T>[]> {
    if (!this.gate.isOpen)
      return this.readPrimary(values, this.store.available ? 'bypass' : 'unavailable');
    const token = newToken();
    let entries: CacheEntry[];
    try {
      entries = await this.store.lease(
        values.map((value) => this.key(value)),
        token,
        LEASE_MS,
      );
      await this.dropUnreadable(values, entries);
    } catch (error) {
      if (!(error instanceof CacheUnavailableError)) throw error;
      return this.readPrimary(values, 'unavailable');
    }

    const answers = new Map<string, Answer<T>>();
    const [leased, foreign, fenced, unread]: [string[], string[], string[], string[]] = [
      [],
      [],
      [],
      [],
    ];
    entries.forEach((entry, index) => {
      const value = values[index] as string;
      const hit = this.hit(value, entry);
      if (hit) answers.set(value, hit);
      else if (entry.state === 'absent') leased.push(value);
      else if (entry.state === 'lease') foreign.push(value);
      else if (entry.state === 'fence') fenced.push(value);
      else unread.push(value);
    });
    const answer = (asked: string[], given: Answer<T>[]): void =>
      asked.forEach((value, index) => answers.set(value, given[index] as Answer<T>));
    await Promise.all([
      leased.length > 0 && this.loadAndFill(leased, token).then((given) => answer(leased, given)),
      foreign.length > 0 && this.awaitForeignLease(foreign).then((given) => answer(foreign, given)),
      fenced.length > 0 &&
        this.readPrimary(fenced, 'fenced').then((given) => answer(fenced, given)),
      unread.length > 0 && this.readPrimary(unread, 'miss').then((given) => answer(unread, given)),
    ]);
    return values.map((value) => answers.get(value) as Answer<T>);
  }

  /** What no release can read any more is taken out, so that the next reader fills it; a later release's stays. */
  private async dropUnreadable(values: string[], entries: CacheEntry[]): Promise<void> {
    const keys = values.filter((value, index) => {
      const entry = entries[index];
      if (entry?.state !== 'value' || this.decode(value, entry.payload)) return false;
      return open(this.source.schema, value, entry.payload).kind !== 'newer';
    });
    await dropKeys(
      this.store,
      keys.map((value) => this.key(value)),
    );
  }

  private async loadAndFill(values: string[], token: string): Promise<Answer<T>[]> {
    const rows = await this.loadRows(values);
    const fills = values.map((value) => {
      const { source } = this;
      const row = rows.get(value);
      const ttlMs = jitter(row ? source.ttlMs : Math.min(source.ttlMs, NOTHING_TTL_MS));
      const payload = row ? seal(source.schema, value, source.encode(row.value), ttlMs) : null;
      return { key: this.key(value), version: row?.version ?? 0, payload, ttlMs };
    });
    try {
      const filled = await this.store.fill(token, fills);
      for (const done of filled) if (!done) this.metrics.fillRejected(this.source.entity);
    } catch (error) {
      if (!(error instanceof CacheUnavailableError)) throw error;
    }
    return values.map((value) => ({ value: rows.get(value)?.value ?? null, outcome: 'miss' }));
  }

  private async awaitForeignLease(values: string[]): Promise<Answer<T>[]> {
    const answers = new Map<string, Answer<T>>();
    try {
      for (let look = 0; look < FOREIGN_LEASE.looks && answers.size < values.length; look++) {
        await sleep(FOREIGN_LEASE.everyMs);
        const waiting = values.filter((value) => !answers.has(value));
        const entries = await this.store.get(waiting.map((value) => this.key(value)));
        entries.forEach((entry, index) => {
          const hit = this.hit(waiting[index] as string, entry);
          if (hit) answers.set(waiting[index] as string, hit);
        });
        if (entries.every((entry) => entry.state !== 'lease')) break;
      }
    } catch (error) {
      if (!(error instanceof CacheUnavailableError)) throw error;
    }
    const rest = values.filter((value) => !answers.has(value));
    const rows = rest.length > 0 ? await this.loadRows(rest) : new Map<string, Versioned<T>>();
    return values.map(
      (value) => answers.get(value) ?? { value: rows.get(value)?.value ?? null, outcome: 'miss' },
    );
  }

  private async readPrimary(values: readonly string[], outcome: Outcome): Promise<Answer<T>[]> {
    const rows = await this.loadRows([...new Set(values)]);
    return values.map((value) => ({ value: rows.get(value)?.value ?? null, outcome }));
  }

  private async loadRows(values: string[]): Promise<Map<string, Versioned<T>>> {
    this.metrics.loads(this.source.entity, values.length);
    return this.source.load(values);
  }
}
