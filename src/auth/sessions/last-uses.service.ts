/**
 * Write-behind of `lastSeenAt`, the one thing that may be lost: uses of sessions are noted in this process and written in batches,
 * through the fenced cache like any write. Invariant: what is noted is bounded, and stays noted until it is written or its
 * session is gone. A crash loses what holdfast_sessions_unflushed_oldest_seconds shows: as a rule up to FLUSH.everyMs, more only
 * while PostgreSQL does not take it.
 */
import { Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { Gauge, Registry } from 'prom-client';
import { Config } from '../config.js';
import { UnitOfWork } from '../database/unit-of-work.js';
import { Session } from './session.entity.js';

/** A session's `lastSeenAt` moves at most this often, and a tenth of the idle time at most. */
const SEEN_EVERY_MS = 60_000;
const FLUSH = { everyMs: 5_000, rows: 200, buffered: 20_000 } as const;

interface Use {
  readonly at: Date;
  /** When the first use since the last flush was noted: older ones come first in the map. */
  readonly since: number;
}

@Injectable()
export class LastUses implements OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger('Sessions');
  private readonly everyMs: number;
  private readonly noted = new Map<string, Use>();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly unitOfWork: UnitOfWork,
    config: Config,
    registry: Registry,
  ) {
    this.everyMs = Math.min(SEEN_EVERY_MS, config.sessionIdleSeconds * 100);
    const gauge = (name: string, help: string, value: () => number): void => {
      const it: Gauge = new Gauge({
        name,
        help,
        registers: [registry],
        collect: () => it.set(value()),
      });
    };
    gauge(
      'holdfast_sessions_unflushed',
      'Sessions whose last use is not written yet',
      () => this.noted.size,
    );
    gauge(
      'holdfast_sessions_unflushed_oldest_seconds',
      'Age of the oldest use that is not written yet: what a crash would lose; 0 when none waits',
      () => this.oldestSeconds(),
    );
  }

  onModuleInit(): void {
    const flush = (): void =>
      void this.flush().catch((error: unknown) =>
        this.logger.warn(`last uses wait: ${String(error)}`),
      );
    this.timer = setInterval(flush, Math.min(FLUSH.everyMs, this.everyMs)).unref();
  }

  async onApplicationShutdown(): Promise<void> {
    clearInterval(this.timer);
    await this.flush().catch((error: unknown) =>
      this.logger.warn(`last uses were not written: ${String(error)}`),
    );
  }

  /** The last use of a session that is not in the database yet. */
  of(id: string): Date | undefined {
    return this.noted.get(id)?.at;
  }

  note({ id, lastSeenAt }: Session): void {
    const now = Date.now();
    if (now - lastSeenAt.getTime() < this.everyMs) return;
    const before = this.noted.get(id);
    // Full: the newcomers wait for the next flush; their sessions only look older than they are.
    if (before || this.noted.size < FLUSH.buffered)
      this.noted.set(id, { at: new Date(now), since: before?.since ?? now });
  }

  /**
   * Writes the noted uses. What could not be written, since its row is locked or the database does not answer, stays noted for the
   * next time; what is gone is forgotten.
   */
  async flush(): Promise<void> {
    const noted = [...this.noted];
    for (let from = 0; from < noted.length; from += FLUSH.rows) {
      const batch = new Map(noted.slice(from, from + FLUSH.rows));
      for (const [id, use] of await this.write(batch)) {
        const now = this.noted.get(id);
        this.noted.delete(id);
        // Used again meanwhile.
        if (now && now !== use) this.noted.set(id, { at: now.at, since: now.at.getTime() });
      }
    }
  }

  /** @returns those that need not be noted any more */
  private write(batch: ReadonlyMap<string, Use>): Promise<[string, Use][]> {
    return this.unitOfWork.run(async (transaction) => {
      const all = transaction.manager
        .createQueryBuilder(Session, 'row')
        .where('row.id = ANY(:ids)', { ids: [...batch.keys()] });
      const rows = await all
        .clone()
        .setLock('for_no_key_update')
        .setOnLocked('skip_locked')
        .orderBy('row.id')
        .getMany();
      for (const row of rows) {
        const { at: lastSeenAt } = batch.get(row.id) as Use;
        if (lastSeenAt > row.lastSeenAt) await transaction.update(row, { lastSeenAt });
      }
      const written = new Set(rows.map(({ id }) => id));
      if (written.size === batch.size) return [...batch];
      const locked = new Set((await all.select('row.id').getMany()).map(({ id }) => id));
      return [...batch].filter(([id]) => written.has(id) || !locked.has(id));
    });
  }

  private oldestSeconds(): number {
    const [oldest] = this.noted.values();
    return oldest ? Math.max(0, Date.now() - oldest.since) / 1000 : 0;
  }
}
