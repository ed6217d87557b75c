/**
 * Cached reads of one entity: rows by id, by alias, many at once, and the newest of a collection.
 * It only reads: writes go through UnitOfWork, which fences and publishes the same keys.
 *
 * Invariant: every result is as new as the primary database was at some moment after the call began
 * (docs/design/cache-protocol.md, G1).
 */
import { LRUCache } from 'lru-cache';
import { LEASE_MS } from './cache-timings.js';
import type { CachedEntity } from './cached-entity.js';
import type { Alias, CachedRow, Collection } from './cached.decorator.js';
import type { CacheMetrics } from './cache-metrics.js';
import type { NearEntries } from './near/near-entries.js';
import type { KeyLoader, Versioned } from './read/key-loader.js';
import type { ReadContext } from './read/read-context.js';
import type { ReadGate } from './read/read-gate.js';
import { ReadThrough, type ReadThroughContext } from './read/read-through.js';
import type { CacheStore } from './store/cache-store.js';

/** Immutable aliases that one process keeps in its memory. */
const MAX_CACHED_ALIASES = 50_000;

export class CachedRepository<E extends CachedRow> {
  private readonly rows: ReadThrough<E>;
  /** By the alias's name. Each finds the id of the row that has the alias. */
  private readonly aliases = new Map<string, ReadThrough<string>>();
  /** By the collection's name. Each finds the ids of its newest rows. */
  private readonly collections = new Map<string, ReadThrough<string[]>>();
  private readonly cachedAliases = new LRUCache<string, string>({
    // With `max`, it would allocate all of its entries at the start.
    maxSize: MAX_CACHED_ALIASES,
    sizeCalculation: () => 1,
  });

  /**
   * @param leaseMs milliseconds until a reader's lease expires
   * @param near the entity's near cache in this process
   */
  constructor(
    private readonly cached: CachedEntity<E>,
    store: CacheStore,
    metrics: CacheMetrics,
    gate: ReadGate,
    leaseMs = LEASE_MS,
    near?: NearEntries,
  ) {
    const context: ReadThroughContext = { store, metrics, gate, leaseMs, near };
    const { aliases = {}, collections = {} } = cached.options;
    this.rows = new ReadThrough(this.rowLoader(), context);
    for (const [by, alias] of Object.entries(aliases)) {
      this.aliases.set(by, new ReadThrough(this.aliasLoader(by, alias), context));
    }
    for (const [by, collection] of Object.entries(collections)) {
      this.collections.set(by, new ReadThrough(this.collectionLoader(by, collection), context));
    }
  }

  async findById(id: string, context?: ReadContext): Promise<E | null> {
    const [row] = await this.rows.read([id], context);
    return row ?? null;
  }

  /**
   * Costs one MGET, and one query for all rows that are not cached.
   * @returns a result for each id, in the same order; null for rows that do not exist
   */
  findByIds(ids: readonly string[], context?: ReadContext): Promise<(E | null)[]> {
    return this.rows.read(ids, context);
  }

  /**
   * The row that has this alias now. A cached alias is only a hint: the row that it names must
   * still have the alias, so a wrong row is impossible.
   * @param by the alias's name in `@Cached`
   */
  async findByAlias(by: string, value: string, context?: ReadContext): Promise<E | null> {
    const alias = this.cached.options.aliases?.[by];
    const readIds = this.aliases.get(by);
    if (!alias || !readIds) throw new Error(`${this.cached.options.name} has no alias ${by}`);
    const foldedValue = alias.fold === 'lower' ? value.toLowerCase() : value;
    const findRow = async (id: string): Promise<E | null> => {
      const row = await this.findById(id, context);
      return row && this.cached.aliasValue(alias, row) === foldedValue ? row : null;
    };

    const memoryKey = `${by}:${foldedValue}`;
    const rememberedId = alias.immutable ? this.cachedAliases.get(memoryKey) : undefined;
    const rememberedRow = rememberedId ? await findRow(rememberedId) : null;
    if (rememberedRow) return rememberedRow;

    const [id] = await readIds.read([foldedValue], context);
    if (!id) return null;
    const row = await findRow(id);
    if (row) {
      if (alias.immutable) this.cachedAliases.set(memoryKey, id);
      return row;
    }
    // The alias moved to another row between the two reads: the primary database decides.
    const currentIds = await this.loadAliases(alias, [foldedValue]);
    const currentId = currentIds.get(foldedValue)?.value;
    return currentId === undefined ? null : findRow(currentId);
  }

