/**
 * The writer's half of the protocol: a write fences its keys before COMMIT, publishes them after
 * COMMIT and before it is acknowledged, and unfences them after a rollback. UnitOfWork drives it.
 *
 * Invariant: from the start of COMMIT to the end of publish, no reader can fill a key of the
 * transaction (docs/design/cache-protocol.md).
 */
import { Inject, Injectable, Logger, type OnApplicationShutdown, type Type } from '@nestjs/common';
import { CACHE_TIMINGS, type CacheTimings, DEFAULT_CACHE_TIMINGS } from '../cache-timings.js';
import { CachedEntities, type CachedEntity } from '../cached-entity.js';
import type { CachedRow } from '../cached.decorator.js';
import { jitter, NEGATIVE_TTL_MS } from '../read/key-loader.js';
import {
  CACHE_STORE,
  type CachePublication,
  type CacheStore,
  CacheUnavailableError,
  type CacheValue,
  deleteKeys,
  newToken,
} from '../store/cache-store.js';
import { DatabaseInvalidations } from './database-invalidations.js';
import { UnansweredCommits } from './unanswered-commits.js';

/**
 * What a write does when it cannot fence its keys (CACHE_DEGRADED_WRITES). `allow`: it goes on, and
 * its keys are invalidated through the database. `reject`: it is rejected before COMMIT.
 */
export type DegradedWrites = 'allow' | 'reject';
export const DEGRADED_WRITES = Symbol('DegradedWrites');

/**
 * The write was rejected before COMMIT: its keys could not be fenced, and CACHE_DEGRADED_WRITES is
 * `reject`.
 */
export class WriteRejectedError extends Error {
  override readonly name = 'WriteRejectedError';
}

/** What one row became in a transaction. */
interface Change {
  readonly cached: CachedEntity<CachedRow>;
  /** The row's new version; for a deleted row, the version that its deletion took. */
  readonly version: number;
  /** Null: the row was deleted. */
  readonly after: CachedRow | null;
}

/** What the transactions of one process share. */
interface InvalidationContext {
  readonly store: CacheStore;
  readonly entities: CachedEntities;
  readonly degradedWrites: DegradedWrites;
  readonly database: DatabaseInvalidations;
  readonly unanswered: UnansweredCommits;
  readonly fenceMs: number;
  readonly logger: Logger;
}

/**
 * The cache's side of one transaction. Every method may also be called for a transaction that
 * changes no cached row.
 */
export class Invalidation {
  /**
   * Whether {@link publish} must wait for the other nodes if the keys could not be fenced: until no
   * node answers from what the cache had before.
   */
  requiresGlobalInvalidation = false;
  private readonly token = newToken();
  private readonly pendingFences: Promise<void>[] = [];
  private readonly fencedKeys = new Set<string>();
  /** By row key. */
  private readonly changes = new Map<string, Change>();
  /** Keys of aliases and collections that changed. */
  private readonly invalidatedKeys = new Set<string>();
  /** The first error of a fence. Then the keys do not count as fenced. */
  private fenceFailure: unknown;

  constructor(private readonly context: InvalidationContext) {}

  /**
   * Begins to fence the keys that a change from `before` to `after` affects, so that the fences run
   * beside the SQL. {@link awaitFences} waits for them.
   */
  fence<E extends CachedRow>(entity: Type<E>, before: E | null, after: E | null): void {
    const cached = this.context.entities.get(entity);
    const id = (before ?? after)?.id;
    if (id === undefined) return;
    const keys = [cached.rowKey(id), ...cached.relatedKeys(before, after)];
    const newKeys = keys.filter((key) => !this.fencedKeys.has(key));
    if (newKeys.length === 0) return;
    for (const key of newKeys) this.fencedKeys.add(key);
    this.pendingFences.push(this.fenceKeys(newKeys));
  }

  /**
   * Records what the SQL did, for {@link publish}.
   * @param after null for a deleted row
   * @param version the row's new version, or the one that its deletion took
   */
  recordChange<E extends CachedRow>(
    entity: Type<E>,
    before: E | null,
    after: E | null,
    version: number,
  ): void {
    // The database may have filled in or changed values of an alias or a collection.
    this.fence(entity, before, after);
    const cached = this.context.entities.get(entity);
    const id = (before ?? after)?.id as string;
    this.changes.set(cached.rowKey(id), {
      cached: cached as unknown as CachedEntity<CachedRow>,
      version,
      after,
    });
    for (const key of cached.relatedKeys(before, after)) this.invalidatedKeys.add(key);
  }

  /** The keys that this transaction affects. */
  get keys(): string[] {
    return [...this.fencedKeys];
  }

  /**
   * Waits until every fence has been tried.
   * @returns whether all keys are fenced; if not, the transaction must enqueue its keys in the
   *   database at COMMIT
   * @throws WriteRejectedError when a key could not be fenced and degraded writes are rejected
   */
  async awaitFences(): Promise<boolean> {
    await Promise.all(this.pendingFences);
    if (this.fenceFailure === undefined) return true;
    if (!(this.fenceFailure instanceof CacheUnavailableError)) throw this.fenceFailure;
    if (this.context.degradedWrites === 'reject') {
      throw new WriteRejectedError(
        'Could not fence the cache keys of the write, and CACHE_DEGRADED_WRITES is "reject"',
        { cause: this.fenceFailure },
      );
    }
    return false;
  }

