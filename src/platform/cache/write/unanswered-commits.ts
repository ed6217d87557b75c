/**
 * COMMITs whose answer never came (the connection broke, PostgreSQL fell silent): nobody knows whether they took effect, nor
 * when they will. Invariant: their keys stay fenced, by a fence that is renewed, until PostgreSQL shows that the transaction is
 * over, and are dropped then; so no entry that is older than such a write outlives it.
 */
import type { Logger } from '@nestjs/common';
import type { CacheStore } from './cache.store.js';
import type { DatabaseInvalidations } from './database-invalidations.js';

/** PostgreSQL is asked this often, and the fences are renewed with it. */
const LOOK_MS = 1_000;
/** More than these are not watched: each has cost a connection of the pool. */
const MOST = 1_000;

interface Unanswered {
  /** The PostgreSQL process that was to commit. */
  readonly backend: number;
  readonly token: string;
  readonly keys: readonly string[];
  /** Its transaction, once it was seen: another one later means that this one is over. */
  transaction?: string | undefined;
}

export class UnansweredCommits {
  private readonly watched = new Set<Unanswered>();
  private looking = false;
  private stopped = false;

  /** @param fenceMs how long a renewed fence stands; much longer than a look takes */
  constructor(
    private readonly store: CacheStore,
    private readonly database: DatabaseInvalidations,
    private readonly fenceMs: number,
    private readonly logger: Logger,
  ) {}

  /** Takes over the fences that `token` holds on `keys`. Never throws and returns at once. */
  watch(backend: number, token: string, keys: readonly string[]): void {
    if (this.watched.size >= MOST) {
      this.logger.error(
        `${MOST} commits are without an answer: ${keys.length} keys are fenced for ${this.fenceMs} ms only`,
      );
      return;
    }
    this.logger.warn(
      `no answer to a COMMIT: ${keys.length} keys stay fenced until its outcome is known`,
    );
    this.watched.add({ backend, token, keys });
    if (!this.looking) void this.run();
  }

  stop(): void {
    this.stopped = true;
  }

  private async run(): Promise<void> {
    this.looking = true;
    while (this.watched.size > 0 && !this.stopped) {
      await this.look();
      if (this.watched.size > 0)
        await new Promise((resolve) => setTimeout(resolve, LOOK_MS).unref());
    }
    this.looking = false;
  }

  private async look(): Promise<void> {
    const all = [...this.watched];
    // Before PostgreSQL is asked: it may take its time, and no fence may end meanwhile.
    await Promise.all(
      all.map((it) => this.store.fence(it.keys, it.token, this.fenceMs).catch(() => undefined)),
    );
    const open = await this.database
      .openTransactions(all.map(({ backend }) => backend))
      .catch(() => undefined);
    if (!open) return;
    for (const commit of all) {
      const transaction = open.get(commit.backend);
      commit.transaction ??= transaction;
      if (transaction === undefined || transaction !== commit.transaction) await this.end(commit);
    }
  }

  /** Committed or not: whatever is read from now on shows it. */
  private async end(commit: Unanswered): Promise<void> {
    const { token, keys } = commit;
    const dropped = keys.map((key) => ({ key, absent: true as const }));
    const told = await this.store.publish(token, dropped).then(
      () => true,
      () =>
        this.database.leave(keys).then(
          () => true,
          () => false,
        ),
    );
    if (told) this.watched.delete(commit);
  }
}
