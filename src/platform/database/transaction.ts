/**
 * One open transaction, as the work inside a UnitOfWork sees it. Invariant: cached rows are written
 * through `insert`, `update` and `remove` only: these fence the cache keys of a row and record what
 * to publish after COMMIT.
 */
import type { Type } from '@nestjs/common';
import type { EntityManager, ObjectLiteral } from 'typeorm';
import type { CachedRow } from '../cache/cached.decorator.js';
import type { Invalidation } from '../cache/write/invalidation.js';

export class Transaction {
  /** @param manager for rows that no cache holds, and for reads */
  constructor(
    readonly manager: EntityManager,
    private readonly invalidation: Invalidation,
  ) {}

  /** The cache keys that this transaction has fenced so far. */
  get cacheKeys(): string[] {
    return this.invalidation.keys;
  }

  /**
   * For a row that is read by another way than {@link lock}: if the work fails for what it finds,
   * the failure is answered only when no node shows an older row (UnitOfWork.run).
   */
  observe<E extends CachedRow>(entity: Type<E>, id: string): void {
    this.invalidation.observe(entity, id);
  }

  /** @returns the row with the values that the database added */
  async insert<E extends CachedRow>(
    entity: Type<E>,
    values: Partial<E> & { id: string },
  ): Promise<E> {
    this.invalidation.fence(entity, null, Object.assign(new entity(), values));
    const insert = this.manager
      .createQueryBuilder()
      .insert()
      .into(entity)
      .values(values as never);
    // updateEntity(false): `values` stay as they are. Another attempt must not insert what the
    // database added in the first.
    const { raw } = await insert.updateEntity(false).returning('*').execute();
    const after = this.hydrate(entity, (raw as ObjectLiteral[])[0] as ObjectLiteral);
    this.invalidation.recordChange(entity, null, after, after.version);
    return after;
  }

  /**
   * Changes the row if it still has the version of `before`.
   * @returns the changed row; null when another writer changed or deleted it first
   */
  async update<E extends CachedRow>(before: E, changes: Partial<E>): Promise<E | null> {
    const entity = before.constructor as Type<E>;
    this.invalidation.fence(entity, before, Object.assign(new entity(), before, changes));
    const { id, version } = before;
    const update = this.manager
      .createQueryBuilder()
      .update(entity)
      .set(changes as never)
      .where('id = :id AND version = :version', { id, version });
    const { raw } = await update.returning('*').execute();
    const [row] = raw as ObjectLiteral[];
    if (!row) return null;
    const after = this.hydrate(entity, row);
    this.invalidation.recordChange(entity, before, after, after.version);
    return after;
  }

  /**
   * Deletes the row if it still has the version of `before`. The deletion is the next version.
   * @returns false when another writer changed or deleted it first
   */
  async remove<E extends CachedRow>(before: E): Promise<boolean> {
    const entity = before.constructor as Type<E>;
    this.invalidation.fence(entity, before, null);
    const { id, version } = before;
    const { affected } = await this.manager
      .createQueryBuilder()
      .delete()
      .from(entity)
      .where('id = :id AND version = :version', { id, version })
      .execute();
    if (affected !== 1) return false;
    this.invalidation.recordChange(entity, before, null, version + 1);
    return true;
  }

  /**
   * Reads the row and locks it until the transaction ends.
   * @param mode `update` locks FOR UPDATE; `share` locks FOR SHARE, for a row that must only stay
   *   unchanged
   * @returns null when the row does not exist
   */
  async lock<E extends CachedRow>(
    entity: Type<E>,
    id: string,
    mode: 'update' | 'share' = 'update',
  ): Promise<E | null> {
    this.observe(entity, id);
    return this.manager
      .createQueryBuilder(entity, 'row')
      .where('row.id = :id', { id })
      .setLock(mode === 'update' ? 'pessimistic_write' : 'pessimistic_read')
      .getOne();
  }

  /** A row of RETURNING *, which TypeORM leaves as the driver read it, as an entity. */
  private hydrate<E extends object>(entity: Type<E>, raw: ObjectLiteral): E {
    const { connection } = this.manager;
    const metadata = connection.getMetadata(entity);
    const row = metadata.create() as E;
    for (const column of metadata.columns) {
      const value: unknown = connection.driver.prepareHydratedValue(
        raw[column.databaseName],
        column,
      );
      column.setEntityValue(row, value);
    }
    return row;
  }
}
