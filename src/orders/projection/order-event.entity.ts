/**
 * One event of an order. An order's events have the versions 1, 2, 3 and so on. The table is
 * append-only: the database rejects every update and delete.
 */
import { Check, Column, Entity, PrimaryColumn } from 'typeorm';
import { safeInteger, timestamp } from '../../platform/database/columns.js';

@Entity('order_events')
@Check('order_events_version_range', `version >= 1`)
@Check('order_events_type_form', `type ~ '^order[.][a-z]+(-[a-z]+)*$'`)
@Check('order_events_schema_range', `schema >= 1`)
@Check('order_events_data_form', `jsonb_typeof(data) = 'object'`)
export class OrderEvent {
  @PrimaryColumn('uuid', { name: 'order_id', primaryKeyConstraintName: 'order_events_pkey' })
  orderId: string;

  /** The order's version after this event. */
  @PrimaryColumn('bigint', {
    transformer: safeInteger,
    primaryKeyConstraintName: 'order_events_pkey',
  })
  version: number;

  /** Also the routing key of its message, e.g. `order.placed`. */
  @Column('text')
  type: string;

  /** The form of {@link data}: see EVENT_SCHEMA in order-events.ts. */
  @Column('smallint')
  schema: number;

  @Column('jsonb')
  data: Record<string, unknown>;

  @Column('uuid', { name: 'actor_id' })
  actorId: string;

  @Column(timestamp('occurred_at'))
  occurredAt: Date;
}
