/**
 * The outbox in PostgreSQL as the relay reads and settles it, by partition: a hash of the subject.
 * Invariant: a relay reads and settles a partition on the connection that holds its advisory lock.
 * So a relay that lost this connection settles nothing, and another relay can lock the partition.
 */
import { Client } from 'pg';
import { NEWEST_POSITION, type NewestPosition, QueueFloors } from '../database/queue-floors.js';
import { withDeadline } from '../timing/deadline.js';
import { CLIENT_KEEPALIVE, longLivedSession } from '../timing/keepalive.js';
import type { StoredEvent } from './cloud-event.js';
import {
  ALL_PARTITIONS,
  FIND_BUSY,
  MAX_BATCH,
  PARTITION_OF_REJECTED,
  type PartitionState,
  SETTLE,
  SKIP,
  TAKE,
} from './outbox-statements.js';
import { RelayProgress } from './relay-progress.js';

/** First key of the advisory locks, "outb" in ASCII; the second key is the partition. */
const LOCK_KEY = 0x6f757462;

const CLOSE_TIMEOUT_MS = 500;

/** All in milliseconds. */
export interface PartitionTimeouts {
  /** For connecting, for each statement, and for the wait of {@link OutboxPartitions.skip}. */
  readonly query: number;
  /** After this time without a statement, PostgreSQL ends the session and its locks. */
  readonly idleSession: number;
  /** The relay sends a statement at least so often, also while it waits for the broker. */
  readonly heartbeat: number;
}

const TIMEOUTS_MS: PartitionTimeouts = { query: 6_000, idleSession: 30_000, heartbeat: 5_000 };

/**
 * Injection token for `Partial<PartitionTimeouts>`, which replace the relay's. The service does not
 * provide it; a global module of a test may.
 */
export const PARTITION_TIMEOUTS = Symbol('PartitionTimeouts');

export interface WaitingEvent extends StoredEvent {
  /** A bigint as text. */
  readonly position: string;
  readonly attempts: number;
  /** Size of {@link data} as JSON. Above MAX_DATA_BYTES, `data` is null. */
  readonly dataBytes: number;
}

/**
 * - `free`: no event of the subject is blocked.
 * - `retrying`: the subject is blocked, and the retry of its first event is due.
 * - `blocked`: the subject is blocked, and the retry of its first event is not due yet.
 */
export type SubjectState = 'free' | 'retrying' | 'blocked';

/** The part of a batch that concerns one subject. */
export interface SubjectBatch {
  readonly state: SubjectState;
  /** To publish now, in this order. */
  readonly events: readonly WaitingEvent[];
  /** Not to publish now; later than all of `events`. */
  readonly queued: readonly WaitingEvent[];
}

/** An event that the broker rejected. It is the first of its subject and blocks it. */
export interface RejectedEvent {
  readonly position: string;
  /** Seconds until the next attempt; null: no attempt before an operator asks for one. */
  readonly retrySeconds: number | null;
  readonly error: string;
}

/** An event that waits until its subject is free. */
export interface BlockedEvent {
  readonly position: string;
  /** Whether it is the first of its subject now, and is to be tried in the next pass. */
  readonly isDue: boolean;
}

/** The outcome of a batch. An event that is in none of the lists stays as it is. */
export interface Settlement {
  /** Positions of the events that the broker confirmed. */
  readonly published: readonly string[];
  readonly rejected: readonly RejectedEvent[];
  readonly blocked: readonly BlockedEvent[];
}

interface TakenRow extends WaitingEvent {
  readonly isRetry: boolean;
  readonly isBehind: boolean;
}

export class OutboxPartitions {
  readonly progress = new RelayProgress();
  private readonly floors = new QueueFloors<number>();
  private readonly timeouts: PartitionTimeouts;
  private client: Client | undefined;
  private heartbeat: NodeJS.Timeout | undefined;
  private lastQuery: Promise<unknown> = Promise.resolve();

  /** @param url of PostgreSQL; no pooler in transaction mode: the locks belong to the session */
  constructor(
    private readonly url: string,
    timeouts: Partial<PartitionTimeouts> = {},
  ) {
    this.timeouts = { ...TIMEOUTS_MS, ...timeouts };
  }

  /** Connects; does nothing when connected. @throws a driver error */
  async open(): Promise<void> {
    if (this.client) return;
    const client = new Client({
      connectionString: this.url,
      connectionTimeoutMillis: this.timeouts.query,
      query_timeout: this.timeouts.query,
      statement_timeout: this.timeouts.query,
      ...CLIENT_KEEPALIVE,
      application_name: 'holdfast-outbox',
    });
    const forget = (): void => {
      if (this.client === client) this.client = undefined;
    };
    client.on('error', forget);
    client.on('end', forget);
    try {
      await client.connect();
      await client.query(longLivedSession(this.timeouts.idleSession));
    } catch (error) {
      void client.end().catch(() => undefined);
      throw error;
    }
    this.client = client;
    this.floors.reset();
    this.heartbeat = setInterval(() => void this.beat(), this.timeouts.heartbeat).unref();
  }

