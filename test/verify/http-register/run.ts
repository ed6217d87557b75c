/**
 * `npm run verify -- http-register`: what HTTP clients see on three nodes of the service while
 * everything around them fails. Writes docs/benchmarks/http-register.md.
 */
import { fileURLToPath } from 'node:url';
import { migrateDatabase } from '../../../src/platform/database/migrate.js';
import { describeHardware } from '../../bench/machine.js';
import { groupDigits, markdownTable, writePage } from '../../bench/page.js';
import { startTestPostgres } from '../../support/postgres.js';
import { callOf, newSeed, parseNumbers, usageOf } from '../../support/program-table.js';
import { Random } from '../../support/random.js';
import { type CampaignResult, runCampaign } from './campaign.js';
import { type Rule, RULES } from './checker.js';
import { LONG_SCHEDULES } from './faults.js';
import type { History } from './history.js';
import { HttpSite } from './site.js';

const CALL = 'npm run verify -- http-register';
export const USAGE = usageOf(CALL, { rounds: 5 });

/** The root of the compiled copy in which this file runs. */
const COMPILED_FOLDER = fileURLToPath(new URL('../../../', import.meta.url));
const LOAD = { customers: 4, readersOfEachCustomer: 4, maxRestMs: 20, minTraffic: 200 } as const;
const MAX_SHOWN = 20;

/** @returns 1 when a promise was broken */
export async function run(argv: string[]): Promise<number> {
  const options = parseNumbers(argv, USAGE, { rounds: 5, seed: newSeed() });
  const { rounds, seed } = options;
  const random = new Random(seed);
  const postgres = await startTestPostgres();
  let site: HttpSite | undefined;
  try {
    await migrateDatabase(postgres.url);
    site = await HttpSite.start(COMPILED_FOLDER, postgres.url, random);
    const results: CampaignResult[] = [];
    for (let round = 0; round < rounds; round++) {
      const schedules = LONG_SCHEDULES;
      const name = `r${seed}.${round}`;
      results.push(await runCampaign(site, { ...LOAD, random, name, schedules, passes: 1 }));
      console.log(summaryOf(results.at(-1) as CampaignResult));
    }
    const findings = results.flatMap(({ violations, problems }) => [
      ...violations.map(({ rule, details }) => `Violated "${RULES[rule]}": ${details}`),
      ...problems.map((problem) => `Unexpected answer: ${problem}`),
    ]);
    for (const finding of findings.slice(0, MAX_SHOWN)) console.error(finding);
    await writePage('http-register', pageOf(callOf(CALL, options), results, site.faultCounts));
    return findings.length === 0 ? 0 : 1;
  } finally {
    await site?.stop();
    await postgres.stop();
  }
}

const summaryOf = ({ history, violations, problems }: CampaignResult): string =>
  `${history.reads.length} reads, ${history.writes.length} writes, ` +
  `${violations.length} violations, ${problems.length} unexpected answers`;

function pageOf(
  call: string,
  results: readonly CampaignResult[],
  faultCounts: Readonly<Record<string, number>>,
): string {
  const sum = (count: (result: CampaignResult) => number): string =>
    groupDigits(results.reduce((total, result) => total + count(result), 0));
  const sizeOf =
    (kind: keyof History) =>
    ({ history }: CampaignResult): number =>
      history[kind].length;
  const rows = [
    ['representations read', sum(sizeOf('reads'))],
    ['lists read', sum(sizeOf('lists'))],
    ['searches by name', sum(sizeOf('searches'))],
    ['requests with a session', sum(sizeOf('sessionUses'))],
    ['writes', sum(sizeOf('writes'))],
    ['requests sent', sum(({ counts }) => counts.sent)],
    ['requests without an answer', sum(({ counts }) => counts.unanswered)],
    ['answers that no client should get', sum(({ problems }) => problems.length)],
  ];
  const brokenRows = (Object.keys(RULES) as Rule[]).map((rule) => [
    RULES[rule],
    sum(({ violations }) => violations.filter((violation) => violation.rule === rule).length),
  ]);
  const faults = Object.entries(faultCounts).sort(([a], [b]) => a.localeCompare(b));
  return `# What HTTP clients see while everything around the nodes fails

\`${call}\`

${describeHardware()}.

Three nodes of the service share one PostgreSQL and one Redis. Each connection, also from clients,
passes a proxy that delays, stalls or cuts it, or swallows one direction. Customers register, place,
change, pay and cancel orders, change their names, begin and end sessions, and are deleted. They
send a request without an answer again, to the next node, under the same Idempotency-Key. Readers
read on any node, half of the time with If-None-Match.

${markdownTable(['', 'count'], rows)}

${markdownTable(['promise', 'broken'], brokenRows)}

${markdownTable(
  ['fault', 'times'],
  faults.map(([name, count]) => [name, groupDigits(count)]),
)}
`;
}
