/** A domain event that waits for the broker, or has reached it. */
import { Column, Entity, Index, PrimaryColumn, Unique } from 'typeorm';
import { safeInteger, timestamp, timestampOfInsert } from '../database/columns.js';

@Entity('outbox')
@Unique('outbox_id_key', ['id'])
@Index('outbox_waiting', { synchronize: false })
@Index('outbox_lane', { synchronize: false })
@Index('outbox_held', { synchronize: false })
@Index('outbox_retry', { synchronize: false })
@Index('outbox_published', { synchronize: false })
export class OutboxEvent {
  /** Taken at the insert, not at the commit: it orders the events of one subject (whose row is locked), and nothing else. */
  @PrimaryColumn('bigint', {
    primaryKeyConstraintName: 'outbox_pkey',
    generatedIdentity: 'ALWAYS',
    generated: 'identity',
    insert: false,
    transformer: safeInteger,
  } as never)
  position: number;

  /** The event's id, the same for every delivery of it. */
  @Column('uuid')
  id: string;

  /** The routing key, e.g. `order.placed`. */
  @Column('text')
  type: string;

  /** The aggregate, e.g. `orders/<id>`: its events are delivered in order. */
  @Column('text')
  subject: string;

  @Column('jsonb')
  data: Record<string, unknown>;

  /** W3C Trace Context of the request that caused it. */
  @Column('text', { name: 'trace_parent', nullable: true })
  traceParent: string | null;

  @Column(timestampOfInsert('occurred_at'))
  occurredAt: Date;

  @Column(timestamp('published_at', { nullable: true }))
  publishedAt: Date | null;

  @Column('integer', { default: 0 })
  attempts: number;

  @Column('text', { name: 'last_error', nullable: true })
  lastError: string | null;

  /** Out of its lane: the broker refused it, or an earlier event of its subject. */
  @Column('boolean', { default: false })
  held: boolean;

  /** When the first of a held subject is tried again; infinity: when an operator asks. Null for those behind it. */
  @Column(timestamp('retry_at', { nullable: true }))
  retryAt: Date | null;
}
