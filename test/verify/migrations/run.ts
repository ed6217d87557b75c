/**
 * `npm run verify -- migrations`: migrates a million orders under load. A request that fails or
 * takes over a second is a finding. Writes docs/benchmarks/migrations.md.
 */
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { describeMachine } from '../../bench/machine.js';
import { groupDigits, markdownTable, writePage } from '../../bench/page.js';
import { startTestPostgres } from '../../support/postgres.js';
import { callOf, newSeed, parseNumbers } from '../../support/program-table.js';
import { durationOf, type PhaseResult, runCampaign } from './campaign.js';

export const USAGE = `npm run verify -- migrations [options]
  --orders    orders that exist before the migrations (1000000)
  --clients   clients of each of the nine kinds of requests (2)
  --seed      decides which rows the requests are about`;

const MAX_REQUEST_MS = 1_000;
/** PostgreSQL's own: a machine with this load has little memory for it, and a disk. */
const FLAGS = ['max_wal_size=4GB', 'shared_buffers=512MB', 'autovacuum=on'];

/** @returns 1 when a request failed or took too long */
export async function run(argv: string[]): Promise<number> {
  const defaults = { orders: 1_000_000, clients: 2, seed: newSeed() };
  const options = parseNumbers(argv, USAGE, defaults);
  const postgres = await startTestPostgres(FLAGS);
  try {
    const machine = await describeMachine(postgres.url);
    await migrateDatabase(postgres.url);
    const phases = await runCampaign({ url: postgres.url, ...options });
    const findings = phases.flatMap(findingsOf);
    for (const finding of findings) console.error(finding);
    const command = callOf('npm run verify -- migrations', options);
    await writePage('migrations', renderPage(command, machine, options.orders, phases));
    return findings.length > 0 ? 1 : 0;
  } finally {
    await postgres.stop();
  }
}

function findingsOf({ name, longest, failed }: PhaseResult): string[] {
  const findings = failed.map((request) => `${name}: ${request.name} failed: ${request.error}`);
  if (longest && durationOf(longest) > MAX_REQUEST_MS) {
    findings.push(`${name}: ${longest.name} took ${Math.round(durationOf(longest))} ms`);
  }
  return findings;
}

function renderPage(
  command: string,
  machine: string,
  orders: number,
  phases: readonly PhaseResult[],
): string {
  const rows = phases.map(({ name, seconds, requests, p99, longest, failed, lockWait }) => [
    name.replace(/\d{13}$/, ''),
    seconds.toFixed(1),
    groupDigits(requests),
    groupDigits(p99),
    longest ? `${groupDigits(durationOf(longest))} (${longest.name})` : '',
    lockWait ? `${groupDigits(lockWait.ms)} (${lockWait.relation})` : '',
    String(failed.length),
  ]);
  const head = ['', 'seconds', 'requests', 'p99', 'longest', 'longest lock wait', 'failed'];
  return `# Migrations under load

\`${command}\` on ${machine}.
The clients and PostgreSQL share the machine.

A database with ${groupDigits(orders)} orders, as many events and as many rows in the outbox is
migrated while clients place and change orders, log in, relay events, and read. Another client
exports, in transactions that stay open. Requests are plain SQL in the order of the service, with
its timeouts. Times are in milliseconds. A wait for a lock counts when a migration held it or
waited for it; it is sampled every 20 ms.

${markdownTable(head, rows)}
`;
}
