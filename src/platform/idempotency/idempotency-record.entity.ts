/**
 * The response that a request with an Idempotency-Key got. It commits with the writes of the
 * request (idempotency.service.ts). The trigger users_erasure deletes it with its user.
 */
import { Check, Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { timestampOfInsert } from '../database/columns.js';

@Entity('idempotency_keys')
@Check('idempotency_keys_key_length', 'length(key) BETWEEN 1 AND 255')
@Check('idempotency_keys_status_success', 'status BETWEEN 200 AND 299')
@Index('idempotency_keys_subject', { synchronize: false })
export class IdempotencyRecord {
  /** A user's id, or what {@link ownerOfNetwork} returns. */
  @PrimaryColumn('uuid', { name: 'user_id', primaryKeyConstraintName: 'idempotency_keys_pkey' })
  ownerId: string;

  @PrimaryColumn('text', { primaryKeyConstraintName: 'idempotency_keys_pkey' })
  key: string;

  /** See IdempotentRequest.fingerprint. */
  @Column('text')
  fingerprint: string;

  @Column('smallint')
  status: number;

  @Column('jsonb')
  headers: Record<string, string>;

  /** The exact JSON text of the response. */
  @Column('text')
  body: string;

  /**
   * The cache keys of the request's writes. A repetition invalidates them again, because the first
   * node may have died before it published.
   */
  @Column('text', { name: 'cache_keys', array: true })
  cacheKeys: string[];

  /** The user whose data the response shows, if that is not its owner. */
  @Column('uuid', { name: 'subject_id', nullable: true })
  subjectId: string | null;

  @Index('idempotency_keys_expiring')
  @Column(timestampOfInsert('created_at'))
  createdAt: Date;
}
