/**
 * Removes published events after the retention. Until then operators can look them up. Without a
 * broker nothing is ever published: then old events are removed, because this service's consumers
 * have their own copies in the inbox.
 */
import {
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Config } from '../../config.js';
import { OldestRows } from '../database/oldest-rows.js';
import { PeriodicPurge } from '../database/purge.js';

const RETENTION_HOURS = 24;
const MAX_BATCH_ROWS = 1_000;
/** More than a node can publish meanwhile, so that the table does not grow. */
const MAX_BATCHES = 1_000;
const PURGE_INTERVAL_MS = 10_000;

/** One batch. SKIP LOCKED: the purges of two nodes do not wait for each other. */
export const PURGE = `
  WITH removed AS (
    DELETE FROM outbox WHERE position = ANY (ARRAY(
      SELECT position FROM outbox
       WHERE published_at >= $1::timestamptz
         AND published_at < now() - make_interval(hours => ${RETENTION_HOURS})
       ORDER BY published_at LIMIT ${MAX_BATCH_ROWS} FOR UPDATE SKIP LOCKED))
    RETURNING published_at)
  SELECT count(*)::int AS count, max(published_at)::text AS last FROM removed`;

/**
 * One batch of events that no relay has published. Nothing is removed while another node has a
 * broker: its published events are still here.
 */
const purgeUnpublished = (days: number): string => `
  WITH
  -- Bounded before the age is compared: the younger ones are not read.
  oldest AS (
    SELECT position, occurred_at FROM outbox
     WHERE published_at IS NULL AND NOT held AND position > $1::bigint
     ORDER BY position LIMIT ${MAX_BATCH_ROWS}),
  removed AS (
    DELETE FROM outbox WHERE position = ANY (ARRAY(
      SELECT position FROM outbox
       WHERE position IN (
               SELECT position FROM oldest
                WHERE occurred_at < now() - make_interval(days => ${days}))
         AND NOT EXISTS (SELECT FROM outbox AS published WHERE published_at IS NOT NULL)
         FOR UPDATE SKIP LOCKED))
    RETURNING position)
  SELECT count(*)::int AS count, max(position)::text AS last FROM removed`;

@Injectable()
export class OutboxPurge implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly periodic: PeriodicPurge;
  private readonly published: OldestRows;
  private readonly unpublished: OldestRows | undefined;

  constructor(dataSource: DataSource, { rabbitmqUrl, outboxRetentionDays }: Config) {
    this.published = new OldestRows(dataSource, {
      sql: PURGE,
      start: '-infinity',
      laterStart: new Date(Date.now() - RETENTION_HOURS * 3_600_000).toISOString(),
      batchRows: MAX_BATCH_ROWS,
    });
    const keepsUnpublished = rabbitmqUrl !== undefined || outboxRetentionDays === 0;
    if (!keepsUnpublished) {
      this.unpublished = new OldestRows(dataSource, {
        sql: purgeUnpublished(outboxRetentionDays),
        start: '0',
        laterStart: '0',
        batchRows: MAX_BATCH_ROWS,
      });
    }
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

  /** Removes what is due, up to a bound. */
  purge(): Promise<void> {
    return this.periodic.purge();
  }

  /** @returns whether there may be more to remove */
  async removeBatch(): Promise<boolean> {
    const hasMorePublished = await this.published.removeBatch();
    const hasMoreUnpublished = await this.unpublished?.removeBatch();
    return hasMorePublished || hasMoreUnpublished === true;
  }
}
