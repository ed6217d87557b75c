/** Begins the cache's side of each transaction, and invalidates keys for the callers that ask. */
import { Inject, Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import { CACHE_TIMINGS, type CacheTimings, DEFAULT_CACHE_TIMINGS } from '../cache-timings.js';
import { CachedEntities } from '../cached-entity.js';
import { Membership } from '../epoch/membership.js';
import { CacheUnavailableError, deleteKeys } from '../store/cache-store.js';
import type { EpochStore } from '../store/epoch-store.js';
import { DatabaseInvalidations } from './database-invalidations.js';
import { type DegradedWrites, Invalidation } from './invalidation.js';
import { UnansweredCommits } from './unanswered-commits.js';

/** Provides the {@link DegradedWrites} of the service. */
export const DEGRADED_WRITES = Symbol('DegradedWrites');

@Injectable()
export class InvalidationService implements OnApplicationShutdown {
  private readonly logger = new Logger(InvalidationService.name);
  private readonly unanswered: UnansweredCommits;

  constructor(
    private readonly membership: Membership,
    private readonly entities: CachedEntities,
    @Inject(DEGRADED_WRITES) private readonly degradedWrites: DegradedWrites,
    private readonly database: DatabaseInvalidations,
    @Inject(CACHE_TIMINGS) private readonly timings: CacheTimings = DEFAULT_CACHE_TIMINGS,
  ) {
    this.unanswered = new UnansweredCommits(database, timings.fenceMs, this.logger);
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
    const { membership, entities, degradedWrites, database, unanswered, logger } = this;
    const store = membership.epochStore;
    return new Invalidation({
      store,
      declaration: store && membership.declarationOf(store),
      entities,
      degradedWrites,
      database,
      unanswered,
      fenceMs: this.timings.fenceMs,
      logger,
    });
  }

  /**
   * Resolves when no node answers from before under these keys. For a caller that is about to
   * acknowledge what another transaction has written: that one may have died before it published.
   * @throws a driver error when the keys can neither be deleted nor enqueued
   */
  async invalidate(keys: readonly string[]): Promise<void> {
    if (keys.length === 0) return;
    const store = this.membership.epochStore;
    if (store && (await this.deleteInEpoch(store, keys))) return;
    await this.database.enqueue(keys);
    await this.database.awaitInvalidation(keys);
  }

  /** @returns whether the keys are deleted from the cache that every node uses */
  private async deleteInEpoch(store: EpochStore, keys: readonly string[]): Promise<boolean> {
    try {
      await deleteKeys(store, keys);
    } catch (error) {
      if (error instanceof CacheUnavailableError) return false;
      throw error;
    }
    return this.database.isCurrent(store);
  }
}
