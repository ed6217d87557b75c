/**
 * The writer's half of the protocol: which keys a change touches, and the three moments of a write: fence before COMMIT,
 * publish after it and before the answer, unfence after a rollback. A COMMIT without an answer goes to unanswered-commits.ts.
 * UnitOfWork is its only caller.
 *
 * Invariant: between the first byte of COMMIT and the end of publish, no key of the transaction can be filled by a reader.
 */
import { Inject, Injectable, Logger, type OnApplicationShutdown, type Type } from '@nestjs/common';
import {
  CACHE_STORE,
  type CachePublication,
  type CacheStore,
  CacheUnavailableError,
  dropKeys,
  newToken,
} from './cache.store.js';
import { DatabaseInvalidations } from './database-invalidations.js';
import type { CachedEntity } from './cached-repository.js';
import type { CachedRow } from './cached.decorator.js';
import { jitter, NOTHING_TTL_MS } from './source.js';
import { UnansweredCommits } from './unanswered-commits.js';

/** What a write does when it cannot fence its keys (CACHE_DEGRADED_WRITES). */
export type DegradedWrites = 'allow' | 'reject';
export const DEGRADED_WRITES = Symbol('DegradedWrites');

/**
 * Milliseconds a fence stands when its writer never comes back. Longer than any transaction lives: UnitOfWork gives up
 * before, and PostgreSQL ends statements and idle transactions before (database/data-source.ts).
 */
export const FENCE_MS = 15_000;

/** A write was refused before COMMIT because its cache keys could not be fenced and CACHE_DEGRADED_WRITES is `reject`. */
export class WriteRejectedError extends Error {
  override readonly name = 'WriteRejectedError';
}

/** The cached entities of this process, by class; CacheModule.forFeature adds them. */
@Injectable()
export class CachedEntities {
  private readonly byClass = new Map<Type<CachedRow>, CachedEntity<CachedRow>>();

  add<E extends CachedRow>(cached: CachedEntity<E>): void {
    this.byClass.set(cached.entity, cached as unknown as CachedEntity<CachedRow>);
  }

  /** @throws Error when no module declared the entity with CacheModule.forFeature */
  of<E extends CachedRow>(entity: Type<E>): CachedEntity<E> {
    const cached = this.byClass.get(entity);
    if (!cached) throw new Error(`${entity.name} is not in any CacheModule.forFeature`);
    return cached as unknown as CachedEntity<E>;
  }
}

/** What one row became in this transaction. */
interface Change {
  readonly cached: CachedEntity<CachedRow>;
  readonly version: number;
  readonly after: CachedRow | null;
}

/** The cache's side of one transaction. Every method may be called on any transaction, also one that touches nothing. */
export class Invalidation {
  private readonly token = newToken();
  private readonly fences: Promise<void>[] = [];
  private readonly fencedKeys = new Set<string>();
  private readonly changes = new Map<string, Change>();
  private readonly dropped = new Set<string>();
  private failure: unknown;
  /** Whether the answer waits for readers on every node where the keys could not be fenced. */
  awaited = false;

  constructor(
    private readonly store: CacheStore,
    private readonly entities: CachedEntities,
    private readonly degradedWrites: DegradedWrites,
    private readonly database: DatabaseInvalidations,
    private readonly unanswered: UnansweredCommits,
    private readonly logger: Logger,
  ) {}

  /** Begins to fence what a change from `before` to `after` touches. It runs beside the SQL; {@link settled} awaits it. */
  fence<E extends CachedRow>(entity: Type<E>, before: E | null, after: E | null): void {
    const cached = this.entities.of(entity);
    const id = (before ?? after)?.id;
    if (id === undefined) return;
    const keys = [cached.rowKey(id), ...cached.relatedKeys(before, after)].filter(
      (key) => !this.fencedKeys.has(key),
    );
    if (keys.length === 0) return;
    for (const key of keys) this.fencedKeys.add(key);
    this.fences.push(
      this.store
        .fence(keys, this.token, FENCE_MS)
        .catch((error: unknown) => void (this.failure ??= error)),
    );
  }

