/**
 * The reader's half of the protocol, for one kind of key (a row, an alias or a collection): GET;
 * on a miss take a lease, read PostgreSQL, fill the cache (docs/design/cache-protocol.md).
 *
 * Invariant: every result was true in the primary database, or in an unfenced cache entry, at some
 * moment after the call began.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import type { CacheMetrics } from '../cache-metrics.js';
import { openEnvelope } from '../envelope.js';
import {
  type CacheEntry,
  type CacheStore,
  CacheUnavailableError,
  newToken,
} from '../store/cache-store.js';
import type { EpochStore } from '../store/epoch-store.js';
import { Coalescer } from './coalescer.js';
import type { NearEntries } from '../near/near-entries.js';
import { CHARACTERS_PER_ENTRY, NearReads } from '../near/near-reads.js';
import { fillOf, type KeyLoader, type Versioned } from './key-loader.js';
import type { ReadContext, ReadOutcome } from './read-context.js';
import type { ReadGate } from './read-gate.js';
import { RefreshAhead } from './refresh-ahead.js';

/** How a reader waits until another reader has filled the key. */
const FOREIGN_LEASE_POLL = { maxPolls: 8, intervalMs: 15 } as const;

/** Bounds the decoded values of one kind of key in this process: small ones to 5 000. */
const MAX_DECODED_CHARACTERS = 8_000_000;

interface Answer<T> {
  readonly value: T | null;
  readonly outcome: ReadOutcome;
}

interface DecodedEntry<T> {
  /** The cached text that the value was decoded from. */
  readonly text: string;
  readonly value: T & {};
  /** When the entry's hot window begins, in milliseconds since 1970. */
  readonly hotWindowStart: number;
  /** Reads in the hot window. */
  hotReads: number;
}

type EntryState = CacheEntry['state'];
/** The lease command of some misses: where it was sent, and the token of what it leased. */
interface LeaseCommand {
  readonly store: EpochStore;
  readonly token: string;
}
/** Answers the keys that the lease command found in one state, in the order of `values`. */
type MissHandler<T> = (values: string[], command: LeaseCommand) => Promise<Answer<T>[]>;

/** What all kinds of keys share in one process. */
export interface ReadThroughContext {
  /** Only asked whether it is available: every command goes to the gate's store. */
  readonly store: Pick<CacheStore, 'isAvailable'>;
  readonly metrics: CacheMetrics;
  readonly gate: ReadGate;
  /** Milliseconds until a lease expires. */
  readonly leaseMs: number;
  /** Absent: this process keeps no such keys in its own memory. */
  readonly near?: NearEntries | undefined;
}

export class ReadThrough<T> {
  private readonly store: Pick<CacheStore, 'isAvailable'>;
  private readonly metrics: CacheMetrics;
  private readonly gate: ReadGate;
  private readonly leaseMs: number;
  private readonly near: NearReads<T> | undefined;
  private readonly misses: Coalescer<Answer<T>>;
  private readonly refreshAhead: RefreshAhead<T>;
  /**
   * Decoded values by the value of their key. A read still needs the cache's text and uses a
   * decoded value only if its text is the same; so this saves decoding, never a read. Readers share
   * the values, so nobody may change them.
   */
  private readonly decodedEntries = new LRUCache<string, DecodedEntry<T>>({
    maxSize: MAX_DECODED_CHARACTERS,
    sizeCalculation: ({ text }) => CHARACTERS_PER_ENTRY + text.length,
  });

  private readonly missHandlers: Readonly<Record<EntryState, MissHandler<T>>> = {
    // This reader has taken the lease.
    absent: (values, command) => this.loadAndFill(values, command),
    // Another reader holds the lease and is about to fill.
    lease: (values, { store }) => this.awaitForeignLease(values, store),
    // A writer is about to commit: nothing read now may be filled.
    fence: (values) => this.readPrimary(values, 'fenced'),
    // An entry that this release cannot read.
    value: (values) => this.readPrimary(values, 'miss'),
    none: (values) => this.readPrimary(values, 'miss'),
  };

  constructor(
    private readonly loader: KeyLoader<T>,
    { store, metrics, gate, leaseMs, near }: ReadThroughContext,
  ) {
    this.store = store;
    this.metrics = metrics;
    this.gate = gate;
    this.leaseMs = leaseMs;
    this.near = near && new NearReads<T>(near, loader.prefix);
    this.misses = new Coalescer((values) => this.answerMisses(values));
    this.refreshAhead = new RefreshAhead(gate, loader, metrics);
  }

