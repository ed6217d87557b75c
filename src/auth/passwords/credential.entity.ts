/**
 * A user's password hash. It has a table of its own and is never cached: it leaves PostgreSQL only
 * to be verified.
 */
import { Check, Column, Entity, PrimaryColumn } from 'typeorm';
import { timestampOfInsert } from '../../platform/database/columns.js';

@Entity('credentials')
@Check(
  'credentials_password_hash_form',
  `password_hash ~ '^[$]argon2id[$]v=[0-9]+[$]m=[0-9]+,t=[0-9]+,p=[0-9]+` +
    `[$][A-Za-z0-9+/]{11,}[$][A-Za-z0-9+/]{16,}$'`,
)
export class Credential {
  @PrimaryColumn('uuid', { name: 'user_id', primaryKeyConstraintName: 'credentials_pkey' })
  userId: string;

  /** An argon2id PHC string. */
  @Column('text', { name: 'password_hash' })
  passwordHash: string;

  @Column(timestampOfInsert('updated_at'))
  updatedAt: Date;
}