  /**
   * The newest rows of a collection, newest first.
   * @param by the collection's name in `@Cached`
   * @param limit at most the collection's `size`
   */
  async findCollection(
    by: string,
    value: string,
    limit: number,
    context?: ReadContext,
  ): Promise<E[]> {
    const ids = await this.findCollectionIds(by, value, limit, context);
    const rows = await this.findByIds(ids, context);
    return rows.filter((row): row is Awaited<E> => row !== null);
  }

  /** The ids of {@link findCollection}, for callers that read the rows a few at a time. */
  async findCollectionIds(
    by: string,
    value: string,
    limit: number,
    context?: ReadContext,
  ): Promise<string[]> {
    const collection = this.collections.get(by);
    if (!collection) throw new Error(`${this.cached.options.name} has no collection ${by}`);
    const [ids] = await collection.read([value], context);
    return (ids ?? []).slice(0, limit);
  }

  private rowLoader(): KeyLoader<E> {
    const { codec } = this.cached;
    return {
      ...this.loaderBase('id'),
      load: (ids) => this.loadRows(ids),
      encode: (row) => codec.encode(row),
      decode: (payload) => codec.decode(payload),
    };
  }

  private aliasLoader(by: string, alias: Alias): KeyLoader<string> {
    return {
      ...this.loaderBase(by),
      load: (values) => this.loadAliases(alias, values),
      encode: (id) => id,
      decode: (payload) => payload || undefined,
    };
  }

  private collectionLoader(by: string, collection: Collection): KeyLoader<string[]> {
    return {
      ...this.loaderBase(by),
      load: (values) => this.loadCollections(collection, values),
      encode: (ids) => ids.join(','),
      decode: (payload) => (payload === '' ? [] : payload.split(',')),
    };
  }

  private loaderBase(by: string) {
    const { options, ttlMs, refresh } = this.cached;
    const prefix = this.cached.keyPrefix(by);
    return { entity: options.name, schema: options.schema, prefix, ttlMs, refresh };
  }

  private async loadRows(ids: string[]): Promise<Map<string, Versioned<E>>> {
    const rows = await this.cached.repository
      .createQueryBuilder('row')
      .where('row.id = ANY(:ids)', { ids })
      .getMany();
    return new Map(rows.map((row) => [row.id, { version: row.version, value: row }]));
  }

  /** @returns ids by alias */
  private async loadAliases(
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
      rows.map((row) => {
        const value = this.cached.aliasValue(alias, row) as string;
        return [value, { version: row.version, value: row.id }];
      }),
    );
  }

  private async loadCollections(
    collection: Collection,
    values: string[],
  ): Promise<Map<string, Versioned<string[]>>> {
    const lists = await Promise.all(
      values.map(async (value) => {
        const ids = await this.loadCollection(collection, value);
        // A list has no version: it is invalidated, never published, so nothing compares this one.
        return [value, { version: 0, value: ids }] as const;
      }),
    );
    return new Map(lists);
  }

  private async loadCollection(collection: Collection, value: string): Promise<string[]> {
    const { by, newest, size } = collection;
    const place = `(row.${by}, row.${newest})`;
    const rows = await this.cached.repository
      .createQueryBuilder('row')
      .select('row.id')
      // A range of the collection's index. With `=`, PostgreSQL may walk all rows in order of time
      // and filter out those of other collections.
      .where(`${place} >= (:value, '-infinity') AND ${place} <= (:value, 'infinity')`, { value })
      .orderBy(`row.${by}`, 'DESC')
      .addOrderBy(`row.${newest}`, 'DESC')
      .addOrderBy('row.id', 'DESC')
      .limit(size)
      .getMany();
    return rows.map(({ id }) => id);
  }
}
