/**
 * `npm run outbox`: what an operator does about events that the broker refused. It asks the relays and does nothing past them:
 * `requeue` makes an event due now, `skip` gives it up under its lane's lock, so that its aggregate goes on without it.
 */
import 'reflect-metadata';
import { Client } from 'pg';
import { loadConfig } from '../src/config.js';
import { OutboxLanes } from '../src/outbox/outbox.lanes.js';
import { command, CommandError, readArguments, withDatabase } from './command.js';

const USAGE = `npm run outbox -- list | requeue <id> | requeue all | skip <id>
  list           how much waits, and the events that the broker refused, each with how many of its aggregate wait behind it
  requeue <id>   have it tried again now, after whatever was in its way has been mended; all: every one
  skip <id>      give it up for good: consumers never get it, and the events behind it go on`;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const MOST_LISTED = 100;

interface Refused {
  readonly id: string;
  readonly type: string;
  readonly subject: string;
  readonly attempts: number;
  readonly parked: boolean;
  readonly retry: number;
  readonly age: number;
  readonly behind: number;
  readonly error: string;
}

async function list(client: Client): Promise<number> {
  const { rows } = await client.query(
    `SELECT id, type, subject, attempts, retry_at = 'infinity' AS parked, last_error AS error,
            extract(epoch FROM now() - occurred_at)::float8 AS age,
            CASE WHEN retry_at < 'infinity' THEN greatest(extract(epoch FROM retry_at - now()), 0)::float8 END AS retry,
            (SELECT count(*)::int FROM outbox AS later WHERE later.subject = outbox.subject AND later.held
                AND later.published_at IS NULL AND later.position > outbox.position) AS behind
       FROM outbox WHERE published_at IS NULL AND retry_at IS NOT NULL ORDER BY position LIMIT $1`,
    [MOST_LISTED],
  );
  const waiting = await client.query(
    `SELECT count(*)::int AS n FROM outbox WHERE published_at IS NULL AND NOT held`,
  );
  console.log(
    `${(waiting.rows[0] as { n: number }).n} events wait for a relay, ${rows.length} were refused:`,
  );
  for (const {
    id,
    type,
    subject,
    attempts,
    parked,
    retry,
    age,
    behind,
    error,
  } of rows as Refused[]) {
    const next = parked ? 'waits for you' : `next try in ${Math.ceil(retry)} s`;
    console.log(
      `${id}  ${type} of ${subject}, ${Math.round(age)} s old, ${behind} behind it; refused ${attempts} times, ${next}: ${error}`,
    );
  }
  if (rows.length === MOST_LISTED) console.log(`(the first ${MOST_LISTED})`);
  return 0;
}

async function requeue(client: Client, id: string): Promise<number> {
  const { rowCount } = await client.query(
    `UPDATE outbox SET retry_at = now() WHERE published_at IS NULL AND retry_at IS NOT NULL AND ($1 = 'all' OR id::text = lower($1))`,
    [id],
  );
  if (rowCount === 0 && id !== 'all') throw new CommandError(`no refused event has the id ${id}`);
  console.log(`${rowCount} made due: the relays try within a second`);
  return 0;
}

async function skip(url: string, id: string): Promise<number> {
  const lanes = new OutboxLanes(url);
  await lanes.open();
  try {
    if (!(await lanes.skip(id))) throw new CommandError(`no refused event has the id ${id}`);
  } finally {
    await lanes.close();
  }
  console.log('Given up: the events behind it are tried within a second');
  return 0;
}

await command('outbox', async () => {
  const { words } = readArguments(USAGE, [], 2);
  const [verb = 'list', id = ''] = words;
  if (!['list', 'requeue', 'skip'].includes(verb))
    throw new CommandError(`the first word must be list, requeue or skip, not "${verb}"`, 2);
  if (verb !== 'list' && !UUID.test(id) && !(verb === 'requeue' && id === 'all'))
    throw new CommandError(`${verb} needs the id of an event, as list shows it, not "${id}"`, 2);
  return withDatabase(loadConfig(), async (url) => {
    if (verb === 'skip') return skip(url, id);
    const client = new Client({
      connectionString: url,
      connectionTimeoutMillis: 5_000,
      application_name: 'holdfast-outbox',
    });
    await client.connect();
    try {
      return await (verb === 'list' ? list(client) : requeue(client, id));
    } finally {
      await client.end();
    }
  });
});