  /** Ends the connection, and with it every lock. Never throws. */
  async close(): Promise<void> {
    const { client } = this;
    clearInterval(this.heartbeat);
    this.client = undefined;
    if (!client) return;
    try {
      await withDeadline(CLOSE_TIMEOUT_MS, 'Closing the PostgreSQL connection', client.end());
    } catch {
      // pg has no call that closes a connection whose server does not answer.
      const { connection } = client as unknown as { connection: { stream: { destroy(): void } } };
      connection.stream.destroy();
    }
  }

  /** Partitions with an event that may be published now, locked by another relay or not. */
  async findBusy(): Promise<number[]> {
    const [newest] = await this.query<NewestPosition>(NEWEST_POSITION);
    if (newest) this.floors.observe(newest);
    const states = await this.floors.findFirst(ALL_PARTITIONS, (...parameters) =>
      this.query<PartitionState>(FIND_BUSY, parameters),
    );
    for (const { part, position } of states) this.progress.recordFirst(part, position);
    const busy = states.filter(({ position, hasRetry }) => position !== null || hasRetry);
    return busy.map(({ part }) => part);
  }

  /**
   * Runs `work` while this connection holds the partition's lock.
   * @returns false, without running it, while another connection holds the lock
   */
  async lock(partition: number, work: () => Promise<void>): Promise<boolean> {
    const [row] = await this.query<{ isLocked: boolean }>(
      'SELECT pg_try_advisory_lock($1, $2) AS "isLocked"',
      [LOCK_KEY, partition],
    );
    if (!row?.isLocked) return false;
    try {
      await work();
    } finally {
      await this.unlock(partition);
    }
    return true;
  }

  /** Takes one batch of a partition that is locked by {@link lock}. */
  async take(partition: number): Promise<SubjectBatch[]> {
    const rows = await this.query<TakenRow>(TAKE, [partition, this.floors.of(partition)]);
    const rowsBySubject = new Map<string, TakenRow[]>();
    for (const row of rows) {
      const rowsOfSubject = rowsBySubject.get(row.subject) ?? [];
      rowsOfSubject.push(row);
      rowsBySubject.set(row.subject, rowsOfSubject);
    }
    return [...rowsBySubject.values()].map(subjectBatchOf);
  }

  /** Records the outcome of a batch, in one statement. */
  async settle({ published, rejected, blocked }: Settlement): Promise<void> {
    if (published.length + rejected.length + blocked.length === 0) return;
    await this.query(SETTLE, [
      published,
      rejected.map(({ position }) => position),
      rejected.map(({ retrySeconds }) => retrySeconds),
      rejected.map(({ error }) => error),
      blocked.map(({ position }) => position),
      blocked.map(({ isDue }) => isDue),
    ]);
  }

  /**
   * Gives up a rejected event: it counts as published, and the next event of its subject is due.
   * Waits for a relay that has locked the partition.
   * @returns false if no rejected event has this id
   * @throws Error when a relay keeps the partition locked for 6 s
   */
  async skip(id: string): Promise<boolean> {
    const [row] = await this.query<{ partition: number }>(PARTITION_OF_REJECTED, [id]);
    if (!row) return false;
    await this.waitForLock(row.partition);
    try {
      const skipped = await this.query(SKIP, [id]);
      return skipped.length > 0;
    } finally {
      await this.unlock(row.partition);
    }
  }

  private async waitForLock(partition: number): Promise<void> {
    try {
      await this.query('SELECT pg_advisory_lock($1, $2)', [LOCK_KEY, partition]);
    } catch (cause) {
      const failure = `Could not lock partition ${partition} within ${this.timeouts.query} ms`;
      throw new Error(`${failure}: a relay works on it. Try again.`, { cause });
    }
  }

  /** Shows PostgreSQL that this client lives, and finds out whether PostgreSQL does. */
  private async beat(): Promise<void> {
    try {
      await this.query('SELECT 1');
    } catch {
      await this.close();
    }
  }

  private async unlock(partition: number): Promise<void> {
    try {
      await this.query('SELECT pg_advisory_unlock($1, $2)', [LOCK_KEY, partition]);
    } catch {
      // The lock ends with its connection.
      await this.close();
    }
  }

  /** Runs one query after the other: up to four partitions share the connection. */
  private query<R>(sql: string, values: unknown[] = []): Promise<R[]> {
    const result = this.lastQuery.then(async () => {
      if (!this.client) throw new Error('The connection to PostgreSQL is closed');
      const { rows } = await this.client.query(sql, values);
      return rows as R[];
    });
    this.lastQuery = result.catch(() => undefined);
    return result;
  }
}

/** Decides which of a subject's events may be published now. */
function subjectBatchOf(rows: readonly TakenRow[]): SubjectBatch {
  const ordered = [...rows].sort((a, b) => Number(BigInt(a.position) - BigInt(b.position)));
  const retryCount = ordered.filter(({ isRetry }) => isRetry).length;
  if (retryCount === 0) {
    const isBlocked = ordered.some(({ isBehind }) => isBehind);
    return isBlocked
      ? { state: 'blocked', events: [], queued: ordered }
      : { state: 'free', events: ordered, queued: [] };
  }
  // After a full read the subject may have further blocked events. The last event of the read stays
  // blocked, as their first: without a first event, nothing would ever retry them.
  const publishable = retryCount < MAX_BATCH.blocked ? ordered.length : retryCount - 1;
  return {
    state: 'retrying',
    events: ordered.slice(0, publishable),
    queued: ordered.slice(publishable),
  };
}
