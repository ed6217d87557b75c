/**
 * A session, which one bearer token belongs to. The row holds the token's SHA-256 only. Ending a
 * session deletes its row.
 */
import { Check, Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { Cached } from '../../platform/cache/cached.decorator.js';
import { safeInteger, timestamp, timestampOfInsert } from '../../platform/database/columns.js';

@Entity('sessions')
@Check('sessions_token_hash_form', `token_hash ~ '^[0-9a-f]{64}$'`)
@Index('sessions_of_user', { synchronize: false })
@Cached({
  name: 'session',
  schema: 1,
  ttl: 3600,
  aliases: { tokenHash: { property: 'tokenHash', immutable: true } },
})
export class Session {
  @PrimaryColumn('uuid', { primaryKeyConstraintName: 'sessions_pkey' })
  id: string;

  @Column('uuid', { name: 'user_id' })
  userId: string;

  @Index('sessions_token_hash_key', { unique: true })
  @Column('text', { name: 'token_hash' })
  tokenHash: string;

  @Column('text', { name: 'user_agent', nullable: true })
  userAgent: string | null;

  @Column('text', { nullable: true })
  ip: string | null;

  @Column('bigint', { default: () => `nextval('session_versions')`, transformer: safeInteger })
  version: number;

  @Column(timestampOfInsert('created_at'))
  createdAt: Date;

  /** Up to a minute behind the last use (last-uses.service.ts). */
  @Column(timestamp('last_seen_at'))
  lastSeenAt: Date;

  @Index('sessions_expiring')
  @Column(timestamp('expires_at'))
  expiresAt: Date;
}
