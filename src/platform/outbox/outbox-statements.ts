/**
 * The SQL of the relay and of `holdfast outbox skip`. Invariant: a statement reads a bounded number
 * of rows by index, however many events wait, are blocked, or were published. The plans are tested
 * in test/platform/database/background-queries.spec.ts.
 */

import { boundedPage } from '../database/bounded-page.js';

/** The same number as in the indexes: migrations/1763683200007-outbox-lanes.ts. */
export const PARTITIONS = 16;

/**
 * The most that one batch of a partition takes: `events` that are not blocked, and `subjects` whose
 * retry is due. Of each of these subjects, it takes the first `blocked` events. Either list ends
 * with the event, or the subject, whose data reaches `bytes`.
 */
export const MAX_BATCH = { events: 200, subjects: 20, blocked: 10, bytes: 1_048_576 } as const;

/** Bytes of an event's data as JSON. Larger data stays in PostgreSQL. */
export const MAX_DATA_BYTES = 65_536;

/**
 * For each partition of $1: its first event that is not blocked, above position $2 and up to $3
 * higher, and whether a retry is due.
 */
export const FIND_BUSY = `
  SELECT part, waiting.position::float8 AS position,
         extract(epoch FROM clock_timestamp() - waiting.occurred_at)::float8 AS "ageSeconds",
         retry.is_due IS NOT NULL AS "hasRetry"
    FROM unnest($1::int[], $2::bigint[]) AS partition (part, floor)
    LEFT JOIN LATERAL (
      SELECT position, occurred_at FROM outbox
       WHERE published_at IS NULL AND NOT held AND (hashtext(subject) & ${PARTITIONS - 1}) = part
         AND position > floor AND position <= floor + $3::bigint
       ORDER BY position LIMIT 1) AS waiting ON true
    LEFT JOIN LATERAL (
      SELECT true AS is_due FROM outbox
       WHERE published_at IS NULL AND retry_at <= now()
         AND (hashtext(subject) & ${PARTITIONS - 1}) = part
       ORDER BY retry_at LIMIT 1) AS retry ON true`;

/** A row of {@link FIND_BUSY}. */
export interface PartitionState {
  /** The partition. */
  readonly part: number;
  readonly position: number | null;
  readonly ageSeconds: number | null;
  readonly hasRetry: boolean;
}

export const ALL_PARTITIONS: readonly number[] = Array.from({ length: PARTITIONS }, (_, i) => i);

/** The oldest events of partition $1 above position $2 that are not blocked. */
const OLDEST_WAITING = boundedPage({
  table: 'outbox',
  key: ['position'],
  direction: 'ASC',
  after: ['$2::bigint'],
  where: `published_at IS NULL AND NOT held AND (hashtext(subject) & ${PARTITIONS - 1}) = $1`,
  rowBytes: 'octet_length(data::text)',
  maxRows: MAX_BATCH.events,
  maxBytes: MAX_BATCH.bytes,
});

/**
 * One batch of partition $1, above position $2. One statement, so one snapshot: the relay never
 * sees an event without the blocked events before it.
 */