  /**
   * @returns a result for each value, in the same order, duplicates included; null for what does
   *   not
   *   exist
   */
  async read(values: readonly string[], context?: ReadContext): Promise<(T | null)[]> {
    if (values.length === 0) return [];
    const answers = await this.answer(values, context?.isPrimaryRequired ?? false);
    return answers.map(({ value, outcome }) => {
      this.metrics.countRead(this.loader.entity, outcome);
      context?.recordOutcome(outcome);
      return value;
    });
  }

  private keysOf(values: readonly string[]): string[] {
    return values.map((value) => this.loader.prefix + value);
  }

  private answer(
    values: readonly string[],
    isPrimaryRequired: boolean,
  ): Answer<T>[] | Promise<Answer<T>[]> {
    if (isPrimaryRequired) return this.readPrimary(values, 'request');
    const { store } = this.gate;
    const found = store && this.near?.find(store, values);
    if (!found?.some((value) => value !== undefined)) return this.readCache(store, values);
    const answers = found.map((value): Answer<T> | undefined =>
      value === undefined ? undefined : { value, outcome: 'near' },
    );
    return this.completeAnswers(store, values, answers);
  }

  /** Reads what is not in this process's memory. */
  private async completeAnswers(
    store: EpochStore | undefined,
    values: readonly string[],
    answers: readonly (Answer<T> | undefined)[],
  ): Promise<Answer<T>[]> {
    const rest = values.filter((_, index) => answers[index] === undefined);
    const read = rest.length > 0 ? await this.readCache(store, rest) : [];
    let next = 0;
    return answers.map((answer) => answer ?? (read[next++] as Answer<T>));
  }

  private async readCache(
    store: EpochStore | undefined,
    values: readonly string[],
  ): Promise<Answer<T>[]> {
    const tickets = store && this.near?.takeTickets(store, values);
    const entries = store && (await this.getEntries(store, values));
    // Checked again after the GET: this node may have missed an invalidation meanwhile.
    const hits = entries && this.gate.store === store ? entries : [];
    const answers = values.map((value, index) => this.answerFrom(value, hits[index]));
    if (store && tickets) {
      const decoded = hits.map((hit, index) =>
        hit.state === 'value' ? this.decode(values[index] as string, hit.payload) : undefined,
      );
      this.near?.fill(store, values, tickets, decoded);
    }
    if (answers.every((answer) => answer !== undefined)) return answers;
    return Promise.all(
      answers.map(async (answer, index) => answer ?? this.misses.get(values[index] as string)),
    );
  }

  /** @returns undefined when the cache cannot be reached */
  private async getEntries(
    store: EpochStore,
    values: readonly string[],
  ): Promise<CacheEntry[] | undefined> {
    try {
      return await store.get(this.keysOf(values));
    } catch (error) {
      if (error instanceof CacheUnavailableError) return undefined;
      throw error;
    }
  }

  /** @returns undefined when the entry is no hit */
  private answerFrom(value: string, entry: CacheEntry | undefined): Answer<T> | undefined {
    if (entry?.state === 'none') return { value: null, outcome: 'hit' };
    if (entry?.state !== 'value') return undefined;
    const decoded = this.decode(value, entry.payload);
    if (!decoded) return undefined;
    if (decoded.hotWindowStart <= Date.now()) {
      decoded.hotReads++;
      this.refreshAhead.recordHotRead(value, entry, decoded.hotReads);
    }
    return { value: decoded.value, outcome: 'hit' };
  }

  /** @returns undefined for a text that this release cannot read */
  private decode(value: string, text: string): DecodedEntry<T> | undefined {
    const known = this.decodedEntries.get(value);
    if (known?.text === text) return known;
    const envelope = openEnvelope(this.loader.schema, value, text);
    if (envelope.kind !== 'payload') return undefined;
    const decodedValue = this.loader.decode(envelope.payload);
    if (decodedValue === undefined || decodedValue === null) return undefined;
    const hotWindowStart = this.refreshAhead.hotWindowStart(envelope.expiresAt);
    const decoded = { text, value: decodedValue, hotWindowStart, hotReads: 0 };
    this.decodedEntries.set(value, decoded);
    return decoded;
  }

