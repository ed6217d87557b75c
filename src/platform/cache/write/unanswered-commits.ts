/**
 * COMMITs that PostgreSQL never answered: the connection broke, or the server fell silent. Nobody
 * knows whether they took effect, or still will (docs/adr/0009-unanswered-commits.md).
 *
 * Invariant: the keys of such a write stay fenced, by a fence that is renewed, until PostgreSQL
 * shows that its transaction is over; then they are deleted.
 */
import type { Logger } from '@nestjs/common';
import { PollingLoop } from '../../timing/polling-loop.js';
import type { CacheStore } from '../store/cache-store.js';
import type { DatabaseInvalidations } from './database-invalidations.js';

/** How often PostgreSQL is asked and the fences are renewed. */
const POLL_INTERVAL_MS = 1_000;
/** Each watched COMMIT has cost a connection of the pool, so more do not occur in practice. */
const MAX_WATCHED_COMMITS = 1_000;

interface UnansweredCommit {
  /** The PostgreSQL process that was to commit. */
  readonly backendPid: number;
  readonly token: string;
  readonly keys: readonly string[];
  /**
   * The number of its transaction, once it was seen. When the process has another one, this one is
   * over.
   */
  transaction?: string | undefined;
}

export class UnansweredCommits {
  private readonly watched = new Set<UnansweredCommit>();
  /** Runs while a COMMIT is watched. */
  private loop: PollingLoop | undefined;
  private isStopped = false;

  /** @param fenceMs until a renewed fence expires; much longer than a poll takes */
  constructor(
    private readonly store: CacheStore,
    private readonly database: DatabaseInvalidations,
    private readonly fenceMs: number,
    private readonly logger: Logger,
  ) {}

  /** Takes over the fences that `token` has on `keys`. Never throws and returns at once. */
  watch(backendPid: number, token: string, keys: readonly string[]): void {
    if (this.watched.size >= MAX_WATCHED_COMMITS) {
      this.logger.error(
        `Already watching ${MAX_WATCHED_COMMITS} unanswered COMMITs: the fences of ` +
          `${keys.length} further keys are not renewed and expire after ${this.fenceMs} ms`,
      );
      return;
    }
    this.logger.warn(
      `PostgreSQL did not answer a COMMIT: ${keys.length} keys stay fenced until ` +
        'the outcome is known',
    );
    this.watched.add({ backendPid, token, keys });
    if (!this.loop && !this.isStopped) this.startLoop();
  }

  /** Does not wait for a poll under way: PostgreSQL may be silent. */
  stop(): void {
    this.isStopped = true;
    void this.loop?.stop();
  }

  private startLoop(): void {
    const loop = new PollingLoop({
      step: async () => {
        await this.poll();
        if (this.watched.size === 0) {
          this.loop = undefined;
          void loop.stop();
        }
        return POLL_INTERVAL_MS;
      },
      onError: (error) => this.logger.error(`Could not watch unanswered COMMITs: ${String(error)}`),
      retry: { minMs: POLL_INTERVAL_MS, maxMs: POLL_INTERVAL_MS },
    });
    this.loop = loop;
    loop.start();
  }

  private async poll(): Promise<void> {
    const commits = [...this.watched];
    // Before PostgreSQL is asked: its answer may take long, and no fence may expire meanwhile.
    await Promise.all(commits.map((commit) => this.renewFences(commit)));
    const openTransactions = await this.findOpenTransactions(commits);
    if (!openTransactions) return;
    for (const commit of commits) {
      const transaction = openTransactions.get(commit.backendPid);
      commit.transaction ??= transaction;
      const isOver = transaction === undefined || transaction !== commit.transaction;
      if (isOver) await this.invalidate(commit);
    }
  }

  private async renewFences({ keys, token }: UnansweredCommit): Promise<void> {
    // A fence that cannot be renewed now is renewed by the next poll.
    await this.store.fence(keys, token, this.fenceMs).catch(() => undefined);
  }

  /** @returns undefined when PostgreSQL cannot be asked */
  private async findOpenTransactions(
    commits: readonly UnansweredCommit[],
  ): Promise<Map<number, string> | undefined> {
    const backendPids = commits.map(({ backendPid }) => backendPid);
    return this.database.findOpenTransactions(backendPids).catch(() => undefined);
  }

  /** Whether or not the write took effect: every read from now on sees its outcome. */
  private async invalidate(commit: UnansweredCommit): Promise<void> {
    const { token, keys } = commit;
    try {
      await this.store.publish(
        token,
        keys.map((key) => ({ key, absent: true })),
      );
    } catch {
      const isEnqueued = await this.database.enqueue(keys).then(
        () => true,
        () => false,
      );
      // The next poll tries again.
      if (!isEnqueued) return;
    }
    this.watched.delete(commit);
  }
}
