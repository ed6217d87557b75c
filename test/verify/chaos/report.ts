/** The counts of a chaos run as lines for a terminal and as a page of docs/benchmarks/. */
import { describeHardware } from '../../bench/machine.js';
import { groupDigits, markdownTable } from '../../bench/page.js';
import type { ChaosReport, ScenarioTotals } from './chaos.js';
import type { Rule } from './history-checker.js';

/** What each kind of fault does. */
const FAULT_EXPLANATIONS = [
  [
    '`<server> link …`',
    "A proxy delays, stalls, cuts or refuses a node's connections, or swallows one direction.",
  ],
  [
    'SIGKILL, SIGSTOP',
    'A node dies at a step of a write, or stops for longer than any lease or fence.',
  ],
  [
    'other database, other server, no REDIS_URL',
    'A node starts again with another cache than the others, and later back.',
  ],
  ['clock jump', 'The wall clock of a node is wrong by 3 s or 10 min.'],
  [
    'outage, address leads elsewhere',
    'All nodes lose Redis; one after the other they reach another server under its address.',
  ],
  [
    'Redis hangs, back empty, back with an old dataset',
    'SIGSTOP; SIGKILL and a new start, with or without an older snapshot.',
  ],
  ['FLUSHALL, evictions', 'Redis loses entries, fences among them.'],
  ['failover by command, master killed, master hangs', 'Sentinels promote the replica.'],
  [
    'shard failover, shard killed, slot moved',
    "A shard's replica takes over; a shard dies and comes back; a slot moves away and back.",
  ],
  [
    'COMMIT stalled',
    'Every COMMIT waits inside PostgreSQL, for up to 1.2 times the life of a fence.',
  ],
  [
    'LISTEN cut, PostgreSQL killed',
    "PostgreSQL ends the nodes' LISTEN connections; the server dies and recovers from its log.",
  ],
];

const CACHE_OUTCOMES = ['hit', 'miss', 'fenced', 'bypass', 'unavailable'];

const sumOf = (numbers: readonly number[]): number =>
  numbers.reduce((sum, number) => sum + number, 0);

/** How often each kind of fault happened. */
export function faultCounts({ totals }: ChaosReport): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { faults } of Object.values(totals)) {
    for (const [kind, count] of Object.entries(faults)) counts[kind] = (counts[kind] ?? 0) + count;
  }
  return counts;
}

const sortedFaults = (report: ChaosReport): [kind: string, count: number][] =>
  Object.entries(faultCounts(report)).sort(([a], [b]) => a.localeCompare(b));

function hitRatio({ outcomes }: ScenarioTotals): string {
  const answers = sumOf(CACHE_OUTCOMES.map((outcome) => outcomes[outcome] ?? 0));
  return `${((100 * (outcomes.hit ?? 0)) / Math.max(1, answers)).toFixed(1)} %`;
}

const refreshesOf = ({ outcomes }: ScenarioTotals): number => outcomes.refreshed ?? 0;
const nearReadsOf = ({ outcomes }: ScenarioTotals): number => outcomes.near ?? 0;
const restsOf = ({ outcomes }: ScenarioTotals): number => outcomes.rests ?? 0;

export function summaryOf(report: ChaosReport): string {
  const faults = sortedFaults(report).map(([kind, count]) => `${kind} ${count}`);
  const reads = sumOf(Object.values(report.totals).map((totals) => totals.reads));
  return [
    ...Object.entries(report.totals).flatMap(([name, totals]) => scenarioLines(name, totals)),
    `faults: ${faults.join(', ')}`,
    `${reads} reads in ${report.seconds.toFixed(1)} s, seed ${report.seed}`,
  ].join('\n');
}

function scenarioLines(name: string, totals: ScenarioTotals): string[] {
  const violationCount = sumOf(Object.values(totals.violations));
  return [
    `${name}: ${totals.rounds} rounds`,
    `  reads ${totals.reads} (hit ratio ${hitRatio(totals)}, near ${nearReadsOf(totals)}), refreshes ${refreshesOf(totals)}`,
    `  writes acknowledged ${totals.acknowledged}, failed or rolled back ${totals.failed}, ` +
      `rested with their fences ${restsOf(totals)}`,
    `  violations ${violationCount} ${JSON.stringify(totals.violations)}`,
    ...Object.entries(totals.exemptions).map(
      ([reason, { reads, worstMs }]) =>
        `  not promised: ${reads} reads, ${reason}, at most ${worstMs.toFixed(1)} ms`,
    ),
    `  converged within ${Math.round(totals.worstConvergenceMs)} ms`,
    ...totals.failures.map((failure) => `  FAILED: ${failure}`),
  ];
}

type Column = readonly [title: string, pick: (totals: ScenarioTotals) => number];

const violationsOf =
  (rule: Rule) =>
  ({ violations }: ScenarioTotals): number =>
    violations[rule] ?? 0;

