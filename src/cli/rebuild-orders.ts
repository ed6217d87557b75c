/**
 * `holdfast rebuild-orders`: compares the table `orders` with the events, repairs what differs
 * (orders/projection/), then counts the daily totals again, all while the service runs.
 * docs/design/order-history.md
 */
import type { Client } from 'pg';
import { loadConfig } from '../config.js';
import { rebuildDailyTotals } from '../orders/daily-totals/rebuild-daily-totals.js';
import {
  type BatchLimits,
  compareProjection,
  type Difference,
} from '../orders/projection/compare-projection.js';
import { parseArguments } from './arguments.js';
import { CommandError } from './command.js';
import { withClient, withDatabase } from './database.js';
import { startProgress } from './progress.js';

export const USAGE = `holdfast rebuild-orders [check | daily-totals]
  (no argument)  compare the orders with their events, repair them, count the daily totals again
  check          only compare, and change nothing
  daily-totals   only count the daily totals again
The exit code is 1 when a difference is left.`;

/** The advisory lock of a rebuild, so that only one runs: the first eight bytes of "rebuilds". */
const LOCK = '8243113919129313395';
const MAX_PRINTED_DIFFERENCES = 50;

/** Estimated: PostgreSQL's statistics, at least 1. */
const ESTIMATE_ORDERS = `
  SELECT greatest(reltuples, 1)::float8 AS estimate FROM pg_class WHERE oid = 'orders'::regclass`;

const SCOPES = ['all', 'check', 'daily-totals'] as const;
export type RebuildScope = (typeof SCOPES)[number];
type Print = (line: string) => void;

export async function run(args: string[]): Promise<number> {
  const { words } = parseArguments(args, { usage: USAGE, maxWords: 1 });
  const [word = 'all'] = words;
  const scope = SCOPES.find((name) => name === word);
  if (!scope) {
    throw new CommandError(`the argument must be "check" or "daily-totals", not "${word}"`, 2);
  }
  const print = (line: string): void => console.log(line);
  return withDatabase(loadConfig(), (url) => rebuild(url, scope, print));
}

/**
 * @param print receives each line of the report
 * @returns the exit code: 1 when a difference is left
 * @throws CommandError while another rebuild runs on the same database
 */
export function rebuild(
  url: string,
  scope: RebuildScope,
  print: Print,
  limits?: BatchLimits,
): Promise<number> {
  return withClient(url, 'holdfast-rebuild', async (client) => {
    const { rows } = await client.query<{ locked: boolean }>(
      'SELECT pg_try_advisory_lock($1) AS locked',
      [LOCK],
    );
    if (!rows[0]?.locked) throw new CommandError('another rebuild runs on this database');
    let differencesLeft = 0;
    if (scope !== 'daily-totals') {
      differencesLeft = await compareOrders(client, { repair: scope === 'all', limits }, print);
    }
    if (scope !== 'check') {
      const { orders, changed } = await rebuildDailyTotals(client);
      print(`Counted the daily totals of ${orders} orders again; ${changed} changed`);
    }
    return differencesLeft === 0 ? 0 : 1;
  });
}

/** @returns how many differences are left */
async function compareOrders(
  client: Client,
  { repair, limits }: { repair: boolean; limits: BatchLimits | undefined },
  print: Print,
): Promise<number> {
  const { rows } = await client.query<{ estimate: number }>(ESTIMATE_ORDERS);
  const label = repair ? 'rebuilt' : 'compared';
  const progress = await startProgress(label, rows[0]?.estimate ?? 1, 'orders');
  let found = 0;
  const result = await compareProjection(client, {
    repair,
    limits,
    onDifference: (difference) => {
      found++;
      if (found <= MAX_PRINTED_DIFFERENCES) print(describe(difference));
    },
    onProgress: (orders) => progress.update(orders),
  });
  progress.stop();

  const unprinted = found - MAX_PRINTED_DIFFERENCES;
  if (unprinted > 0) print(`… and ${unprinted} more`);
  const { orders, events, checksums, different, repaired } = result;
  print(
    `${orders} orders, ${events} events; ` +
      `checksums: orders ${checksums.orders}, replayed ${checksums.replayed}`,
  );
  print(
    different === 0
      ? 'Every order equals the replay of its events'
      : `${different} orders differed, ${repaired} repaired`,
  );
  return different - repaired;
}

const describe = ({ id, reason, repaired }: Difference): string =>
  `${id}: ${reason}${repaired ? ', repaired' : ''}`;
