/**
 * The outbox as the relay sees it: lanes by a hash of the subject. A lane is read and marked under its advisory lock, which
 * belongs to the very connection that reads and marks: a relay that is cut off from PostgreSQL marks nothing, and another
 * has the lane. What a batch reads is bounded and by index, whatever waits, is held or was published.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import type { StoredEvent } from './cloud-event.js';

/** As in the indexes' expression: migrations/1763683200007-outbox-lanes.ts. */
export const LANES = 16;
const LANE = `(hashtext(subject) & ${LANES - 1})`;
/** The first key of the lanes' advisory locks, "outb"; the second is the lane. */
const LOCK = 0x6f757462;

/** At most so many of a lane at a time; of those held, so many subjects that are due, and events of each. */
export const BATCH = { events: 200, subjects: 20, held: 10 } as const;
/** Bytes of an event's data as JSON. A larger one is not even read. */
export const LARGEST = 65_536;
const SILENCE_MS = 6_000;

export interface WaitingEvent extends StoredEvent {
  readonly position: string;
  readonly attempts: number;
  /** Of {@link data} as JSON; past {@link LARGEST} the data is not here. */
  readonly bytes: number;
}

/** The events of one subject, in order, each to be sent only after the one before has been confirmed. */
export interface Group {
  readonly subject: string;
  /** Whether its first event is one that was held and is due. */
  readonly due: boolean;
  readonly events: readonly WaitingEvent[];
  /** Those that are not for now: behind a held one. */
  readonly behind: readonly WaitingEvent[];
}

/** What becomes of an event; nothing is said of one that stays as it is. */
export interface Fate {
  readonly position: string;
  readonly published?: boolean;
  /** For the first of a held subject: when it is tried again. */
  readonly retryAt?: Date | 'infinity' | null;
  readonly tried?: boolean;
  readonly error?: string;
}

interface Row extends Omit<WaitingEvent, 'bytes'> {
  readonly bytes: number;
  readonly due: boolean;
  readonly behind: boolean;
}

const COLUMNS = `position, id, type, subject, trace_parent AS "traceParent", occurred_at AS "occurredAt", attempts,
  octet_length(data::text) AS bytes, CASE WHEN octet_length(data::text) <= ${LARGEST} THEN data END AS data`;

/** Lanes in which something may be sent now: sixteen looks at two indexes. */
export const BUSY_LANES = `
  SELECT lane FROM generate_series(0, ${LANES - 1}) AS lane, LATERAL (
    (SELECT 1 FROM outbox WHERE published_at IS NULL AND NOT held AND ${LANE} = lane ORDER BY position LIMIT 1)
    UNION ALL
    (SELECT 1 FROM outbox WHERE published_at IS NULL AND retry_at <= now() AND ${LANE} = lane ORDER BY retry_at LIMIT 1)
    LIMIT 1) AS waiting`;

/** One snapshot of both kinds, so that an event is never seen without what is held before it. */
export const TAKE = `
  (SELECT ${COLUMNS}, false AS due,
          EXISTS (SELECT FROM outbox AS earlier
                   WHERE earlier.subject = outbox.subject AND earlier.held AND earlier.published_at IS NULL) AS behind
     FROM outbox WHERE published_at IS NULL AND NOT held AND ${LANE} = $1 ORDER BY position LIMIT ${BATCH.events})
  UNION ALL
  (SELECT taken.*, true, false
     FROM (SELECT subject FROM outbox WHERE published_at IS NULL AND retry_at <= now() AND ${LANE} = $1
            ORDER BY retry_at LIMIT ${BATCH.subjects}) AS due,
          LATERAL (SELECT ${COLUMNS} FROM outbox WHERE subject = due.subject AND held AND published_at IS NULL
                    ORDER BY position LIMIT ${BATCH.held}) AS taken)`;

export const SETTLE = `
  UPDATE outbox SET
      published_at = CASE WHEN fate.published THEN date_trunc('milliseconds', clock_timestamp()) END,
      held = NOT fate.published, retry_at = fate.retry_at,
      attempts = attempts + fate.tried::integer, last_error = coalesce(fate.error, last_error)
    FROM unnest($1::bigint[], $2::boolean[], $3::timestamptz[], $4::boolean[], $5::text[])
      AS fate (position, published, retry_at, tried, error)
   WHERE outbox.position = fate.position`;

export class OutboxLanes {
  private client: Client | undefined;
  private turn: Promise<unknown> = Promise.resolve();

  constructor(private readonly url: string) {}

