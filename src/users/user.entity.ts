/**
 * A user of the API. Deleting a user empties the row, because orders keep the id of their owner
 * (docs/adr/0002-deleted-users.md).
 */
import { Check, Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { Cached } from '../platform/cache/cached.decorator.js';
import { safeInteger, timestamp, timestampOfInsert } from '../platform/database/columns.js';
import type { Role } from '../platform/access/actor.js';

@Entity('users')
@Check('users_username_form', `username ~ '^[a-z0-9_.-]{3,32}$'`)
@Check('users_email_form', `length(email) BETWEEN 3 AND 254 AND email LIKE '%_@_%'`)
@Check(
  'users_roles_known',
  `roles <@ '{user,support,admin}' AND cardinality(roles) BETWEEN 1 AND 3`,
)
@Check(
  'users_deleted_is_empty',
  `(deleted_at IS NULL) = (username IS NOT NULL) AND (username IS NULL) = (email IS NULL)`,
)
@Index('users_email_key', { synchronize: false })
@Index('users_newest', { synchronize: false })
@Cached({
  name: 'user',
  schema: 1,
  ttl: 3600,
  aliases: { username: { property: 'username' }, email: { property: 'email', fold: 'lower' } },
})
export class User {
  @PrimaryColumn('uuid', { primaryKeyConstraintName: 'users_pkey' })
  id: string;

  @Index('users_username_key', { unique: true })
  @Column('text', { nullable: true })
  username: string | null;

  @Column('text', { nullable: true })
  email: string | null;

  @Column('text', { array: true, default: () => `'{user}'` })
  roles: Role[];

  @Column('bigint', { default: 1, transformer: safeInteger })
  version: number;

  @Column(timestampOfInsert('created_at'))
  createdAt: Date;

  @Column(timestampOfInsert('updated_at'))
  updatedAt: Date;

  @Column(timestamp('deleted_at', { nullable: true }))
  deletedAt: Date | null;
}
