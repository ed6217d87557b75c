/**
 * A TypeORM repository, decorated by the cache: rows by id, by alias, many at once, and the newest rows of a collection.
 * It only reads; writes go through UnitOfWork, which fences and publishes the keys that {@link CachedEntity} names. Every
 * answer is as new as the primary database was at some moment after the call began (docs/cache-protocol.md, G1).
 */
import type { Type } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import type { Repository } from 'typeorm';
import type { CacheStore } from './cache.store.js';
import { seal } from './envelope.js';
import type { CacheMetrics } from './cache.metrics.js';
import {
  type Alias,
  type CachedOptions,
  type CachedRow,
  type Collection,
  cachedOptionsOf,
} from './cached.decorator.js';
import type { ReadGate } from './read-gate.js';
import type { Reading } from './reading.js';
import { ReadThrough } from './read-through.js';
import { RowCodec } from './row-codec.js';
import { REFRESH, type RefreshPolicy, type Versioned } from './source.js';

/** How many pointers of immutable aliases one process remembers. */
const REMEMBERED_POINTERS = 50_000;

/** The keys of an entity's rows, for readers and writers alike. */
export class CachedEntity<E extends CachedRow> {
  readonly options: CachedOptions;
  readonly codec: RowCodec<E>;
  readonly ttlMs: number;

  constructor(
    readonly entity: Type<E>,
    readonly repository: Repository<E>,
    ttlSeconds?: number,
    readonly refresh: RefreshPolicy = REFRESH,
  ) {
    this.options = cachedOptionsOf(entity);
    this.codec = new RowCodec<E>(repository.metadata);
    this.ttlMs = (ttlSeconds ?? this.options.ttl) * 1000;
  }

  prefix(by: string): string {
    return `${this.options.name}:${by}:`;
  }

  rowKey(id: string): string {
    return this.prefix('id') + id;
  }

  /** A row as it is published under its id, to live for `ttlMs`. */
  seal(row: E, ttlMs: number): string {
    return seal(this.options.schema, row.id, this.codec.encode(row), ttlMs);
  }

  /** The text under which a row is found by this alias; null when it has none. */
  aliasValue(alias: Alias, row: E): string | null {
    const value = row[alias.property as keyof E] as string | null | undefined;
    if (value === null || value === undefined) return null;
    return alias.fold === 'lower' ? value.toLowerCase() : value;
  }

  /**
   * The pointers and collections that a change of one row touches: what it had and has no longer, and what it has now and
   * had not. A change that moves neither touches none.
   */
  relatedKeys(before: E | null, after: E | null): string[] {
    const keysOf = (row: E | null): string[] => {
      if (!row) return [];
      const aliases = Object.entries(this.options.aliases ?? {}).map(
        ([by, alias]) => [by, this.aliasValue(alias, row)] as const,
      );
      const collections = Object.entries(this.options.collections ?? {}).map(
        ([by, { by: property }]) => [by, String(row[property as keyof E])] as const,
      );
      return [...aliases, ...collections].flatMap(([by, value]) =>
        value === null ? [] : [this.prefix(by) + value],
      );
    };
    const [had, has] = [new Set(keysOf(before)), new Set(keysOf(after))];
    return [...had].filter((key) => !has.has(key)).concat([...has].filter((key) => !had.has(key)));
  }
}

export class CachedRepository<E extends CachedRow> {
  private readonly rows: ReadThrough<E>;
  private readonly pointers = new Map<string, ReadThrough<string>>();
  private readonly collections = new Map<string, ReadThrough<string[]>>();
  private readonly remembered = new LRUCache<string, string>({ max: REMEMBERED_POINTERS });

  constructor(
    private readonly cached: CachedEntity<E>,
    store: CacheStore,
    metrics: CacheMetrics,
    gate: ReadGate,
  ) {
    const { options, codec, ttlMs, refresh } = cached;
    const kind = { entity: options.name, schema: options.schema, ttlMs, refresh };
    this.rows = new ReadThrough<E>(
      store,
      {
        ...kind,
        prefix: cached.prefix('id'),
        load: (ids) => this.loadRows(ids),
        encode: (row) => codec.encode(row),
        decode: (payload) => codec.decode(payload),
      },
      metrics,
      gate,
    );
    for (const [by, alias] of Object.entries(options.aliases ?? {})) {
      const source = {
        ...kind,
        prefix: cached.prefix(by),
        load: (values: string[]) => this.loadPointers(alias, values),
      };
      this.pointers.set(
        by,
        new ReadThrough(
          store,
          { ...source, encode: (id) => id, decode: (id) => id || undefined },
          metrics,
          gate,
        ),
      );
    }
    for (const [by, collection] of Object.entries(options.collections ?? {})) {
      const source = {
        ...kind,
        prefix: cached.prefix(by),
        load: (values: string[]) => this.loadCollections(collection, values),
      };
      const encode = (ids: string[]): string => ids.join(',');
      const decode = (ids: string): string[] => (ids === '' ? [] : ids.split(','));
      this.collections.set(
        by,
        new ReadThrough(store, { ...source, encode, decode }, metrics, gate),
      );
    }
  }

