/** Which sessions wait for a lock behind a migration, sampled from pg_locks while it runs. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';

const SAMPLE_INTERVAL_MS = 20;

/** Waiting sessions that a migration blocks, itself or as the first of the queue. */
const BLOCKED_SESSIONS = `
  SELECT relation::regclass::text AS relation, mode,
         extract(epoch FROM clock_timestamp() - waitstart)::float8 * 1000 AS ms
    FROM pg_locks
   WHERE NOT granted AND waitstart IS NOT NULL
     AND EXISTS (SELECT FROM pg_stat_activity AS blocker
                  WHERE blocker.pid = ANY(pg_blocking_pids(pg_locks.pid))
                    AND blocker.datname = current_database()
                    AND blocker.application_name = 'holdfast-migrate')`;

export interface LockWait {
  readonly relation: string;
  readonly mode: string;
  readonly ms: number;
}

export class LockWaits {
  /** The longest wait that was seen. */
  longest: LockWait | undefined;
  private isStopping = false;
  private loop: Promise<void> | undefined;

  start(url: string): void {
    this.loop = this.sample(url);
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    await this.loop;
  }

  /** @returns the longest wait since the last call */
  take(): LockWait | undefined {
    const { longest } = this;
    this.longest = undefined;
    return longest;
  }

  private async sample(url: string): Promise<void> {
    const client = new Client({ connectionString: url, application_name: 'sampler' });
    await client.connect();
    try {
      while (!this.isStopping) {
        const { rows } = await client.query<LockWait>(BLOCKED_SESSIONS);
        for (const wait of rows) {
          if (wait.ms > (this.longest?.ms ?? 0)) this.longest = wait;
        }
        await sleep(SAMPLE_INTERVAL_MS);
      }
    } finally {
      await client.end();
    }
  }
}
