/**
 * The one way to delete rows that are no longer needed: periodically and in batches. Invariant:
 * each batch has a bounded size and its own transaction, and a purge has a bounded number of
 * batches. So a purge does not block writers for long and leaves connections to the requests.
 */
import type { Logger } from '@nestjs/common';
import { PollingLoop } from '../timing/polling-loop.js';

export interface PurgeOptions {
  /** What is removed, for the log, e.g. `expired sessions`. */
  readonly what: string;
  /** Milliseconds between two purges. */
  readonly intervalMs: number;
  /** Batches that one purge runs at most; the rest waits for the next purge. */
  readonly maxBatches: number;
  /**
   * Removes one batch.
   * @returns whether there may be more
   */
  readonly removeBatch: () => Promise<boolean>;
  readonly logger: Pick<Logger, 'warn'>;
}

export class PeriodicPurge {
  private readonly loop: PollingLoop;
  private isFirstStep = true;

  constructor(private readonly options: PurgeOptions) {
    const { intervalMs, what, logger } = options;
    this.loop = new PollingLoop({
      step: async () => {
        // Not at the start of the process: that time belongs to the first requests.
        if (!this.isFirstStep) await this.purge();
        this.isFirstStep = false;
        return intervalMs;
      },
      onError: (error) => logger.warn(`Could not purge ${what}: ${String(error)}`),
      retry: { minMs: intervalMs, maxMs: intervalMs },
    });
  }

  start(): void {
    this.loop.start();
  }

  stop(): Promise<void> {
    return this.loop.stop();
  }

  /** Removes batches until nothing is left or the bound is reached. */
  async purge(): Promise<void> {
    const { maxBatches, removeBatch } = this.options;
    for (let batch = 0; batch < maxBatches && !this.loop.stopping; batch++) {
      const mayHaveMore = await removeBatch();
      if (!mayHaveMore) return;
    }
  }
}
