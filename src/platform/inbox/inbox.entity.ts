/**
 * The tables `event_consumers`, `inbox` and `inbox_dead_letters`: which events each consumer gets,
 * has handled, and cannot handle.
 */
import { Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { safeInteger, timestamp, timestampOfInsert } from '../database/columns.js';

@Entity('event_consumers')
export class EventConsumer {
  @PrimaryColumn('text', { primaryKeyConstraintName: 'event_consumers_pkey' })
  name: string;

  /** The beginning of the event types that the consumer gets, e.g. `order.`. */
  @Column('text')
  prefix: string;
}

/** One event for one consumer. A trigger on `outbox` inserts it in the event's transaction. */
@Entity('inbox')
@Index('inbox_waiting', { synchronize: false })
@Index('inbox_failed', { synchronize: false })
@Index('inbox_held', { synchronize: false })
@Index('inbox_retry', { synchronize: false })
@Index('inbox_handled', { synchronize: false })
@Index('inbox_of_user', { synchronize: false })
export class Delivery {
  @PrimaryColumn('text', { primaryKeyConstraintName: 'inbox_pkey' })
  consumer: string;

  @PrimaryColumn('uuid', { name: 'event_id', primaryKeyConstraintName: 'inbox_pkey' })
  eventId: string;

  /** Copied from the outbox: the order within one subject. */
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

  /** Set in the transaction of the consumer's handler. */
  @Column(timestamp('handled_at', { nullable: true }))
  handledAt: Date | null;

  /** Calls of the handler. Counted before each call, so that one that ends the process counts. */
  @Column('integer', { default: 0 })
  attempts: number;

  /**
   * After a failure: when the handler gets the event again. Until then its subject is blocked.
   * Infinity for a dead letter.
   */
  @Column(timestamp('retry_at', { nullable: true }))
  retryAt: Date | null;

  /** The handler failed on the event, or on an earlier event of its subject. */
  @Column('boolean', { name: 'held', default: false })
  isBlocked: boolean;

  @Column('text', { name: 'last_error', nullable: true })
  lastError: string | null;
}

/**
 * An event that its consumer failed on for the last time. Its row in `inbox` stays and blocks its
 * subject until an operator retries or skips it.
 */
@Entity('inbox_dead_letters')
export class DeadLetter {
  @PrimaryColumn('text', { primaryKeyConstraintName: 'inbox_dead_letters_pkey' })
  consumer: string;

  @PrimaryColumn('uuid', {
    name: 'event_id',
    primaryKeyConstraintName: 'inbox_dead_letters_pkey',
  })
  eventId: string;

  @Column('text')
  type: string;

  @Column('text')
  subject: string;

  @Column(timestamp('occurred_at'))
  occurredAt: Date;

  @Column('integer')
  attempts: number;

  @Column('text', { name: 'last_error' })
  lastError: string;

  @Column(timestampOfInsert('died_at'))
  diedAt: Date;
}