const RESULT_ROWS: readonly Column[] = [
  ['reads checked', ({ reads }) => reads],
  ['of them answered from near caches', nearReadsOf],
  ['writes acknowledged', ({ acknowledged }) => acknowledged],
  ['writes rejected, failed or rolled back', ({ failed }) => failed],
  ['writes that rested between their fences and COMMIT', restsOf],
  ['entries refreshed before they expired', refreshesOf],
  ['faults', ({ faults }) => sumOf(Object.values(faults))],
  ['**stale reads (G1)**', violationsOf('G1: stale')],
  ['**reads of what was never committed (G3)**', violationsOf('G3: never committed')],
  ['**reads older than an earlier read**', violationsOf('older than an earlier read')],
  ['**acknowledged writes that were lost**', violationsOf('acknowledged and lost')],
  ['calls that hung, rows that never converged', ({ failures }) => failures.length],
];

/** @param call the command that made the report */
export function pageOf(report: ChaosReport, call: string): string {
  const scenarios = Object.entries(report.totals);
  const names = scenarios.map(([name]) => name);
  const allTotals = scenarios.map(([, totals]) => totals);
  const readsPerSecond = sumOf(allTotals.map(({ reads }) => reads)) / report.seconds;
  const resultRows = RESULT_ROWS.map(([title, pick]) => {
    const counts = allTotals.map(pick);
    return [title, ...[sumOf(counts), ...counts].map(groupDigits)];
  });
  const hitRatios = scenarios.map(([name, totals]) => `${hitRatio(totals)} (${name})`);
  const convergenceMs = Math.max(...allTotals.map(({ worstConvergenceMs }) => worstConvergenceMs));
  const failures = allTotals.flatMap((totals) => totals.failures).map((failure) => `- ${failure}`);
  const isStale = sumOf(allTotals.map(violationsOf('G1: stale'))) > 0;
  const broken = isStale ? '**G1 was broken; the histories are in `.data/chaos/`.**' : '';
  const exemptionRows = scenarios.flatMap(([name, totals]) =>
    Object.entries(totals.exemptions).map(([reason, { reads, worstMs }]) => [
      name,
      groupDigits(reads),
      reason,
      `${worstMs.toFixed(1)} ms`,
    ]),
  );
  return `# What nodes show while everything around them fails

\`${call}\`

${describeHardware()}; ${groupDigits(report.seconds)} s,
${groupDigits(readsPerSecond)} reads a second.

${markdownTable(['', 'all', ...names], resultRows)}

Hit ratio: ${hitRatios.join(', ')}. After the last fault of a round every node showed the
database's state within ${groupDigits(convergenceMs)} ms.

${[...failures, broken].join('\n')}

## Faults

${markdownTable(
  ['fault', 'times'],
  sortedFaults(report).map(([kind, count]) => [kind, groupDigits(count)]),
)}

## What is not promised, measured

${markdownTable(['rounds', 'reads', 'why', 'at most'], exemptionRows)}

- "written past the service" is G2. A read that is later than its bound counts as stale.
- "older than an earlier read": one node showed a write that was not acknowledged yet, and another
  one did not. That is promised only while the write's fences exist. They do not when the write
  could not fence, when its fences were lost or had expired, or when nodes changed to another cache
  before its COMMIT. The time is from the earlier read to this one.

## How

Four sites run at the same time, each with a PostgreSQL database and nodes of its own: three nodes
over one Redis server; two over a master with a replica and three Sentinels; two over a Redis
Cluster of three shards; two without Redis, over a PostgreSQL server that is killed. Rounds of 30 s
with \`CACHE_DEGRADED_WRITES=reject\` and \`wait\` take turns. A promise has no exception for a node
that is cut off: such a write waits before it is acknowledged.

${markdownTable(['fault', 'what happens'], FAULT_EXPLANATIONS)}

- One write in twenty rests between its fences and COMMIT for up to 0.4 of the life of a fence.
- Users expire after 1 s and orders after 2 s. Entries are refreshed from two reads in the second
  half of their lifetime on. Gates close as in production (2.5 s and 3 s).
- A node is a process with the service's cache and database modules. Every connection to
  PostgreSQL, to the single Redis server and to Sentinels passes a proxy. Sentinels and clusters
  name their servers themselves: connections to those do not.
- Clients read orders, sessions that come and go, users by id, username and email, and lists of the
  newest orders.
- Clients write one or two orders, write optimistically, roll back, rename users, and hand a name
  over from one user to another.
- One row that is read counts as one read. All processes take their times from one clock. A trigger
  in PostgreSQL records what was committed.
- The rules are in [history-checker.ts](../../test/verify/chaos/history-checker.ts). The seed
  decides which fault happens where and when; how processes and connections interleave is not
  repeated. The short form, \`npm test -- test/verify/chaos/chaos.spec.ts\`, inflicts each kind of
  fault at least once, with five times shorter fences and leases.
`;
}
