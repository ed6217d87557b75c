/**
 * The writer's half of the protocol: which keys a change touches, and the three moments of a write: fence before COMMIT,
 * publish after it and before the answer, unfence after a rollback. UnitOfWork is its only caller.
 *
 * Invariant: between the first byte of COMMIT and the end of publish, no key of the transaction can be filled by a reader.
 */
import { randomBytes } from 'node:crypto';
import { Inject, Injectable, Logger, type Type } from '@nestjs/common';
import { CACHE_STORE, type CachePublication, type CacheStore, CacheUnavailableError } from './cache.store.js';
import type { CachedEntity } from './cached-repository.js';
import type { CachedRow } from './cached.decorator.js';
import { jitter, NOTHING_TTL_MS } from './read-through.js';

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
  private readonly token = randomBytes(12).toString('base64url');
  private readonly fences: Promise<void>[] = [];
  private readonly fencedKeys = new Set<string>();
  private readonly changes = new Map<string, Change>();
  private readonly dropped = new Set<string>();
  private failure: unknown;

  constructor(
    private readonly store: CacheStore,
    private readonly entities: CachedEntities,
    private readonly degradedWrites: DegradedWrites,
    private readonly logger: Logger,
  ) {}

  /** Begins to fence what a change from `before` to `after` touches. It runs beside the SQL; {@link settled} awaits it. */
  fence<E extends CachedRow>(entity: Type<E>, before: E | null, after: E | null): void {
    const cached = this.entities.of(entity);
    const id = (before ?? after)?.id;
    if (id === undefined) return;
    const keys = [cached.rowKey(id), ...cached.relatedKeys(before, after)].filter((key) => !this.fencedKeys.has(key));
    if (keys.length === 0) return;
    for (const key of keys) this.fencedKeys.add(key);
    this.fences.push(
      this.store.fence(keys, this.token, FENCE_MS).catch((error: unknown) => void (this.failure ??= error)),
    );
  }

  /** Notes what the SQL did: the row before, and the row after or null with the version that its deletion took. */
  wrote<E extends CachedRow>(entity: Type<E>, before: E | null, after: E | null, version: number): void {
    const cached = this.entities.of(entity);
    const id = (before ?? after)?.id as string;
    this.fence(entity, before, after);
    this.changes.set(cached.rowKey(id), { cached: cached as unknown as CachedEntity<CachedRow>, version, after });
    for (const key of cached.relatedKeys(before, after)) this.dropped.add(key);
  }

  /**
   * Resolves when every fence stands: the transaction may COMMIT.
   * @throws WriteRejectedError when one does not and degraded writes are rejected
   */
  async settled(): Promise<void> {
    await Promise.all(this.fences);
    if (this.failure === undefined) return;
    if (!(this.failure instanceof CacheUnavailableError)) throw this.failure;
    if (this.degradedWrites === 'reject')
      throw new WriteRejectedError('the cache cannot be fenced', { cause: this.failure });
  }

  /** After COMMIT. Never throws: the write stands, and what could not be published stays fenced until its deadline. */
  async publish(): Promise<void> {
    if (this.fencedKeys.size === 0) return;
    const publications: CachePublication[] = [...this.dropped].map((key) => ({ key, absent: true }));
    for (const [key, { cached, version, after }] of this.changes) {
      publications.push({
        key,
        version,
        payload: after ? cached.codec.encode(after) : null,
        ttlMs: jitter(after ? cached.ttlMs : Math.min(cached.ttlMs, NOTHING_TTL_MS)),
      });
    }
    const untouched = [...this.fencedKeys].filter((key) => !this.changes.has(key) && !this.dropped.has(key));
    const [published, released] = await Promise.allSettled([
      publications.length > 0 ? this.store.publish(this.token, publications) : undefined,
      untouched.length > 0 ? this.store.unfence(untouched, this.token) : undefined,
    ]);
    for (const step of [published, released]) if (step.status === 'rejected') this.report('publish', step.reason);
  }

  /** After a rollback. Never throws: a fence that cannot be released ends at its deadline. */
  async release(): Promise<void> {
    await Promise.all(this.fences);
    if (this.fencedKeys.size === 0) return;
    await this.store.unfence([...this.fencedKeys], this.token).catch((error: unknown) => this.report('unfence', error));
  }

  private report(step: string, error: unknown): void {
    if (!(error instanceof CacheUnavailableError)) throw error;
    this.logger.warn(
      `${step} failed, ${this.fencedKeys.size} keys stay fenced for up to ${FENCE_MS} ms: ${error.message}`,
    );
  }
}

@Injectable()
export class InvalidationService {
  private readonly logger = new Logger(InvalidationService.name);

  constructor(
    @Inject(CACHE_STORE) private readonly store: CacheStore,
    private readonly entities: CachedEntities,
    @Inject(DEGRADED_WRITES) private readonly degradedWrites: DegradedWrites,
  ) {}

  begin(): Invalidation {
    return new Invalidation(this.store, this.entities, this.degradedWrites, this.logger);
  }
}
