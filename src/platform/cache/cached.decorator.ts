/**
 * `@Cached(...)` declares how an entity's rows are cached: name, lifetime, aliases and collections.
 * It is data only. Readers (cached-repository.ts) and writers (write/invalidation.service.ts)
 * derive their keys from it, so both always use the same ones.
 */
import 'reflect-metadata';
import { Inject, type Type } from '@nestjs/common';
import type { NearOptions } from './near/near-entries.js';

/**
 * A row that can be cached. Its id never changes; the database increases its version at every
 * write.
 */
export interface CachedRow {
  id: string;
  version: number;
}

/**
 * A unique property that identifies one row, e.g. a username. The cache keeps the row's id under
 * the alias, never a copy of the row.
 */
export interface Alias {
  /** The property that holds the alias; null when the row has none. */
  readonly property: string;
  /** Compares in lower case. The column needs an index on the SQL function `lower`. */
  readonly fold?: 'lower';
  /**
   * The alias never moves to another row (a token's hash), so a process may keep cached aliases in
   * its own memory.
   */
  readonly immutable?: boolean;
}

/** The ids of the newest rows that share a value, newest first. */
export interface Collection {
  /** The property whose value the members share. It must never change in a row. */
  readonly by: string;
  /**
   * The property that orders the members; ties are ordered by id. It must never change in a row.
   */
  readonly newest: string;
  /** How many ids the cache keeps. */
  readonly size: number;
}

export interface CachedOptions {
  /** Names the entity in keys, metrics and configuration, e.g. `user`. */
  readonly name: string;
  /**
   * Increase it whenever the entity's columns change, so that two releases never read each other's
   * payloads.
   */
  readonly schema: number;
  /**
   * Seconds until an entry expires, spread by ±10 %. CacheModule.forRoot may set another number for
   * this name.
   */
  readonly ttl: number;
  /**
   * Bounds of this entity's near cache in each process, if CacheModule.forRoot names the entity
   * among those that have one. Absent: DEFAULT_NEAR_OPTIONS.
   */
  readonly near?: NearOptions;
  /** By the name that cache keys contain, e.g. `username`. */
  readonly aliases?: Readonly<Record<string, Alias>>;
  /** By the name that cache keys contain, e.g. `ofUser`. */
  readonly collections?: Readonly<Record<string, Collection>>;
}

const METADATA = Symbol('holdfast:cached');

/** Marks a TypeORM entity as cached. */
export function Cached(options: CachedOptions): ClassDecorator {
  return (entity) => Reflect.defineMetadata(METADATA, Object.freeze(options), entity);
}

/** @throws Error at startup when the entity has no `@Cached` decorator: a programming error */
export function cachedOptionsOf(entity: Type<CachedRow>): CachedOptions {
  const options = Reflect.getMetadata(METADATA, entity) as CachedOptions | undefined;
  if (!options) throw new Error(`${entity.name} is not decorated with @Cached`);
  return options;
}

/** The injection token of an entity's {@link CachedRepository}. */
export const cachedRepositoryToken = (entity: Type<CachedRow>): string =>
  `CachedRepository<${entity.name}>`;

/** Injects the repository that `CacheModule.forFeature([Entity])` provides. */
export const InjectCachedRepository = (entity: Type<CachedRow>): ParameterDecorator =>
  Inject(cachedRepositoryToken(entity));
