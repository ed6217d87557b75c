/**
 * Writes `lastSeenAt` of sessions behind their requests: buffers uses in this process and writes
 * them in batches, through the fenced cache. Invariant: the buffer is bounded, and a use stays in
 * it until it is written or its session is gone. A crash loses the uses of FLUSH_INTERVAL_MS, or
 * what holdfast_sessions_unflushed_oldest_seconds shows while PostgreSQL does not answer.
 */
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  Optional,
} from '@nestjs/common';
import { Gauge, Registry } from 'prom-client';
import { Config } from '../../config.js';
import { UnitOfWork } from '../../platform/database/unit-of-work.js';
import { CLOCK, type Clock } from '../../platform/timing/clock.js';
import { PollingLoop } from '../../platform/timing/polling-loop.js';
import { Session } from './session.entity.js';

/** `lastSeenAt` lags behind by up to this time, or by a tenth of the idle time if that is less. */
const MAX_LAST_SEEN_LAG_MS = 60_000;
const FLUSH_INTERVAL_MS = 5_000;
const MAX_ROWS_PER_FLUSH_BATCH = 200;
const MAX_BUFFERED_USES = 20_000;

interface Use {
  readonly at: Date;
  /** Time of the first use since the last flush, in milliseconds. The buffer is ordered by it. */
  readonly since: number;
}

@Injectable()
export class LastUsesService implements OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Sessions');
  private readonly maxLagMs: number;
  /** By session id, in the order of `since`. */
  private readonly buffer = new Map<string, Use>();
  private readonly flushing: PollingLoop;

  constructor(
    private readonly unitOfWork: UnitOfWork,
    config: Config,
    registry: Registry,
    @Optional() @Inject(CLOCK) private readonly now: Clock = Date.now,
  ) {
    const tenthOfIdleTimeMs = config.sessionIdleSeconds * 100;
    this.maxLagMs = Math.min(MAX_LAST_SEEN_LAG_MS, tenthOfIdleTimeMs);
    const flushIntervalMs = Math.min(FLUSH_INTERVAL_MS, this.maxLagMs);
    this.flushing = new PollingLoop({
      step: async () => {
        await this.flush();
        return flushIntervalMs;
      },
      onError: (error) => {
        this.logger.warn(`Could not write last uses of sessions; will retry: ${String(error)}`);
      },
      retry: { minMs: flushIntervalMs, maxMs: flushIntervalMs },
    });
    this.registerGauges(registry);
  }

  onApplicationBootstrap(): void {
    this.flushing.start();
  }

  async onApplicationShutdown(): Promise<void> {
    await this.flushing.stop();
    await this.flush().catch((error: unknown) => {
      this.logger.warn(
        `Lost the last uses of ${this.buffer.size} sessions at shutdown: ${String(error)}`,
      );
    });
  }

  /** The last use of a session that is not in the database yet. */
  getUnwritten(sessionId: string): Date | undefined {
    return this.buffer.get(sessionId)?.at;
  }

  /** Buffers a use of the session, unless its `lastSeenAt` is recent. */
  record({ id, lastSeenAt }: Session): void {
    const now = this.now();
    if (now - lastSeenAt.getTime() < this.maxLagMs) return;
    const buffered = this.buffer.get(id);
    // With a full buffer a use is lost: its session then only seems to be idle for longer.
    if (!buffered && this.buffer.size >= MAX_BUFFERED_USES) return;
    this.buffer.set(id, { at: new Date(now), since: buffered?.since ?? now });
  }

  /**
   * Writes the buffered uses. A use stays buffered when another transaction has locked its row.
   * @throws a driver error when the database does not answer; the uses stay buffered
   */
  async flush(): Promise<void> {
    const uses = [...this.buffer];
    for (let from = 0; from < uses.length; from += MAX_ROWS_PER_FLUSH_BATCH) {
      const batch = new Map(uses.slice(from, from + MAX_ROWS_PER_FLUSH_BATCH));
      for (const sessionId of await this.write(batch)) {
        this.removeFromBuffer(sessionId, batch.get(sessionId));
      }
    }
  }

  private removeFromBuffer(sessionId: string, written: Use | undefined): void {
    const current = this.buffer.get(sessionId);
    this.buffer.delete(sessionId);
    const wasUsedMeanwhile = current !== undefined && current !== written;
    if (wasUsedMeanwhile) {
      this.buffer.set(sessionId, { at: current.at, since: current.at.getTime() });
    }
  }

  /** @returns ids of sessions that are written or gone */
  private write(batch: ReadonlyMap<string, Use>): Promise<string[]> {
    return this.unitOfWork.run(async (transaction) => {
      const sessionsOfBatch = transaction.manager
        .createQueryBuilder(Session, 'row')
        .where('row.id = ANY(:ids)', { ids: [...batch.keys()] });
      const unlocked = await sessionsOfBatch
        .clone()
        .setLock('for_no_key_update')
        .setOnLocked('skip_locked')
        .orderBy('row.id')
        .getMany();
      for (const session of unlocked) {
        const { at: lastSeenAt } = batch.get(session.id) as Use;
        if (lastSeenAt > session.lastSeenAt) await transaction.update(session, { lastSeenAt });
      }
      if (unlocked.length === batch.size) return [...batch.keys()];
      const writtenIds = new Set(unlocked.map(({ id }) => id));
      const existing = await sessionsOfBatch.select('row.id').getMany();
      const existingIds = new Set(existing.map(({ id }) => id));
      return [...batch.keys()].filter((id) => writtenIds.has(id) || !existingIds.has(id));
    });
  }

  private registerGauges(registry: Registry): void {
    const registers = [registry];
    const unflushed: Gauge = new Gauge({
      name: 'holdfast_sessions_unflushed',
      help: 'Sessions whose last use is not written yet',
      registers,
      collect: () => unflushed.set(this.buffer.size),
    });
    const oldest: Gauge = new Gauge({
      name: 'holdfast_sessions_unflushed_oldest_seconds',
      help:
        'Age of the oldest use that is not written yet and that a crash would lose; ' +
        '0 without one',
      registers,
      collect: () => oldest.set(this.oldestUseSeconds()),
    });
  }

  private oldestUseSeconds(): number {
    const [oldest] = this.buffer.values();
    return oldest ? Math.max(0, this.now() - oldest.since) / 1000 : 0;
  }
}
