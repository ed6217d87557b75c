/**
 * `@Cached(...)` says on the entity how its rows are cached: under which name, for how long, by which other keys they are
 * found (aliases) and which lists of ids they belong to (collections). It is data only; cached-repository.ts reads it for
 * reading, invalidation.service.ts for writing, so that both always speak of the same keys.
 */
import 'reflect-metadata';
import { Inject, type Type } from '@nestjs/common';

/** A row that can be cached: its id never changes and its version is moved by the database at every write. */
export interface CachedRow {
  id: string;
  version: number;
}

/** Another way to one row. The cache keeps a pointer (alias → id), never a copy of the row. */
export interface Alias {
  /** The property that holds the alias; null there means that the row has none. */
  readonly property: string;
  /** Compared in lower case, by the SQL function `lower`, whose index must exist. */
  readonly fold?: 'lower';
  /** The alias never moves to another row (a token's hash): pointers may be remembered in the process. */
  readonly immutable?: boolean;
}

/** The newest ids of the rows that share a value, newest first. */
export interface Collection {
  /** The property that the members share. It must never change in a row. */
  readonly by: string;
  /** The property that orders them, before the id; it must never change in a row. */
  readonly newest: string;
  /** How many ids are kept. */
  readonly size: number;
}

export interface CachedOptions {
  /** In keys, metrics and configuration, e.g. `user`. */
  readonly name: string;
  /** Moved by one whenever the entity's columns change, so that two releases never read each other's payloads. */
  readonly schema: number;
  /** Seconds an entry lives unless CacheModule.forRoot gives another number for this name; spread by ±10 %. */
  readonly ttl: number;
  readonly aliases?: Readonly<Record<string, Alias>>;
  readonly collections?: Readonly<Record<string, Collection>>;
}

const METADATA = Symbol('holdfast:cached');

/** Marks a TypeORM entity as cached. */
export function Cached(options: CachedOptions): ClassDecorator {
  return (entity) => Reflect.defineMetadata(METADATA, Object.freeze(options), entity);
}

/** @throws Error when the entity is not decorated: a mistake of the program, found at the start */
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
