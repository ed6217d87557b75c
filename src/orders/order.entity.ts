/**
 * The current state of an order: the projection of its events (projection/order-event.entity.ts),
 * which commits together with them.
 */
import { Check, Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { Cached } from '../platform/cache/cached.decorator.js';
import { safeInteger, timestampOfInsert } from '../platform/database/columns.js';
import { ORDER_STATUSES, type OrderStatus } from './order-lifecycle.js';

export interface OrderItem {
  sku: string;
  name: string;
  quantity: number;
  /** In minor units of the order's currency, e.g. cents. */
  unitPrice: number;
}

/**
 * A valid item, as a strict SQL/JSON path predicate. A member that is missing or of another type
 * makes the predicate unknown, and the item invalid.
 */
const VALID_ITEM = [
  '@.sku like_regex "^.{1,64}$" flag "s"',
  '@.name like_regex "^.{1,200}$" flag "s"',
  '@.quantity.floor() == @.quantity && @.quantity >= 1 && @.quantity <= 10000',
  '@.unitPrice.floor() == @.unitPrice && @.unitPrice >= 0 && @.unitPrice <= 1000000000000',
].join(' && ');

@Entity('orders')
@Check(
  'orders_status_known',
  `status IN (${ORDER_STATUSES.map((status) => `'${status}'`).join(', ')})`,
)
@Check('orders_currency_form', `currency ~ '^[A-Z]{3}$'`)
@Check('orders_total_range', `total BETWEEN 0 AND 9007199254740991`)
@Check(
  'orders_items_count',
  `jsonb_typeof(items) = 'array' AND jsonb_array_length(items) BETWEEN 1 AND 100`,
)
@Check(
  'orders_items_form',
  `items = jsonb_path_query_array(items, 'strict $[*] ? (${VALID_ITEM})')`,
)
@Check('orders_total_sum', `total = order_total(items)`)
@Check('orders_note_length', `length(note) <= 1000`)
@Index('orders_of_user', { synchronize: false })
@Index('orders_of_user_by_status', { synchronize: false })
@Index('orders_newest', { synchronize: false })
@Index('orders_by_status', { synchronize: false })
@Cached({
  name: 'order',
  schema: 1,
  ttl: 1800,
  collections: { ofUser: { by: 'userId', newest: 'createdAt', size: 101 } },
})
export class Order {
  @PrimaryColumn('uuid', { primaryKeyConstraintName: 'orders_pkey' })
  id: string;

  @Column('uuid', { name: 'user_id' })
  userId: string;

  @Column('text')
  status: OrderStatus;

  /** An ISO 4217 code in upper case. */
  @Column('text')
  currency: string;

  @Column('jsonb')
  items: OrderItem[];

  /** In minor units of the currency; at most 2^53 - 1. */
  @Column('bigint', { transformer: safeInteger })
  total: number;

  @Column('text', { nullable: true })
  note: string | null;

  @Column('bigint', { default: 1, transformer: safeInteger })
  version: number;

  @Column(timestampOfInsert('created_at'))
  createdAt: Date;

  @Column(timestampOfInsert('updated_at'))
  updatedAt: Date;
}
