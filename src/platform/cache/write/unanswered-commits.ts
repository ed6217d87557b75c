/**
 * COMMITs that PostgreSQL never answered: the connection broke, or the server fell silent. Nobody
 * knows whether they took effect, or still will (docs/adr/0009-commits-without-an-answer.md).
 *
 * Invariant: the keys of such a write stay fenced, by a fence that is renewed, until PostgreSQL
 * shows that its transaction is over; then they are deleted.
 */
import type { Logger } from '@nestjs/common';
import { PollingLoop } from '../../timing/polling-loop.js';
import type { EpochStore } from '../store/epoch-store.js';
import type { DatabaseInvalidations } from './database-invalidations.js';

/** How often PostgreSQL is asked and the fences are renewed. */
const POLL_INTERVAL_MS = 1_000;
/** Each watched COMMIT has cost a connection of the pool, so more do not occur in practice. */
const MAX_WATCHED_COMMITS = 1_000;

export interface UnansweredCommit {
  /**
   * The PostgreSQL process that was to commit; undefined when the transaction is known to be over
   * and only its keys could not be invalidated.
   */
  readonly backendPid: number | undefined;
  /** Where the keys are fenced. */
  readonly store: EpochStore;
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
    private readonly database: DatabaseInvalidations,
    private readonly fenceMs: number,
    private readonly logger: Logger,
  ) {}

  /** Takes over the fences that `token` has on `keys`. Never throws and returns at once. */
  watch(commit: Omit<UnansweredCommit, 'transaction'>): void {
    const { keys } = commit;
    if (this.watched.size >= MAX_WATCHED_COMMITS) {
      this.logger.error(
        `Already watching ${MAX_WATCHED_COMMITS} unanswered COMMITs: the fences of ` +
          `${keys.length} further keys are not renewed and expire after ${this.fenceMs} ms`,
      );
      return;
    }
    this.logger.warn(
      `The outcome of a write is not known everywhere: ${keys.length} keys stay fenced until it is`,
    );
    this.watched.add({ ...commit });
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
      const { backendPid = 0 } = commit;
      const transaction = openTransactions.get(backendPid);
      commit.transaction ??= transaction;
      const isOver = transaction === undefined || transaction !== commit.transaction;
      if (isOver) await this.invalidate(commit);
    }
  }

  private async renewFences({ store, keys, token }: UnansweredCommit): Promise<void> {
    // A fence that cannot be renewed now is renewed by the next poll.
    await store.fence(keys, token, this.fenceMs).catch(() => undefined);
  }

  /** @returns undefined when PostgreSQL cannot be asked */
  private async findOpenTransactions(
    commits: readonly UnansweredCommit[],
  ): Promise<Map<number, string> | undefined> {
    const backendPids = commits.flatMap(({ backendPid }) => backendPid ?? []);
    return this.database.findOpenTransactions(backendPids).catch(() => undefined);
  }

  /** Whether or not the write took effect: every read from now on sees its outcome. */
  private async invalidate(commit: UnansweredCommit): Promise<void> {
    const { store, token, keys } = commit;
    try {
      // Under its token: the fence must end.
      await store.publish(
        token,
        keys.map((key) => ({ key, absent: true })),
      );
      if (await this.database.isCurrent(store)) {
        this.watched.delete(commit);
        return;
      }
    } catch {
      // Not deleted, or not known to be: the nodes of the epoch delete them.
    }
    const isEnqueued = await this.database.enqueue(keys).then(
      () => true,
      () => false,
    );
    // Otherwise the next poll tries again.
    if (isEnqueued) this.watched.delete(commit);
  }
}
