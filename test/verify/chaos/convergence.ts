/** After the faults of a round: does every node show what the database has, without any help? */
import { eventually } from '../../support/eventually.js';
import { readAudit } from './audit.js';
import type { Cluster } from './cluster.js';
import type { CommittedVersion } from './history-checker.js';
import type { Subject, SubjectIndex, WriteEvent } from './history.js';
import type { EndedMessage } from './node-messages.js';

/** Far longer than it takes: a busy machine must not fail a round. */
const CONVERGENCE_TIMEOUT_MS = 60_000;
const MAX_DIFFERENCES = 10;

export interface Comparison {
  readonly convergenceMs: number;
  readonly outcomes: Readonly<Record<string, number>>;
  readonly failures: readonly string[];
}

/** Ends the load, then reads every row on every node until all show what the database has. */
export async function compareNodes(
  cluster: Cluster,
  subjects: readonly Subject[],
  writes: readonly WriteEvent[],
): Promise<Comparison> {
  const ended = await Promise.all(cluster.nodes.map((node) => node.end()));
  const failures = ended.flatMap(endFailures);
  const began = performance.now();
  let differences: string[] = [];
  const haveConverged = async (): Promise<boolean> => {
    differences = await findDifferences(cluster, subjects, writes);
    return differences.length === 0;
  };
  await eventually('nodes converge', haveConverged, CONVERGENCE_TIMEOUT_MS).catch(() => undefined);
  return {
    convergenceMs: performance.now() - began,
    outcomes: sumOutcomes(ended),
    failures: [...failures, ...differences.slice(0, MAX_DIFFERENCES)],
  };
}

function endFailures(ended: EndedMessage | undefined, node: number): string[] {
  if (!ended) return [`node ${node} does not answer`];
  if (ended.hangingCalls === 0) return [];
  return [`${ended.hangingCalls} calls on node ${node} do not return`];
}

function sumOutcomes(ended: readonly (EndedMessage | undefined)[]): Record<string, number> {
  const sums: Record<string, number> = {};
  for (const message of ended) {
    const counts = { ...message?.outcomes, 'failed reads': message?.failedReads ?? 0 };
    for (const [outcome, count] of Object.entries(counts)) {
      sums[outcome] = (sums[outcome] ?? 0) + count;
    }
  }
  return sums;
}

async function findDifferences(
  cluster: Cluster,
  subjects: readonly Subject[],
  writes: readonly WriteEvent[],
): Promise<string[]> {
  const required = await requiredVersions(cluster, subjects, writes);
  const answers = await Promise.all(cluster.nodes.map((node) => node.readAll()));
  return answers.flatMap((versions, node) => {
    if (!versions) return [`node ${node} does not answer`];
    return required
      .filter(({ subject, version, isDeleted }) => versions[subject] !== (isDeleted ? 0 : version))
      .map(({ subject, version, isDeleted }) => {
        const actual = isDeleted ? `deleted (${version})` : `at ${version}`;
        const { label } = subjects[subject] as Subject;
        return `node ${node} shows ${label} at ${versions[subject]}, but it is ${actual}`;
      });
  });
}

/**
 * The newest version of each subject. Those that nobody acknowledged are left out: a node may show
 * them or not, since their writer died before it could publish.
 */
async function requiredVersions(
  { client }: Cluster,
  subjects: readonly Subject[],
  writes: readonly WriteEvent[],
): Promise<CommittedVersion[]> {
  const newest = new Map<SubjectIndex, CommittedVersion>();
  for (const committed of await readAudit(client, subjects)) {
    const known = newest.get(committed.subject)?.version ?? 0;
    if (committed.version > known) newest.set(committed.subject, committed);
  }
  const acknowledged = new Set<string>();
  for (const event of writes) {
    if (event.event !== 'acknowledged') continue;
    for (const [subject, version] of event.written) acknowledged.add(`${subject} ${version}`);
  }
  return [...newest.values()].filter(({ subject, version }) =>
    acknowledged.has(`${subject} ${version}`),
  );
}
