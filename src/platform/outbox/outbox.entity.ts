/** The table `outbox`: domain events that wait for the broker, and those that it has confirmed. */
import { Column, Entity, Index, PrimaryColumn, Unique } from 'typeorm';
import { safeInteger, timestamp, timestampOfInsert } from '../database/columns.js';

@Entity('outbox')
@Unique('outbox_id_key', ['id'])
@Index('outbox_waiting', { synchronize: false })
@Index('outbox_lane', { synchronize: false })
@Index('outbox_held', { synchronize: false })
@Index('outbox_retry', { synchronize: false })
@Index('outbox_published', { synchronize: false })
@Index('outbox_of_user', { synchronize: false })
export class OutboxEvent {
  /**
   * Order of the events of one subject. Between subjects it has no meaning: PostgreSQL assigns it
   * at the insert, not at the commit.
   */
  @PrimaryColumn('bigint', {
    primaryKeyConstraintName: 'outbox_pkey',
    generatedIdentity: 'ALWAYS',
    generated: 'identity',
    insert: false,
    transformer: safeInteger,
  } as never)
  position: number;

  /** The same in every delivery of the event. */
  @Column('uuid')
  id: string;

  /** The routing key, e.g. `order.placed`. */
  @Column('text')
  type: string;

  /** The aggregate, e.g. `orders/<id>`. The events of one subject are published in order. */
  @Column('text')
  subject: string;

  @Column('jsonb')
  data: Record<string, unknown>;

  /** W3C Trace Context of the request that caused the event. */
  @Column('text', { name: 'trace_parent', nullable: true })
  traceParent: string | null;

  @Column(timestampOfInsert('occurred_at'))
  occurredAt: Date;

  /** When the broker confirmed it, or an operator gave it up. */
  @Column(timestamp('published_at', { nullable: true }))
  publishedAt: Date | null;

  /** Confirms and rejections by the broker. */
  @Column('integer', { default: 0 })
  attempts: number;

  @Column('text', { name: 'last_error', nullable: true })
  lastError: string | null;

  /** The broker rejected the event, or an earlier event of its subject. */
  @Column('boolean', { name: 'held', default: false })
  isBlocked: boolean;

  /**
   * For the first event of a blocked subject: when the relay tries it again; infinity: when an
   * operator asks for it. Null for the events that queue behind it.
   */
  @Column(timestamp('retry_at', { nullable: true }))
  retryAt: Date | null;
}