  /** @throws a driver error */
  async open(): Promise<void> {
    if (this.client) return;
    const client = new Client({
      connectionString: this.url,
      connectionTimeoutMillis: SILENCE_MS,
      query_timeout: SILENCE_MS,
      statement_timeout: SILENCE_MS,
      keepAlive: true,
      application_name: 'holdfast-outbox',
    });
    const gone = (): void => {
      if (this.client === client) this.client = undefined;
    };
    client.on('error', gone);
    client.on('end', gone);
    try {
      await client.connect();
    } catch (error) {
      void client.end().catch(() => undefined);
      throw error;
    }
    this.client = client;
  }

  async close(): Promise<void> {
    const { client } = this;
    this.client = undefined;
    if (!client) return;
    const cut = setTimeout(() => {
      const { stream } = (client as unknown as { connection: { stream: { destroy(): void } } })
        .connection;
      stream.destroy();
    }, 500);
    await client.end().catch(() => undefined);
    clearTimeout(cut);
  }

  async busy(): Promise<number[]> {
    return (await this.query<{ lane: number }>(BUSY_LANES)).map(({ lane }) => lane);
  }

  /** Runs `work` with the lane locked; false when another has it. */
  async lock(lane: number, work: () => Promise<void>): Promise<boolean> {
    const [row] = await this.query<{ locked: boolean }>(
      'SELECT pg_try_advisory_lock($1, $2) AS locked',
      [LOCK, lane],
    );
    if (!row?.locked) return false;
    try {
      await work();
    } finally {
      // With the connection goes the lock.
      await this.query('SELECT pg_advisory_unlock($1, $2)', [LOCK, lane]).catch(() => this.close());
    }
    return true;
  }

  /** What of a locked lane may be sent now, by subject. */
  async take(lane: number): Promise<Group[]> {
    const bySubject = new Map<string, Row[]>();
    for (const row of await this.query<Row>(TAKE, [lane])) {
      const rows = bySubject.get(row.subject);
      if (rows) rows.push(row);
      else bySubject.set(row.subject, [row]);
    }
    return [...bySubject].map(([subject, rows]) => groupOf(subject, rows));
  }

  /** Marks, in one statement: nobody ever sees a held subject without its first. */
  async settle(fates: readonly Fate[]): Promise<void> {
    if (fates.length === 0) return;
    await this.query(SETTLE, [
      fates.map(({ position }) => position),
      fates.map(({ published = false }) => published),
      fates.map(({ retryAt = null }) => retryAt),
      fates.map(({ tried = false }) => tried),
      fates.map(({ error = null }) => error),
    ]);
  }

  /** Gives a refused event up: it counts as published, and the next of its subject is due. False when there is none such. */
  async skip(id: string): Promise<boolean> {
    const refused = `id = $1 AND published_at IS NULL AND retry_at IS NOT NULL`;
    for (const end = Date.now() + SILENCE_MS; Date.now() < end; await sleep(20)) {
      const [row] = await this.query<{ lane: number }>(
        `SELECT ${LANE} AS lane FROM outbox WHERE ${refused}`,
        [id],
      );
      if (!row) return false;
      let skipped = false;
      const locked = await this.lock(row.lane, async () => {
        const [gone] = await this.query(
          `WITH given_up AS (
             UPDATE outbox SET published_at = now(), held = false, retry_at = null, last_error = 'skipped: ' || last_error
              WHERE ${refused} RETURNING subject, position),
           next AS (
             UPDATE outbox SET retry_at = now() WHERE position = (
               SELECT min(behind.position) FROM outbox AS behind, given_up
                WHERE behind.subject = given_up.subject AND behind.held AND behind.published_at IS NULL
                  AND behind.position > given_up.position))
           SELECT FROM given_up`,
          [id],
        );
        skipped = gone !== undefined;
      });
      if (locked) return skipped;
    }
    throw new Error('a relay has the lane, and does not let it go');
  }

  /** One at a time: several lanes share the connection. */
  private query<R>(sql: string, values: unknown[] = []): Promise<R[]> {
    const answer = this.turn.then(async () => {
      if (!this.client) throw new Error('the connection to PostgreSQL has closed');
      return (await this.client.query(sql, values)).rows as R[];
    });
    this.turn = answer.catch(() => undefined);
    return answer;
  }
}

/** Held events come before those of the lane; if there may be more of them than were read, the last read stays to lead them. */
function groupOf(subject: string, rows: readonly Row[]): Group {
  const ordered = [...rows].sort((a, b) => Number(BigInt(a.position) - BigInt(b.position)));
  const held = ordered.filter(({ due }) => due);
  const due = held.length > 0;
  const now = held.length === BATCH.held ? held.length - 1 : ordered.length;
  const blocked = !due && ordered.some(({ behind }) => behind);
  return {
    subject,
    due,
    events: blocked ? [] : ordered.slice(0, now),
    behind: ordered.slice(blocked ? 0 : now),
  };
}
