/**
 * Removes handled deliveries after the retention. Until then the inbox recognises an event that is
 * delivered again.
 */
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { DataSource } from 'typeorm';
import { OldestRows } from '../database/oldest-rows.js';
import { PeriodicPurge } from '../database/purge.js';

const RETENTION_HOURS = 24;
const MAX_BATCH_ROWS = 1_000;
/** More than a node can handle meanwhile, so that the table does not grow. */
const MAX_BATCHES = 1_000;
/** As often as the outbox's purge: each event there is a delivery here, for every consumer. */
const PURGE_INTERVAL_MS = 10_000;

/** One batch. SKIP LOCKED: the purges of two nodes do not wait for each other. */
export const PURGE = `
  WITH removed AS (
    DELETE FROM inbox WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM inbox
       WHERE handled_at >= $1::timestamptz
         AND handled_at < now() - make_interval(hours => ${RETENTION_HOURS})
       ORDER BY handled_at LIMIT ${MAX_BATCH_ROWS} FOR UPDATE SKIP LOCKED))
    RETURNING handled_at)
  SELECT count(*)::int AS count, max(handled_at)::text AS last FROM removed`;

@Injectable()
export class InboxPurge implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly periodic: PeriodicPurge;
  private readonly handled: OldestRows;

  constructor(dataSource: DataSource) {
    this.handled = new OldestRows(dataSource, {
      sql: PURGE,
      start: '-infinity',
      laterStart: new Date(Date.now() - RETENTION_HOURS * 3_600_000).toISOString(),
      batchRows: MAX_BATCH_ROWS,
    });
    this.periodic = new PeriodicPurge({
      what: 'handled deliveries',
      intervalMs: PURGE_INTERVAL_MS,
      maxBatches: MAX_BATCHES,
      removeBatch: () => this.removeBatch(),
      logger: new Logger('Inbox'),
    });
  }

  onApplicationBootstrap(): void {
    this.periodic.start();
  }

  onApplicationShutdown(): Promise<void> {
    return this.periodic.stop();
  }

  /** @returns whether there may be more to remove */
  removeBatch(): Promise<boolean> {
    return this.handled.removeBatch();
  }
}
