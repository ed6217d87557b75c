/**
 * The SQL of a consumer. Invariants: the first event of a subject that failed has `retry_at`, and
 * the later events of that subject wait behind it. A statement reads a bounded number of rows by
 * index, however many events were handled. All parameters $1 are the consumer's name.
 */
import { MAX_ATTEMPTS, RETRY_SECONDS } from './retry-policy.js';

/** `retry_at` has milliseconds: rounded up, it would not be due yet. */
const NOW = `date_trunc('milliseconds', clock_timestamp())`;

/** Whether an event of this subject failed before the delivery. */
const IS_BEHIND = `
  EXISTS (SELECT FROM inbox AS failed
           WHERE failed.consumer = delivery.consumer AND failed.subject = delivery.subject
             AND failed.handled_at IS NULL AND failed.retry_at IS NOT NULL
             AND failed.position < delivery.position)`;

/**
 * An event that nothing was decided about. One that was marked as waiting behind a failed one is
 * released by that (RELEASE_NEXT): read again and again, such events would keep others from their
 * turn.
 */
const IS_WAITING = `
  handled_at IS NULL AND retry_at IS NULL AND (NOT held OR NOT ${IS_BEHIND})`;

/** The position of the first event that has not failed, above $2 and up to $3 higher. */
export const FIRST_WAITING = `
  SELECT $1::text AS part,
         (SELECT position FROM inbox AS delivery
           WHERE consumer = $1 AND ${IS_WAITING}
             AND position > $2::bigint AND position <= $2::bigint + $3::bigint
           ORDER BY position LIMIT 1)::float8 AS position`;

/** At most $3 events above position $2 that have not failed, in order. */
export const READ_WAITING = `
  SELECT event_id AS "eventId", subject, position::float8 AS position, attempts,
         held AS "isMarked",
         ${IS_BEHIND} AS "isBehind"
    FROM inbox AS delivery
   WHERE consumer = $1 AND ${IS_WAITING} AND position > $2::bigint
   ORDER BY position LIMIT $3`;

/**
 * Records what happens to the events $2: `deliver` counts an attempt; `retry` makes the event the
 * failed one of its subject; `block` lets it wait behind the failed one.
 */
export const PLAN_EVENTS = `
  UPDATE inbox
     SET attempts = attempts + (plan.action = 'deliver')::int,
         held = plan.action <> 'deliver',
         retry_at = CASE WHEN plan.action = 'retry' THEN ${NOW} END
    FROM unnest($2::uuid[], $3::text[]) AS plan (event_id, action)
   WHERE consumer = $1 AND inbox.event_id = plan.event_id AND handled_at IS NULL`;

/** The events $2 were not delivered: takes back the attempts that {@link PLAN_EVENTS} counted. */
export const UNCOUNT_ATTEMPTS = `
  UPDATE inbox SET attempts = attempts - 1
   WHERE consumer = $1 AND event_id = ANY ($2::uuid[]) AND handled_at IS NULL`;

/** The failed event whose retry has been due for longest. */
export const FIND_DUE = `
  SELECT event_id AS "eventId", attempts FROM inbox
   WHERE consumer = $1 AND handled_at IS NULL AND retry_at <= now()
   ORDER BY retry_at LIMIT 1`;

/**
 * Counts an attempt at event $2 and sets its next one, before the handler runs: whatever ends the
 * handler, the delays grow.
 */
export const BEGIN_ATTEMPT = `
  UPDATE inbox
     SET attempts = attempts + 1, held = true,
         retry_at = ${NOW} + make_interval(secs =>
           least(${RETRY_SECONDS.min} * 2 ^ least(attempts, 20), ${RETRY_SECONDS.max}))
   WHERE consumer = $1 AND event_id = $2 AND handled_at IS NULL`;

/**
 * Records that the handler failed on event $2 with error $3. After the last attempt the event
 * becomes a dead letter: returns `isDead` and the number of attempts.
 */
export const RECORD_FAILURE = `
  WITH
  failed AS (
    UPDATE inbox
       SET held = true, last_error = coalesce($3, last_error, 'The handler did not end'),
           retry_at = CASE
             WHEN attempts >= ${MAX_ATTEMPTS} THEN 'infinity'
             ELSE coalesce(retry_at, ${NOW} + make_interval(secs => ${RETRY_SECONDS.min})) END
     WHERE consumer = $1 AND event_id = $2 AND handled_at IS NULL
    RETURNING *),
  -- Listed for operators until it is handled or skipped.
  dead AS (
    INSERT INTO inbox_dead_letters
           (consumer, event_id, type, subject, occurred_at, attempts, last_error)
    SELECT consumer, event_id, type, subject, occurred_at, attempts, last_error
      FROM failed WHERE retry_at = 'infinity'
    ON CONFLICT (consumer, event_id)
    DO UPDATE SET attempts = excluded.attempts, last_error = excluded.last_error,
                  died_at = excluded.died_at)
  SELECT retry_at = 'infinity' AS "isDead", attempts,
         extract(epoch FROM retry_at - clock_timestamp())::float8 AS "retrySeconds"
    FROM failed`;

/** The failed event $2 is handled: the next event behind it is due. */
export const RELEASE_NEXT = `
  WITH
  settled AS (
    SELECT consumer, subject, position FROM inbox WHERE consumer = $1 AND event_id = $2),
  listed AS (
    DELETE FROM inbox_dead_letters WHERE consumer = $1 AND event_id = $2)
  UPDATE inbox SET retry_at = ${NOW}
   WHERE retry_at IS NULL AND (consumer, event_id) = (
     SELECT later.consumer, later.event_id
       FROM inbox AS later JOIN settled USING (consumer, subject)
      WHERE later.handled_at IS NULL AND later.held AND later.position > settled.position
      ORDER BY later.position LIMIT 1)`;

/**
 * Gives up the dead letter $2. Needs the consumer's lock: an event that the consumer lets wait
 * behind the letter at the same time would wait for ever. Returns a row if $2 is a dead letter.
 */
export const SKIP = `
  WITH
  skipped AS (
    UPDATE inbox SET handled_at = now(), retry_at = NULL, last_error = 'skipped: ' || last_error
     WHERE consumer = $1 AND event_id = $2 AND handled_at IS NULL AND retry_at = 'infinity'
    RETURNING consumer, subject, position),
  listed AS (
    DELETE FROM inbox_dead_letters WHERE consumer = $1 AND event_id = $2),
  -- The next event of the subject is due at once.
  next AS (
    UPDATE inbox SET retry_at = ${NOW}
     WHERE (consumer, event_id) = (
       SELECT later.consumer, later.event_id
         FROM inbox AS later JOIN skipped USING (consumer, subject)
        WHERE later.handled_at IS NULL AND later.held AND later.position > skipped.position
        ORDER BY later.position LIMIT 1))
  SELECT FROM skipped`;

/** Makes the dead letter $2 due, with all its attempts. */
export const RETRY = `
  WITH
  due AS (
    UPDATE inbox SET retry_at = ${NOW}, attempts = 0
     WHERE consumer = $1 AND event_id = $2 AND handled_at IS NULL AND retry_at = 'infinity'
    RETURNING consumer, event_id)
  DELETE FROM inbox_dead_letters USING due
   WHERE inbox_dead_letters.consumer = due.consumer AND inbox_dead_letters.event_id = due.event_id`;
