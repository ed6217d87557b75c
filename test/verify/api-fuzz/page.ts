/** The page docs/benchmarks/api-fuzz.md. */
import { groupDigits, markdownTable } from '../../bench/page.js';
import { type Check, CHECKS } from './checks.js';
import type { FuzzResult } from './phases.js';

export interface Measurements {
  /** How to repeat the run. */
  readonly call: string;
  readonly machine: string;
  readonly result: FuzzResult;
}

/** @returns the page as Markdown */
export function renderPage({ call, machine, result }: Measurements): string {
  const { tally, residentMiB, logLines } = result;
  const { early, atEnd } = residentMiB;
  return `# Requests from the OpenAPI document

\`${call}\`

${machine}. The service, PostgreSQL and the clients share the machine.

Each operation of the document gets valid requests, and valid ones with one defect: parameters,
headers, bodies, media types, cursors, entity tags, paths and methods. Users, sessions, orders and
cursors of earlier answers feed later requests. Each answer is compared with the document. Names
with underscores are those of [Schemathesis](https://schemathesis.readthedocs.io) for the same
check.

**${groupDigits(tally.requests)} requests, ${groupDigits(tally.findings.length)} findings.** The
process had ${groupDigits(early)} MiB after the first round, and ${groupDigits(atEnd)} MiB at the
end. Its log has ${groupDigits(logLines)} lines. ${groupDigits(tally.unavailable)} answers were 503.

${checkTable(result)}

${operationTable(result)}
`;
}

function checkTable({ tally }: FuzzResult): string {
  const rows = (Object.keys(CHECKS) as Check[]).map((check) => {
    const found = tally.findings.filter((finding) => finding.check === check).length;
    const times = groupDigits(tally.byCheck.get(check) ?? 0);
    return [`\`${check}\`: ${CHECKS[check]}`, times, groupDigits(found)];
  });
  return markdownTable(['check', 'times', 'findings'], rows);
}

function operationTable({ tally }: FuzzResult): string {
  const counts = [...tally.byOperation].sort(([a], [b]) => a.localeCompare(b));
  const rows = counts.map(([operation, count]) => [`\`${operation}\``, groupDigits(count)]);
  return markdownTable(['operation', 'requests'], rows);
}
