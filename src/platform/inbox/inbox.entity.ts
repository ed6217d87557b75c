/** Events that a consumer of this service has to handle or has handled, and who the consumers are. */
import { Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { safeInteger, timestamp } from '../database/columns.js';

@Entity('event_consumers')
export class EventConsumer {
  @PrimaryColumn('text', { primaryKeyConstraintName: 'event_consumers_pkey' })
  name: string;

  /** What the types begin with that it is given, e.g. `order.`. */
  @Column('text')
  prefix: string;
}

/** One delivery: unique for a consumer and an event, and handled when its handler's transaction says so. */
@Entity('inbox')
@Index('inbox_waiting', { synchronize: false })
@Index('inbox_failed', { synchronize: false })
@Index('inbox_handled', { synchronize: false })
export class Delivery {
  @PrimaryColumn('text', { primaryKeyConstraintName: 'inbox_pkey' })
  consumer: string;

  @PrimaryColumn('uuid', { name: 'event_id', primaryKeyConstraintName: 'inbox_pkey' })
  eventId: string;

  /** That of the outbox: the order within one subject. */
  @Column('bigint', { transformer: safeInteger })
  position: number;

  @Column('text')
  type: string;

  @Column('text')
  subject: string;

  @Column('jsonb')
  data: Record<string, unknown>;

  @Column(timestamp('occurred_at'))
  occurredAt: Date;

  @Column(timestamp('handled_at', { nullable: true }))
  handledAt: Date | null;

  @Column('integer', { default: 0 })
  attempts: number;

  /** When a handler that failed gets it again; its subject waits for that. */
  @Column(timestamp('retry_at', { nullable: true }))
  retryAt: Date | null;

  @Column('text', { name: 'last_error', nullable: true })
  lastError: string | null;
}
