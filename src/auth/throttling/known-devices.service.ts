/**
 * Which devices a user has logged in from. The contract has no cookies, so a device is what a request shows without being
 * asked: its network and its user agent, hashed. That is no proof of anything, and nothing is let in by it: it only decides which
 * count of wrong passwords a login belongs to (guesses.ts).
 */
import { createHash } from 'node:crypto';
import { Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import type { Transaction } from '../database/unit-of-work.js';
import { networkOf } from '../http/counters.js';
import { KnownDevice } from './known-device.entity.js';

/** Where a login comes from. */
export interface Origin {
  readonly ip: string;
  readonly userAgent: string | null;
}

/** Devices that one user has; the one used longest ago gives way. Each has a count of its own, so there may not be many. */
export const DEVICES_OF_A_USER = 20;
const FORGOTTEN = { afterDays: 180, everyMs: 600_000, rows: 1_000 } as const;

export const deviceOf = ({ ip, userAgent }: Origin): string =>
  createHash('sha256')
    .update(JSON.stringify([networkOf(ip), userAgent]))
    .digest('hex');

@Injectable()
export class KnownDevices implements OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger('Devices');
  private timer: NodeJS.Timeout | undefined;

  constructor(@InjectRepository(KnownDevice) private readonly table: Repository<KnownDevice>) {}

  onModuleInit(): void {
    this.timer = setInterval(
      () =>
        void this.purge().catch((error: unknown) => this.logger.warn(`purge: ${String(error)}`)),
      FORGOTTEN.everyMs,
    ).unref();
  }

  onApplicationShutdown(): void {
    clearInterval(this.timer);
  }

  knows(userId: string, deviceHash: string): Promise<boolean> {
    return this.table.existsBy({ userId, deviceHash });
  }

  /** In a transaction that has locked the account. */
  async remember({ manager }: Transaction, userId: string, deviceHash: string): Promise<void> {
    const fresh = await manager.query<unknown[]>(
      `INSERT INTO known_devices AS known (user_id, device_hash) VALUES ($1, $2)
         ON CONFLICT (user_id, device_hash) DO UPDATE SET last_used_at = excluded.last_used_at
         WHERE known.last_used_at < excluded.last_used_at - interval '1 day' RETURNING 1`,
      [userId, deviceHash],
    );
    if (fresh.length === 0) return;
    await manager.query(
      `DELETE FROM known_devices WHERE user_id = $1 AND device_hash IN (
         SELECT device_hash FROM known_devices WHERE user_id = $1 ORDER BY last_used_at DESC, device_hash OFFSET $2)`,
      [userId, DEVICES_OF_A_USER],
    );
  }

  async forgetAll({ manager }: Transaction, userId: string): Promise<void> {
    await manager.delete(KnownDevice, { userId });
  }

  /** Removes a bounded number of devices that nobody has logged in from for half a year. */
  async purge(): Promise<void> {
    await this.table.query(
      `DELETE FROM known_devices WHERE ctid = ANY (ARRAY(
         SELECT ctid FROM known_devices WHERE last_used_at < now() - make_interval(days => $1)
          ORDER BY last_used_at LIMIT $2 FOR UPDATE SKIP LOCKED))`,
      [FORGOTTEN.afterDays, FORGOTTEN.rows],
    );
  }
}
