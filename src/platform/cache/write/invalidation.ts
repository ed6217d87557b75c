/**
 * The writer's half of the protocol: a write fences its keys before COMMIT, publishes them after
 * COMMIT and before it is acknowledged, and unfences them after a rollback. UnitOfWork drives it.
 *
 * Invariants: from the start of COMMIT to the end of publish, no reader can fill a key of the
 * transaction. A write that was not fenced in the epoch of its COMMIT, or not published, is
 * acknowledged only when no node answers from before it (docs/design/cache-protocol.md).
 */
import type { Logger, Type } from '@nestjs/common';
import type { CachedEntities, CachedEntity } from '../cached-entity.js';
import type { CachedRow } from '../cached.decorator.js';
import { jitter, NEGATIVE_TTL_MS } from '../read/key-loader.js';
import {
  type CachePublication,
  CacheUnavailableError,
  type CacheValue,
  newToken,
} from '../store/cache-store.js';
import type { EpochStore } from '../store/epoch-store.js';
import type { DatabaseInvalidations } from './database-invalidations.js';
import { UnconfirmedWriteError, WriteRejectedError } from './invalidation.errors.js';
import type { UnansweredCommits } from './unanswered-commits.js';

/**
 * What a write does when it cannot fence its keys (CACHE_DEGRADED_WRITES). `wait`: it commits, and
 * is acknowledged when its keys are invalidated through the database. `reject`: it is rejected
 * before COMMIT.
 */
export type DegradedWrites = 'wait' | 'reject';

/** What one row became in a transaction. */
interface Change {
  readonly cached: CachedEntity<CachedRow>;
  /** The row's new version; for a deleted row, the version that its deletion took. */
  readonly version: number;
  /** Null: the row was deleted. */
  readonly after: CachedRow | null;
}

/** What the transactions of one process share. */
export interface InvalidationContext {
  /** The cache of the epoch in which the transaction began; undefined when there is none to use. */
  readonly store: EpochStore | undefined;
  /** What the transaction declares to the trigger, if its keys are fenced. */
  readonly declaration: string | undefined;
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
  private readonly token = newToken();
  private readonly pendingFences: Promise<void>[] = [];
  private readonly fencedKeys = new Set<string>();
  private readonly observedKeys = new Set<string>();
  /** By row key. */
  private readonly changes = new Map<string, Change>();
  /** Changes of rows, each as often as a statement made it. */
  private changeCount = 0;
  /** Keys of aliases and collections that changed. */
  private readonly invalidatedKeys = new Set<string>();
  /** The first error of a fence. Then the keys do not count as fenced. */
  private fenceFailure: unknown;

  constructor(private readonly context: InvalidationContext) {}

  /** Undefined: the trigger is to enqueue every key of the transaction. */
  get declaration(): string | undefined {
    return this.context.declaration;
  }

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
    this.changeCount++;
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

  /** Whether a statement changed a cached row. */
  get hasChanges(): boolean {
    return this.changeCount > 0;
  }

  /** The transaction looks at this row, and may fail for what it finds. */
  observe<E extends CachedRow>(entity: Type<E>, id: string): void {
    this.observedKeys.add(this.context.entities.get(entity).rowKey(id));
  }

  /** The keys of all rows that this transaction looked at or was to change. */
  get touchedKeys(): string[] {
    return [...new Set([...this.observedKeys, ...this.fencedKeys])];
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
   * Makes the committed changes visible on every node. Call it after COMMIT and before the write is
   * acknowledged. What could not be fenced or published is invalidated through the database, and
   * waited for.
   * @param confirmedFences how many changes of rows PostgreSQL found fenced at COMMIT. It enqueued
   *   the others: another release has further keys, or the epoch has moved
   * @throws UnconfirmedWriteError when the write must not be acknowledged
   */
  async publish(confirmedFences: number): Promise<void> {
    const isFenced = this.fenceFailure === undefined && confirmedFences >= this.changeCount;
    let publishError: unknown;
    try {
      await this.publishToStore();
      if (isFenced) return;
    } catch (error) {
      publishError = error;
    }
    // Unfenced, the transaction itself has enqueued the keys at its COMMIT.
    if (isFenced) await this.enqueueUnpublishedKeys(publishError);
    await this.context.database.awaitInvalidation(this.keys);
  }

  /**
   * After a COMMIT that PostgreSQL did not answer: the keys stay fenced until its outcome is known.
   * @param backendPid the PostgreSQL process that was to commit
   */
  watchUnansweredCommit(backendPid: number): void {
    // Unfenced, the transaction itself enqueues the keys at its COMMIT, if that takes effect.
    const { store, unanswered } = this.context;
    const isFenced = this.fencedKeys.size > 0 && this.fenceFailure === undefined;
    if (store && isFenced) {
      unanswered.watch({ backendPid, store, token: this.token, keys: this.keys });
    }
  }

  /**
   * After a rollback. Never throws: a key that cannot be unfenced stays fenced until the deadline.
   */
  async release(): Promise<void> {
    await Promise.all(this.pendingFences);
    const { store, logger, fenceMs } = this.context;
    if (this.fencedKeys.size === 0 || !store) return;
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
      if (!store) throw new CacheUnavailableError('This node uses no cache now');
      await store.fence(keys, this.token, fenceMs);
    } catch (error) {
      this.fenceFailure ??= error;
    }
  }

  private async publishToStore(): Promise<void> {
    const { store } = this.context;
    if (!store) throw new CacheUnavailableError('This node uses no cache now');
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
    const { database, logger } = this.context;
    const { keys } = this;
    logger.warn(
      `Could not publish ${keys.length} keys after a COMMIT; enqueuing them in ` +
        `cache_invalidations: ${String(publishError)}`,
    );
    try {
      await database.enqueue(keys);
    } catch (error) {
      this.keepFences();
      throw new UnconfirmedWriteError(
        `Could neither publish nor enqueue ${keys.length} keys of a committed write; their ` +
          `fences are renewed until one of both succeeds: ${String(error)}`,
        { cause: error },
      );
    }
  }

  /** The fences may be gone, too: the write is not acknowledged. */
  private keepFences(): void {
    const { store, unanswered } = this.context;
    if (store) {
      unanswered.watch({ backendPid: undefined, store, token: this.token, keys: this.keys });
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
