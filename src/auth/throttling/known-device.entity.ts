/** A device that a user has logged in from: a hash of its network and its user agent. */
import { Check, Column, Entity, Index, PrimaryColumn } from 'typeorm';
import { timestampOfInsert } from '../../platform/database/columns.js';

@Entity('known_devices')
@Check('known_devices_hash_form', `device_hash ~ '^[0-9a-f]{64}$'`)
export class KnownDevice {
  @PrimaryColumn('uuid', { name: 'user_id', primaryKeyConstraintName: 'known_devices_pkey' })
  userId: string;

  @PrimaryColumn('text', { name: 'device_hash', primaryKeyConstraintName: 'known_devices_pkey' })
  deviceHash: string;

  /** Updated once a day at most. */
  @Index('known_devices_oldest')
  @Column(timestampOfInsert('last_used_at'))
  lastUsedAt: Date;
}
