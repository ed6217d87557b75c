/** The campaign's counts as lines for a terminal and as the page docs/bench/campaign.md. */
import { cpus, totalmem } from 'node:os';
import { format, resolveConfig } from 'prettier';
import type { CampaignReport, Sum } from './campaign.js';

/** 71234 → "71 234", with a space that does not break. */
const grouped = (value: number): string =>
  String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, '\u00a0');
const total = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((sum, count) => sum + count, 0);

export function faultsOf({ sums }: CampaignReport): Record<string, number> {
  const faults: Record<string, number> = {};
  for (const sum of Object.values(sums)) {
    for (const [kind, count] of Object.entries(sum.faults))
      faults[kind] = (faults[kind] ?? 0) + count;
  }
  return faults;
}

const hitRatio = ({ outcomes }: Sum): string => {
  const asked = ['hit', 'miss', 'fenced', 'bypass', 'unavailable'].map(
    (name) => outcomes[name] ?? 0,
  );
  return `${(
    (100 * (asked[0] as number)) /
    Math.max(
      1,
      asked.reduce((sum, count) => sum + count, 0),
    )
  ).toFixed(1)} %`;
};

export function summary(report: CampaignReport): string {
  const lines = Object.entries(report.sums).flatMap(([name, sum]) => [
    `${name}: ${sum.rounds} rounds`,
    `  reads ${sum.reads} (hit ratio ${hitRatio(sum)}), writes acknowledged ${sum.acknowledged}, failed or rolled back ${sum.failed}`,
    `  violations ${total(sum.violations)} ${JSON.stringify(sum.violations)}`,
    ...Object.entries(sum.excused).map(
      ([reason, { reads, worstMs }]) =>
        `  not promised: ${reads} reads, ${reason}, at most ${worstMs.toFixed(1)} ms`,
    ),
    `  settled within ${sum.worstSettledMs} ms`,
    ...sum.failures.map((failure) => `  FAILED: ${failure}`),
  ]);
  const faults = Object.entries(faultsOf(report)).sort(([one], [other]) => (one < other ? -1 : 1));
  const reads = Object.values(report.sums).reduce((sum, it) => sum + it.reads, 0);
  return [
    ...lines,
    `faults: ${faults.map(([kind, count]) => `${kind} ${count}`).join(', ')}`,
    `${reads} reads in ${report.seconds.toFixed(1)} s, seed ${report.seed}`,
  ].join('\n');
}

export async function markdown(
  report: CampaignReport,
  { reads: asked }: { readonly reads: number },
): Promise<string> {
  const sums = Object.entries(report.sums);
  const of = (pick: (sum: Sum) => number): number =>
    sums.reduce((whole, [, sum]) => whole + pick(sum), 0);
  const broken = (rule: string): number => of(({ violations }) => violations[rule] ?? 0);
  const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
    [head, head.map((_, index) => (index === 0 ? ':--' : '--:')), ...rows]
      .map((it) => `| ${it.join(' | ')} |`)
      .join('\n');
  const failures = sums.flatMap(([, sum]) => sum.failures);
  const text = `# What real nodes showed while everything around them was hurt

\`npm run test:campaign -- --reads ${asked} --seed ${report.seed}\`

${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}; ${grouped(report.seconds)} s, so ${grouped(of((it) => it.reads) / report.seconds)} reads a second.

${table(
  ['', 'all', ...sums.map(([name]) => name)],
  (
    [
      ['reads checked', (it) => it.reads],
      ['writes acknowledged', (it) => it.acknowledged],
      ['writes refused, failed or rolled back', (it) => it.failed],
      ['faults', (it) => total(it.faults)],
      ['**stale reads (G1)**', (it) => it.violations['G1: stale'] ?? 0],
      [
        '**reads of what was never committed (G3)**',
        (it) => it.violations['G3: never committed'] ?? 0,
      ],
      ['**reads behind an earlier read**', (it) => it.violations['behind another read'] ?? 0],
      [
        '**acknowledged writes that were lost**',
        (it) => it.violations['acknowledged and lost'] ?? 0,
      ],
      ['calls that hung, rows never caught up with', (it) => it.failures.length],
    ] as [string, (sum: Sum) => number][]
  ).map(([title, pick]) => [
    title,
    grouped(of(pick)),
    ...sums.map(([, sum]) => grouped(pick(sum))),
  ]),
)}

Hit ratio: ${sums.map(([name, sum]) => `${hitRatio(sum)} (${name})`).join(', ')}. After the last fault of a round every node showed the database's state within ${grouped(Math.max(...sums.map(([, sum]) => sum.worstSettledMs)))} ms.
${failures.length > 0 ? `\n${failures.map((failure) => `- ${failure}`).join('\n')}\n` : ''}${broken('G1: stale') > 0 ? '\n**The promise was broken; the histories are in `.data/campaign/`.**\n' : ''}
## Faults

${table(
  ['fault', 'times'],
  Object.entries(faultsOf(report))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([kind, count]) => [kind, grouped(count)]),
)}

## What is not promised, measured

${table(
  ['rounds', 'reads', 'why', 'at most'],
  sums.flatMap(([name, sum]) =>
    Object.entries(sum.excused).map(([reason, { reads, worstMs }]) => [
      name,
      grouped(reads),
      reason,
      `${worstMs.toFixed(1)} ms`,
    ]),
  ),
)}

"written by hand" and "writer cut off" are G2 (\`CACHE_DEGRADED_WRITES=allow\`); "fence evicted and publication lost" is what the model
leaves over of G1; "behind another read" is of writes that nobody had acknowledged when fences were lost: by how long after the
other read it began. A read of the first three kinds that is later than its bound counts as stale.

## How

Three nodes over one Redis server and two over a master with a replica and three Sentinels run at the same time, each set on
a PostgreSQL database of its own. A node is a process with the service's cache and database modules; every connection to
PostgreSQL, and to the one Redis server, goes through a proxy that delays it, stalls it, cuts it, or swallows one direction. In
each round clients read orders, sessions that come and go, users by id, username and email, and the lists of users' newest
orders, and write them by one, by two, optimistically, with rollbacks, renames and hand-overs of a name; processes are killed by
SIGKILL at a step of a write, or stopped for longer than any lease or fence. A row read counts as one read. All times are of the
one clock that the processes of a machine share; what was committed is what a trigger in PostgreSQL wrote down. The rules are in
[test/campaign/checker.ts](../../test/campaign/checker.ts); the seed decides what befalls whom and when.
`;
  return format(text, { ...(await resolveConfig('docs/bench/campaign.md')), parser: 'markdown' });
}
