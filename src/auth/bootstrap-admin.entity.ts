/**
 * The users that ADMIN_USERNAME created, by the configured name. The id counts: the user may have
 * another name since. The trigger users_erasure deletes the row with its user.
 */
import { Column, Entity, PrimaryColumn, Unique } from 'typeorm';

@Entity('bootstrap_admins')
@Unique('bootstrap_admins_user_id_key', ['userId'])
export class BootstrapAdmin {
  /** The value of ADMIN_USERNAME. */
  @PrimaryColumn('text', { primaryKeyConstraintName: 'bootstrap_admins_pkey' })
  username: string;

  @Column('uuid', { name: 'user_id' })
  userId: string;
}
