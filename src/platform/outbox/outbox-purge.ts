/** Removes published events after the retention. Until then operators can look them up. */
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { DataSource } from 'typeorm';
import { PeriodicPurge } from '../database/purge.js';

const RETENTION_HOURS = 24;
const MAX_BATCH_ROWS = 1_000;
const MAX_BATCHES = 20;
const PURGE_INTERVAL_MS = 10_000;

/** One batch. SKIP LOCKED: the purges of two nodes do not wait for each other. */
export const PURGE = `
  DELETE FROM outbox WHERE position = ANY (ARRAY(
    SELECT position FROM outbox
     WHERE published_at < now() - make_interval(hours => ${RETENTION_HOURS})
     ORDER BY published_at LIMIT ${MAX_BATCH_ROWS} FOR UPDATE SKIP LOCKED))`;

@Injectable()
export class OutboxPurge implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly periodic: PeriodicPurge;

  constructor(private readonly dataSource: DataSource) {
    this.periodic = new PeriodicPurge({
      what: 'published events',
      intervalMs: PURGE_INTERVAL_MS,
      maxBatches: MAX_BATCHES,
      removeBatch: () => this.removeBatch(),
      logger: new Logger('Outbox'),
    });
  }

  onApplicationBootstrap(): void {
    this.periodic.start();
  }

  onApplicationShutdown(): Promise<void> {
    return this.periodic.stop();
  }

  /** @returns whether there may be more to remove */
  async removeBatch(): Promise<boolean> {
    const [, removedRows] = await this.dataSource.query<[unknown, number]>(PURGE);
    return removedRows === MAX_BATCH_ROWS;
  }
}
