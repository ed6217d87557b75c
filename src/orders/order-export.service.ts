/**
 * All orders as lines of JSON. Invariant: one bounded batch is in memory, however many and large
 * the orders are. docs/design/order-history.md
 */
import { Injectable } from '@nestjs/common';
import { boundedPage } from '../platform/database/bounded-page.js';
import { type RepeatedReads, Replicas } from '../platform/database/replicas.js';
import { MAX_PAGE_BYTES } from '../platform/http/bounds/bounds.js';
import { Order } from './order.entity.js';
import { orderView } from './orders.dto.js';

/** The most that an export reads at a time. It ends with the order that reaches `bytes`. */
export const MAX_EXPORT_BATCH = { rows: 500, bytes: MAX_PAGE_BYTES } as const;

/** The orders after (:afterTime, :afterId), newest first. */
const NEXT_ORDERS = boundedPage({
  table: 'orders',
  key: ['created_at', 'id'],
  direction: 'DESC',
  after: [':afterTime::timestamptz', ':afterId::uuid'],
  where: 'true',
  rowBytes: 'octet_length(items::text) + coalesce(octet_length(note), 0)',
  maxRows: MAX_EXPORT_BATCH.rows,
  maxBytes: MAX_EXPORT_BATCH.bytes,
});

/** Where a batch begins. */
interface Position {
  readonly createdAt: Date | 'infinity';
  readonly id: string;
}

/** After every other one, when the newest come first. */
const BEFORE_ALL: Position = { createdAt: 'infinity', id: 'ffffffff-ffff-ffff-ffff-ffffffffffff' };

@Injectable()
export class OrderExportService {
  constructor(private readonly replicas: Replicas) {}

  /**
   * All orders, newest first, as lines of JSON. The next batch is read when the consumer has taken
   * the last one. It may read replicas, and is not a snapshot: it has every order that the first
   * batch's server had, each once, as it was when its batch was read.
   */
  async *export(): AsyncGenerator<string> {
    const reads = this.replicas.repeatedReads();
    let after: Position = BEFORE_ALL;
    let hasMore = true;
    while (hasMore) {
      const batch = await readExportBatch(reads, after);
      yield batch.rows.map((row) => `${JSON.stringify(orderView(row))}\n`).join('');
      after = batch.rows.at(-1) ?? after;
      ({ hasMore } = batch);
    }
  }
}

interface ExportBatch {
  readonly rows: readonly Order[];
  /** False when the list ended before a bound of the batch was reached. */
  readonly hasMore: boolean;
}

const readExportBatch = (reads: RepeatedReads, after: Position): Promise<ExportBatch> =>
  reads.read(async (manager) => {
    const { entities, raw } = await manager
      .createQueryBuilder(Order, 'row')
      .addSelect('page.page_bytes', 'page_bytes')
      .addCommonTableExpression(NEXT_ORDERS, 'page', { recursive: true })
      .innerJoin('page', 'page', 'page.id = row.id')
      .setParameters({ afterTime: after.createdAt, afterId: after.id })
      .orderBy('page.page_rows')
      .getRawAndEntities<{ page_bytes: number }>();
    const bytes = raw.at(-1)?.page_bytes ?? 0;
    const hasMore = entities.length === MAX_EXPORT_BATCH.rows || bytes >= MAX_EXPORT_BATCH.bytes;
    return { rows: entities, hasMore };
  });