  /** Notes what the SQL did: the row before, and the row after or null with the version that its deletion took. */
  wrote<E extends CachedRow>(
    entity: Type<E>,
    before: E | null,
    after: E | null,
    version: number,
  ): void {
    const cached = this.entities.of(entity);
    const id = (before ?? after)?.id as string;
    this.fence(entity, before, after);
    this.changes.set(cached.rowKey(id), {
      cached: cached as unknown as CachedEntity<CachedRow>,
      version,
      after,
    });
    for (const key of cached.relatedKeys(before, after)) this.dropped.add(key);
  }

  /** The keys that this transaction touches. */
  get keys(): string[] {
    return [...this.fencedKeys];
  }

  /**
   * Resolves when every fence was tried: true when all stand, false when the transaction must leave its keys to the database.
   * @throws WriteRejectedError when one does not stand and degraded writes are rejected
   */
  async settled(): Promise<boolean> {
    await Promise.all(this.fences);
    if (this.failure === undefined) return true;
    if (!(this.failure instanceof CacheUnavailableError)) throw this.failure;
    if (this.degradedWrites === 'reject')
      throw new WriteRejectedError('the cache cannot be fenced', { cause: this.failure });
    return false;
  }

  /**
   * After COMMIT and before the answer. Never throws, since the write stands: keys that cannot be published are left to the
   * database's path, and where that fails too they stay fenced until the deadline.
   */
  async publish(): Promise<void> {
    if (this.fencedKeys.size === 0) return;
    const publications: CachePublication[] = [...this.dropped].map((key) => ({
      key,
      absent: true,
    }));
    for (const [key, { cached, version, after }] of this.changes) {
      const ttlMs = jitter(after ? cached.ttlMs : Math.min(cached.ttlMs, NOTHING_TTL_MS));
      publications.push({ key, version, payload: after ? cached.seal(after, ttlMs) : null, ttlMs });
    }
    const untouched = this.keys.filter((key) => !this.changes.has(key) && !this.dropped.has(key));
    try {
      await Promise.all([
        publications.length > 0 ? this.store.publish(this.token, publications) : undefined,
        untouched.length > 0 ? this.store.unfence(untouched, this.token) : undefined,
      ]);
    } catch (error) {
      // Without fences the transaction itself has left the keys there, at its COMMIT.
      if (this.failure !== undefined) {
        if (this.awaited)
          await this.database
            .untilApplied(this.keys)
            .catch((cause: unknown) => this.logger.warn(String(cause)));
        return;
      }
      this.logger.warn(
        `publish failed, ${this.fencedKeys.size} keys go the database's way: ${String(error)}`,
      );
      await this.database.leave(this.keys).catch((cause: unknown) => {
        this.logger.error(
          `and that failed too, they stay fenced for up to ${FENCE_MS} ms: ${String(cause)}`,
        );
      });
    }
  }

  /** After a COMMIT without an answer, sent to this PostgreSQL process: the keys stay fenced until its outcome is known. */
  leaveUnanswered(backend: number): void {
    // Without fences the transaction itself has left the keys to the database, at its COMMIT, if that comes.
    if (this.fencedKeys.size > 0 && this.failure === undefined)
      this.unanswered.watch(backend, this.token, this.keys);
  }

  /** After a rollback. Never throws: a fence that cannot be released ends at its deadline. */
  async release(): Promise<void> {
    await Promise.all(this.fences);
    if (this.fencedKeys.size === 0) return;
    await this.store.unfence(this.keys, this.token).catch((error: unknown) => {
      this.logger.warn(
        `unfence failed, ${this.fencedKeys.size} keys stay fenced for up to ${FENCE_MS} ms: ${String(error)}`,
      );
    });
  }
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
  ) {
    this.unanswered = new UnansweredCommits(store, database, FENCE_MS, this.logger);
  }

  onApplicationShutdown(): void {
    this.unanswered.stop();
  }

  begin(): Invalidation {
    const { store, entities, degradedWrites, database, unanswered, logger } = this;
    return new Invalidation(store, entities, degradedWrites, database, unanswered, logger);
  }

  /**
   * Makes sure that no reader finds anything older under these keys, now or on any node that comes back: for whoever is about
   * to acknowledge a write that another process made and may not have published.
   * @throws a driver error when neither the cache nor the database takes it
   */
  async drop(keys: readonly string[]): Promise<void> {
    await dropKeys(this.store, keys).catch(() => this.database.leave(keys));
  }
}
