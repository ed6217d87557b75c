/**
 * `holdfast outbox`: what an operator does about events that the broker rejected. The relays stay
 * the only publishers: `requeue` makes an event due now. `skip` gives an event up under the
 * advisory lock of its partition, so that the later events of its subject continue.
 */
import type { Client } from 'pg';
import { loadConfig } from '../config.js';
import { OutboxPartitions } from '../platform/outbox/outbox-partitions.js';
import { parseArguments } from './arguments.js';
import { CommandError } from './command.js';
import { withClient, withDatabase } from './database.js';

export const USAGE = `holdfast outbox list | requeue <id> | requeue all | skip <id>
  list           print how many events wait, and each rejected event with the number of events of
                 its subject that are queued behind it (the default)
  requeue <id>   try a rejected event again now, after its cause was repaired; "all" for every one
  skip <id>      give a rejected event up: consumers never get it, the events behind it continue`;

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const MAX_LISTED_EVENTS = 100;

/** `retry_at` is infinity for an event that only an operator's request sends again. */
const SELECT_REJECTED = `
  SELECT id, type, subject, attempts, last_error AS error,
         retry_at = 'infinity' AS "needsOperator",
         extract(epoch FROM now() - occurred_at)::float8 AS "ageSeconds",
         CASE WHEN retry_at < 'infinity'
              THEN greatest(extract(epoch FROM retry_at - now()), 0)::float8
         END AS "retrySeconds",
         (SELECT count(*)::int FROM outbox AS later
           WHERE later.subject = outbox.subject AND later.held AND later.published_at IS NULL
             AND later.position > outbox.position) AS "queuedBehind"
    FROM outbox
   WHERE published_at IS NULL AND retry_at IS NOT NULL
   ORDER BY position LIMIT $1`;

const COUNT_WAITING = `
  SELECT count(*)::int AS waiting FROM outbox WHERE published_at IS NULL AND NOT held`;

const MAKE_DUE = `
  UPDATE outbox SET retry_at = date_trunc('milliseconds', now())
   WHERE published_at IS NULL AND retry_at IS NOT NULL
     AND ($1 = 'all' OR id::text = lower($1))`;

interface RejectedEvent {
  readonly id: string;
  readonly type: string;
  readonly subject: string;
  readonly attempts: number;
  readonly error: string;
  readonly needsOperator: boolean;
  readonly ageSeconds: number;
  /** Null when the event needs an operator. */
  readonly retrySeconds: number | null;
  readonly queuedBehind: number;
}

const ACTIONS: Readonly<Record<string, (url: string, id: string) => Promise<void>>> = {
  list: (url) => withClient(url, 'holdfast-outbox', list),
  requeue: (url, id) => withClient(url, 'holdfast-outbox', (client) => requeue(client, id)),
  skip,
};

export async function run(args: string[]): Promise<number> {
  const { words } = parseArguments(args, { usage: USAGE, maxWords: 2 });
  const [verb = 'list', id = ''] = words;
  const action = Object.hasOwn(ACTIONS, verb) ? ACTIONS[verb] : undefined;
  if (!action) {
    throw new CommandError(`the first word must be list, requeue or skip, not "${verb}"`, 2);
  }
  const isEveryEvent = verb === 'requeue' && id === 'all';
  const needsId = verb !== 'list' && !isEveryEvent;
  if (needsId && !UUID.test(id)) {
    throw new CommandError(`${verb} needs the id of an event as list shows it, not "${id}"`, 2);
  }
  await withDatabase(loadConfig(), (url) => action(url, id));
  return 0;
}

async function list(client: Client): Promise<void> {
  const { rows: rejected } = await client.query<RejectedEvent>(SELECT_REJECTED, [
    MAX_LISTED_EVENTS,
  ]);
  const { rows: counts } = await client.query<{ waiting: number }>(COUNT_WAITING);
  const waiting = counts[0]?.waiting ?? 0;
  console.log(
    `${waiting} events wait for a relay; the broker rejected ${rejected.length} events` +
      (rejected.length > 0 ? ':' : ''),
  );
  for (const event of rejected) console.log(describe(event));
  if (rejected.length === MAX_LISTED_EVENTS) {
    console.log(`(only the first ${MAX_LISTED_EVENTS} rejected events are listed)`);
  }
}

function describe(event: RejectedEvent): string {
  const { id, type, subject, attempts, error, needsOperator, retrySeconds, queuedBehind } = event;
  const age = Math.round(event.ageSeconds);
  const next = needsOperator
    ? 'waits for requeue or skip'
    : `next attempt in ${Math.ceil(retrySeconds ?? 0)} s`;
  return (
    `${id}  ${type} of ${subject}, ${age} s old, ${queuedBehind} queued behind it; ` +
    `rejected ${attempts} times, ${next}: ${error}`
  );
}

async function requeue(client: Client, id: string): Promise<void> {
  const { rowCount } = await client.query(MAKE_DUE, [id]);
  if (rowCount === 0 && id !== 'all') throw noSuchEvent(id);
  console.log(`${rowCount} rejected events are due now: a relay tries them within a second`);
}

async function skip(url: string, id: string): Promise<void> {
  const partitions = new OutboxPartitions(url);
  await partitions.open();
  try {
    const isSkipped = await partitions.skip(id);
    if (!isSkipped) throw noSuchEvent(id);
  } finally {
    await partitions.close();
  }
  console.log(`Gave up event ${id}: a relay tries the events behind it within a second`);
}

const noSuchEvent = (id: string): CommandError =>
  new CommandError(`no rejected event has the id ${id}`);
