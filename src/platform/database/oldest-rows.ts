/**
 * Deletes rows of a queue, oldest first. Deleted rows stay in the index until VACUUM removes them,
 * and VACUUM must wait for the oldest open snapshot: so each batch begins where the last one ended.
 */
import type { DataSource } from 'typeorm';
import { sqlStateOf } from './sql-state.js';

/** SQLSTATE query_canceled: the statement took longer than it may. */
const TOOK_TOO_LONG = '57014';

export interface OldestRowsOptions {
  /**
   * One batch, of rows at or after $1. Returns `count`, and `last`: where the next batch begins;
   * null when nothing was deleted.
   */
  readonly sql: string;
  /** The first $1 of a process. */
  readonly start: string;
  /** $1 after a first batch that took too long: it has met too many deleted rows. */
  readonly laterStart: string;
  readonly batchRows: number;
}

export class OldestRows {
  private from: string;

  constructor(
    private readonly dataSource: DataSource,
    private readonly options: OldestRowsOptions,
  ) {
    this.from = options.start;
  }

  /**
   * @returns whether there may be more to delete
   * @throws a driver error; the batch is then tried again. Behind the rows of earlier processes, if
   *   it took too long among these
   */
  async removeBatch(): Promise<boolean> {
    const { sql, start, laterStart, batchRows } = this.options;
    try {
      const [row] = await this.dataSource.query<[{ count: number; last: string | null }]>(sql, [
        this.from,
      ]);
      this.from = row.last ?? this.from;
      return row.count === batchRows;
    } catch (error) {
      const isTooLong = sqlStateOf(error) === TOOK_TOO_LONG;
      if (isTooLong && this.from === start) this.from = laterStart;
      throw error;
    }
  }
}
