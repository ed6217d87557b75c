/** The answer that a user's request with an Idempotency-Key got, committed with what the request did. */
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

  /** SHA-256 of the method, the path and the body. */
  @Column('text')
  fingerprint: string;

  @Column('smallint')
  status: number;

  @Column('jsonb')
  headers: Record<string, string>;

  /** The bytes of the answer, as they were sent. */
  @Column('text')
  body: string;

  /** The cache keys of what the request changed. A repetition may acknowledge a write whose node died before it published. */
  @Column('text', { name: 'cache_keys', array: true })
  cacheKeys: string[];

  @Index('idempotency_keys_expiring')
  @Column(timestampOfInsert('created_at'))
  createdAt: Date;
}
