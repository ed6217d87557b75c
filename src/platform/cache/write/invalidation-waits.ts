/**
 * Writes that could not be fenced or published, and wait before they are acknowledged until no node
 * answers from before them. All writes of this process share one poll of PostgreSQL.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import { withDeadline } from '../../timing/deadline.js';
import { IS_OLDER_RELEASE_PRESENT, SERVER } from '../epoch/epoch-table.js';

/** Where nodes listen, the keys are gone after a few milliseconds. */
const POLL_INTERVAL_MS = { min: 4, max: 20 } as const;

/**
 * Which of the keys ($1) a node may still answer from before. Without a registered node, none; a
 * server on which the epoch did not begin may have lost registrations. An older release deletes
 * rows without applying them to the epoch's cache: while one is present, a registered node counts
 * for all keys.
 */
const FIND_WAITING_KEYS = `
  WITH state AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM cache_readers) AS has_readers,
           ${IS_OLDER_RELEASE_PRESENT} AS has_older,
           server IS NOT NULL AND server <> ${SERVER} AS is_new_server
      FROM cache_epoch)
  SELECT unnest($1::text[]) AS key FROM state
   WHERE is_new_server OR (has_readers AND has_older)
  UNION
  SELECT key FROM cache_invalidations, unnest(keys) AS key
   WHERE keys && $1 AND key = ANY($1) AND (SELECT has_readers OR has_older FROM state)`;

interface Waiter {
  readonly keys: readonly string[];
  /** By performance.now(). */
  readonly deadline: number;
  readonly resolve: () => void;
}

export class InvalidationWaits {
  private readonly waiters = new Set<Waiter>();
  private isPolling = false;

  /** @param timeoutMs after which every gate has closed that could answer from before */
  constructor(
    private readonly dataSource: DataSource,
    private readonly timeoutMs: number,
  ) {}

  /**
   * Resolves when no node answers from what the cache had under these keys when this was called:
   * the keys are invalidated, or no node reads the cache, or every gate that was open has closed by
   * itself. Call it when the keys are committed in `cache_invalidations`. Never rejects.
   */
  wait(keys: readonly string[]): Promise<void> {
    if (keys.length === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.waiters.add({ keys, deadline: performance.now() + this.timeoutMs, resolve });
      if (!this.isPolling) void this.poll();
    });
  }

  private async poll(): Promise<void> {
    this.isPolling = true;
    for (let polls = 0; this.waiters.size > 0; polls++) {
      // Those that come while PostgreSQL is asked are asked for next time.
      const asked = [...this.waiters];
      const firstDeadline = Math.min(...asked.map(({ deadline }) => deadline));
      const waitingKeys = await this.findWaitingKeys(asked, firstDeadline - performance.now());
      const now = performance.now();
      for (const waiter of asked) {
        const isInvalidated = waitingKeys && !waiter.keys.some((key) => waitingKeys.has(key));
        if (!isInvalidated && now < waiter.deadline) continue;
        this.waiters.delete(waiter);
        waiter.resolve();
      }
      const pauseMs = Math.min(
        POLL_INTERVAL_MS.min * 2 ** Math.min(polls, 10),
        POLL_INTERVAL_MS.max,
      );
      if (this.waiters.size > 0) await sleep(pauseMs);
    }
    this.isPolling = false;
  }

  /** @returns undefined when PostgreSQL cannot be asked or does not answer in time */
  private async findWaitingKeys(
    waiters: readonly Waiter[],
    timeoutMs: number,
  ): Promise<ReadonlySet<string> | undefined> {
    const keys = [...new Set(waiters.flatMap((waiter) => waiter.keys))];
    try {
      const answer = this.dataSource.query<{ key: string }[]>(FIND_WAITING_KEYS, [keys]);
      const rows = await withDeadline(Math.max(0, timeoutMs), 'Finding waiting keys', answer);
      return new Set(rows.map(({ key }) => key));
    } catch {
      return undefined;
    }
  }
}