  async findById(id: string, reading?: Reading): Promise<E | null> {
    const [row] = await this.rows.read([id], reading);
    return row ?? null;
  }

  /** One MGET, and one query for all that is not cached. In the order asked, null for what does not exist. */
  findByIds(ids: readonly string[], reading?: Reading): Promise<(E | null)[]> {
    return this.rows.read(ids, reading);
  }

  /**
   * The row that has this alias now. The pointer is only a hint: the row is loaded by id and must still have the alias, so
   * that a wrong row is impossible.
   */
  async findByAlias(by: string, value: string, reading?: Reading): Promise<E | null> {
    const alias = this.cached.options.aliases?.[by];
    const pointers = this.pointers.get(by);
    if (!alias || !pointers) throw new Error(`${this.cached.options.name} has no alias ${by}`);
    const wanted = alias.fold === 'lower' ? value.toLowerCase() : value;
    const rowOf = async (id: string | undefined | null): Promise<E | null> => {
      const row = id ? await this.findById(id, reading) : null;
      return row && this.cached.aliasValue(alias, row) === wanted ? row : null;
    };

    const memory = `${by}:${wanted}`;
    const known = alias.immutable ? await rowOf(this.remembered.get(memory)) : null;
    if (known) return known;
    const [id] = await pointers.read([wanted], reading);
    if (!id) return null;
    const row = await rowOf(id);
    if (row) {
      if (alias.immutable) this.remembered.set(memory, id);
      return row;
    }
    // The alias moved between the two reads: the primary decides.
    const moved = (await this.loadPointers(alias, [wanted])).get(wanted);
    return moved ? rowOf(moved.value) : null;
  }

  /** The newest rows of a collection, at most the collection's `size`, newest first. */
  async findCollection(by: string, value: string, limit: number, reading?: Reading): Promise<E[]> {
    const collection = this.collections.get(by);
    if (!collection) throw new Error(`${this.cached.options.name} has no collection ${by}`);
    const [ids] = await collection.read([value], reading);
    const rows = await this.findByIds((ids ?? []).slice(0, limit), reading);
    return rows.filter((row): row is Awaited<E> => row !== null);
  }

  private async loadRows(ids: string[]): Promise<Map<string, Versioned<E>>> {
    const rows = await this.cached.repository
      .createQueryBuilder('row')
      .where('row.id = ANY(:ids)', { ids })
      .getMany();
    return new Map(rows.map((row) => [row.id, { version: row.version, value: row }]));
  }

  private async loadPointers(
    alias: Alias,
    values: string[],
  ): Promise<Map<string, Versioned<string>>> {
    const column =
      alias.fold === 'lower' ? `lower(row.${alias.property})` : `row.${alias.property}`;
    const rows = await this.cached.repository
      .createQueryBuilder('row')
      .where(`${column} = ANY(:values)`, { values })
      .getMany();
    return new Map(
      rows.map((row) => [
        this.cached.aliasValue(alias, row) as string,
        { version: row.version, value: row.id },
      ]),
    );
  }

  private async loadCollections(
    collection: Collection,
    values: string[],
  ): Promise<Map<string, Versioned<string[]>>> {
    const place = `(row.${collection.by}, row.${collection.newest})`;
    const lists = await Promise.all(
      values.map(async (value) => {
        const rows = await this.cached.repository
          .createQueryBuilder('row')
          .select('row.id')
          // As a range of the collection's index: `=` would let PostgreSQL walk all rows by time and leave out the others'.
          .where(`${place} >= (:value, '-infinity') AND ${place} <= (:value, 'infinity')`, {
            value,
          })
          .orderBy(`row.${collection.by}`, 'DESC')
          .addOrderBy(`row.${collection.newest}`, 'DESC')
          .addOrderBy('row.id', 'DESC')
          .limit(collection.size)
          .getMany();
        // A list is no single row and is never published over, only dropped: its version says nothing.
        return [value, { version: 0, value: rows.map(({ id }) => id) }] as const;
      }),
    );
    return new Map(lists);
  }
}
