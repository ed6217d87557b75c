/**
 * Where the readers of a queue begin. Published rows stay in an index until VACUUM removes them,
 * and VACUUM must wait for the oldest open snapshot. So a reader that began at the first entry
 * would read everything that was published meanwhile. A floor is a position in memory at or below
 * which no event waits, and none can appear. See docs/adr/0022-event-queues.md.
 */

/**
 * The newest position, and the transactions that may still commit a lower one: whoever inserts into
 * `outbox` holds this lock from before the position is assigned until after the commit is visible.
 * The snapshot is older than the reading of the locks, so no transaction is missing.
 */
export const NEWEST_POSITION = `
  SELECT coalesce((SELECT max(position) FROM outbox), 0)::float8 AS position,
         ARRAY(SELECT virtualtransaction FROM pg_locks
                WHERE relation = 'outbox'::regclass AND mode = 'RowExclusiveLock'
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              ) AS writers,
         extract(epoch FROM pg_postmaster_start_time())::float8 AS "serverStartedAt"`;

/** A row of {@link NEWEST_POSITION}. */
export interface NewestPosition {
  readonly position: number;
  /** Virtual transaction ids. */
  readonly writers: readonly string[];
  readonly serverStartedAt: number;
}

/**
 * Positions that one statement reads, waiting or not: `min`, doubled up to `max` while nothing is
 * found. So the first read of a process takes several short statements instead of a long one.
 */
const WINDOW_POSITIONS = { min: 65_536, max: 1_048_576 } as const;

/** After this time each floor begins at 0 again, for rows that somebody changed by hand. */
const RESET_INTERVAL_MS = 300_000;

/** A part of a queue that is read by itself: a partition, or a consumer. */
type Part = number | string;

/** The answer for one part of the queue. */
export interface FirstWaiting<P extends Part> {
  readonly part: P;
  /** Of the first event that waits; null when none does. */
  readonly position: number | null;
}

/**
 * Reads the first waiting event of each part above `floors` and up to `windowPositions` higher.
 * @returns one row for each part
 */
export type ReadFirst<P extends Part, R extends FirstWaiting<P>> = (
  parts: readonly P[],
  floors: readonly number[],
  windowPositions: number,
) => Promise<R[]>;

export class QueueFloors<P extends Part> {
  private readonly floors = new Map<P, number>();
  private newestPosition = 0;
  private closedPosition = 0;
  private candidate: Pick<NewestPosition, 'position' | 'writers'> | undefined;
  private serverStartedAt: number | undefined;
  private resetAt: number;

  /** @param now milliseconds, like performance.now */
  constructor(private readonly now: () => number = () => performance.now()) {
    this.resetAt = now() + RESET_INTERVAL_MS;
  }

  /**
   * For statements that begin after this call. A server that was started or promoted meanwhile may
   * have lost the newest positions, and assigns them again.
   */
  observe({ position, writers, serverStartedAt }: NewestPosition): void {
    const isOtherServer = serverStartedAt !== this.serverStartedAt;
    if (isOtherServer || this.now() >= this.resetAt) this.reset();
    this.serverStartedAt = serverStartedAt;
    this.newestPosition = position;
    this.candidate ??= { position, writers };
    const isOpen = this.candidate.writers.some((writer) => writers.includes(writer));
    if (isOpen) return;
    this.closedPosition = this.candidate.position;
    this.candidate = { position, writers };
    if (writers.length === 0) this.closedPosition = position;
  }

  /** The first waiting event of each part. Raises the floors up to them. */
  async findFirst<R extends FirstWaiting<P>>(
    parts: readonly P[],
    read: ReadFirst<P, R>,
  ): Promise<R[]> {
    const found: R[] = [];
    let remaining = parts.map((part) => ({ part, from: this.of(part) }));
    let windowPositions: number = WINDOW_POSITIONS.min;
    while (remaining.length > 0) {
      const rows = await read(
        remaining.map(({ part }) => part),
        remaining.map(({ from }) => from),
        windowPositions,
      );
      const further: typeof remaining = [];
      for (const { part, from } of remaining) {
        const row = rows.find((answer) => answer.part === part) as R;
        const to = from + windowPositions;
        this.raise(part, row.position === null ? to : row.position - 1);
        if (row.position === null && to < this.newestPosition) further.push({ part, from: to });
        else found.push(row);
      }
      remaining = further;
      windowPositions = Math.min(windowPositions * 2, WINDOW_POSITIONS.max);
    }
    return found;
  }

  /** No event of the part waits at or below this position. */
  of(part: P): number {
    return this.floors.get(part) ?? 0;
  }

  /**
   * Records that a statement which began after {@link observe} found nothing that waits at or below
   * `position`. A lower position that may still be committed keeps the floor lower.
   */
  raise(part: P, position: number): void {
    const floor = Math.min(position, this.closedPosition);
    if (floor > this.of(part)) this.floors.set(part, floor);
  }

  reset(): void {
    this.floors.clear();
    this.newestPosition = 0;
    this.closedPosition = 0;
    this.candidate = undefined;
    this.resetAt = this.now() + RESET_INTERVAL_MS;
  }
}
