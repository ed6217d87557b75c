/**
 * `holdfast inbox`: what an operator does about dead letters, the events that a consumer of this
 * service failed on for the last time. The service stays the only one that runs handlers: `retry`
 * makes an event due, `skip` gives it up, so that the later events of its subject continue.
 */
import type { Client } from 'pg';
import { loadConfig } from '../config.js';
import { CONSUMER_LOCK } from '../platform/inbox/consumer-lock.js';
import { RETRY, SKIP } from '../platform/inbox/inbox-statements.js';
import { parseArguments } from './arguments.js';
import { CommandError } from './command.js';
import { withClient, withDatabase } from './database.js';

export const USAGE = `holdfast inbox list | retry <consumer>/<id> | retry all | skip <consumer>/<id>
  list                   print the dead letters: the events that a consumer failed on for the last
                         time, each with the number of events of its subject that wait behind it
                         (the default)
  retry <consumer>/<id>  deliver a dead letter again, after its cause was repaired; "all" for each
  skip <consumer>/<id>   give a dead letter up: its consumer never handles it, the events behind it
                         continue`;

const KEY = /^(.+)\/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/i;
const MAX_LISTED_EVENTS = 100;
/** A handler has the consumer's lock for as long as it runs. */
const MAX_LOCK_WAIT_SECONDS = 30;

/** A dead letter that was handled by another way, e.g. by a rebuild, is not one any more. */
const SELECT_DEAD = `
  SELECT consumer, event_id AS id, dead.type, dead.subject, dead.attempts, dead.last_error AS error,
         extract(epoch FROM now() - dead.died_at)::float8 AS "deadSeconds",
         (SELECT count(*)::int FROM inbox AS later
           WHERE later.consumer = dead.consumer AND later.subject = dead.subject
             AND later.handled_at IS NULL AND later.position > inbox.position) AS "queuedBehind"
    FROM inbox_dead_letters AS dead JOIN inbox USING (consumer, event_id)
   WHERE inbox.handled_at IS NULL
   ORDER BY dead.died_at, consumer, event_id LIMIT $1`;

interface DeadLetterRow {
  readonly consumer: string;
  readonly id: string;
  readonly type: string;
  readonly subject: string;
  readonly attempts: number;
  readonly error: string;
  readonly deadSeconds: number;
  readonly queuedBehind: number;
}

/** A consumer and the id of an event. */
type Key = readonly [consumer: string, id: string];

const ACTIONS: Readonly<Record<string, (client: Client, text: string) => Promise<void>>> = {
  list,
  retry: (client, text) => (text === 'all' ? retryAll(client) : retryOne(client, keyOf(text))),
  skip: (client, text) => skip(client, keyOf(text)),
};

export async function run(args: string[]): Promise<number> {
  const { words } = parseArguments(args, { usage: USAGE, maxWords: 2 });
  const [verb = 'list', text = ''] = words;
  const action = Object.hasOwn(ACTIONS, verb) ? ACTIONS[verb] : undefined;
  if (!action) {
    throw new CommandError(`the first word must be list, retry or skip, not "${verb}"`, 2);
  }
  const needsKey = verb === 'skip' || (verb === 'retry' && text !== 'all');
  if (needsKey && !KEY.test(text)) {
    throw new CommandError(`${verb} needs <consumer>/<id> as list shows it, not "${text}"`, 2);
  }
  await withDatabase(loadConfig(), (url) =>
    withClient(url, 'holdfast-inbox', (client) => action(client, text)),
  );
  return 0;
}

function keyOf(text: string): Key {
  const [, consumer = '', id = ''] = KEY.exec(text) ?? [];
  return [consumer, id];
}

async function list(client: Client): Promise<void> {
  const { rows } = await client.query<DeadLetterRow>(SELECT_DEAD, [MAX_LISTED_EVENTS]);
  console.log(`${rows.length} dead letters${rows.length > 0 ? ':' : ''}`);
  for (const row of rows) console.log(describe(row));
  if (rows.length === MAX_LISTED_EVENTS) {
    console.log(`(only the first ${MAX_LISTED_EVENTS} dead letters are listed)`);
  }
}

function describe(row: DeadLetterRow): string {
  const { consumer, id, type, subject, attempts, error, deadSeconds, queuedBehind } = row;
  return (
    `${consumer}/${id}  ${type} of ${subject}, dead for ${Math.round(deadSeconds)} s, ` +
    `${queuedBehind} queued behind it; failed ${attempts} times: ${error}`
  );
}

async function retryAll(client: Client): Promise<void> {
  const { rows } = await client.query<DeadLetterRow>(SELECT_DEAD, [null]);
  for (const { consumer, id } of rows) await client.query(RETRY, [consumer, id]);
  console.log(`${rows.length} dead letters are due now: their consumers get them within a second`);
}

async function retryOne(client: Client, key: Key): Promise<void> {
  const { rowCount } = await client.query(RETRY, [...key]);
  if (rowCount === 0) throw noSuchLetter(key);
  console.log(`The event ${key.join('/')} is due now: its consumer gets it within a second`);
}

/** PostgreSQL releases the consumer's lock when the connection ends. */
async function skip(client: Client, key: Key): Promise<void> {
  const [consumer] = key;
  await client.query(`SET lock_timeout = '${MAX_LOCK_WAIT_SECONDS}s'`);
  await client.query(`SELECT pg_advisory_lock(${CONSUMER_LOCK})`, [consumer]).catch((cause) => {
    const failure = `the consumer ${consumer} has been busy for ${MAX_LOCK_WAIT_SECONDS} s`;
    throw new CommandError(`${failure} (${String(cause)}): try again`);
  });
  const { rowCount } = await client.query(SKIP, [...key]);
  if (rowCount === 0) throw noSuchLetter(key);
  console.log(`Gave up event ${key.join('/')}: the events behind it continue within a second`);
}

const noSuchLetter = ([consumer, id]: Key): CommandError =>
  new CommandError(`the consumer ${consumer} has no dead letter with the id ${id}`);
