/**
 * Writes that could not be fenced or published, and wait before they are acknowledged until no node
 * answers from before them. All writes of this process share one poll of PostgreSQL.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import { IS_OLDER_RELEASE_PRESENT, SERVER } from '../epoch/epoch-table.js';

const POLL_INTERVAL_MS = 20;

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
    while (this.waiters.size > 0) {
      // Those that come while PostgreSQL is asked are asked for next time.
      const asked = [...this.waiters];
      const waitingKeys = await Promise.race([
        this.findWaitingKeys(asked),
        this.untilFirstDeadline(asked),
      ]);
      const now = performance.now();
      for (const waiter of asked) {
        const isInvalidated = waitingKeys && !waiter.keys.some((key) => waitingKeys.has(key));
        if (!isInvalidated && now < waiter.deadline) continue;
        this.waiters.delete(waiter);
        waiter.resolve();
      }
      if (this.waiters.size > 0) await sleep(POLL_INTERVAL_MS);
    }
    this.isPolling = false;
  }

  /** @returns undefined when PostgreSQL cannot be asked */
  private async findWaitingKeys(
    waiters: readonly Waiter[],
  ): Promise<ReadonlySet<string> | undefined> {
    const keys = [...new Set(waiters.flatMap((waiter) => waiter.keys))];
    try {
      const rows = await this.dataSource.query<{ key: string }[]>(FIND_WAITING_KEYS, [keys]);
      return new Set(rows.map(({ key }) => key));
    } catch {
      return undefined;
    }
  }

  private async untilFirstDeadline(waiters: readonly Waiter[]): Promise<undefined> {
    const first = Math.min(...waiters.map(({ deadline }) => deadline));
    await sleep(Math.max(0, first - performance.now()), undefined, { ref: false });
    return undefined;
  }
}
