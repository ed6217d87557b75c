/**
 * The cache keys of an entity's rows, derived from its `@Cached` decorator for readers and writers
 * alike, and the registry of the entities that this process caches.
 */
import { Injectable, type Type } from '@nestjs/common';
import type { Repository } from 'typeorm';
import {
  type Alias,
  type CachedOptions,
  type CachedRow,
  cachedOptionsOf,
} from './cached.decorator.js';
import { sealEnvelope } from './envelope.js';
import { REFRESH_POLICY, type RefreshPolicy } from './read/key-loader.js';
import { RowCodec } from './row-codec.js';

/** A table with cached rows. */
export interface CachedTable {
  readonly table: string;
  /** The entity's name, then each alias and collection: `<name>,<column>[,lower]`. */
  readonly keys: readonly string[];
}

export class CachedEntity<E extends CachedRow> {
  readonly options: CachedOptions;
  readonly codec: RowCodec<E>;
  readonly ttlMs: number;

  /** @param ttlSeconds instead of the entity's own `ttl` */
  constructor(
    readonly entity: Type<E>,
    readonly repository: Repository<E>,
    ttlSeconds?: number,
    readonly refresh: RefreshPolicy = REFRESH_POLICY,
  ) {
    this.options = cachedOptionsOf(entity);
    this.codec = new RowCodec<E>(repository.metadata);
    this.ttlMs = (ttlSeconds ?? this.options.ttl) * 1000;
  }

  /** @param by `id`, or the name of an alias or a collection */
  keyPrefix(by: string): string {
    return `${this.options.name}:${by}:`;
  }

  rowKey(id: string): string {
    return this.keyPrefix('id') + id;
  }

  /**
   * The table, and what each change of a row invalidates, in the form of the arguments of the
   * trigger note_cache_invalidation.
   */
  describeKeys(): CachedTable {
    const { name, aliases = {}, collections = {} } = this.options;
    const { metadata } = this.repository;
    const columnOf = (property: string): string =>
      metadata.findColumnWithPropertyName(property)?.databaseName ?? property;
    return {
      table: metadata.tableName,
      keys: [
        name,
        ...Object.entries(aliases).map(([by, { property, fold }]) =>
          [by, columnOf(property), ...(fold ? [fold] : [])].join(','),
        ),
        ...Object.entries(collections).map(([by, collection]) =>
          [by, columnOf(collection.by)].join(','),
        ),
      ],
    };
  }

  /** The text that the cache holds under the row's id. */
  seal(row: E, ttlMs: number): string {
    return sealEnvelope(this.options.schema, row.id, this.codec.encode(row), ttlMs);
  }

  /** The row's value of this alias, folded as the alias requires; null when the row has none. */
  aliasValue(alias: Alias, row: E): string | null {
    const value = row[alias.property as keyof E] as string | null | undefined;
    if (value === null || value === undefined) return null;
    return alias.fold === 'lower' ? value.toLowerCase() : value;
  }

  /**
   * The keys of aliases and collections that a change of one row affects: those that the row loses
   * and those that it gains. A key that the row keeps is not among them.
   */
  relatedKeys(before: E | null, after: E | null): string[] {
    const keysBefore = new Set(before ? this.aliasAndCollectionKeys(before) : []);
    const keysAfter = new Set(after ? this.aliasAndCollectionKeys(after) : []);
    const lostKeys = [...keysBefore].filter((key) => !keysAfter.has(key));
    const gainedKeys = [...keysAfter].filter((key) => !keysBefore.has(key));
    return [...lostKeys, ...gainedKeys];
  }

  private aliasAndCollectionKeys(row: E): string[] {
    const keys: string[] = [];
    for (const [by, alias] of Object.entries(this.options.aliases ?? {})) {
      const value = this.aliasValue(alias, row);
      if (value !== null) keys.push(this.keyPrefix(by) + value);
    }
    for (const [by, collection] of Object.entries(this.options.collections ?? {})) {
      keys.push(this.keyPrefix(by) + String(row[collection.by as keyof E]));
    }
    return keys;
  }
}

/** The cached entities of this process, by class. CacheModule.forFeature adds them. */
@Injectable()
export class CachedEntities {
  private readonly byClass = new Map<Type<CachedRow>, CachedEntity<CachedRow>>();

  add<E extends CachedRow>(cached: CachedEntity<E>): void {
    this.byClass.set(cached.entity, cached as unknown as CachedEntity<CachedRow>);
  }

  tables(): CachedTable[] {
    return [...this.byClass.values()].map((cached) => cached.describeKeys());
  }

  /** @throws Error when no module names the entity in CacheModule.forFeature */
  get<E extends CachedRow>(entity: Type<E>): CachedEntity<E> {
    const cached = this.byClass.get(entity);
    if (!cached) throw new Error(`${entity.name} is not in any CacheModule.forFeature`);
    return cached as unknown as CachedEntity<E>;
  }
}
