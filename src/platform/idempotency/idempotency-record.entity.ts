/**
 * The response that a user's request with an Idempotency-Key got. It commits with the writes of the
 * request (idempotency.service.ts).
 */
import { Check, Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { timestampOfInsert } from '../database/columns.js';

@Entity('idempotency_keys')
@Check('idempotency_keys_key_length', 'length(key) BETWEEN 1 AND 255')
@Check('idempotency_keys_status_success', 'status BETWEEN 200 AND 299')
export class IdempotencyRecord {
  @PrimaryColumn('uuid', { name: 'user_id', primaryKeyConstraintName: 'idempotency_keys_pkey' })
  userId: string;

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

  @Index('idempotency_keys_expiring')
  @Column(timestampOfInsert('created_at'))
  createdAt: Date;
}