  /**
   * Publishes the changes. Call it after COMMIT and before the write is acknowledged. Never throws,
   * since the write is durable: keys that cannot be published are enqueued in the database, and if
   * that fails too they stay fenced until the deadline.
   */
  async publish(): Promise<void> {
    if (this.fencedKeys.size === 0) return;
    try {
      await this.publishToStore();
    } catch (error) {
      if (this.fenceFailure === undefined) await this.enqueueUnpublishedKeys(error);
      // Unfenced, the transaction itself has enqueued the keys at its COMMIT.
      else if (this.requiresGlobalInvalidation) await this.awaitGlobalInvalidation();
    }
  }

  /**
   * After a COMMIT that PostgreSQL did not answer: the keys stay fenced until its outcome is known.
   * @param backendPid the PostgreSQL process that was to commit
   */
  watchUnansweredCommit(backendPid: number): void {
    // Unfenced, the transaction itself enqueues the keys at its COMMIT, if that takes effect.
    const isFenced = this.fencedKeys.size > 0 && this.fenceFailure === undefined;
    if (isFenced) this.context.unanswered.watch(backendPid, this.token, this.keys);
  }

  /**
   * After a rollback. Never throws: a key that cannot be unfenced stays fenced until the deadline.
   */
  async release(): Promise<void> {
    await Promise.all(this.pendingFences);
    if (this.fencedKeys.size === 0) return;
    const { store, logger, fenceMs } = this.context;
    try {
      await store.unfence(this.keys, this.token);
    } catch (error) {
      logger.warn(
        `Could not unfence ${this.fencedKeys.size} keys after a rollback; they stay fenced until ` +
          `the deadline (${fenceMs} ms): ${String(error)}`,
      );
    }
  }

  private async fenceKeys(keys: readonly string[]): Promise<void> {
    const { store, fenceMs } = this.context;
    try {
      await store.fence(keys, this.token, fenceMs);
    } catch (error) {
      this.fenceFailure ??= error;
    }
  }

  private async publishToStore(): Promise<void> {
    const { store } = this.context;
    const publications: CachePublication[] = [
      ...[...this.invalidatedKeys].map((key) => ({ key, absent: true as const })),
      ...[...this.changes].map(([key, change]) => entryOf(key, change)),
    ];
    // Fenced, but changed by no statement: e.g. the row had another version.
    const unchangedKeys = this.keys.filter(
      (key) => !this.changes.has(key) && !this.invalidatedKeys.has(key),
    );
    await Promise.all([
      publications.length > 0 ? store.publish(this.token, publications) : undefined,
      unchangedKeys.length > 0 ? store.unfence(unchangedKeys, this.token) : undefined,
    ]);
  }

  private async enqueueUnpublishedKeys(publishError: unknown): Promise<void> {
    const { database, logger, fenceMs } = this.context;
    const { keys } = this;
    logger.warn(
      `Could not publish ${keys.length} keys after a COMMIT; enqueuing them in ` +
        `cache_invalidations: ${String(publishError)}`,
    );
    try {
      await database.enqueue(keys);
    } catch (error) {
      logger.error(
        `Could not enqueue ${keys.length} invalidations; their keys stay fenced until ` +
          `the deadline (${fenceMs} ms): ${String(error)}`,
      );
    }
  }

  private async awaitGlobalInvalidation(): Promise<void> {
    const { database, logger } = this.context;
    try {
      await database.awaitInvalidation(this.keys);
    } catch (error) {
      logger.warn(
        `Could not check whether every node has invalidated ${this.fencedKeys.size} keys; ` +
          `acknowledging their write without the check: ${String(error)}`,
      );
    }
  }
}

/** The entry that a changed row gets under its row key. */
function entryOf(key: string, { cached, version, after }: Change): CacheValue {
  if (!after) {
    const ttlMs = jitter(Math.min(cached.ttlMs, NEGATIVE_TTL_MS));
    return { key, version, payload: null, ttlMs };
  }
  const ttlMs = jitter(cached.ttlMs);
  return { key, version, payload: cached.seal(after, ttlMs), ttlMs };
}

@Injectable()
export class InvalidationService implements OnApplicationShutdown {
  private readonly logger = new Logger(InvalidationService.name);
  private readonly unanswered: UnansweredCommits;

  constructor(
    @Inject(CACHE_STORE) private readonly store: CacheStore,
    private readonly entities: CachedEntities,
    @Inject(DEGRADED_WRITES) private readonly degradedWrites: DegradedWrites,
    private readonly database: DatabaseInvalidations,
    @Inject(CACHE_TIMINGS) private readonly timings: CacheTimings = DEFAULT_CACHE_TIMINGS,
  ) {
    this.unanswered = new UnansweredCommits(store, database, timings.fenceMs, this.logger);
  }

  onApplicationShutdown(): void {
    this.unanswered.stop();
  }

  /**
   * Milliseconds after which a transaction must not be committed any more: its fences could expire
   * before its COMMIT.
   */
  get maxTransactionMs(): number {
    return this.timings.fenceMs / 2;
  }

  /** The cache's side of a transaction that begins now. */
  begin(): Invalidation {
    const { store, entities, degradedWrites, database, unanswered, logger } = this;
    const { fenceMs } = this.timings;
    return new Invalidation({
      store,
      entities,
      degradedWrites,
      database,
      unanswered,
      fenceMs,
      logger,
    });
  }

  /**
   * Makes sure that no node finds anything older under these keys, also one that comes back later.
   * For a caller that is about to acknowledge a write of another process, which may not have been
   * published.
   * @throws a driver error when the keys can neither be deleted nor enqueued
   */
  async invalidate(keys: readonly string[]): Promise<void> {
    await deleteKeys(this.store, keys).catch(() => this.database.enqueue(keys));
  }
}