export const TAKE = `
  WITH RECURSIVE page AS (${OLDEST_WAITING}),
  -- is_behind: an earlier event of the subject is blocked.
  waiting AS (
    SELECT page.*, false AS is_retry,
           EXISTS (SELECT FROM outbox AS earlier
                    WHERE earlier.subject = page.subject
                      AND earlier.held AND earlier.published_at IS NULL) AS is_behind
      FROM page),
  -- The blocked subjects whose retry has been due for longest.
  due AS (
    SELECT subject, retry_at AS due_at
      FROM outbox
     WHERE published_at IS NULL AND retry_at <= now()
       AND (hashtext(subject) & ${PARTITIONS - 1}) = $1
     ORDER BY retry_at LIMIT ${MAX_BATCH.subjects}),
  -- The first blocked events of each of these subjects. earlier_bytes: of the subjects before it.
  blocked AS (
    SELECT event.*, true AS is_retry, false AS is_behind,
           sum(octet_length(event.data::text)) OVER (
             ORDER BY due_at, due.subject
             GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier_bytes
      FROM due,
           LATERAL (SELECT * FROM outbox
                     WHERE subject = due.subject AND held AND published_at IS NULL
                     ORDER BY position LIMIT ${MAX_BATCH.blocked}) AS event),
  -- Whole subjects only: the relay must know whether it has all that is blocked.
  retries AS (SELECT * FROM blocked WHERE coalesce(earlier_bytes, 0) < ${MAX_BATCH.bytes}),
  taken AS (
    SELECT position, id, type, subject, attempts, trace_parent, occurred_at, data,
           is_retry, is_behind
      FROM waiting
    UNION ALL
    SELECT position, id, type, subject, attempts, trace_parent, occurred_at, data,
           is_retry, is_behind
      FROM retries)
  SELECT position, id, type, subject, attempts,
         trace_parent AS "traceParent", occurred_at AS "occurredAt",
         octet_length(data::text) AS "dataBytes",
         CASE WHEN octet_length(data::text) <= ${MAX_DATA_BYTES} THEN data END AS data,
         is_retry AS "isRetry", is_behind AS "isBehind"
    FROM taken`;

/**
 * Writes a settlement (outbox-partitions.ts). One statement: no reader ever sees a blocked subject
 * without its first event. PostgreSQL's clock sets `retry_at`; {@link TAKE} compares it with the
 * same clock.
 */
export const SETTLE = `
  WITH
  clock AS (SELECT date_trunc('milliseconds', clock_timestamp()) AS now),
  -- $1: positions.
  published AS (
    SELECT position, now AS published_at, null::timestamptz AS retry_at,
           1 AS attempts, null AS error
      FROM clock, unnest($1::bigint[]) AS position),
  -- $2: positions. $3: seconds until the retry, or null. $4: errors.
  rejected AS (
    SELECT position, null::timestamptz AS published_at,
           coalesce(now + make_interval(secs => seconds), 'infinity') AS retry_at,
           1 AS attempts, error
      FROM clock,
           unnest($2::bigint[], $3::float8[], $4::text[]) AS rejection (position, seconds, error)),
  -- $5: positions. $6: whether to try the event in the next pass.
  blocked AS (
    SELECT position, null::timestamptz AS published_at,
           CASE WHEN is_due THEN now END AS retry_at,
           0 AS attempts, null AS error
      FROM clock, unnest($5::bigint[], $6::boolean[]) AS block (position, is_due)),
  settled AS (
    SELECT * FROM published UNION ALL SELECT * FROM rejected UNION ALL SELECT * FROM blocked)
  UPDATE outbox
     SET published_at = settled.published_at,
         held = settled.published_at IS NULL,
         retry_at = settled.retry_at,
         attempts = outbox.attempts + settled.attempts,
         last_error = coalesce(settled.error, last_error)
    FROM settled
   WHERE outbox.position = settled.position`;

/** The partition of the rejected event $1. */
export const PARTITION_OF_REJECTED = `
  SELECT (hashtext(subject) & ${PARTITIONS - 1}) AS partition
    FROM outbox WHERE id = $1 AND published_at IS NULL AND retry_at IS NOT NULL`;

/** Gives up the rejected event $1: returns one row, or none if $1 is not a rejected event. */
export const SKIP = `
  WITH
  -- It counts as published, so that it blocks its subject no longer.
  skipped AS (
    UPDATE outbox
       SET published_at = now(), held = false, retry_at = null,
           last_error = 'skipped: ' || last_error
     WHERE id = $1 AND published_at IS NULL AND retry_at IS NOT NULL
    RETURNING subject, position),
  -- The next blocked event of the subject is due at once: rounded up, it would be due later.
  next AS (
    UPDATE outbox SET retry_at = date_trunc('milliseconds', now())
     WHERE position = (
       SELECT min(later.position)
         FROM outbox AS later JOIN skipped USING (subject)
        WHERE later.held AND later.published_at IS NULL AND later.position > skipped.position))
  SELECT FROM skipped`;
