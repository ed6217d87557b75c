/**
 * Remembers which devices a user has logged in from. The API has no cookies, so a device is
 * recognised by its network and its user agent. It proves nothing and admits nobody: it only
 * decides which counter of failed logins an attempt belongs to (login-throttle.service.ts).
 */
import { createHash } from 'node:crypto';
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { PeriodicPurge } from '../../platform/database/purge.js';
import type { Transaction } from '../../platform/database/transaction.js';
import { networkOf } from '../../platform/http/server/client-address.js';
import { KnownDevice } from './known-device.entity.js';

/** Where a login comes from. */
export interface Origin {
  readonly ip: string;
  readonly userAgent: string | null;
}

/**
 * Each device has counters of its own, so a user may not have many. The least recently used one is
 * removed.
 */
export const MAX_DEVICES_PER_USER = 20;
const MAX_UNUSED_DAYS = 180;
const PURGE = { intervalMs: 600_000, maxRows: 1_000, maxBatches: 1 } as const;

/** SHA-256, in hexadecimal. */
export const hashDevice = ({ ip, userAgent }: Origin): string =>
  createHash('sha256')
    .update(JSON.stringify([networkOf(ip), userAgent]))
    .digest('hex');

/** Inserts the device, or moves its `last_used_at` if that is older than a day. */
const REMEMBER_DEVICE = `
  INSERT INTO known_devices AS known (user_id, device_hash) VALUES ($1, $2)
  ON CONFLICT (user_id, device_hash) DO UPDATE SET last_used_at = excluded.last_used_at
  WHERE known.last_used_at < excluded.last_used_at - interval '1 day'
  RETURNING 1`;

/** Deletes all but the user's most recently used devices. */
const DELETE_SURPLUS_DEVICES = `
  DELETE FROM known_devices WHERE user_id = $1 AND device_hash IN (
    SELECT device_hash FROM known_devices WHERE user_id = $1
    ORDER BY last_used_at DESC, device_hash OFFSET $2)`;

const DELETE_UNUSED_DEVICES = `
  DELETE FROM known_devices WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM known_devices WHERE last_used_at < now() - make_interval(days => $1)
    ORDER BY last_used_at LIMIT $2 FOR UPDATE SKIP LOCKED))`;

@Injectable()
export class KnownDevicesService implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly unusedDevices: PeriodicPurge;

  constructor(@InjectRepository(KnownDevice) private readonly table: Repository<KnownDevice>) {
    this.unusedDevices = new PeriodicPurge({
      what: 'unused devices',
      intervalMs: PURGE.intervalMs,
      maxBatches: PURGE.maxBatches,
      removeBatch: () => this.removeUnusedBatch(),
      logger: new Logger('Devices'),
    });
  }

  onApplicationBootstrap(): void {
    this.unusedDevices.start();
  }

  async onApplicationShutdown(): Promise<void> {
    await this.unusedDevices.stop();
  }

  isKnown(userId: string, deviceHash: string): Promise<boolean> {
    return this.table.existsBy({ userId, deviceHash });
  }

  /** The transaction must have locked the user's credential (auth.service.ts). */
  async remember({ manager }: Transaction, userId: string, deviceHash: string): Promise<void> {
    const written = await manager.query<unknown[]>(REMEMBER_DEVICE, [userId, deviceHash]);
    if (written.length === 0) return;
    await manager.query(DELETE_SURPLUS_DEVICES, [userId, MAX_DEVICES_PER_USER]);
  }

  async forgetAll({ manager }: Transaction, userId: string): Promise<void> {
    await manager.delete(KnownDevice, { userId });
  }

  /** Removes devices that were not used for {@link MAX_UNUSED_DAYS}. */
  async purge(): Promise<void> {
    await this.unusedDevices.purge();
  }

  private async removeUnusedBatch(): Promise<boolean> {
    const [, removed] = await this.table.query<[unknown[], number]>(DELETE_UNUSED_DEVICES, [
      MAX_UNUSED_DAYS,
      PURGE.maxRows,
    ]);
    return removed === PURGE.maxRows;
  }
}
