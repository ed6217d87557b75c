/**
 * `npm run orders:rebuild`: compares `orders` with what their events make of them and mends what differs, while the service
 * goes on (projection.ts). Exits with 1 when a difference is left.
 */
import 'reflect-metadata';
import { Client } from 'pg';
import { loadConfig } from '../src/config.js';
import { command, CommandError, isStarted, readArguments, startProgress, withDatabase } from './command.js';
import { type Batch, compareProjection, type Difference } from './projection.js';

const USAGE = `npm run orders:rebuild [-- check]
  check  only compare, change nothing`;

/** One rebuild at a time: the first eight bytes of "rebuilds". */
const LOCK = '8243113919129313395';
/** Differences that are told one by one. */
const MOST_TOLD = 50;

/** @returns the exit code: 1 when a difference is left */
export async function rebuild(url: string, check: boolean, say: (line: string) => void, size?: Batch): Promise<number> {
  const client = new Client({
    connectionString: url,
    connectionTimeoutMillis: 5_000,
    application_name: 'holdfast-rebuild',
  });
  // A connection that breaks also rejects the query under way, which tells.
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rows } = await client.query<{ free: boolean; orders: number }>(
      `SELECT pg_try_advisory_lock($1) AS free, reltuples::float8 AS orders FROM pg_class WHERE oid = 'orders'::regclass`,
      [LOCK],
    );
    if (!rows[0]?.free) throw new CommandError('another rebuild runs on this database');
    const progress = await startProgress(check ? 'compared' : 'rebuilt', Math.max(rows[0].orders, 1), 'orders');
    let told = 0;
    const tell = ({ id, why, mended }: Difference): void => {
      if (++told <= MOST_TOLD) say(`${id}: ${why}${mended ? ', mended' : ''}`);
    };
    const result = await compareProjection(client, !check, tell, (orders) => progress.update(orders), size);
    progress.stop();
    if (told > MOST_TOLD) say(`… and ${told - MOST_TOLD} more`);
    const { orders, events, live, replayed, different, mended } = result;
    say(`${orders} orders, ${events} events; checksums: orders ${live}, replayed ${replayed}`);
    say(different === 0 ? 'Every order is what its events make of it' : `${different} differed, ${mended} mended`);
    return different === mended ? 0 : 1;
  } finally {
    await client.end().catch(() => undefined);
  }
}

if (isStarted(import.meta.url))
  await command('orders:rebuild', async () => {
    const { words } = readArguments(USAGE, [], 1);
    if (words[0] !== undefined && words[0] !== 'check')
      throw new CommandError(`the argument must be "check", not "${words[0]}"`, 2);
    return withDatabase(loadConfig(), (url) => rebuild(url, words[0] === 'check', (line) => console.log(line)));
  });
