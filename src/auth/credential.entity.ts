/** A user's password hash. Apart from the user, and never cached: it leaves PostgreSQL only to be verified. */
import { Column, Entity, PrimaryColumn } from 'typeorm';
import { timestampOfInsert } from '../database/columns.js';

@Entity('credentials')
export class Credential {
  @PrimaryColumn('uuid', { name: 'user_id', primaryKeyConstraintName: 'credentials_pkey' })
  userId: string;

  /** An argon2id PHC string. */
  @Column('text', { name: 'password_hash' })
  passwordHash: string;

  @Column(timestampOfInsert('updated_at'))
  updatedAt: Date;
}
