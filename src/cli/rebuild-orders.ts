/**
 * `npm run orders:rebuild`: compares `orders` with what their events make of them and mends what differs (projection.ts), then
 * counts the daily figures anew (figures.ts), while the service goes on. Exits with 1 when a difference is left.
 */
import 'reflect-metadata';
import { Client } from 'pg';
import { loadConfig } from '../src/config.js';
import {
  command,
  CommandError,
  isStarted,
  readArguments,
  startProgress,
  withDatabase,
} from './command.js';
import { rebuildFigures } from './figures.js';
import { type Batch, compareProjection, type Difference } from './projection.js';

const USAGE = `npm run orders:rebuild [-- check | figures]
  check    only compare orders with their events, change nothing
  figures  only count the daily figures anew`;

/** One rebuild at a time: the first eight bytes of "rebuilds". */
const LOCK = '8243113919129313395';
/** Differences that are told one by one. */
const MOST_TOLD = 50;

export type Part = 'all' | 'check' | 'figures';
type Say = (line: string) => void;

/** @returns the exit code: 1 when a difference is left */
export async function rebuild(url: string, part: Part, say: Say, size?: Batch): Promise<number> {
  const client = new Client({
    connectionString: url,
    connectionTimeoutMillis: 5_000,
    application_name: 'holdfast-rebuild',
  });
  // A connection that breaks also rejects the query under way, which tells.
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<{ free: boolean }>(
      'SELECT pg_try_advisory_lock($1) AS free',
      [LOCK],
    );
    if (!rows[0]?.free) throw new CommandError('another rebuild runs on this database');
    const left = part === 'figures' ? 0 : await rebuildOrders(client, part === 'all', say, size);
    if (part !== 'check') {
      const { orders, changed } = await rebuildFigures(client);
      say(`Figures of ${orders} orders counted anew, ${changed} changed`);
    }
    return left === 0 ? 0 : 1;
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** @returns how many differences are left */
async function rebuildOrders(
  client: Client,
  mend: boolean,
  say: Say,
  size: Batch | undefined,
): Promise<number> {
  const { rows } = await client.query<{ about: number }>(
    `SELECT greatest(reltuples, 1)::float8 AS about FROM pg_class WHERE oid = 'orders'::regclass`,
  );
  const progress = await startProgress(
    mend ? 'rebuilt' : 'compared',
    rows[0]?.about ?? 1,
    'orders',
  );
  let told = 0;
  const tell = ({ id, why, mended }: Difference): void => {
    if (++told <= MOST_TOLD) say(`${id}: ${why}${mended ? ', mended' : ''}`);
  };
  const { orders, events, live, replayed, different, mended } = await compareProjection(
    client,
    mend,
    tell,
    (done) => progress.update(done),
    size,
  );
  progress.stop();
  if (told > MOST_TOLD) say(`… and ${told - MOST_TOLD} more`);
  say(`${orders} orders, ${events} events; checksums: orders ${live}, replayed ${replayed}`);
  say(
    different === 0
      ? 'Every order is what its events make of it'
      : `${different} differed, ${mended} mended`,
  );
  return different - mended;
}

if (isStarted(import.meta.url))
  await command('orders:rebuild', async () => {
    const { words } = readArguments(USAGE, [], 1);
    const [part = 'all'] = words;
    if (part !== 'all' && part !== 'check' && part !== 'figures')
      throw new CommandError(`the argument must be "check" or "figures", not "${part}"`, 2);
    return withDatabase(loadConfig(), (url) => rebuild(url, part, (line) => console.log(line)));
  });