  /** Answers distinct keys that were no hits. The coalescer calls it. */
  private async answerMisses(values: string[]): Promise<Answer<T>[]> {
    const { store } = this.gate;
    if (!store) return this.readPrimary(values, this.store.isAvailable ? 'bypass' : 'unavailable');
    const command = { store, token: newToken() };
    const entries = await this.leaseEntries(values, command);
    if (!entries) return this.readPrimary(values, 'unavailable');
    if (this.gate.store !== store) return this.readPrimary(values, 'bypass');

    const answers = new Map<string, Answer<T>>();
    const missesByState = new Map<EntryState, string[]>();
    entries.forEach((entry, index) => {
      const value = values[index] as string;
      const hit = this.answerFrom(value, entry);
      if (hit) {
        answers.set(value, hit);
        return;
      }
      const misses = missesByState.get(entry.state) ?? [];
      misses.push(value);
      missesByState.set(entry.state, misses);
    });
    await Promise.all(
      [...missesByState].map(async ([state, misses]) => {
        const found = await this.missHandlers[state](misses, command);
        misses.forEach((value, index) => answers.set(value, found[index] as Answer<T>));
      }),
    );
    return values.map((value) => answers.get(value) as Answer<T>);
  }

  /** @returns undefined when the cache cannot be reached */
  private async leaseEntries(
    values: string[],
    { store, token }: LeaseCommand,
  ): Promise<CacheEntry[] | undefined> {
    try {
      const entries = await store.lease(this.keysOf(values), token, this.leaseMs);
      await this.deleteUnreadable(store, values, entries);
      return entries;
    } catch (error) {
      if (error instanceof CacheUnavailableError) return undefined;
      throw error;
    }
  }

  /**
   * Deletes the entries that no running release can read, so that the next reader fills them. The
   * entries of a later release stay.
   */
  private async deleteUnreadable(
    store: EpochStore,
    values: string[],
    entries: CacheEntry[],
  ): Promise<void> {
    const unreadable = values.filter((value, index) => {
      const entry = entries[index];
      if (entry?.state !== 'value' || this.decode(value, entry.payload)) return false;
      return openEnvelope(this.loader.schema, value, entry.payload).kind !== 'newer';
    });
    await store.discard(this.keysOf(unreadable));
  }

  private async loadAndFill(
    values: string[],
    { store, token }: LeaseCommand,
  ): Promise<Answer<T>[]> {
    const rows = await this.loadRows(values);
    const fills = values.map((value) => fillOf(this.loader, value, rows.get(value)));
    try {
      const results = await store.fill(token, fills);
      for (const isFilled of results) {
        if (!isFilled) this.metrics.countRejectedFill(this.loader.entity);
      }
    } catch (error) {
      if (!(error instanceof CacheUnavailableError)) throw error;
    }
    return answersFrom(rows, values, 'miss');
  }

  /** Polls until the other readers have filled; reads PostgreSQL for what they have not. */
  private async awaitForeignLease(values: string[], store: EpochStore): Promise<Answer<T>[]> {
    const answers = new Map<string, Answer<T>>();
    try {
      await this.pollForHits(store, values, answers);
    } catch (error) {
      if (!(error instanceof CacheUnavailableError)) throw error;
    }
    const unanswered = values.filter((value) => !answers.has(value));
    const loaded = unanswered.length > 0 ? await this.readPrimary(unanswered, 'miss') : [];
    unanswered.forEach((value, index) => answers.set(value, loaded[index] as Answer<T>));
    return values.map((value) => answers.get(value) as Answer<T>);
  }

  /**
   * Adds what it finds to `hits`; ends when no key is leased any more, when the gate has closed, or
   * after the last poll.
   */
  private async pollForHits(
    store: EpochStore,
    values: string[],
    hits: Map<string, Answer<T>>,
  ): Promise<void> {
    for (let poll = 0; poll < FOREIGN_LEASE_POLL.maxPolls && hits.size < values.length; poll++) {
      await sleep(FOREIGN_LEASE_POLL.intervalMs);
      if (this.gate.store !== store) return;
      const waiting = values.filter((value) => !hits.has(value));
      const entries = await store.get(this.keysOf(waiting));
      if (this.gate.store !== store) return;
      entries.forEach((entry, index) => {
        const value = waiting[index] as string;
        const hit = this.answerFrom(value, entry);
        if (hit) hits.set(value, hit);
      });
      if (entries.every((entry) => entry.state !== 'lease')) return;
    }
  }

  private async readPrimary(values: readonly string[], outcome: ReadOutcome): Promise<Answer<T>[]> {
    const rows = await this.loadRows([...new Set(values)]);
    return answersFrom(rows, values, outcome);
  }

  private async loadRows(values: string[]): Promise<Map<string, Versioned<T>>> {
    this.metrics.countLoads(this.loader.entity, values.length);
    return this.loader.load(values);
  }
}

const answersFrom = <T>(
  rows: ReadonlyMap<string, Versioned<T>>,
  values: readonly string[],
  outcome: ReadOutcome,
): Answer<T>[] => values.map((value) => ({ value: rows.get(value)?.value ?? null, outcome }));
